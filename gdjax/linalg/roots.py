r"""Inverse roots of positive semidefinite matrices, $(A + \epsilon I)^{-e}$, batched."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.linalg.products import matmul


@functools.partial(jax.jit, static_argnums=1)
def inverse_root(a: jax.Array, exponent: float, eps: Any = 1e-12) -> jax.Array:
    r"""$(A + (\epsilon - \min(\lambda_{min}, 0)) I)^{-e}$ by eigenvalues.

    What rounding leaves of an eigenvalue of 0 may be negative: all are lifted until none is. The derivative is that of
    Daleckii and Krein, finite where eigenvalues are equal: with $A = V \Lambda V^*$,
    $dF = V (D \circ V^* dA V) V^*$, $D_{ij} = (f(\lambda_i) - f(\lambda_j)) / (\lambda_i - \lambda_j)$ or $f'$.

    Args:
      a: Hermitian matrices `[..., m, m]`, in float32 or wider.
      exponent: $e$, a Python number.
      eps: $\epsilon$, above 0.

    >>> print(inverse_root(jnp.diag(jnp.array([16.0, 1.0])), 0.25).round(3))
    [[0.5 0. ]
     [0.  1. ]]
    """
    return _inverse_root(a, exponent, eps)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _inverse_root(a: jax.Array, exponent: float, eps: Any) -> jax.Array:
    lifted, v = _spectrum(a, eps)
    return matmul(v * lifted[..., None, :] ** -exponent, v.mT.conj())


@_inverse_root.defjvp
def _derivative(exponent: float, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (a, eps), (da, deps) = primals, tangents
    lifted, v = _spectrum(a, eps)
    f, slope = lifted**-exponent, -exponent * lifted ** (-exponent - 1)
    mean_slope = (slope[..., :, None] + slope[..., None, :]) / 2
    gap, change = lifted[..., :, None] - lifted[..., None, :], f[..., :, None] - f[..., None, :]
    near = jnp.abs(gap) <= 1e-3 * (lifted[..., :, None] + lifted[..., None, :])
    divided = jnp.where(near, mean_slope, change / jnp.where(near, 1, gap))
    moved = da + jnp.asarray(deps, a.real.dtype) * jnp.eye(a.shape[-1], dtype=a.dtype)
    within = divided * matmul(matmul(v.mT.conj(), moved), v)
    return matmul(v * f[..., None, :], v.mT.conj()), matmul(matmul(v, within), v.mT.conj())


def _spectrum(a: jax.Array, eps: Any) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues, lifted above 0, and eigenvectors."""
    values, vectors = jnp.linalg.eigh((a + a.mT.conj()) / 2, symmetrize_input=False)
    return values - jnp.minimum(values[..., :1], 0) + jnp.asarray(eps, values.dtype), vectors


def inverse_root_by_newton(a: jax.Array, exponent: float, eps: Any = 1e-12, steps: int = 100) -> jax.Array:
    r"""$(A + \epsilon I)^{-1/p}$ by the coupled Newton iteration: products alone, for what has no fast `eigh`.

    $M \leftarrow zA$, $X \leftarrow z^{1/p} I$ with $z = (1 + p) / (2 \lVert A \rVert)$; then
    $T = ((p + 1) I - M) / p$, $X \leftarrow XT$, $M \leftarrow T^p M$ until $M = I$ to rounding, or it leaves it again.

    Source: Guo and Higham 2006, equation 1.4 (https://doi.org/10.1137/050643374), as in Anil et al. 2020, appendix B
    (https://arxiv.org/abs/2002.09018). Derivatives are not taken through it.

    Args:
      a: Hermitian matrices `[..., m, m]`, in float32 or wider.
      exponent: $1/p$, of a whole $p$.
      eps: $\epsilon$, above 0; the iteration needs it the larger the less its dtype tells apart.
      steps: at the most.

    Raises:
      ValueError: if $p$ is not whole.

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
    settled = a.shape[-1] * jnp.finfo(a.dtype).eps

    def going(m, error):
        near = _distance(m, eye)
        return near, (near < 1.2 * error) & (near > settled)

    def unsettled(carry):
        m, _, error, number = carry
        return (number < steps) & jnp.any(going(m, error)[1])

    def step(carry):
        m, x, error, number = carry
        near, on = going(m, error)
        t = ((p + 1) * eye - m) / p
        x, m = jnp.where(on, matmul(x, t), x), jnp.where(on, matmul(_power(t, p), m), m)
        return m, x, jnp.where(on, near, error), number + 1

    return jax.lax.while_loop(unsettled, step, start)[1]


def root_degree(who: str, exponent: float) -> int:
    """$p$ of $1/p$, which must be whole for a root by products."""
    p = round(1 / exponent)
    if abs(p * exponent - 1) > 1e-9:
        raise ValueError(f"{who}: exponent must be 1 / p of a whole p, got {exponent}.")
    return p


def _distance(m: jax.Array, eye: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(m - eye), axis=(-2, -1), keepdims=True)


def _power(t: jax.Array, p: int) -> jax.Array:
    """$T^p$ by squares."""
    if p == 1:
        return t
    half = _power(t, p // 2)
    return matmul(matmul(half, half), t) if p % 2 else matmul(half, half)
