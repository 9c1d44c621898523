"""Cross-entropy losses for classification."""

import operator

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike

from gdjax.concrete import require_fraction, require_nonnegative
from gdjax.explaining import explain_errors
from gdjax.losses.arithmetic import Axis, expand_mask, log_softmax, masked_sum, require_floating, zero_safe_product
from gdjax.upcasting import upcast


@explain_errors("softmax_cross_entropy")
@upcast
def softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> jax.Array:
    """Return `-sum(y log(softmax(x)))` for logits `x` and class probabilities `y`.

    A logit of -inf with label 0 contributes 0, since `0 log 0 = 0`. A row that `where` excludes entirely has loss 0.

    Args:
      logits: unnormalized log probabilities, of shape `[..., classes]`.
      labels: probabilities, such as one-hot rows, of a shape that broadcasts with the logits' shape.
      axis: the class axis or axes.
      where: a mask of the elements to include, with the shape of the logits or of the losses.

    Raises:
      TypeError: the logits are not floating.

    >>> logits, labels = jnp.array([1.2, -jnp.inf, -0.5]), jnp.array([1.0, 0.0, 0.0])
    >>> print(f"{softmax_cross_entropy(logits, labels):.4f}")
    0.1678
    """
    require_floating("softmax_cross_entropy", logits=logits)
    where = expand_mask(where, logits, axis)
    log_p = log_softmax(logits, axis, where)
    labels = labels if where is None else jnp.where(where, labels, 0)
    return -jnp.sum(zero_safe_product(labels, log_p), axis)


@explain_errors("safe_softmax_cross_entropy")
def safe_softmax_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Return `softmax_cross_entropy(logits, labels)`, which gdjax already makes safe for logits of -inf.

    Args:
      logits: unnormalized log probabilities, of shape `[..., classes]`.
      labels: probabilities, of a shape that broadcasts with the logits' shape.

    Raises:
      TypeError: the logits are not floating.

    >>> print(safe_softmax_cross_entropy(jnp.array([0.0, -jnp.inf]), jnp.array([1.0, 0.0])) == 0)
    True
    """
    return softmax_cross_entropy(logits, labels)


@explain_errors("softmax_cross_entropy_with_integer_labels")
@upcast
def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike, labels: ArrayLike, axis: int | tuple[int, ...] = -1, where: ArrayLike | None = None
) -> jax.Array:
    """Return `log(sum(exp(x))) - x[label]` for logits `x` and integer labels.

    The largest logit is subtracted first, so that the loss stays accurate for logits near 10,000. A row that `where`
    excludes entirely has loss 0.

    Args:
      logits: unnormalized log probabilities, of shape `[..., classes]`.
      labels: integers from 0 to `classes - 1`, of shape `[...]`. A negative label counts from the end; any other
        label gives NaN.
      axis: the class axis. With a tuple, a label indexes the flattened elements of all its axes.
      where: a mask of the elements to include, with the shape of the logits or of the losses.

    Raises:
      TypeError: the logits are not floating, or the labels are not integers.
      ValueError: `axis` is neither an integer nor a tuple.

    >>> print(f"{softmax_cross_entropy_with_integer_labels(jnp.array([1.2, -0.8, -0.5]), jnp.array(0)):.4f}")
    0.2761
    """
    who = "softmax_cross_entropy_with_integer_labels"
    require_floating(who, logits=logits)
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise TypeError(f"{who}: labels must be integers, a subdtype of integer, got {jnp.result_type(labels)}.")
    if not isinstance(axis, (int, tuple)):
        raise ValueError(f"{who}: 'axis' must be of type 'int' or 'tuple[int, ...]', got {type(axis)}.")
    where = expand_mask(where, logits, axis)
    logits, where = (
        _move_classes_last(jnp.asarray(logits), axis),
        where if where is None else _move_classes_last(jnp.asarray(where), axis),
    )
    return _integer_cross_entropy(logits, jnp.asarray(labels), where)


def _integer_cross_entropy(logits: jax.Array, labels: jax.Array, where: jax.Array | None) -> jax.Array:
    logits = logits - jax.lax.stop_gradient(_largest_logit(logits, where))
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    if where is None:
        return logsumexp(logits, axis=-1) - chosen
    has_class = jnp.any(where, -1)
    selected = jnp.where(where, logits, -jnp.inf)
    return jnp.where(has_class, logsumexp(jnp.where(has_class[..., None], selected, 0), axis=-1) - chosen, 0)


def _largest_logit(logits: jax.Array, where: jax.Array | None) -> jax.Array:
    """Return the largest selected logit of each row, or 0 where it is infinite."""
    selected = logits if where is None else jnp.where(where, logits, -jnp.inf)
    largest = jnp.max(selected, -1, keepdims=True)
    return jnp.where(jnp.isinf(largest), 0, largest)


def _move_classes_last(x: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """Flatten the class axes into one last axis."""
    if not isinstance(axis, tuple):
        return jnp.moveaxis(x, operator.index(axis), -1)
    last = tuple(range(-len(axis), 0))
    moved = jnp.moveaxis(x, axis, last)
    return moved.reshape(*moved.shape[: x.ndim - len(axis)], -1)


@explain_errors("sigmoid_binary_cross_entropy")
def sigmoid_binary_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Return `-y log(p) - (1 - y) log(1 - p)` elementwise, with `p = sigmoid(x)`.

    Goodfellow et al., [Deep learning](http://www.deeplearningbook.org/contents/prob.html), 2016.

    Args:
      logits: log-odds `x`. An infinite logit has loss 0 if its label agrees.
      labels: probabilities `y` of the positive class, in `[0, 1]`.

    Raises:
      TypeError: the logits are not floating.

    >>> print(sigmoid_binary_cross_entropy(jnp.array([0.0, 1e4, -jnp.inf]), jnp.array([1.0, 0.0, 0.0])))
    [6.931472e-01 1.000000e+04 0.000000e+00]
    """
    require_floating("sigmoid_binary_cross_entropy", logits=logits)
    return _cast_to_logits(_binary_cross_entropy(logits, labels), logits)


@upcast
def _binary_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    x, y = jnp.asarray(logits), jnp.asarray(labels, jnp.result_type(logits))
    return -zero_safe_product(y, jax.nn.log_sigmoid(x)) - zero_safe_product(1 - y, jax.nn.log_sigmoid(-x))


@explain_errors("sigmoid_focal_loss")
def sigmoid_focal_loss(
    logits: ArrayLike, labels: ArrayLike, *, alpha: ArrayLike | None = None, gamma: ArrayLike = 2.0
) -> jax.Array:
    """Return the binary cross entropy times `(1 - p_t)^gamma`, where `p_t` is the probability of the label.

    Lin et al., [Focal loss for dense object detection](https://arxiv.org/abs/1708.02002), 2017, equations 4 and 5.

    Args:
      logits: log-odds.
      labels: probabilities of the positive class, in `[0, 1]`.
      alpha: the weight of the positive class, in `[0, 1]`; the other gets `1 - alpha`. `None` means no weights.
      gamma: the exponent, at least 0. Larger values give easy examples less weight.

    Raises:
      TypeError: the logits are not floating.
      ValueError: a concrete `alpha` or `gamma` is out of range.

    >>> print(sigmoid_focal_loss(jnp.array([0.0, 1e4]), jnp.array([1.0, 1.0])))
    [0.1732868 0.       ]
    """
    require_floating("sigmoid_focal_loss", logits=logits)
    require_fraction("sigmoid_focal_loss: alpha", alpha)
    require_nonnegative("sigmoid_focal_loss: gamma", gamma)
    return _cast_to_logits(_sigmoid_focal_loss(logits, labels, alpha, gamma), logits)


@upcast
def _sigmoid_focal_loss(logits: ArrayLike, labels: ArrayLike, alpha: ArrayLike | None, gamma: ArrayLike) -> jax.Array:
    x, y = jnp.asarray(logits), jnp.asarray(labels, jnp.result_type(logits))
    log_p, log_q = (jnp.maximum(jax.nn.log_sigmoid(z), jnp.finfo(x.dtype).min) for z in (x, -x))
    log_missed = logsumexp(jnp.stack([log_p, log_q]), axis=0, b=jnp.stack([1 - y, y]))
    loss = jnp.exp(gamma * log_missed) * _binary_cross_entropy(x, y)
    return loss if alpha is None else (jnp.asarray(alpha) * y + (1 - jnp.asarray(alpha)) * (1 - y)) * loss


def _cast_to_logits(loss: jax.Array, logits: ArrayLike) -> jax.Array:
    """Return the loss in the dtype of the logits, even if the labels are wider, as in Optax."""
    return loss.astype(jnp.result_type(logits))


@explain_errors("poly_loss_cross_entropy")
@upcast
def poly_loss_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: ArrayLike = 2.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Return the softmax cross entropy plus `epsilon (1 - p_t)`, where `p_t` is the probability of the label.

    Leng et al., [PolyLoss](https://arxiv.org/abs/2204.12511), 2022, equation 6.

    Args:
      logits: unnormalized log probabilities, of shape `[..., classes]`.
      labels: probabilities, of a shape that broadcasts with the logits' shape.
      epsilon: the weight of the polynomial's first term, at least -1.
      axis: the class axis or axes.
      where: a mask of the elements to include.

    Raises:
      TypeError: an argument is not floating.

    >>> print(f"{poly_loss_cross_entropy(jnp.array([0.0, 0.0]), jnp.array([1.0, 0.0])):.4f}")
    1.6931
    """
    require_floating("poly_loss_cross_entropy", logits=logits, labels=labels)
    mask = expand_mask(where, logits, axis)
    missed = jnp.asarray(labels) * -jnp.expm1(log_softmax(logits, axis, mask))
    return softmax_cross_entropy(logits, labels, axis, where) + epsilon * masked_sum(missed, axis, mask)
