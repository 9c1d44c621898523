"""Hessian-vector products and diagonals of Hessians, under Optax's names."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from gdjax import exports
from gdjax.fallback import stand_in
from gdjax.tree import Tree
from gdjax.upcasting import upcast

__getattr__, __dir__ = stand_in(__name__, exports.HOME)

Loss = Callable[[Tree, Tree, Tree], jax.Array]
"""`loss(params, inputs, targets)`, a scalar."""


def hvp(loss: Loss, v: jax.Array, params: Tree, inputs: Tree, targets: Tree) -> Tree:
    """Return the product of a loss's Hessian with a vector, as a tree like the parameters.

    Args:
      loss: a function of parameters, inputs and targets.
      v: a flat vector with one element per parameter, cast to the parameters' dtype.
      params: the parameters.
      inputs: the inputs of the loss.
      targets: the targets of the loss.

    >>> print(hvp(lambda w, x, y: jnp.sum(w**3), jnp.array([1.0, 0.0]), jnp.array([2.0, 3.0]), None, None))
    [12.  0.]
    """
    flat, unravel = ravel_pytree(params)
    gradient = jax.grad(lambda params: loss(params, inputs, targets))
    return jax.jvp(gradient, [params], [unravel(v.astype(flat.dtype))])[1]


def hessian_diag(loss: Loss, params: Tree, inputs: Tree, targets: Tree) -> jax.Array:
    """Return the diagonal of a loss's Hessian, as a flat vector with one element per parameter.

    It costs one Hessian-vector product per parameter.

    Args:
      loss: a function of parameters, inputs and targets.
      params: the parameters.
      inputs: the inputs of the loss.
      targets: the targets of the loss.

    >>> print(hessian_diag(lambda w, x, y: jnp.sum(w**3), jnp.array([2.0, 3.0]), None, None))
    [12. 18.]
    """
    flat, _ = ravel_pytree(params)
    if not flat.size:
        return flat

    def diagonal_entry(v: jax.Array) -> jax.Array:
        return jnp.sum(v * ravel_pytree(hvp(loss, v, params, inputs, targets))[0])

    return jax.vmap(diagonal_entry)(jnp.eye(flat.size, dtype=flat.dtype))


def fisher_diag(negative_log_likelihood: Loss, params: Tree, inputs: Tree, targets: Tree) -> jax.Array:
    """Return the squared gradient: the diagonal of one example's observed Fisher information.

    Args:
      negative_log_likelihood: a function of parameters, inputs and targets, for one example.
      params: the parameters.
      inputs: the inputs of the loss.
      targets: the targets of the loss.

    >>> print(fisher_diag(lambda w, x, y: jnp.sum(w**3), jnp.array([1.0, 2.0]), None, None))
    [  9. 144.]
    """
    return upcast(jnp.square)(ravel_pytree(jax.grad(negative_log_likelihood)(params, inputs, targets))[0])
