"""Eigenbases, and their refresh by one QR step when the matrix changes."""

import jax
import jax.numpy as jnp

from gdjax.linalg.products import matmul


@jax.jit
def eigenbasis(a: jax.Array) -> jax.Array:
    """Return the eigenvectors as columns, largest eigenvalue first; derivatives are stopped.

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
    r"""Take one step of orthogonal iteration towards the eigenvectors.

    Sort the columns of $Q$ by $\mathrm{diag}(Q^* A Q)$, largest first; then $Q \leftarrow qr(AQ)$. Derivatives are
    stopped.

    Args:
      basis: $Q$, `[..., m, m]`, with orthonormal columns.
      a: Hermitian matrices $A$, `[..., m, m]`.

    Returns:
      The new basis, and the order of the old columns, `[..., m]`.

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
