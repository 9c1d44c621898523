"""Optax factories whose steps stay finite where the square of a gradient overflows float32.

Each reorders Optax's arithmetic, or scales the gradient down first. The states are Optax's own.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from gdjax import norms
from gdjax.squares import clip_to_norm, largest_squarable

_ROOM = 2**20
"""How many of the largest squares a sum must hold; Mechanic's, with `num_betas=6`, needs half as many."""


def mechanize(base_optimizer, weight_decay=1e-2, eps=1e-8, s_init=1e-6, num_betas=6):
    """Scale the gradient down for Mechanic alone; the inner optimizer gets it as it is."""
    base = optax.with_extra_args_support(base_optimizer)

    def of(base):
        return optax.contrib.mechanize(base, weight_decay, eps, s_init, num_betas)

    def update(updates, state, params=None, **extra_args):
        stepped = base.update(updates, state.base_optimizer_state, params, **extra_args)
        tuner = of(optax.GradientTransformationExtraArgs(base.init, lambda *_, **__: stepped))
        return tuner.update(updates if params is None else tuned(updates, state, params), state, params)

    def tuned(updates, state, params):
        """Scale a gradient down until the square of its product with the displacement is finite."""
        displacement = jax.tree.map(lambda p, start: (start - p) / (jnp.sum(state.s) + eps), params, state.x0)
        length, distance = norms.global_scaled_norm(updates), norms.global_norm(displacement)
        most = largest_squarable(distance.dtype, _ROOM)
        return jax.tree.map(lambda g: clip_to_norm(g, length, most / jnp.maximum(distance, 1.0)), updates)

    return optax.GradientTransformationExtraArgs(of(base).init, update)


def scale_by_cocob(alpha: Any = 100.0, eps: Any = 1e-8):
    """Divide by the largest gradient first: no product of two gradients is formed."""
    init, run = optax.contrib.scale_by_cocob(alpha, eps)

    def update(updates, state, params=None):
        def moved(p, start, bet, scale, total, reward):
            return -p + (start + (bet / scale) * ((1 + reward / scale) / jnp.maximum(total / scale + 1, alpha)))

        new: Any = run(updates, state, params)[1]
        kept = new.init_particles, new.cumulative_gradients, new.scale, new.subgradients, new.reward
        return jax.tree.map(moved, params, *kept), new

    return optax.GradientTransformation(init, update)


def cocob(learning_rate: Any = 1.0, alpha: Any = 100.0, eps: Any = 1e-8, weight_decay: Any = 0.0, mask: Any = None):
    """Chain what Optax chains."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate, flip_sign=False),
        scale_by_cocob(alpha, eps),
    )


def scale_by_madgrad(learning_rate: Any, momentum: Any = 0.9, eps: Any = 1e-6):
    """Square `sqrt(rate) * g` where `g**2` overflows, clip it where even that does, and bound the sum."""
    init, run = optax.contrib.scale_by_madgrad(learning_rate, momentum, eps)

    def update(updates, state, params=None):
        if params is None:
            return run(updates, state, params)  # an error
        rate = (learning_rate(state.count) if callable(learning_rate) else learning_rate) + eps
        rate = rate * jnp.sqrt(state.count + 1)
        root = jnp.sqrt(rate)

        def square_added(g, total):
            most = (1 - 2 / _ROOM) * float(jnp.finfo(total.dtype).max)
            square = jnp.where(has_square(g), rate.astype(g.dtype) * jnp.square(g), jnp.square(share(g)))
            return jnp.minimum(total + square, most) + (g - g)

        def added(g, total):
            return total + jnp.where(has_square(g), rate.astype(g.dtype) * g, root.astype(g.dtype) * share(g))

        def has_square(g):
            return jnp.abs(g) < largest_squarable(g.dtype, 2)

        def share(g):
            return jnp.clip(root.astype(g.dtype) * g, -largest_squarable(g.dtype, 2), largest_squarable(g.dtype, 2))

        def moved(start, total, total_sq, p):
            end = start - total / (jnp.cbrt(total_sq) + eps)
            return (1 - momentum) * end + momentum * p - p

        total_sq = jax.tree.map(square_added, updates, state.grad_sum_sq)
        total = jax.tree.map(added, updates, state.s)
        new = state._replace(count=optax.safe_increment(state.count), grad_sum_sq=total_sq, s=total)
        return jax.tree.map(moved, state.x0, total, total_sq, params), new

    return optax.GradientTransformation(init, update)


def madgrad(learning_rate: Any, momentum: Any = 0.9, weight_decay: Any = 0.0, eps: Any = 1e-6):
    """Chain what Optax chains."""
    decay = optax.add_decayed_weights(weight_decay)
    return optax.chain(decay, scale_by_madgrad(learning_rate, momentum, eps))


def differentially_private_aggregate(*args: Any, **kwargs: Any):
    """Clip each example's gradient to a norm that has a square, before it is clipped to the bound."""
    return _of_examples(optax.contrib.differentially_private_aggregate(*args, **kwargs))


def dpsgd(*args: Any, **kwargs: Any):
    """Clip each example's gradient to a norm that has a square, before it is clipped to the bound."""
    return _of_examples(optax.contrib.dpsgd(*args, **kwargs))


def _of_examples(tx: Any) -> optax.GradientTransformation:
    """Scale the gradient of each example down so far that the square of its norm is finite."""

    def bounded(updates):
        length = norms.global_scaled_norm(updates)
        return jax.tree.map(lambda g: clip_to_norm(g, length, largest_squarable(length.root.dtype, 1)), updates)

    def update(updates, state, params=None):
        return tx.update(jax.vmap(bounded)(updates), state, params)

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
"""What runs in the place of a function of Optax."""
