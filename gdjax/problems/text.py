r"""Text, byte after byte: a small transformer on Python's own library, or on files of yours."""

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
from gdjax.problems.checks import at_least

SYMBOLS = 256
HELD_OUT = 100_000
"""Bytes at the most."""
SHOWN = 5
"""Most names of files in a warning."""


@problem
def text(
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    length: int = 64,
    data: str | None = None,
    limit: int = 1_000_000,
):
    r"""Foretell the next character of Python's standard library, or of your files: a small transformer.

    The mean cross-entropy, in nats, of each byte of a window given those before it; `bits` is that of what is held out,
    in bits. The last tenth of every file is held out, 100,000 bytes in all at the most; windows do not overlap. A
    character is a byte: what is not ASCII has several.

    A block is $x \leftarrow x + A(N(x))$, $x \leftarrow x + W_2\, g(W_1 N(x))$ with causal attention $A$ of several
    heads, a layer norm $N$ and the Gaussian error unit $g$; positions are learnt. Weights are normal with variance 1
    over their inputs, those that add to $x$ with $1 / (2 L)$ of that. The default run ends below 2 bits.

    Source: Radford et al. 2019, section 2.3 (https://cdn.openai.com/better-language-models/language_models.pdf).
    Differs from it: bytes for tokens, no bias, no dropout, variances by inputs.

    Args:
      width: of the vector of a position, a multiple of the heads.
      layers: $L$, how many blocks, at least 1.
      heads: how many in a block, at least 1.
      length: bytes that a window foretells, at least 1.
      data: path of a file or of a folder, of which all files count but hidden ones; by default the modules of Python's
        standard library, as installed. Files stand in the order of their paths. Links that lead out of the folder,
        links to folders, pipes, sockets and devices are skipped with a warning.
      limit: bytes that are read at the most, at least 1.

    Raises:
      ValueError: if a size is no integer or too small, or the width no multiple of the heads; where the data are asked
        for, if there are too few.
      FileNotFoundError: where the data are asked for, if there are none.

    >>> import jax, gdjax as gd
    >>> p = gd.problems.text(width=8, layers=1, heads=2, length=16, limit=10_000)
    >>> p.init(jax.random.key(0))["blocks"][0]["attention"]["query"].shape
    (8, 8)
    >>> p.train.shape, bytes(p.train[0, :6])
    ((529, 17), b'# Copy')
    """
    at_least("text", 1, width=width, layers=layers, heads=heads, length=length, limit=limit)
    if width % heads:
        raise ValueError(f"text: width must be a multiple of heads, got {width} and {heads}.")

    def loss(params, windows):
        given, following = windows[..., :-1], windows[..., 1:].astype(jnp.int32)
        logits = transformer.logits(params, given, heads)
        return optax.softmax_cross_entropy_with_integer_labels(logits, following).mean()

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
    """Windows for training and held out, `[n, length + 1]` bytes each."""
    files = _read(_modules() if data is None else _files(data), limit)
    total = sum(map(len, files))
    share = min(0.1, HELD_OUT / max(total, 1))
    cuts = [len(file) - int(share * len(file)) for file in files]
    heads = b"".join(file[:cut] for file, cut in zip(files, cuts, strict=True))
    tails = b"".join(file[cut:] for file, cut in zip(files, cuts, strict=True))
    if len(tails) <= length:
        raise ValueError(f"text: windows of length {length} need {10 * (length + 1):,} bytes, got {total:,}.")
    return _parted(heads, length + 1), _parted(tails, length + 1)


def _parted(text: bytes, size: int) -> np.ndarray:
    return np.frombuffer(text, np.uint8)[: len(text) // size * size].reshape(-1, size)


def _read(paths: Iterable[pathlib.Path], limit: int) -> list[bytes]:
    """The bytes of files, so many in all."""
    files, left = [], limit
    for path in paths:
        with open(path, "rb", opener=_opened) as file:
            files.append(file.read(left))
        left -= len(files[-1])
        if not left:
            break
    return files


def _modules() -> list[pathlib.Path]:
    return sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py"))


def _files(data: str) -> list[pathlib.Path]:
    root = pathlib.Path(data).expanduser().resolve()
    if root.is_file():
        return [root]
    found, skipped = [], []
    for path in sorted(root.rglob("*")):
        if _hidden(path.relative_to(root)):
            continue
        target = _target(path)
        if stat.S_ISREG(_mode(target)) and target.is_relative_to(root):
            found.append(target)
        elif path.is_symlink() or not stat.S_ISDIR(_mode(target)):
            skipped.append(str(path.relative_to(root)))
    if skipped:
        more = f" and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else ""
        warnings.warn(
            f"text: of {data!r} these are skipped, for they lead out of it or are no files: "
            f"{', '.join(map(repr, skipped[:SHOWN]))}{more}.",
            stacklevel=2,
        )
    if not found:
        raise FileNotFoundError(f"text: data must be a file or a folder of files, got {data!r}.")
    return found


def _target(path: pathlib.Path) -> pathlib.Path:
    """Return what a path leads to; a loop of links leads to itself."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path


def _mode(path: pathlib.Path) -> int:
    """Return what kind of file a path is, links not followed; 0 if there is none."""
    try:
        return path.lstat().st_mode
    except OSError:
        return 0


def _opened(path: str, flags: int) -> int:
    """Open a file that may have become a link or a pipe since it was found."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _hidden(path: pathlib.Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
