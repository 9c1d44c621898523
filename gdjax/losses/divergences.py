"""Divergences between probability distributions."""

import warnings

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax.explaining import explain_errors
from gdjax.losses.arithmetic import Axis, masked_sum, require_floating
from gdjax.upcasting import upcast


@explain_errors("kl_divergence")
@upcast
def kl_divergence(
    log_predictions: ArrayLike, targets: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> jax.Array:
    """Return the Kullback-Leibler divergence `sum(q (log q - log p))` for predictions `p` and targets `q`.

    A target of 0 contributes 0, even if `log p` is -inf, and both derivatives there are 0. The true derivative with
    respect to such a target is -inf and would spoil any step, so a target of 0 counts as a constant.

    Kullback and Leibler, [On information and sufficiency](https://www.jstor.org/stable/2236703), 1951.

    Args:
      log_predictions: log probabilities, of shape `[..., dim]`.
      targets: probabilities, of shape `[..., dim]`.
      axis: the axis or axes of the distribution.
      where: a mask of the elements to include.

    Raises:
      TypeError: an argument is not floating.

    >>> q, p = jnp.array([0.0, 0.5, 0.5]), jnp.array([0.0, 0.25, 0.75])
    >>> print(f"{kl_divergence(jnp.log(p), q):.4f}")
    0.1438
    """
    require_floating("kl_divergence", log_predictions=log_predictions, targets=targets)
    p, q = jnp.asarray(log_predictions), jnp.asarray(targets)
    counts = _intersect_mask((q != 0) | jnp.isnan(p), where)
    terms = jnp.where(counts, q, 1) * (jnp.log(jnp.where(counts, q, 1)) - jnp.where(counts, p, 0))
    return masked_sum(terms, axis, counts)


@explain_errors("kl_divergence_with_log_targets")
@upcast
def kl_divergence_with_log_targets(
    log_predictions: ArrayLike, log_targets: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> jax.Array:
    """Return the Kullback-Leibler divergence for predictions and targets, both given as log probabilities.

    A log target whose exponential is 0, such as -inf, contributes 0 and has derivatives 0.

    Args:
      log_predictions: log probabilities, of shape `[..., dim]`.
      log_targets: log probabilities, of shape `[..., dim]`.
      axis: the axis or axes of the distribution.
      where: a mask of the elements to include.

    Raises:
      TypeError: an argument is not floating.

    >>> q, p = jnp.array([0.0, 0.5, 0.5]), jnp.array([0.0, 0.25, 0.75])
    >>> print(f"{kl_divergence_with_log_targets(jnp.log(p), jnp.log(q)):.4f}")
    0.1438
    """
    require_floating("kl_divergence_with_log_targets", log_predictions=log_predictions, log_targets=log_targets)
    p, q = jnp.asarray(log_predictions), jnp.asarray(log_targets)
    counts = _intersect_mask((jnp.exp(q) != 0) | jnp.isnan(p), where)
    q = jnp.where(counts, q, 0)
    return masked_sum(jnp.exp(q) * (q - jnp.where(counts, p, 0)), axis, counts)


@explain_errors("generalized_kl_divergence")
@upcast
def generalized_kl_divergence(
    log_predictions: ArrayLike, targets: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> jax.Array:
    """Return `sum(q (log q - log p) + p - q)`, a divergence for measures that need not sum to 1.

    It is the Bregman divergence of `x log x - x`. A target of 0 contributes `p` and counts as a constant, as in
    `kl_divergence`: its derivative is 0.

    Boyd and Vandenberghe, [Convex optimization](https://stanford.edu/~boyd/cvxbook/bv_cvxbook.pdf), page 90.

    Args:
      log_predictions: logarithms of the predictions, of shape `[..., dim]`.
      targets: non-negative targets, of shape `[..., dim]`.
      axis: the axis or axes of the measure.
      where: a mask of the elements to include.

    Raises:
      TypeError: an argument is not floating.

    >>> print(generalized_kl_divergence(jnp.zeros(2), jnp.array([0.0, 1.0])))
    1.0
    """
    divergence = kl_divergence(log_predictions, targets, axis, where)
    p = log_predictions if where is None else jnp.where(where, log_predictions, 0)
    q = jnp.where(jnp.asarray(targets) != 0, targets, 0)
    return divergence + masked_sum(jnp.exp(p) - q, axis, where)


@explain_errors("convex_kl_divergence")
def convex_kl_divergence(
    log_predictions: ArrayLike, targets: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> jax.Array:
    """Return `generalized_kl_divergence`, which has replaced this name since Optax 0.2.4."""
    warnings.warn("convex_kl_divergence is deprecated: use generalized_kl_divergence", DeprecationWarning, stacklevel=2)
    return generalized_kl_divergence(log_predictions, targets, axis, where)


def _intersect_mask(counts: jax.Array, where: ArrayLike | None) -> jax.Array:
    return counts if where is None else jnp.logical_and(counts, where)
