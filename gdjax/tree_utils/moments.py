"""Moving averages of gradients, for writing your own transforms."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax.explaining import explain_errors
from gdjax.tree import Tree, abs_sq, as_dtype, wide


@explain_errors("update_moment")
def update_moment(updates: Tree, moments: Tree, decay: ArrayLike, order: float) -> Tree:
    """Return `(1 - decay) g^order + decay m`, computed in float32 or wider.

    Args:
      updates: the gradients `g`; a leaf of `None` stays `None`.
      moments: the moving averages `m`.
      decay: the weight of the old average, in `[0, 1)`.
      order: the power, 1 or 2.

    >>> print(update_moment(jnp.array([2.0]), jnp.array([1.0]), 0.5, 2))
    [2.5]
    """
    return _update_leaves(lambda g, m: (1 - decay) * g**order + decay * m, updates, moments)


@explain_errors("update_infinity_moment")
def update_infinity_moment(updates: Tree, moments: Tree, decay: ArrayLike, eps: ArrayLike) -> Tree:
    """Return `max(|g| + eps, decay m)`, computed in float32 or wider.

    Args:
      updates: the gradients `g`; a leaf of `None` stays `None`.
      moments: the moving maxima `m`.
      decay: the weight of the old maximum, in `[0, 1)`.
      eps: added to `|g|`.

    >>> print(update_infinity_moment(jnp.array([-2.0]), jnp.array([8.0]), 0.5, 0.0))
    [4.]
    """
    return _update_leaves(lambda g, m: jnp.maximum(jnp.abs(g) + eps, decay * m), updates, moments, real=True)


@explain_errors("update_moment_per_elem_norm")
def update_moment_per_elem_norm(updates: Tree, moments: Tree, decay: ArrayLike, order: float) -> Tree:
    """Return `(1 - decay) |g|^order + decay m`, computed in float32 or wider, and real even if `g` is complex.

    Args:
      updates: the gradients `g`; a leaf of `None` stays `None`.
      moments: the moving averages `m`.
      decay: the weight of the old average, in `[0, 1)`.
      order: the power, 1 or 2.

    >>> print(update_moment_per_elem_norm(jnp.array([3.0 + 4.0j]), jnp.array([1.0]), 0.5, 2))
    [13.]
    """

    def power(g: jax.Array) -> jax.Array:
        if not jnp.iscomplexobj(g):
            return g**order
        half = order / 2
        return abs_sq(g) ** (int(half) if half == int(half) else half)

    return _update_leaves(lambda g, m: (1 - decay) * power(g) + decay * m, updates, moments, real=True)


@explain_errors("bias_correction")
def bias_correction(moment: Tree, decay: ArrayLike, count: ArrayLike) -> Tree:
    """Return `moment / (1 - decay^count)`, keeping the dtype of each leaf.

    If `decay` is a Python number, the divisor is computed from its logarithm, so `decay` is not rounded to float32.

    Args:
      moment: moving averages that started at 0.
      decay: the weight of the old average, in `[0, 1)`.
      count: the number of gradients averaged so far, at least 1.

    >>> print(bias_correction(jnp.array([0.5]), 0.5, jnp.array(1)))
    [1.]
    """
    if isinstance(decay, (int, float)) and decay > 0:
        correction = -jnp.expm1(count * jnp.asarray(math.log(decay)))
    else:
        correction = 1 - decay**count
    return jax.tree.map(lambda m: as_dtype(_upcast(m) / correction, jnp.result_type(m)), moment)


def _update_leaves(
    average: Callable[[jax.Array, jax.Array], ArrayLike], updates: Tree, moments: Tree, real: bool = False
) -> Tree:
    """Return `average(g, m)` for each leaf, in the common dtype of `g` (of its real part, if `real`) and `m`."""

    def update(g: Any, m: Any) -> Any:
        if g is None:
            return None
        dtype = jnp.result_type(jnp.finfo(jnp.result_type(g)).dtype if real and jnp.iscomplexobj(g) else g, m)
        return as_dtype(average(_upcast(g), _upcast(m)), dtype)

    return jax.tree.map(update, updates, moments, is_leaf=lambda x: x is None)


def _upcast(x: Any) -> jax.Array:
    return as_dtype(x, wide(jnp.dtype(jnp.result_type(x))))
