"""Optax's numerical helpers, accurate for 16-bit arrays and usable under a trace."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gdjax.explaining import explain_errors, reexport
from gdjax.tree import Tree, as_dtype, wide
from gdjax.upcasting import upcast

safe_norm = reexport("safe_norm", upcast(optax.safe_norm), __name__)
safe_root_mean_squares = reexport("safe_root_mean_squares", upcast(optax.safe_root_mean_squares), __name__)


@explain_errors("incremental_update")
def incremental_update(new_tensors: Tree, old_tensors: Tree, step_size: ArrayLike) -> Tree:
    """Return `s new + (1 - s) old`, computed in float32 or wider and returned in the common dtype of the two leaves.

    Args:
      new_tensors: a tree of arrays or numbers; a leaf of `None` stays `None`.
      old_tensors: a tree of the same structure.
      step_size: the weight `s` of the new tree, in `[0, 1]`.

    >>> print(incremental_update(jnp.array([1.0]), jnp.array([0.0]), 0.25))
    [0.25]
    """

    def interpolate(new: Any, old: Any) -> Any:
        if new is None:
            return None
        mixed = step_size * _upcast(new) + (1.0 - step_size) * _upcast(old)  # pyright: ignore[reportOperatorIssue]
        dtype = jnp.result_type(new, old)
        return as_dtype(mixed, dtype) if jnp.issubdtype(dtype, jnp.inexact) else mixed

    return jax.tree.map(interpolate, new_tensors, old_tensors, is_leaf=lambda x: x is None)


@explain_errors("scale_gradient")
def scale_gradient(inputs: Tree, scale: ArrayLike) -> Tree:
    """Return the inputs unchanged, with their derivatives multiplied by a number, which may be traced.

    Args:
      inputs: a tree of arrays or numbers.
      scale: the factor of the derivatives.

    >>> print(jax.grad(lambda x: scale_gradient(x, 0.5) ** 2)(3.0))
    3.0
    """
    return jax.tree.map(lambda x: _scale_gradient(jnp.asarray(x), scale), inputs)


@jax.custom_jvp
def _scale_gradient(x: jax.Array, scale: ArrayLike) -> jax.Array:
    return x


@_scale_gradient.defjvp
def _scale_gradient_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x, scale), (x_dot, _) = primals, tangents
    return x, (scale * x_dot).astype(x_dot.dtype)


def _upcast(x: ArrayLike) -> jax.Array:
    return as_dtype(x, wide(jnp.dtype(jnp.result_type(x))))
