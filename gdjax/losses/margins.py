"""Margin losses: hinge, perceptron and sparsemax."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax.explaining import explain_errors
from gdjax.losses.arithmetic import require_real, require_same_shape, zero_safe_product
from gdjax.projections import projection_simplex
from gdjax.upcasting import upcast


@explain_errors("hinge_loss")
@upcast
def hinge_loss(predictor_outputs: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Return `max(0, 1 - y s)` for scores `s` and targets `y`.

    Args:
      predictor_outputs: scores.
      targets: -1 or 1.

    >>> print(hinge_loss(jnp.array([0.5, 2.0]), jnp.array([1.0, 1.0])))
    [0.5 0. ]
    """
    require_real("hinge_loss", predictor_outputs=predictor_outputs)
    return jnp.maximum(0, 1 - jnp.asarray(predictor_outputs) * targets)


@explain_errors("perceptron_loss")
@upcast
def perceptron_loss(predictor_outputs: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Return `max(0, -y s)` for scores `s` and targets `y`.

    Args:
      predictor_outputs: scores.
      targets: -1 or 1, of the same shape.

    Raises:
      ValueError: the shapes differ.

    >>> print(perceptron_loss(jnp.array([-0.5, 2.0]), jnp.array([1.0, 1.0])))
    [0.5 0. ]
    """
    require_real("perceptron_loss", predictor_outputs=predictor_outputs)
    require_same_shape("perceptron_loss", predictor_outputs=predictor_outputs, targets=targets)
    return jnp.maximum(0, -jnp.asarray(predictor_outputs) * targets)


@explain_errors("sparsemax_loss")
def sparsemax_loss(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Return the binary sparsemax loss: exactly 0 where `jax.nn.sparse_sigmoid(logits)` equals the label.

    Blondel et al., [Learning with Fenchel-Young losses](https://arxiv.org/abs/1901.02324), 2020, section 4.4.

    Args:
      logits: scores.
      labels: 0 or 1.

    >>> print(sparsemax_loss(jnp.array([0.0, 5.0, 5.0]), jnp.array([1, 1, 0])))
    [0.25 0.   5.  ]
    """
    require_real("sparsemax_loss", logits=logits)
    return _sparsemax_loss(jnp.where(labels, -jnp.asarray(logits), logits))


@upcast
def _sparsemax_loss(x: ArrayLike) -> jax.Array:
    """Return `(x + 1)^2 / 4` in `[-1, 1]`, 0 below, `x` above; no unused branch overflows."""
    x = jnp.asarray(x)
    inside = jnp.where(jnp.abs(x) < 1, x, 0)
    return jnp.where(x >= 1, x, jnp.where(x <= -1, 0, jnp.square(inside + 1) / 4))


@explain_errors("multiclass_hinge_loss")
@upcast
def multiclass_hinge_loss(scores: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Return `max(s + 1 - y) - s[label]` for class scores `s`, where `y` is the one-hot label.

    Args:
      scores: class scores, of shape `[..., classes]`.
      labels: integer labels, of shape `[...]`.

    >>> print(multiclass_hinge_loss(jnp.array([1.0, 3.0]), jnp.array(0)))
    3.0
    """
    scores, one_hot = _scores_and_one_hot("multiclass_hinge_loss", scores, labels)
    return jnp.max(scores + (1 - one_hot), axis=-1) - jnp.sum(zero_safe_product(one_hot, scores), axis=-1)


@explain_errors("multiclass_perceptron_loss")
@upcast
def multiclass_perceptron_loss(scores: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Return `max(s) - s[label]` for class scores `s`.

    Collins, [Discriminative training methods for hidden Markov models](https://aclanthology.org/W02-1001/), 2002.

    Args:
      scores: class scores, of shape `[..., classes]`.
      labels: integer labels, of shape `[...]`.

    >>> print(multiclass_perceptron_loss(jnp.array([1.0, 3.0]), jnp.array(0)))
    2.0
    """
    scores, one_hot = _scores_and_one_hot("multiclass_perceptron_loss", scores, labels)
    return jnp.max(scores, axis=-1) - jnp.sum(zero_safe_product(one_hot, scores), axis=-1)


def _scores_and_one_hot(who: str, scores: ArrayLike, labels: ArrayLike) -> tuple[jax.Array, jax.Array]:
    require_real(who, scores=scores)
    scores = jnp.asarray(scores)
    return scores, jax.nn.one_hot(labels, scores.shape[-1], dtype=scores.dtype)


@explain_errors("multiclass_sparsemax_loss")
@upcast
def multiclass_sparsemax_loss(scores: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Return the sparsemax loss: exactly 0 where the label's score exceeds all others by at least 1.

    Martins and Astudillo, [From softmax to sparsemax](https://arxiv.org/abs/1602.02068), 2016, equation 19.

    Args:
      scores: class scores, of shape `[batch, classes]`.
      labels: integer labels, of shape `[batch]`.

    >>> print(multiclass_sparsemax_loss(jnp.array([[0.0, 0.0], [3.0, 0.0]]), jnp.array([0, 0])))
    [0.25 0.  ]
    """
    require_real("multiclass_sparsemax_loss", scores=scores)
    return jax.vmap(_multiclass_sparsemax_loss)(jnp.asarray(scores), jnp.asarray(labels))


def _multiclass_sparsemax_loss(scores: jax.Array, label: jax.Array) -> jax.Array:
    p = projection_simplex(scores)
    gaps = (scores - scores[label]).at[label].set(0)
    return jnp.sum(zero_safe_product(p, gaps)) + 0.5 * (1 - jnp.sum(jnp.square(p)))
