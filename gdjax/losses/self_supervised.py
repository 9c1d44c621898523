"""Contrastive losses of embeddings."""

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike

from gdjax.explaining import explain_errors
from gdjax.losses.arithmetic import require_floating
from gdjax.losses.regression import cosine_similarity
from gdjax.upcasting import upcast


@explain_errors("ntxent")
@upcast
def ntxent(embeddings: ArrayLike, labels: ArrayLike, temperature: ArrayLike = 0.07) -> jax.Array:
    """Return the normalized, temperature-scaled cross entropy (NT-Xent), averaged over the positive pairs.

    A positive pair shares a label. With similarity `s`, its loss is `log(1 + sum(exp(n)) / exp(s))`, where `n` runs
    over the similarities to all examples with other labels. A batch without a positive pair has loss 0.

    Chen et al., [A simple framework for contrastive learning](https://arxiv.org/abs/2002.05709), 2020, equation 1.

    Args:
      embeddings: of shape `[batch, features]`.
      labels: of shape `[batch]`.
      temperature: the divisor of the cosines, above 0.

    Raises:
      TypeError: the embeddings are not floating.
      ValueError: the numbers of labels and embeddings differ.

    >>> embeddings = jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    >>> print(f"{ntxent(embeddings, jnp.array([0, 0, 1, 1]), temperature=1.0):.4f}")
    0.5514
    """
    require_floating("ntxent", embeddings=embeddings)
    x, labels = jnp.asarray(embeddings), jnp.asarray(labels)
    if labels.shape[0] != x.shape[0]:
        raise ValueError(f"ntxent: labels must have one element per embedding, got {labels.shape[0]} for {x.shape[0]}.")
    cosines = cosine_similarity(x[None, :, :], x[:, None, :], epsilon=jnp.finfo(x.dtype).eps) / temperature
    same = labels[:, None] == labels[None, :]
    has_negative = jnp.any(~same, axis=1, keepdims=True)
    negatives = logsumexp(jnp.where(same & has_negative, -jnp.inf, cosines), axis=1, keepdims=True)
    pairs = same & ~jnp.eye(len(labels), dtype=bool)
    losses = jnp.where(pairs & has_negative, jax.nn.softplus(negatives - cosines), 0)
    return jnp.sum(losses) / jnp.maximum(jnp.sum(pairs), 1)


@explain_errors("triplet_margin_loss")
@upcast
def triplet_margin_loss(
    anchors: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    axis: int = -1,
    norm_degree: ArrayLike = 2,
    margin: ArrayLike = 1.0,
    eps: ArrayLike = 1e-6,
) -> jax.Array:
    """Return `max(0, d(anchor, positive) - d(anchor, negative) + margin)` with `d = (sum(|x - y|^p) + eps)^(1/p)`.

    Balntas et al., [Learning local feature descriptors with triplets](https://bmva-archive.org.uk/bmvc/2016/papers/paper119/abstract119.pdf),
    2016.

    Args:
      anchors: of shape `[batch, features]`.
      positives: examples that should be near the anchors, of the same shape.
      negatives: examples that should be far from the anchors, of the same shape.
      axis: the feature axis.
      norm_degree: the degree `p` of the norm, above 0. 1 gives the sum of absolute differences.
      margin: the extra distance that a negative should have.
      eps: added to the sum, so that the derivative is finite where anchor and positive coincide.

    Raises:
      TypeError: an argument is not floating.

    >>> print(triplet_margin_loss(jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]]), jnp.array([[6.0, 8.0]]), margin=6.0))
    [1.]
    """
    require_floating("triplet_margin_loss", anchors=anchors, positives=positives, negatives=negatives)

    def distance(others: ArrayLike) -> jax.Array:
        gaps = jnp.abs(jnp.asarray(anchors) - others)
        size = jax.lax.stop_gradient(jnp.max(gaps, axis, keepdims=True, initial=1))
        total = jnp.sum(jnp.power(gaps / size, norm_degree), axis, keepdims=True)
        root = jnp.power(total + eps / jnp.power(size, norm_degree), 1 / norm_degree)
        return jnp.squeeze(size * root, axis)

    return jnp.maximum(distance(positives) - distance(negatives) + margin, 0)
