r"""Byte-level language modeling: a small transformer on Python's standard library, or on your files."""

import functools
import os
import pathlib
import stat
import sysconfig
import warnings
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdjax.problems import transformer
from gdjax.problems.base import Parts, problem
from gdjax.problems.checks import require_sizes

SYMBOLS = 256
MAX_HELD_OUT = 100_000
"""The maximum number of held-out bytes."""
MAX_NAMES_SHOWN = 5
"""The maximum number of file names in a warning."""


@problem
def text(
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    length: int = 64,
    data: str | None = None,
    limit: int = 1_000_000,
):
    r"""Predict the next character of Python's standard library, or of your files, with a small transformer.

    The loss is the mean cross-entropy, in nats, of each byte of a window given the bytes before it; `bits` is the same
    on held-out windows, in bits. The last tenth of each file is held out, at most 100,000 bytes in all. Windows do not
    overlap. A character is a byte, so a character outside ASCII counts as several.

    A block is $x \leftarrow x + A(N(x))$, $x \leftarrow x + W_2\, g(W_1 N(x))$, with causal multi-head attention $A$,
    layer norm $N$ and the Gaussian error linear unit $g$. Positions are learned. Initial weights are normal with
    variance 1 over their inputs; weights that add to $x$ have $1 / (2 L)$ of that. The default run ends below 2 bits.

    Source: Radford et al. 2019, section 2.3 (https://cdn.openai.com/better-language-models/language_models.pdf).
    Differs from it: bytes instead of tokens, no biases, no dropout, variances by inputs.

    Args:
      width: the size of the vector of a position, a multiple of `heads`.
      layers: $L$, the number of blocks, at least 1.
      heads: the number of attention heads per block, at least 1.
      length: the number of bytes that a window predicts, at least 1.
      data: the path of a file, or of a folder whose files, hidden ones excepted, are read in the order of their paths.
        The default is the installed modules of Python's standard library. Links that lead out of the folder, links to
        folders, pipes, sockets and devices are skipped with a warning.
      limit: the maximum number of bytes to read, at least 1.

    Raises:
      ValueError: a size is not an integer or too small, or `width` is not a multiple of `heads`. When the data are
        loaded: there are too few bytes.
      FileNotFoundError: when the data are loaded, there are none.

    >>> import jax, gdjax as gd
    >>> p = gd.problems.text(width=8, layers=1, heads=2, length=16, limit=10_000)
    >>> p.init(jax.random.key(0))["blocks"][0]["attention"]["query"].shape
    (8, 8)
    >>> p.train.shape, bytes(p.train[0, :6])
    ((529, 17), b'# Copy')
    """
    require_sizes("text", 1, width=width, layers=layers, heads=heads, length=length, limit=limit)
    if width % heads:
        raise ValueError(f"text: width must be a multiple of heads, got {width} and {heads}.")

    def loss(params, windows):
        inputs, targets = windows[..., :-1], windows[..., 1:].astype(jnp.int32)
        logits = transformer.logits(params, inputs, heads)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    def bits(params, windows):
        return jax.lax.map(functools.partial(loss, params), windows, batch_size=32).mean() / np.log(2)

    return Parts(
        init=lambda key: transformer.init(key, SYMBOLS, width, layers, length),
        loss=loss,
        train=lambda: _windows(data, limit, length)[0],
        held_out=lambda: _windows(data, limit, length)[1],
        metrics={"bits": bits},
        target="bits<2.1",
        optimizer="params_ema(chain(clip_by_global_norm(1.0), adamw(3e-3)), decay=0.99)",
        batch_size=16,
        epochs=5,
    )


@functools.lru_cache(maxsize=4)
def _windows(data: str | None, limit: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return training and held-out windows, `[n, length + 1]` bytes each."""
    files = _read_files(_standard_library() if data is None else _list_files(data), limit)
    total = sum(map(len, files))
    fraction = min(0.1, MAX_HELD_OUT / max(total, 1))
    cuts = [len(file) - int(fraction * len(file)) for file in files]
    heads = b"".join(file[:cut] for file, cut in zip(files, cuts, strict=True))
    tails = b"".join(file[cut:] for file, cut in zip(files, cuts, strict=True))
    if len(tails) <= length:
        raise ValueError(f"text: windows of length {length} need at least {10 * (length + 1):,} bytes, got {total:,}.")
    return _cut_windows(heads, length + 1), _cut_windows(tails, length + 1)


def _cut_windows(text: bytes, size: int) -> np.ndarray:
    return np.frombuffer(text, np.uint8)[: len(text) // size * size].reshape(-1, size)


def _read_files(paths: Iterable[pathlib.Path], limit: int) -> list[bytes]:
    """Read files until the limit of bytes is reached."""
    files, remaining = [], limit
    for path in paths:
        with open(path, "rb", opener=_open_without_following) as file:
            files.append(file.read(remaining))
        remaining -= len(files[-1])
        if not remaining:
            break
    return files


def _standard_library() -> list[pathlib.Path]:
    return sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py"))


def _list_files(data: str) -> list[pathlib.Path]:
    root = pathlib.Path(data).expanduser().resolve()
    if root.is_file():
        return [root]
    files, skipped = [], []
    for path in sorted(root.rglob("*")):
        if _is_hidden(path.relative_to(root)):
            continue
        target = _resolve_links(path)
        if stat.S_ISREG(_file_mode(target)) and target.is_relative_to(root):
            files.append(target)
        elif path.is_symlink() or not stat.S_ISDIR(_file_mode(target)):
            skipped.append(str(path.relative_to(root)))
    if skipped:
        more = f" and {len(skipped) - MAX_NAMES_SHOWN} more" if len(skipped) > MAX_NAMES_SHOWN else ""
        warnings.warn(
            f"text: these are skipped in {data!r}, since they lead out of it or are not files: "
            f"{', '.join(map(repr, skipped[:MAX_NAMES_SHOWN]))}{more}.",
            stacklevel=2,
        )
    if not files:
        raise FileNotFoundError(f"text: data must be a file or a folder of files, got {data!r}.")
    return files


def _resolve_links(path: pathlib.Path) -> pathlib.Path:
    """Return the path with all links resolved; a loop of links resolves to itself."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path


def _file_mode(path: pathlib.Path) -> int:
    """Return the mode of a file without following links; 0 if it does not exist."""
    try:
        return path.lstat().st_mode
    except OSError:
        return 0


def _open_without_following(path: str, flags: int) -> int:
    """Open a file, but not a link or a pipe that has replaced it since the folder was listed."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _is_hidden(path: pathlib.Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
