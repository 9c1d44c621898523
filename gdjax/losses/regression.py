"""Regression losses."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax.concrete import require_nonnegative
from gdjax.explaining import explain_errors
from gdjax.losses.arithmetic import Axis, require_floating, require_same_shape
from gdjax.upcasting import upcast


@explain_errors("squared_error")
@upcast
def squared_error(predictions: ArrayLike, targets: ArrayLike | None = None) -> jax.Array:
    """Return `(predictions - targets)^2` elementwise.

    Args:
      predictions: an array of any shape.
      targets: an array of the same shape; `None` means zeros.

    Raises:
      TypeError: the predictions are not floating.
      ValueError: the shapes differ.

    >>> print(squared_error(jnp.array([3.0, 1.0]), jnp.array([1.0, 1.0])))
    [4. 0.]
    """
    require_floating("squared_error", predictions=predictions)
    return jnp.square(_errors("squared_error", predictions, targets))


@explain_errors("l2_loss")
@upcast
def l2_loss(predictions: ArrayLike, targets: ArrayLike | None = None) -> jax.Array:
    """Return `(predictions - targets)^2 / 2` elementwise.

    Args:
      predictions: an array of any shape.
      targets: an array of the same shape; `None` means zeros.

    Raises:
      TypeError: the predictions are not floating.
      ValueError: the shapes differ.

    >>> print(l2_loss(jnp.array([3.0, 1.0]), jnp.array([1.0, 1.0])))
    [2. 0.]
    """
    require_floating("l2_loss", predictions=predictions)
    errors = _errors("l2_loss", predictions, targets)
    return (0.5 * errors) * errors


@explain_errors("huber_loss")
@upcast
def huber_loss(predictions: ArrayLike, targets: ArrayLike | None = None, *, delta: ArrayLike = 1.0) -> jax.Array:
    """Return `e^2 / 2` for errors `|e|` up to `delta`, and `delta (|e| - delta / 2)` beyond.

    Its gradient is that of `l2_loss`, clipped to `[-delta, delta]`
    ([Huber](https://doi.org/10.1214/aoms/1177703732), 1964).

    Args:
      predictions: an array of any shape.
      targets: an array of a shape that broadcasts with it; `None` means zeros.
      delta: the error at which the loss becomes linear, at least 0.

    Raises:
      TypeError: the predictions are not floating.
      ValueError: a concrete `delta` is negative or NaN.

    >>> print(huber_loss(jnp.array([0.5, 3.0])))
    [0.125 2.5  ]
    """
    require_floating("huber_loss", predictions=predictions)
    require_nonnegative("huber_loss: delta", delta)
    size = jnp.abs(_difference(predictions, targets))
    quadratic = jnp.minimum(size, delta)
    return (0.5 * quadratic) * quadratic + delta * (size - quadratic)


@explain_errors("log_cosh")
@upcast
def log_cosh(predictions: ArrayLike, targets: ArrayLike | None = None) -> jax.Array:
    """Return `log(cosh(e))` for errors `e`: about `e^2 / 2` for small `e`, and `|e| - log(2)` for large `e`.

    Chen et al., [Log hyperbolic cosine loss](https://openreview.net/pdf?id=rkglvsC9Ym), 2019.

    Args:
      predictions: an array of any shape.
      targets: an array of a shape that broadcasts with it; `None` means zeros.

    Raises:
      TypeError: the predictions are not floating.

    >>> print(*(f"{x:.5g}" for x in log_cosh(jnp.array([0.0, 1e-3, 1e4]))))
    0 5e-07 9999.3
    """
    require_floating("log_cosh", predictions=predictions)
    error = _difference(predictions, targets)
    is_small = jnp.abs(error) < 1
    small, large = jnp.where(is_small, error, 0), jnp.where(is_small, 1, jnp.abs(error))
    return jnp.where(
        is_small,
        0.5 * jnp.log1p(jnp.square(jnp.sinh(small))),  # the formula below would round a small loss to 0
        large - jnp.log(2.0).astype(large.dtype) + jnp.log1p(jnp.exp(-2 * large)),
    )


@explain_errors("cosine_similarity")
@upcast
def cosine_similarity(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Return the cosine of the angle between predictions and targets.

    A zero vector has cosine 0 with every vector, and derivative 0 if `epsilon` is 0. Vectors are scaled before they
    are squared, so no square overflows or underflows.

    Args:
      predictions: vectors, of shape `[..., dim]`.
      targets: vectors, of shape `[..., dim]`.
      epsilon: a lower bound on the squared norm that divides a vector.
      axis: the axis or axes that hold a vector.
      where: a mask of the elements to include.

    Raises:
      TypeError: an argument is not floating.

    >>> print(cosine_similarity(jnp.array([3.0, 4.0]), jnp.array([0.0, 1e25])))
    0.8
    """
    require_floating("cosine_similarity", predictions=predictions, targets=targets)
    mask: dict[str, Any] = {} if where is None else {"where": where}
    a, b = (_unit_vectors(jnp.asarray(x), epsilon, axis, mask) for x in (predictions, targets))
    return jnp.sum(a * b, axis, **mask)


@explain_errors("cosine_distance")
@upcast
def cosine_distance(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Return 1 minus the cosine of the angle between predictions and targets.

    Args:
      predictions: vectors, of shape `[..., dim]`.
      targets: vectors, of shape `[..., dim]`.
      epsilon: a lower bound on the squared norm that divides a vector.
      axis: the axis or axes that hold a vector.
      where: a mask of the elements to include.

    Raises:
      TypeError: an argument is not floating.

    >>> print(cosine_distance(jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0])))
    1.0
    """
    require_floating("cosine_distance", predictions=predictions, targets=targets)
    return 1.0 - cosine_similarity(predictions, targets, epsilon=epsilon, axis=axis, where=where)


def _difference(predictions: ArrayLike, targets: ArrayLike | None) -> jax.Array:
    return jnp.asarray(predictions) if targets is None else jnp.asarray(predictions) - targets


def _errors(who: str, predictions: ArrayLike, targets: ArrayLike | None) -> jax.Array:
    if targets is not None:
        require_same_shape(who, predictions=predictions, targets=targets)
    return _difference(predictions, targets)


def _unit_vectors(x: jax.Array, epsilon: ArrayLike, axis: Axis, mask: dict[str, Any]) -> jax.Array:
    """Return `x / max(|x|, sqrt(epsilon))`, or 0 for a zero vector; `x` is scaled to about 1 before it is squared."""
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis, keepdims=True, initial=0, **mask))
    size = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    x = x / size
    square = jnp.sum(jnp.square(x), axis, keepdims=True, **mask)
    norm = jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))
    divisor = jnp.maximum(norm, jnp.sqrt(epsilon) / size)
    return jnp.where(divisor == 0, 0, x / jnp.where(divisor == 0, 1, divisor))
