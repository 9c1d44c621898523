"""Factored second moments: one mean per row and one per column instead of one per element."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import axes, norms, tree
from gdjax.transforms.moments import mean, safe_square
from gdjax.transforms.square_means import mean_squares_along


class Factoring(NamedTuple):
    """Factored second moments of leaves that may be sharded along a dimension over a named axis."""

    min_size: int | None
    """The least length of the shorter of a leaf's two largest axes; `None` factors no leaf."""
    axis_name: axes.AxisName
    dim: int

    def zeros(self, params):
        """Return three trees of zeros, sharded as the parameters: means of rows, of columns, and of unfactored leaves.

        A mean that a leaf does not need is a single zero, as in Optax.
        """
        zeros, treedef = jax.tree.flatten(tree.accumulators(params, 0))
        pairs = [self._two_largest_axes(z) for z in zeros]
        rows, cols = self._reduce_each(norms.sums_along, zeros, pairs)

        def leaf(i, z):
            unused = functools.partial(jnp.zeros, (1,), z.dtype)
            return (unused(), unused(), z) if pairs[i] is None else (rows[i], cols[i], unused())

        return _unzip_triples(treedef, [leaf(i, z) for i, z in enumerate(zeros)])

    def means(self, xs, olds, decay, eps):
        r"""Return the three trees of means of $|x|^2 + \epsilon$ after one step."""
        leaves, treedef = jax.tree.flatten(xs)
        pairs = [self._two_largest_axes(x) for x in leaves]
        rows, cols = self._reduce_each(mean_squares_along, leaves, pairs)

        def leaf(i, row, col, full):
            if pairs[i] is None:
                return row, col, mean(safe_square(leaves[i]) + eps, full, decay)
            return mean(rows[i] + eps, row, decay), mean(cols[i] + eps, col, decay), full

        olds = zip(*map(treedef.flatten_up_to, olds), strict=True)
        return _unzip_triples(treedef, [leaf(i, *old) for i, old in enumerate(olds)])

    def divide_by_root(self, xs, *factors):
        r"""Divide each leaf by the root of its second moment: $x / \sqrt{R C / \mathrm{mean}\, R}$, or $x / \sqrt V$.

        The leaf is multiplied by reciprocals, of which rows and columns have few. The work left for each element is so
        cheap that XLA computes it twice where it is read twice, instead of writing it to memory.
        """
        leaves, treedef = jax.tree.flatten(xs)
        rows, cols, fulls = ([tree.real_part(v) for v in treedef.flatten_up_to(factor)] for factor in factors)
        pairs = {i: pair for i, x in enumerate(leaves) if (pair := self._two_largest_axes(x)) is not None}
        dims = [(short - (short > long),) for short, long in pairs.values()]
        over = [axes.reduction_axes(leaves[i], pair[:1], self.axis_name, self.dim) for i, pair in pairs.items()]
        row_means = norms.means_along([rows[i] for i in pairs], dims, over, keepdims=True)
        row_means = dict(zip(pairs, row_means, strict=True))

        def scaled(i, x):
            if i not in pairs:
                return x * (1.0 / jnp.sqrt(fulls[i]))
            short, long = pairs[i]
            by_row = jnp.expand_dims(jnp.sqrt(row_means[i]) / jnp.sqrt(rows[i]), long)
            return x * by_row * jnp.expand_dims(1.0 / jnp.sqrt(cols[i]), short)

        return treedef.unflatten(scaled(i, x) for i, x in enumerate(leaves))

    def _two_largest_axes(self, x):
        """Return the second largest and the largest axis of a leaf, or `None` if the former is too short."""
        if self.min_size is None or jnp.ndim(x) < 2:
            return None
        shape = axes.global_shape(x, self.axis_name, self.dim)
        *_, short, long = np.argsort(shape)
        return (int(short), int(long)) if shape[short] >= self.min_size else None

    def _reduce_each(self, reduce, xs, pairs):
        """Reduce the factored leaves along their largest axis, and along the second largest; two dicts by index."""
        indices = [i for i, pair in enumerate(pairs) if pair is not None]
        dims = [(pairs[i][axis],) for axis in (1, 0) for i in indices]
        twice = [xs[i] for i in indices] * 2
        over = [axes.reduction_axes(x, dim, self.axis_name, self.dim) for x, dim in zip(twice, dims, strict=True)]
        reduced = reduce(twice, dims, over)
        number = len(indices)
        return dict(zip(indices, reduced[:number], strict=True)), dict(zip(indices, reduced[number:], strict=True))


def _unzip_triples(treedef, triples):
    """Return three trees of a list of triples, one for each leaf."""
    return tuple(treedef.unflatten([triple[i] for triple in triples]) for i in range(3))
