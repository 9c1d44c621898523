"""Bases of eigenvectors, and how one follows its matrix by a step of QR."""

import jax
import jax.numpy as jnp

from gdjax.linalg.products import matmul


@jax.jit
def eigenbasis(a: jax.Array) -> jax.Array:
    """Eigenvectors as columns, the largest eigenvalue first; no derivative is taken through it.

    Args:
      a: Hermitian matrices `[..., m, m]`, in float32 or wider.

    >>> print(abs(eigenbasis(jnp.diag(jnp.array([1.0, 3.0])))))
    [[0. 1.]
     [1. 0.]]
    """
    tiny = jnp.asarray(1e-30, a.dtype) * jnp.eye(a.shape[-1], dtype=a.dtype)
    return jnp.linalg.eigh(jax.lax.stop_gradient(a) + tiny)[1][..., ::-1]


@jax.jit
def refresh_eigenbasis(basis: jax.Array, a: jax.Array) -> tuple[jax.Array, jax.Array]:
    r"""A basis one step of orthogonal iteration nearer to the eigenvectors, and the order in which it took its columns.

    The columns of $Q$ are put in the order of $\mathrm{diag}(Q^* A Q)$, the largest first; then $Q \leftarrow qr(AQ)$.

    Args:
      basis: $Q$, `[..., m, m]`, orthonormal columns.
      a: Hermitian matrices `[..., m, m]`.

    >>> basis, order = refresh_eigenbasis(jnp.eye(2), jnp.diag(jnp.array([1.0, 3.0])))
    >>> print(abs(basis), order)
    [[0. 1.]
     [1. 0.]] [1 0]
    """
    basis, a = jax.lax.stop_gradient((basis, a))
    product = matmul(a, basis)
    estimates = jnp.sum(jnp.real(basis.conj() * product), axis=-2)
    order = jnp.argsort(estimates, axis=-1, descending=True)
    return jnp.linalg.qr(jnp.take_along_axis(product, order[..., None, :], axis=-1))[0], order
