"""Losses of rankings."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax.explaining import explain_errors
from gdjax.losses.arithmetic import log_softmax, product, require_floating
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
    """Return `-sum(y log(softmax(s)))` of the scores `s` and the relevances `y` of each list.

    A list without a valid item is left out of the mean, and a batch without one has the mean 0.

    Args:
      logits: scores, of shape `[..., items]`.
      labels: relevances, of shape `[..., items]`.
      where: the items that are valid, of shape `[..., items]`.
      weights: weights of the items, of shape `[..., items]`.
      reduce_fn: called with the losses and the `where` of the lists: `jnp.mean`, `jnp.sum`; `None` keeps all losses.

    Raises:
      TypeError: the logits are not floating.

    >>> print(f"{ranking_softmax_loss(jnp.array([2.0, 1.0, 3.0]), jnp.array([1.0, 0.0, 0.0])):.4f}")
    1.4076
    """
    require_floating("ranking_softmax_loss", logits=logits)
    labels = jnp.asarray(labels, jnp.result_type(logits))
    labels = labels if where is None else jnp.where(where, labels, 0)
    labels = labels if weights is None else labels * weights
    loss = -jnp.sum(product(labels, log_softmax(logits, -1, where)), axis=-1)
    lists = None if where is None else jnp.any(where, axis=-1)
    if reduce_fn is None:
        return loss if lists is None else jnp.where(lists, loss, 0)
    if reduce_fn is not jnp.mean:
        return jnp.asarray(reduce_fn(loss, where=lists))
    number = loss.size if lists is None else jnp.sum(lists)
    return jnp.sum(loss, where=lists) / jnp.maximum(number, 1)
