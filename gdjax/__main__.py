"""`python -m gdjax` is `gdjax`."""

import os
import sys

if __name__ == "__main__":
    if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:  # noqa: PTH109  (pathlib would be loaded from there)
        del sys.path[0]  # `-m` puts the current directory first, where untrusted files may lie

    from gdjax.cli import main

    main()
