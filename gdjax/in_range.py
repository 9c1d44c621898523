"""Optax factories that stay finite where the square of a gradient overflows float32.

Each reorders Optax's arithmetic, or first scales the gradient down. States are Optax's own.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax.typing import ArrayLike

from gdjax import norms
from gdjax.squares import clip_to_norm, largest_squarable

_SQUARES_IN_SUM = 2**20
"""Number of largest squares that a sum must hold without overflow; Mechanic with `num_betas=6` needs half of it."""


def mechanize(base_optimizer, weight_decay=1e-2, eps=1e-8, s_init=1e-6, num_betas=6):
    """Scale the gradient down for Mechanic only; the inner optimizer gets it unchanged."""
    base = optax.with_extra_args_support(base_optimizer)

    def mechanic(base):
        return optax.contrib.mechanize(base, weight_decay, eps, s_init, num_betas)

    def update(updates, state, params=None, **extra_args):
        base_step = base.update(updates, state.base_optimizer_state, params, **extra_args)
        tuner = mechanic(optax.GradientTransformationExtraArgs(base.init, lambda *_, **__: base_step))
        return tuner.update(updates if params is None else scale_down(updates, state, params), state, params)

    def scale_down(updates, state, params):
        """Scale the gradient down so that the square of its product with the displacement is finite."""
        displacement = jax.tree.map(lambda p, start: (start - p) / (jnp.sum(state.s) + eps), params, state.x0)
        norm, distance = norms.global_scaled_norm(updates), norms.global_norm(displacement)
        bound = largest_squarable(distance.dtype, _SQUARES_IN_SUM) / jnp.maximum(distance, 1.0)
        return jax.tree.map(lambda g: clip_to_norm(g, norm, bound), updates)

    return optax.GradientTransformationExtraArgs(mechanic(base).init, update)


def scale_by_cocob(alpha: ArrayLike = 100.0, eps: ArrayLike = 1e-8):
    """Divide by the largest gradient first, so that no product of two gradients is formed."""
    init, optax_update = optax.contrib.scale_by_cocob(alpha, eps)

    def update(updates, state, params=None):
        def step(p, start, bet, scale, total, reward):
            return -p + (start + (bet / scale) * ((1 + reward / scale) / jnp.maximum(total / scale + 1, alpha)))

        new: Any = optax_update(updates, state, params)[1]
        trees = new.init_particles, new.cumulative_gradients, new.scale, new.subgradients, new.reward
        return jax.tree.map(step, params, *trees), new

    return optax.GradientTransformation(init, update)


def cocob(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    alpha: ArrayLike = 100.0,
    eps: ArrayLike = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: optax.Params | Callable[[optax.Params], Any] | None = None,
):
    """Chain the same transforms as Optax."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate, flip_sign=False),
        scale_by_cocob(alpha, eps),
    )


def scale_by_madgrad(learning_rate: optax.ScalarOrSchedule, momentum: float = 0.9, eps: float = 1e-6):
    """Square `sqrt(rate) * g` where `g**2` overflows, clip it where even that overflows, and bound the sum."""
    init, optax_update = optax.contrib.scale_by_madgrad(learning_rate, momentum, eps)

    def update(updates, state, params=None):
        if params is None:
            return optax_update(updates, state, params)  # raises Optax's error
        rate = (learning_rate(state.count) if callable(learning_rate) else learning_rate) + eps
        rate = rate * jnp.sqrt(state.count + 1)
        root = jnp.sqrt(rate)

        def add_square(g, total):
            bound = (1 - 2 / _SQUARES_IN_SUM) * float(jnp.finfo(total.dtype).max)
            square = jnp.where(has_square(g), rate.astype(g.dtype) * jnp.square(g), jnp.square(root_times(g)))
            return jnp.minimum(total + square, bound) + (g - g)  # NaN where g is not finite

        def add(g, total):
            return total + jnp.where(has_square(g), rate.astype(g.dtype) * g, root.astype(g.dtype) * root_times(g))

        def has_square(g):
            return jnp.abs(g) < largest_squarable(g.dtype, 2)

        def root_times(g):
            return jnp.clip(root.astype(g.dtype) * g, -largest_squarable(g.dtype, 2), largest_squarable(g.dtype, 2))

        def step(start, total, total_sq, p):
            end = start - total / (jnp.cbrt(total_sq) + eps)
            return (1 - momentum) * end + momentum * p - p

        total_sq = jax.tree.map(add_square, updates, state.grad_sum_sq)
        total = jax.tree.map(add, updates, state.s)
        new = state._replace(count=optax.safe_increment(state.count), grad_sum_sq=total_sq, s=total)
        return jax.tree.map(step, state.x0, total, total_sq, params), new

    return optax.GradientTransformation(init, update)


def madgrad(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.9,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    eps: float = 1e-6,
):
    """Chain the same transforms as Optax."""
    decay = optax.add_decayed_weights(weight_decay)
    return optax.chain(decay, scale_by_madgrad(learning_rate, momentum, eps))


def differentially_private_aggregate(*args: Any, **kwargs: Any):
    """Bound the norm of each example's gradient so that its square is finite, before Optax clips it."""
    return _bound_each_example(optax.contrib.differentially_private_aggregate(*args, **kwargs))


def dpsgd(*args: Any, **kwargs: Any):
    """Bound the norm of each example's gradient so that its square is finite, before Optax clips it."""
    return _bound_each_example(optax.contrib.dpsgd(*args, **kwargs))


def _bound_each_example(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Scale each example's gradient down so that the square of its norm is finite."""

    def bound(updates):
        norm = norms.global_scaled_norm(updates)
        return jax.tree.map(lambda g: clip_to_norm(g, norm, largest_squarable(norm.root.dtype, 1)), updates)

    def update(updates, state, params=None):
        return tx.update(jax.vmap(bound)(updates), state, params)

    return optax.GradientTransformation(tx.init, update)


IN_RANGE = {
    optax.contrib.cocob: cocob,
    optax.contrib.differentially_private_aggregate: differentially_private_aggregate,
    optax.contrib.dpsgd: dpsgd,
    optax.contrib.madgrad: madgrad,
    optax.contrib.mechanize: mechanize,
    optax.contrib.scale_by_cocob: scale_by_cocob,
    optax.contrib.scale_by_madgrad: scale_by_madgrad,
}
"""Replacements for Optax factories, by the original."""
