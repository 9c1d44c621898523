"""Second moments of a matrix kept as one of its rows and one of its columns: Adafactor."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdjax import axes, norms, tree
from gdjax.transforms.moments import mean, squarable, square
from gdjax.value import NonNegative, Positive, Scalar, transform


def power_decay(step: Any, exponent: Any) -> jax.Array:
    """Adafactor's decay: $1 - (t + 1)^{-e}$, 0 at the first step and before it."""
    return 1.0 - (jnp.maximum(step, 0.0) + 1.0) ** -exponent


@transform
def scale_by_factored_rms(
    factored: bool = True,
    decay_rate: NonNegative = 0.8,
    step_offset: Scalar = 0.0,
    min_dim_size_to_factor: int = 128,
    epsilon: Positive = 1e-30,
    decay_rate_fn: Callable[[Any, Any], Any] = power_decay,
    axis_name: Any = None,
    dim: int = 0,
):
    r"""Divide the gradient by the root of a mean of squares of which only row and column sums are kept.

    With $s = |g|^2 + \epsilon$ and $\beta_t = 1 - (t - t_0 + 1)^{-e}$: for a leaf whose two largest axes are long
    enough,
    $R \leftarrow \beta_t R + (1 - \beta_t)\, \mathrm{mean}_{col}\, s$, $C$ likewise over rows, and the update is
    $g / \sqrt{R C / \mathrm{mean}\, R}$; for every other leaf $V \leftarrow \beta_t V + (1 - \beta_t) s$ and
    $g / \sqrt V$.

    State: `FactoredState(count, v_row, v_col, v)`, 4 bytes a row and a column of a factored leaf, 4 a parameter of the
    others (8 in float64). Source: Shazeer and Stern 2018, algorithm 4 (https://arxiv.org/abs/1804.04235).
    Differs from Optax: steps before the offset have the decay of the first, where Optax has NaN. Over an axis, the
    factor along the divided dimension is divided as leaves are, and the other is the same on all members.
    Gradients beyond 1.8e19 are clipped to that, as in `scale_by_adam`.

    Args:
      factored: whether to factor at all.
      decay_rate: $e$, in [0, inf).
      step_offset: $t_0$, the step that counts as the first, in fine-tuning the last one before.
      min_dim_size_to_factor: how long the shorter of the two largest axes must be.
      epsilon: $\epsilon$, in (0, inf].
      decay_rate_fn: $\beta$ of the step $t - t_0$ and $e$.
      axis_name: the axis over which leaves are divided, as in `shard_map`; one that its type says is the same on all
        members is whole, and where no type tells (`vmap`, `pmap`, `check_vma=False`) none is.
      dim: the dimension along which leaves are divided; another for some by `by_path`.

    Raises:
      ValueError: if the axis is not there, at `init` as well, or a leaf that is divided has no dimension `dim`.

    >>> import gdjax as gd
    >>> tx = gd.scale_by_factored_rms(min_dim_size_to_factor=2)
    >>> g = jnp.array([[1.0, 2.0], [2.0, 4.0]])
    >>> print(tx.update(g, tx.init(g))[0].round(4))
    [[1. 1.]
     [1. 1.]]
    """
    factoring = Factoring(min_dim_size_to_factor if factored else None, axis_name, dim)

    def init(params):
        return optax.FactoredState(jnp.zeros((), jnp.int32), *factoring.zeros(params))

    def update(updates, state, params=None):
        decay = decay_rate_fn(state.count.astype(float) - step_offset, decay_rate)
        g = tree.widen(updates)
        kept = factoring.means(g, (state.v_row, state.v_col, state.v), decay, epsilon)
        scaled = factoring.over_root(squarable(g), *kept)
        count = optax.safe_increment(state.count)
        moved = (tree.cast_like(new, old) for new, old in zip(kept, state[1:], strict=True))
        return tree.cast_like(scaled, updates), optax.FactoredState(count, *moved)

    return init, update


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
        over = [axes.across(leaves[i], pair[:1], self.axis_name, self.dim) for i, pair in pairs.items()]
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
        shape = axes.whole_shape(x, self.axis_name, self.dim)
        *_, short, long = np.argsort(shape)
        return (int(short), int(long)) if shape[short] >= self.least else None

    def _along_each(self, reduced, xs, pairs):
        """What is left of factored leaves along their largest axis, and along the other, by their places."""
        places = [i for i, pair in enumerate(pairs) if pair is not None]
        dims = [(pairs[i][axis],) for axis in (1, 0) for i in places]
        twice = [xs[i] for i in places] * 2
        over = [axes.across(x, of, self.axis_name, self.dim) for x, of in zip(twice, dims, strict=True)]
        found = reduced(twice, dims, over)
        number = len(places)
        return dict(zip(places, found[:number], strict=True)), dict(zip(places, found[number:], strict=True))


def _three(treedef, of_leaves):
    """Three trees of triples."""
    return tuple(treedef.unflatten([of[i] for of in of_leaves]) for i in range(3))
