r"""Inverse roots of positive semidefinite matrices, $(A + \epsilon I)^{-e}$, batched."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax.linalg.products import matmul


@functools.partial(jax.jit, static_argnums=1)
def inverse_root(a: jax.Array, exponent: float, eps: ArrayLike = 1e-12) -> jax.Array:
    r"""Return $(A + (\epsilon - \min(\lambda_{min}, 0)) I)^{-e}$, computed from eigenvalues.

    Rounding may make an eigenvalue of 0 negative, so all eigenvalues are shifted until none is. The derivative is
    the formula of Daleckii and Krein, which stays finite where eigenvalues are equal. With $A = V \Lambda V^*$,
    $dF = V (D \circ V^* dA V) V^*$, $D_{ij} = (f(\lambda_i) - f(\lambda_j)) / (\lambda_i - \lambda_j)$, or $f'$ if
    these are nearly equal.

    Args:
      a: Hermitian matrices `[..., m, m]`, in float32 or wider.
      exponent: $e$, a Python number above 0.
      eps: $\epsilon$, above 0.

    >>> print(inverse_root(jnp.diag(jnp.array([16.0, 1.0])), 0.25).round(3))
    [[0.5 0. ]
     [0.  1. ]]
    """
    return _inverse_root(a, exponent, eps)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _inverse_root(a: jax.Array, exponent: float, eps: ArrayLike) -> jax.Array:
    eigenvalues, v = _shifted_spectrum(a, eps)
    return matmul(v * eigenvalues[..., None, :] ** -exponent, v.mT.conj())


@_inverse_root.defjvp
def _inverse_root_jvp(exponent: float, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (a, eps), (a_dot, eps_dot) = primals, tangents
    eigenvalues, v = _shifted_spectrum(a, eps)
    f, derivative = eigenvalues**-exponent, -exponent * eigenvalues ** (-exponent - 1)
    mean_derivative = (derivative[..., :, None] + derivative[..., None, :]) / 2
    gap, change = eigenvalues[..., :, None] - eigenvalues[..., None, :], f[..., :, None] - f[..., None, :]
    is_close = jnp.abs(gap) <= 1e-3 * (eigenvalues[..., :, None] + eigenvalues[..., None, :])
    quotients = jnp.where(is_close, mean_derivative, change / jnp.where(is_close, 1, gap))
    shifted_dot = a_dot + jnp.asarray(eps_dot, a.real.dtype) * jnp.eye(a.shape[-1], dtype=a.dtype)
    rotated = quotients * matmul(matmul(v.mT.conj(), shifted_dot), v)
    return matmul(v * f[..., None, :], v.mT.conj()), matmul(matmul(v, rotated), v.mT.conj())


def _shifted_spectrum(a: jax.Array, eps: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Return the eigenvalues, shifted to be at least `eps`, and the eigenvectors."""
    values, vectors = jnp.linalg.eigh((a + a.mT.conj()) / 2, symmetrize_input=False)
    return values - jnp.minimum(values[..., :1], 0) + jnp.asarray(eps, values.dtype), vectors


def inverse_root_by_newton(a: jax.Array, exponent: float, eps: ArrayLike = 1e-12, steps: int = 100) -> jax.Array:
    r"""Return $(A + \epsilon I)^{-1/p}$ by the coupled Newton iteration, for devices without a fast `eigh`.

    It takes matrix products alone. Start with $M \leftarrow zA$ and $X \leftarrow z^{1/p} I$, where
    $z = (1 + p) / (2 \lVert A \rVert)$. Then repeat $T = ((p + 1) I - M) / p$, $X \leftarrow XT$, $M \leftarrow T^p M$
    until $M = I$ up to rounding, or until the error grows again.

    Source: Guo and Higham 2006, equation 1.4 (https://doi.org/10.1137/050643374), as in Anil et al. 2020, appendix B
    (https://arxiv.org/abs/2002.09018). Derivatives are stopped.

    Args:
      a: Hermitian matrices `[..., m, m]`, in float32 or wider.
      exponent: $1/p$, where $p$ is an integer.
      eps: $\epsilon$, above 0. The fewer digits the dtype has, the larger it must be.
      steps: the maximum number of steps.

    Raises:
      ValueError: $p$ is not an integer.

    >>> print(inverse_root_by_newton(jnp.diag(jnp.array([16.0, 1.0])), 0.25).round(3))
    [[0.5 0. ]
     [0.  1. ]]
    """
    p = root_degree("inverse_root_by_newton", exponent)
    eye = jnp.eye(a.shape[-1], dtype=a.dtype)
    a = jax.lax.stop_gradient(a + jnp.asarray(eps, a.real.dtype) * eye)
    size = jnp.max(jnp.sum(jnp.abs(a), axis=-1), axis=-1)[..., None, None]
    z = (1 + p) / (2 * jnp.where(size > 0, size, 1))
    start = z * a, z ** (1 / p) * eye, jnp.full(z.shape, jnp.inf, z.dtype), 0
    tolerance = a.shape[-1] * jnp.finfo(a.dtype).eps

    def is_converging(m, old_error):
        error = _max_distance(m, eye)
        return error, (error < 1.2 * old_error) & (error > tolerance)

    def any_converging(carry):
        m, _, old_error, count = carry
        return (count < steps) & jnp.any(is_converging(m, old_error)[1])

    def step(carry):
        m, x, old_error, count = carry
        error, moves = is_converging(m, old_error)
        t = ((p + 1) * eye - m) / p
        x, m = jnp.where(moves, matmul(x, t), x), jnp.where(moves, matmul(_integer_power(t, p), m), m)
        return m, x, jnp.where(moves, error, old_error), count + 1

    return jax.lax.while_loop(any_converging, step, start)[1]


def root_degree(who: str, exponent: float) -> int:
    """Return $p$ for an exponent of $1/p$, which must be an integer for a root by products."""
    p = round(1 / exponent)
    if abs(p * exponent - 1) > 1e-9:
        raise ValueError(f"{who}: exponent must be 1 / p for an integer p, got {exponent}.")
    return p


def _max_distance(m: jax.Array, eye: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(m - eye), axis=(-2, -1), keepdims=True)


def _integer_power(t: jax.Array, p: int) -> jax.Array:
    """Return $T^p$ by repeated squaring."""
    if p == 1:
        return t
    half = _integer_power(t, p // 2)
    return matmul(matmul(half, half), t) if p % 2 else matmul(half, half)
