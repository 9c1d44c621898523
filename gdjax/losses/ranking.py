"""Ranking losses."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax.explaining import explain_errors
from gdjax.losses.arithmetic import log_softmax, require_floating, zero_safe_product
from gdjax.upcasting import upcast


@explain_errors("ranking_softmax_loss")
@upcast
def ranking_softmax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduce_fn: Callable[..., ArrayLike] | None = jnp.mean,
) -> jax.Array:
    """Return `-sum(y log(softmax(s)))` for the scores `s` and relevances `y` of each list.

    The mean excludes lists without a valid item; it is 0 for a batch of such lists.

    Args:
      logits: scores, of shape `[..., items]`.
      labels: relevances, of shape `[..., items]`.
      where: a mask of the valid items, of shape `[..., items]`.
      weights: item weights, of shape `[..., items]`.
      reduce_fn: called as `reduce_fn(losses, where=valid_lists)`, such as `jnp.sum`. `None` returns the loss of
        each list.

    Raises:
      TypeError: the logits are not floating.

    >>> print(f"{ranking_softmax_loss(jnp.array([2.0, 1.0, 3.0]), jnp.array([1.0, 0.0, 0.0])):.4f}")
    1.4076
    """
    require_floating("ranking_softmax_loss", logits=logits)
    labels = jnp.asarray(labels, jnp.result_type(logits))
    labels = labels if where is None else jnp.where(where, labels, 0)
    labels = labels if weights is None else labels * weights
    loss = -jnp.sum(zero_safe_product(labels, log_softmax(logits, -1, where)), axis=-1)
    is_valid = None if where is None else jnp.any(where, axis=-1)
    if reduce_fn is None:
        return loss if is_valid is None else jnp.where(is_valid, loss, 0)
    if reduce_fn is not jnp.mean:
        return jnp.asarray(reduce_fn(loss, where=is_valid))
    count = loss.size if is_valid is None else jnp.sum(is_valid)
    return jnp.sum(loss, where=is_valid) / jnp.maximum(count, 1)
