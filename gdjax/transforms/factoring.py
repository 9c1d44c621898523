"""Second moments of a matrix as one of its rows and one of its columns."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import axes, norms, tree
from gdjax.transforms.moments import mean, square


class Factoring(NamedTuple):
    """Which leaves are factored, and over which axis and along which dimension they are divided."""

    least: int | None
    """How long the shorter of the two largest axes of a leaf must be; `None` factors none."""
    axis_name: Any
    dim: int

    def zeros(self, params):
        """Zeros for the means of rows, of columns and of whole leaves, sharded as these are.

        What is not kept of a leaf is one zero, as in Optax.
        """
        zeros, treedef = jax.tree.flatten(tree.accumulators(params, 0))
        pairs = [self._two_largest(z) for z in zeros]
        rows, cols = self._along_each(norms.sums_along, zeros, pairs)

        def kept(i, z):
            none = functools.partial(jnp.zeros, (1,), z.dtype)
            return (none(), none(), z) if pairs[i] is None else (rows[i], cols[i], none())

        return _three(treedef, [kept(i, z) for i, z in enumerate(zeros)])

    def means(self, xs, olds, decay, eps):
        r"""The three trees of means of $|x|^2 + \epsilon$, one step on."""
        leaves, treedef = jax.tree.flatten(xs)
        squares, pairs = [square(x) for x in leaves], [self._two_largest(x) for x in leaves]
        rows, cols = self._along_each(norms.means_along, squares, pairs)

        def moved(i, row, col, whole):
            if pairs[i] is None:
                return row, col, mean(squares[i] + eps, whole, decay)
            return mean(rows[i] + eps, row, decay), mean(cols[i] + eps, col, decay), whole

        before = zip(*map(treedef.flatten_up_to, olds), strict=True)
        return _three(treedef, [moved(i, *old) for i, old in enumerate(before)])

    def over_root(self, xs, *factors):
        r"""A leaf over the root of what its factors stand for: $x / \sqrt{R C / \mathrm{mean}\, R}$ or $x / \sqrt V$.

        It is multiplied by reciprocals: of rows and of columns these are few, and what is left to do at every number is
        cheap enough for XLA to do it twice, where it is read twice, rather than write it down.
        """
        leaves, treedef = jax.tree.flatten(xs)
        rows, cols, wholes = ([tree.real_part(v) for v in treedef.flatten_up_to(of)] for of in factors)
        pairs = {i: pair for i, x in enumerate(leaves) if (pair := self._two_largest(x)) is not None}
        places = [(short - (short > long),) for short, long in pairs.values()]
        over = [axes.reduction_axes(leaves[i], pair[:1], self.axis_name, self.dim) for i, pair in pairs.items()]
        of_rows = norms.means_along([rows[i] for i in pairs], places, over, keepdims=True)
        mean_rows = dict(zip(pairs, of_rows, strict=True))

        def scaled(i, x):
            if i not in pairs:
                return x * (1.0 / jnp.sqrt(wholes[i]))
            short, long = pairs[i]
            by_row = jnp.expand_dims(jnp.sqrt(mean_rows[i]) / jnp.sqrt(rows[i]), long)
            return x * by_row * jnp.expand_dims(1.0 / jnp.sqrt(cols[i]), short)

        return treedef.unflatten(scaled(i, x) for i, x in enumerate(leaves))

    def _two_largest(self, x):
        """The second largest axis of a whole leaf and the largest, or nothing where the former is too short."""
        if self.least is None or jnp.ndim(x) < 2:
            return None
        shape = axes.global_shape(x, self.axis_name, self.dim)
        *_, short, long = np.argsort(shape)
        return (int(short), int(long)) if shape[short] >= self.least else None

    def _along_each(self, reduced, xs, pairs):
        """What is left of factored leaves along their largest axis, and along the other, by their places."""
        places = [i for i, pair in enumerate(pairs) if pair is not None]
        dims = [(pairs[i][axis],) for axis in (1, 0) for i in places]
        twice = [xs[i] for i in places] * 2
        over = [axes.reduction_axes(x, of, self.axis_name, self.dim) for x, of in zip(twice, dims, strict=True)]
        found = reduced(twice, dims, over)
        number = len(places)
        return dict(zip(places, found[:number], strict=True)), dict(zip(places, found[number:], strict=True))


def _three(treedef, of_leaves):
    """Three trees of triples."""
    return tuple(treedef.unflatten([of[i] for of in of_leaves]) for i in range(3))
