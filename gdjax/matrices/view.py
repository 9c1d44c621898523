"""A leaf as a stack of matrices, by a pattern in the manner of einops."""

import functools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax


class View(NamedTuple):
    """A leaf cut into axes that are put into the order of a stack, of rows and of columns.

    >>> import jax.numpy as jnp
    >>> fused = view("m (qkv=3 n) -> qkv m n", (4, 18))
    >>> fused.matrices(jnp.zeros((4, 18))).shape
    (3, 4, 6)
    """

    shape: tuple[int, ...]
    """Of the leaf."""
    cut: tuple[tuple[int, ...], ...]
    """The sizes of the axes that each of its dimensions is cut into, the slowest first."""
    order: tuple[int, ...]
    """The axes, counted over the leaf, in the order in which they stand in the stack."""
    bounds: tuple[int, int]
    """Where in that order the rows begin, and where the columns."""

    def sizes(self) -> tuple[int, int, int]:
        """How many matrices, and of how many rows and columns."""
        axes = self._axes()
        first, second = self.bounds
        own = [axes[i] for i in self.order]
        return math.prod(own[:first]), math.prod(own[first:second]), math.prod(own[second:])

    def matrices(self, x: jax.Array) -> jax.Array:
        """The stack `[k, m, n]` of a leaf."""
        return x.reshape(self._axes()).transpose(self.order).reshape(self.sizes())

    def leaf(self, stack: jax.Array) -> jax.Array:
        """The leaf of a stack."""
        axes = self._axes()
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return stack.reshape([axes[i] for i in self.order]).transpose(back).reshape(self.shape)

    def part(self, dim: int, number: int) -> tuple["View", int]:
        """The view of one of several parts of a leaf along a dimension, and which of `sizes` is divided by it.

        Parts one after the other are all of it, perhaps in another order; what is done to matrices must not mind.
        """
        slowest, *others = self.cut[dim]
        if slowest % number:
            raise ValueError(
                f"{number} members must divide the axis of size {slowest} that dimension {dim} begins with"
            )
        at = self.order.index(sum(map(len, self.cut[:dim])))
        cut = (*self.cut[:dim], (slowest // number, *others), *self.cut[dim + 1 :])
        shape = (*self.shape[:dim], self.shape[dim] // number, *self.shape[dim + 1 :])
        return View(shape, cut, self.order, self.bounds), sum(at >= bound for bound in self.bounds)

    def _axes(self) -> list[int]:
        return [size for dimension in self.cut for size in dimension]


@functools.cache
def view(pattern: str | None, shape: tuple[int, ...]) -> View:
    """The view that a pattern says of a leaf.

    The left side names the dimensions of the leaf, `(heads=8 width)` one that is cut into two, of which one may lack a
    size; `...` stands for all that are left over. On the right the last two terms are rows (inputs) and columns
    (outputs), and all before is the stack. Without a pattern the last two dimensions are the matrix and those before
    them the stack; a vector is a column.

    Args:
      pattern: such as `"d (heads=8 width) -> heads d width"`, or nothing.
      shape: of the leaf.

    Raises:
      ValueError: if the pattern cannot be read, or does not fit the shape.

    >>> view("... n -> (...) n", (3, 3, 16, 32)).sizes()
    (1, 144, 32)
    >>> view(None, (12, 64, 32)).sizes()
    (12, 64, 32)
    """
    if pattern is None:
        rank, lacking = len(shape), [1] * (2 - len(shape))
        cut = [[size] for size in shape] or [[]]
        cut[-1] += lacking
        rank += len(lacking)
        return View(shape, tuple(map(tuple, cut)), tuple(range(rank)), (rank - 2, rank - 1))
    left, right = sides(pattern)
    names, cut = _fitted(pattern, left, shape)
    terms = [[own for name in term for own in (_rest(names) if name == "..." else [name])] for term in right]
    flat = [name for term in terms for name in term]
    if sorted(flat) != sorted(names):
        raise ValueError(f"both sides must have the same axes, got {pattern!r}")
    stacked = sum(map(len, terms[:-2]))
    return View(shape, cut, tuple(map(names.index, flat)), (stacked, stacked + len(terms[-2])))


_TERM = re.compile(r"\s*(?:(\()([^()]*)\)|(\.\.\.|\w+(?:=\d+)?))")


def sides(pattern: str) -> tuple[list[list[str]], list[list[str]]]:
    """The terms of both sides, each a list of names."""
    sides = pattern.split("->") if isinstance(pattern, str) else []
    if len(sides) != 2:
        raise ValueError(f"a view must be written 'dimensions -> stack rows columns', got {pattern!r}")
    left, right = (_terms(pattern, side) for side in sides)
    if len(right) < 2:
        raise ValueError(f"a view must end in rows and columns, got {pattern!r}")
    return left, right


def _terms(pattern: str, side: str) -> list[list[str]]:
    found, at = [], 0
    side = side.strip()
    while at < len(side):
        match = _TERM.match(side, at)
        if match is None:
            raise ValueError(f"a view has names, sizes (name=8), groups (a b) and one ..., got {pattern!r}")
        found.append(match[2].split() if match[1] else [match[3]])
        at = match.end()
    return found


def _fitted(
    pattern: str, left: list[list[str]], shape: tuple[int, ...]
) -> tuple[list[str], tuple[tuple[int, ...], ...]]:
    """The names of the axes, and the sizes of those that each dimension is cut into."""
    if ["..."] in left:
        at = left.index(["..."])
        more = len(shape) - len(left) + 1
        left = [*left[:at], *([f"...{i}"] for i in range(more)), *left[at + 1 :]]
    if len(left) != len(shape):
        raise ValueError(f"a view must name every dimension, got {pattern!r} for a leaf of shape {shape}")
    names = [name.partition("=")[0] for term in left for name in term]
    if len(set(names)) < len(names) or "..." in names:
        raise ValueError(f"an axis is named once, got {pattern!r}")
    return names, tuple(_cut(pattern, term, size) for term, size in zip(left, shape, strict=True))


def _cut(pattern: str, term: Sequence[str], size: int) -> tuple[int, ...]:
    sizes = [int(told) if (told := name.partition("=")[2]) else None for name in term]
    known = math.prod(own for own in sizes if own is not None)
    if sizes.count(None) > 1 or not known or size % known or (None not in sizes and known != size):
        raise ValueError(f"the sizes of axes must make up a dimension of {size}, got ({' '.join(term)}) in {pattern!r}")
    return tuple(size // known if own is None else own for own in sizes)


def _rest(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.startswith("...")]
