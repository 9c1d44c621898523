"""Connectionist temporal classification (CTC)."""

import jax
import jax.numpy as jnp
import optax.losses
from jax.typing import ArrayLike

from gdjax.explaining import explain_errors
from gdjax.losses.arithmetic import require_real
from gdjax.tree import wide


@explain_errors("ctc_loss")
def ctc_loss(
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    *,
    blank_id: int = 0,
    log_epsilon: ArrayLike = -1e5,
) -> jax.Array:
    """Return the negative log probability of the labels, summed over all their alignments with the frames.

    Graves et al., [Connectionist temporal classification](https://dl.acm.org/doi/abs/10.1145/1143844.1143891), 2006.

    Args:
      logits: of shape `[batch, frames, classes]`. A log probability below `log_epsilon` counts as `log_epsilon`.
      logit_paddings: 1.0 for padding frames and 0.0 for others, of shape `[batch, frames]`.
      labels: integers of shape `[batch, length]`, padded on the right.
      label_paddings: 1.0 for padding labels and 0.0 for others, of shape `[batch, length]`.
      blank_id: the class index of the blank.
      log_epsilon: stands for log 0. Labels without an alignment have a loss of about `-log_epsilon`.

    Raises:
      ValueError: the shapes do not fit together.

    >>> logits, none = jnp.zeros((1, 2, 2)), jnp.zeros((1, 2))
    >>> print(f"{ctc_loss(logits, none, jnp.array([[1]]), jnp.zeros((1, 1)))[0]:.4f}")
    0.2877
    """
    return ctc_loss_with_forward_probs(
        logits, logit_paddings, labels, label_paddings, blank_id=blank_id, log_epsilon=log_epsilon
    )[0]


@explain_errors("ctc_loss_with_forward_probs")
def ctc_loss_with_forward_probs(
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    *,
    blank_id: int = 0,
    log_epsilon: ArrayLike = -1e5,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the CTC loss, and the log forward probabilities of ending in a blank and in a label.

    The loss has the dtype of the logits. The forward probabilities are float32 or wider.

    Args:
      logits: of shape `[batch, frames, classes]`. A log probability below `log_epsilon` counts as `log_epsilon`.
      logit_paddings: 1.0 for padding frames and 0.0 for others, of shape `[batch, frames]`.
      labels: integers of shape `[batch, length]`, padded on the right.
      label_paddings: 1.0 for padding labels and 0.0 for others, of shape `[batch, length]`.
      blank_id: the class index of the blank.
      log_epsilon: stands for log 0.

    Raises:
      ValueError: the shapes do not fit together.

    >>> logits, none = jnp.zeros((1, 2, 2)), jnp.zeros((1, 2))
    >>> loss, blank, label = ctc_loss_with_forward_probs(logits, none, jnp.array([[1]]), jnp.zeros((1, 1)))
    >>> print(blank.shape, label.shape)
    (2, 1, 2) (2, 1, 1)
    """
    require_real("ctc_loss", logits=logits)
    dtype = jnp.result_type(logits)
    logits, logit_paddings, label_paddings = (_ctc_upcast(x) for x in (logits, logit_paddings, label_paddings))
    floored = jnp.maximum(jax.nn.log_softmax(logits), log_epsilon)  # Optax multiplies each log by 0 or 1
    loss, blank, label = optax.losses.ctc_loss_with_forward_probs(
        floored, logit_paddings, jnp.asarray(labels), label_paddings, blank_id=blank_id, log_epsilon=log_epsilon
    )
    return loss.astype(dtype), blank, label


def _ctc_upcast(x: ArrayLike) -> jax.Array:
    return jnp.asarray(x, wide(jnp.dtype(jnp.result_type(x))))
