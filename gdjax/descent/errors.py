"""The exceptions of a descent."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be saved or read; the message says which, why, what is intact, and the fix."""


class UnsafePathError(CheckpointError):
    """A file of a run is a link, or not a regular file."""


class FolderInUseError(CheckpointError):
    """Another run writes to the folder."""


class OrbaxError(Exception):
    """Orbax failed; the message says why in a few words."""


class PeerLostError(RuntimeError):
    """Another process of the descent is gone; the message says what is saved and how to resume."""


class PeerFailedError(RuntimeError):
    """Another process of the descent failed and reports why itself; all processes end together."""

    kind: str = ""
    """Class name of the error in that process."""
    agreed: bool = False
    """Do all processes know of the failure, and end together? Set on the original error too."""
