"""Views of a leaf as a stack of matrices, by patterns in the manner of einops."""

import functools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax


class View(NamedTuple):
    """View of a leaf as matrices: each dimension is split into axes, which are reordered as stack, rows and columns.

    >>> import jax.numpy as jnp
    >>> fused = view("m (qkv=3 n) -> qkv m n", (4, 18))
    >>> fused.matrices(jnp.zeros((4, 18))).shape
    (3, 4, 6)
    """

    shape: tuple[int, ...]
    """Shape of the leaf."""
    axis_sizes: tuple[tuple[int, ...], ...]
    """For each dimension, the sizes of the axes that it is split into, the slowest first."""
    order: tuple[int, ...]
    """The axes, counted over the leaf, in the order of the stack."""
    bounds: tuple[int, int]
    """The positions at which the axes of rows and those of columns begin in that order."""

    def sizes(self) -> tuple[int, int, int]:
        """Return the number of matrices, of rows and of columns."""
        sizes = self._sizes_in_order()
        first, second = self.bounds
        return math.prod(sizes[:first]), math.prod(sizes[first:second]), math.prod(sizes[second:])

    def matrices(self, x: jax.Array) -> jax.Array:
        """Return the stack `[k, m, n]` of a leaf."""
        return x.reshape(self._axis_sizes()).transpose(self.order).reshape(self.sizes())

    def leaf(self, stack: jax.Array) -> jax.Array:
        """Return the leaf of a stack."""
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return stack.reshape(self._sizes_in_order()).transpose(inverse).reshape(self.shape)

    def shard(self, dim: int, number: int) -> tuple["View", int]:
        """Return the view of a shard along a dimension, and which of `sizes` is smaller in it.

        The matrices of the shards, concatenated, are those of the leaf with rows or columns in another order at most.
        """
        slowest, *others = self.axis_sizes[dim]
        if slowest % number:
            raise ValueError(f"{number} devices must divide the axis of size {slowest}, the first of dimension {dim}")
        at = self.order.index(sum(map(len, self.axis_sizes[:dim])))
        axis_sizes = (*self.axis_sizes[:dim], (slowest // number, *others), *self.axis_sizes[dim + 1 :])
        shape = (*self.shape[:dim], self.shape[dim] // number, *self.shape[dim + 1 :])
        return View(shape, axis_sizes, self.order, self.bounds), sum(at >= bound for bound in self.bounds)

    def _axis_sizes(self) -> list[int]:
        return [size for sizes in self.axis_sizes for size in sizes]

    def _sizes_in_order(self) -> list[int]:
        sizes = self._axis_sizes()
        return [sizes[i] for i in self.order]


@functools.cache
def view(pattern: str | None, shape: tuple[int, ...]) -> View:
    """Return the view of a leaf that a pattern describes.

    The left side names the dimensions of the leaf. `(heads=8 width)` is a dimension split into two axes, one of which
    may lack a size. `...` stands for all other dimensions. On the right side, the last two terms are the rows (inputs)
    and the columns (outputs), and all terms before them are the stack. Without a pattern the last two dimensions are
    the matrix and those before them the stack; a vector is a column.

    Args:
      pattern: such as `"d (heads=8 width) -> heads d width"`, or `None`.
      shape: the shape of the leaf.

    Raises:
      ValueError: if the pattern cannot be read, or does not fit the shape.

    >>> view("... n -> (...) n", (3, 3, 16, 32)).sizes()
    (1, 144, 32)
    >>> view(None, (12, 64, 32)).sizes()
    (12, 64, 32)
    """
    if pattern is None:
        return _default_view(shape)
    left, right = split_pattern(pattern)
    names, axis_sizes = _fit(pattern, left, shape)
    rest = [name for name in names if name.startswith("...")]
    terms = [[axis for name in term for axis in (rest if name == "..." else [name])] for term in right]
    order = [name for term in terms for name in term]
    if sorted(order) != sorted(names):
        raise ValueError(f"both sides must have the same axes, got {pattern!r}")
    stack = sum(map(len, terms[:-2]))
    return View(shape, axis_sizes, tuple(map(names.index, order)), (stack, stack + len(terms[-2])))


def _default_view(shape: tuple[int, ...]) -> View:
    """Return the view of a leaf whose last two dimensions are the matrix; missing ones have size 1."""
    missing = [1] * (2 - len(shape))
    axis_sizes = [[size] for size in shape] or [[]]
    axis_sizes[-1] += missing
    rank = len(shape) + len(missing)
    return View(shape, tuple(map(tuple, axis_sizes)), tuple(range(rank)), (rank - 2, rank - 1))


_TERM = re.compile(r"\s*(?:(\()([^()]*)\)|(\.\.\.|\w+(?:=\d+)?))")


def split_pattern(pattern: str) -> tuple[list[list[str]], list[list[str]]]:
    """Return the terms of both sides of a pattern, each a list of names."""
    sides = pattern.split("->") if isinstance(pattern, str) else []
    if len(sides) != 2:
        raise ValueError(f"a view must be written 'dimensions -> stack rows columns', got {pattern!r}")
    left, right = (_terms(pattern, side) for side in sides)
    if len(right) < 2:
        raise ValueError(f"a view must end in rows and columns, got {pattern!r}")
    return left, right


def _terms(pattern: str, side: str) -> list[list[str]]:
    terms, at = [], 0
    side = side.strip()
    while at < len(side):
        match = _TERM.match(side, at)
        if match is None:
            raise ValueError(f"a view has names, sizes (name=8), groups (a b) and one ..., got {pattern!r}")
        terms.append(match[2].split() if match[1] else [match[3]])
        at = match.end()
    return terms


def _fit(pattern: str, left: list[list[str]], shape: tuple[int, ...]) -> tuple[list[str], tuple[tuple[int, ...], ...]]:
    """Return the names of the axes of a leaf, and the sizes of the axes that each dimension is split into."""
    if ["..."] in left:
        at = left.index(["..."])
        more = len(shape) - len(left) + 1
        left = [*left[:at], *([f"...{i}"] for i in range(more)), *left[at + 1 :]]
    if len(left) != len(shape):
        raise ValueError(f"a view must name every dimension, got {pattern!r} for a leaf of shape {shape}")
    names = [name.partition("=")[0] for term in left for name in term]
    if len(set(names)) < len(names) or "..." in names:
        raise ValueError(f"an axis is named once, got {pattern!r}")
    return names, tuple(_axis_sizes(pattern, term, size) for term, size in zip(left, shape, strict=True))


def _axis_sizes(pattern: str, term: Sequence[str], size: int) -> tuple[int, ...]:
    """Return the sizes of the axes of a term, which together are a dimension of a size."""
    given = [int(digits) if (digits := name.partition("=")[2]) else None for name in term]
    known = math.prod(each for each in given if each is not None)
    if given.count(None) > 1 or not known or size % known or (None not in given and known != size):
        raise ValueError(f"the sizes of axes must make up a dimension of {size}, got ({' '.join(term)}) in {pattern!r}")
    return tuple(size // known if each is None else each for each in given)
