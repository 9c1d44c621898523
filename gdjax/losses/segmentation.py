"""Segmentation losses: one class per pixel."""

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike

from gdjax.explaining import explain_errors
from gdjax.losses.arithmetic import Axis, require_real, require_same_shape
from gdjax.tree import wide
from gdjax.upcasting import upcast

_REDUCTIONS = {"mean": jnp.mean, "sum": jnp.sum, "none": lambda loss, axis: loss}


@explain_errors("dice_loss")
def dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    smooth: ArrayLike = 1.0,
    alpha: ArrayLike = 0.5,
    beta: ArrayLike = 0.5,
    apply_softmax: bool = True,
    reduction: str = "mean",
    ignore_background: bool = False,
    axis: Axis = None,
) -> jax.Array:
    """Return `1 - (I + smooth) / (I + alpha (P - I) + beta (T - I) + smooth)`, reduced over the classes.

    For each class, `P`, `T` and `I` are sums over pixels: of the probabilities, of the targets, and of their products.
    `alpha = beta = 1/2` gives the Dice loss; other values give the Tversky loss. A class that is absent from both
    predictions and targets has loss 0, even if `smooth` is 0.

    Milletari et al., [V-Net](https://arxiv.org/abs/1606.04797), 2016.

    Args:
      predictions: logits, of shape `[batch, ..., classes]`. A single class, or no class axis, means a binary mask.
      targets: one-hot targets of the same shape.
      class_weights: one weight per class, of shape `[classes]`.
      smooth: added to the numerator and to the denominator.
      alpha: the weight of false positives.
      beta: the weight of false negatives.
      apply_softmax: treat predictions as logits; if false, as probabilities.
      reduction: reduce over the classes by `mean`, `sum` or `none`.
      ignore_background: leave out the first class.
      axis: the pixel axes; `None` means all but the first and the last.

    Raises:
      ValueError: the shapes differ, the reduction is unknown, or concrete probabilities do not sum to 1.

    >>> logits, targets = jnp.array([[[9.0], [-9.0]]]), jnp.array([[[1.0], [0.0]]])
    >>> print(f"{dice_loss(logits, targets)[0]:.4f}")
    0.0001
    """
    predictions, targets = jnp.asarray(predictions), jnp.asarray(targets)
    if reduction not in _REDUCTIONS:
        raise ValueError(f"dice_loss: reduction must be one of {', '.join(_REDUCTIONS)}, got {reduction!r}.")
    if class_weights is not None and jnp.ndim(class_weights) != 1:
        raise ValueError(f"dice_loss: class_weights must have rank 1, got shape {jnp.shape(class_weights)}.")
    if predictions.ndim == targets.ndim - 1:
        predictions = predictions[..., None]
    if targets.ndim == predictions.ndim - 1:
        targets = targets[..., None]
    require_real("dice_loss", predictions=predictions)
    require_same_shape("dice_loss", predictions=predictions, targets=targets)
    if not apply_softmax:
        _require_probabilities("dice_loss", predictions)
    by_class = _dice_by_class(predictions, targets, class_weights, smooth, alpha, beta, apply_softmax, axis)
    return _REDUCTIONS[reduction](_drop_background(by_class) if ignore_background else by_class, axis=-1)


@upcast
def _dice_by_class(
    predictions: jax.Array,
    targets: jax.Array,
    class_weights: ArrayLike | None,
    smooth: ArrayLike,
    alpha: ArrayLike,
    beta: ArrayLike,
    apply_softmax: bool,
    axis: Axis,
) -> jax.Array:
    """Return the loss of each class."""
    p = _probabilities(predictions) if apply_softmax else predictions
    axis = tuple(range(1, p.ndim - 1)) if axis is None else axis
    intersection, predicted, true = (jnp.sum(x, axis) for x in (p * targets, p, targets))
    union = intersection + alpha * (predicted - intersection) + beta * (true - intersection)
    loss = 1 - _ratio_or_one(intersection + smooth, union + smooth)
    return loss if class_weights is None else loss * class_weights


def _probabilities(logits: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits, axis=-1)


def _ratio_or_one(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Return the ratio, or 1 where the denominator is 0."""
    return jnp.where(denominator == 0, 1, numerator / jnp.where(denominator == 0, 1, denominator))


def _drop_background(by_class: jax.Array) -> jax.Array:
    return by_class[..., 1:] if by_class.shape[-1] > 1 else by_class


def _require_probabilities(who: str, p: jax.Array) -> None:
    """Reject concrete values that are not probabilities, up to the precision of their dtype."""
    if isinstance(p, Tracer) or not p.size:
        return
    if p.shape[-1] == 1:
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError(f"{who}: probabilities must be in [0, 1], got {jnp.min(p)} to {jnp.max(p)}.")
        return
    total = jnp.sum(p, axis=-1, dtype=wide(p.dtype))
    if not jnp.allclose(total, 1, rtol=max(1e-5, 4 * float(jnp.finfo(p.dtype).eps))):
        must = "must be valid probability distributions that sum to 1 along the class axis"
        raise ValueError(f"{who}: predictions {must}, got sums from {jnp.min(total):.6f} to {jnp.max(total):.6f}.")


@explain_errors("multiclass_generalized_dice_loss")
def multiclass_generalized_dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    smooth: ArrayLike = 1.0,
    apply_softmax: bool = True,
    ignore_background: bool = False,
) -> jax.Array:
    """Return the mean Dice loss, weighting each class by one over its squared number of pixels.

    Sudre et al., [Generalised Dice overlap](https://arxiv.org/abs/1707.03237), 2017.

    Args:
      predictions: logits, of shape `[batch, ..., classes]`.
      targets: one-hot targets of the same shape.
      smooth: added to the numerator and to the denominator.
      apply_softmax: treat predictions as logits; if false, as probabilities.
      ignore_background: leave out the first class.

    Raises:
      ValueError: the shapes differ, or concrete probabilities do not sum to 1.

    >>> targets = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
    >>> print(f"{multiclass_generalized_dice_loss(20 * targets, targets):.4f}")
    0.0000
    """
    require_real("multiclass_generalized_dice_loss", predictions=predictions)
    require_same_shape("multiclass_generalized_dice_loss", predictions=predictions, targets=targets)
    predictions, targets = jnp.asarray(predictions), jnp.asarray(targets)
    if not apply_softmax:
        _require_probabilities("multiclass_generalized_dice_loss", predictions)
    return _generalized_dice(predictions, targets, smooth, apply_softmax, ignore_background)


@upcast
def _generalized_dice(
    predictions: jax.Array, targets: jax.Array, smooth: ArrayLike, apply_softmax: bool, ignore_background: bool
) -> jax.Array:
    weights = 1 / (jnp.square(jnp.sum(targets, tuple(range(targets.ndim - 1)))) + 1e-7)
    weights = weights / jnp.sum(weights) * len(weights)
    by_class = _dice_by_class(predictions, targets, weights, smooth, 0.5, 0.5, apply_softmax, None)
    return jnp.mean(_drop_background(by_class) if ignore_background else by_class)


@explain_errors("binary_dice_loss")
def binary_dice_loss(
    predictions: ArrayLike, targets: ArrayLike, *, smooth: ArrayLike = 1.0, apply_sigmoid: bool = True
) -> jax.Array:
    """Return the Dice loss of a binary mask.

    Args:
      predictions: logits, of shape `[batch, ...]` or `[batch, ..., 1]`.
      targets: 0 or 1, of the same shape.
      smooth: added to the numerator and to the denominator.
      apply_sigmoid: treat predictions as logits; if false, as probabilities.

    Raises:
      ValueError: the shapes differ, or concrete probabilities are outside `[0, 1]`.

    >>> print(f"{binary_dice_loss(jnp.array([[9.0, -9.0]]), jnp.array([[1.0, 0.0]]))[0]:.4f}")
    0.0001
    """
    predictions, targets = jnp.asarray(predictions), jnp.asarray(targets)
    if predictions.ndim == targets.ndim and predictions.shape[-1] != 1:
        predictions, targets = predictions[..., None], targets[..., None]
    return dice_loss(predictions, targets, smooth=smooth, apply_softmax=apply_sigmoid)
