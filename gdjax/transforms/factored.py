"""Second moments of a matrix kept as one of its rows and one of its columns: Adafactor."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdjax import tree
from gdjax.transforms.moments import mean
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
):
    r"""Divide the gradient by the root of a mean of squares of which only row and column sums are kept.

    With $s = |g|^2 + \epsilon$ and $\beta_t = 1 - (t - t_0 + 1)^{-e}$: for a leaf whose two largest axes are long
    enough,
    $R \leftarrow \beta_t R + (1 - \beta_t)\, \mathrm{mean}_{col}\, s$, $C$ likewise over rows, and the update is
    $g / \sqrt{R C / \mathrm{mean}\, R}$; for every other leaf $V \leftarrow \beta_t V + (1 - \beta_t) s$ and
    $g / \sqrt V$.

    State: `FactoredState(count, v_row, v_col, v)`, 4 bytes a row and a column of a factored leaf, 4 a parameter of the
    others (8 in float64). Source: Shazeer and Stern 2018, algorithm 4 (https://arxiv.org/abs/1804.04235).
    Differs from Optax: steps before the offset have the decay of the first, where Optax has NaN.

    Args:
      factored: whether to factor at all.
      decay_rate: $e$, in [0, inf).
      step_offset: $t_0$, the step that counts as the first, in fine-tuning the last one before.
      min_dim_size_to_factor: how long the shorter of the two largest axes must be.
      epsilon: $\epsilon$, in (0, inf].
      decay_rate_fn: $\beta$ of the step $t - t_0$ and $e$.

    >>> import gdjax as gd
    >>> tx = gd.scale_by_factored_rms(min_dim_size_to_factor=2)
    >>> g = jnp.array([[1.0, 2.0], [2.0, 4.0]])
    >>> print(tx.update(g, tx.init(g))[0].round(4))
    [[1. 1.]
     [1. 1.]]
    """
    least = min_dim_size_to_factor if factored else None

    def init(params):
        rows, cols, wholes = factors(params, least)
        return optax.FactoredState(jnp.zeros((), jnp.int32), rows, cols, wholes)

    def update(updates, state, params=None):
        decay = decay_rate_fn(state.count.astype(float) - step_offset, decay_rate)
        g = tree.widen(updates)
        kept = factored_means(g, (state.v_row, state.v_col, state.v), decay, epsilon, least)
        scaled = jax.tree.map(lambda g, *of: over_factored_root(g, least, *of), g, *kept)
        count = optax.safe_increment(state.count)
        moved = (tree.cast_like(new, old) for new, old in zip(kept, state[1:], strict=True))
        return tree.cast_like(scaled, updates), optax.FactoredState(count, *moved)

    return init, update


def factors(params, least):
    """Zeros for the means of rows, of columns and of whole leaves, sharded as these are.

    A leaf is factored where the shorter of its two largest axes is `least` long or longer; `None` factors none. What is
    not kept of a leaf is one zero, as in Optax.
    """

    def kept(zeros, of):
        pair = _two_largest(zeros, least)
        if (pair is None) != (of == "whole"):
            return jnp.zeros((1,), zeros.dtype)
        return zeros if pair is None else jnp.sum(zeros, axis=pair[1] if of == "row" else pair[0])

    zeros = tree.accumulators(params, 0)
    return tuple(jax.tree.map(lambda z, of=of: kept(z, of), zeros) for of in ("row", "col", "whole"))


def factored_means(xs, olds, decay, eps, least):
    r"""The three trees of means of $|x|^2 + \epsilon$, one step on."""

    def means(x, row, col, whole):
        square = tree.abs_sq(x)
        if (pair := _two_largest(x, least)) is None:
            return row, col, mean(square + eps, whole, decay)
        short, long = pair
        by_row, by_col = (jnp.mean(square, axis) + eps for axis in (long, short))
        return mean(by_row, row, decay), mean(by_col, col, decay), whole

    three = jax.tree.map(means, xs, *olds)
    return tuple(jax.tree.map(lambda _, of, i=i: of[i], xs, three) for i in range(3))


def over_factored_root(x, least, row, col, whole):
    r"""A leaf over the root of the mean its factors stand for: $x / \sqrt{R C / \mathrm{mean}\, R}$ or $x / \sqrt V$.

    It is multiplied by reciprocals: of rows and of columns these are few, and what is left to do at every number is
    cheap enough for XLA to do it twice, where it is read twice, rather than write it down.
    """
    if (pair := _two_largest(x, least)) is None:
        return x * (1.0 / jnp.sqrt(tree.real_part(whole)))
    short, long = pair
    row, col = tree.real_part(row), tree.real_part(col)
    mean_row = jnp.mean(row, axis=short - 1 if short > long else short, keepdims=True)
    return x * jnp.expand_dims(jnp.sqrt(mean_row) / jnp.sqrt(row), long) * jnp.expand_dims(1.0 / jnp.sqrt(col), short)


def _two_largest(x, least):
    """The second largest axis and the largest, or nothing where the former is too short to factor."""
    if least is None or jnp.ndim(x) < 2:
        return None
    *_, short, long = np.argsort(jnp.shape(x))
    return (int(short), int(long)) if jnp.shape(x)[short] >= least else None
