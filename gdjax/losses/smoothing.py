"""Label smoothing."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax.concrete import require_fraction
from gdjax.explaining import explain_errors
from gdjax.losses.arithmetic import Axis, require_floating
from gdjax.upcasting import upcast


@explain_errors("smooth_labels")
@upcast
def smooth_labels(labels: ArrayLike, alpha: ArrayLike, *, axis: Axis = -1, where: ArrayLike | None = None) -> jax.Array:
    """Return `(1 - alpha) y + alpha / n` for labels `y` over `n` classes.

    Müller et al., [When does label smoothing help?](https://arxiv.org/abs/1906.02629), 2019.

    Args:
      labels: one-hot labels, of shape `[..., classes]`.
      alpha: the weight of the uniform distribution, in `[0, 1]`.
      axis: the class axis or axes.
      where: a mask of the classes to include. A row without any counts as a single class.

    Raises:
      TypeError: the labels are not floating.
      ValueError: a concrete `alpha` is outside `[0, 1]`.

    >>> print(smooth_labels(jnp.array([1.0, 0.0]), 0.25))
    [0.875 0.125]
    """
    require_floating("smooth_labels", labels=labels)
    count = jnp.size(labels, axis) if where is None else jnp.sum(where, axis, keepdims=True)
    require_fraction("smooth_labels: alpha", alpha)
    alpha = jnp.asarray(alpha, jnp.result_type(labels))
    return (1 - alpha) * labels + alpha / jnp.maximum(count, 1)
