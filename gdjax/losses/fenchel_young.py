"""Fenchel-Young losses: a maximum function minus an inner product."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax.losses.arithmetic import zero_safe_product
from gdjax.upcasting import upcast


def make_fenchel_young_loss(max_fun: Callable[..., ArrayLike]) -> Callable[..., jax.Array]:
    """Make the loss `max_fun(s) - <y, s>` for scores `s` and targets `y`.

    A score of -inf with target 0 contributes 0 to the inner product.

    Blondel et al., [Learning with Fenchel-Young losses](https://arxiv.org/abs/1901.02324), 2020, definition 2.

    Args:
      max_fun: a function of one vector of scores, such as `jax.scipy.special.logsumexp`.

    Returns:
      The loss, a function of scores and targets over the last axis. Further arguments go to `max_fun`.

    >>> from jax.scipy.special import logsumexp
    >>> loss = make_fenchel_young_loss(logsumexp)
    >>> print(f"{loss(jnp.zeros(2), jnp.array([1.0, 0.0])):.4f}")
    0.6931
    """
    batched_max = jnp.vectorize(max_fun, signature="(n)->()")

    @upcast
    def fenchel_young_loss(scores: ArrayLike, targets: ArrayLike, *args: Any, **kwargs: Any) -> jax.Array:
        scores = jnp.asarray(scores)
        return batched_max(scores, *args, **kwargs) - jnp.sum(zero_safe_product(targets, scores), axis=-1)

    return fenchel_young_loss
