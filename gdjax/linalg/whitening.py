r"""Learned factors that whiten a matrix: $Q_L X Q_R^\top$ has uncorrelated elements of variance 1."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax import tree
from gdjax.linalg.products import matmul


class Factors(NamedTuple):
    """Factors $Q_L$ and $Q_R$ of a matrix `[m, n]`: each an upper triangular matrix, or the diagonal of one.

    A stack of matrices has factors with a leading axis.
    """

    left: jax.Array
    """$Q_L$, `[m, m]` or `[m]`."""
    right: jax.Array
    """$Q_R$, `[n, n]` or `[n]`."""


def whiten(factors: Factors, x: jax.Array) -> jax.Array:
    r"""Return $Q_L^* Q_L\, X\, (Q_R^* Q_R)^\top$.

    >>> print(whiten(Factors(jnp.array([0.5, 1.0]), jnp.array([1.0, 2.0])), jnp.ones((2, 2))))
    [[0.25 1.  ]
     [1.   4.  ]]
    """
    adjoint = jax.tree.map(lambda q: q.T.conj(), factors)
    return _apply_both_sides(_multiply_factor, adjoint, _apply_both_sides(_multiply_factor, factors, x))


def balance_factors(factors: Factors) -> Factors:
    """Rescale the factors so that their largest elements are equal; their product stays the same."""
    ratio = jnp.sqrt(jnp.max(jnp.abs(factors.right)) / jnp.max(jnp.abs(factors.left)))
    return Factors(factors.left * ratio, factors.right / ratio)


def whitening_step(factors: Factors, x: jax.Array, probe: jax.Array, rate: ArrayLike) -> Factors:
    r"""Take one descent step on $\lVert A \rVert^2 + \lVert B \rVert^2$, which is minimal where the factors whiten.

    With $A = Q_L X Q_R^\top$ and $B = Q_L^{-*} V \bar Q_R^{-1}$, the step is
    $Q_L \leftarrow Q_L - \mu\, \mathrm{triu}(AA^* - BB^*) Q_L / \lVert AA^* + BB^* \rVert$.
    $Q_R$ takes the same step with $A^\top$ and $B^\top$. A diagonal factor takes it with the diagonals of these.

    Source: Li 2015 (https://arxiv.org/abs/1512.04202); Li 2018 (https://arxiv.org/abs/1809.10232).

    Args:
      factors: $Q_L$ and $Q_R$.
      x: $X$, `[m, n]`.
      probe: $V$, of the same shape, with standard normal elements.
      rate: $\mu$, in (0, 1).
    """
    a, b = _apply_both_sides(_multiply_factor, factors, x), _apply_both_sides(_solve_factor, factors, probe)
    left = _whitening_step(factors.left, a, b, rate)
    return Factors(left, _whitening_step(factors.right, a.T, b.T, rate))


def _whitening_step(q: jax.Array, a: jax.Array, b: jax.Array, rate: ArrayLike) -> jax.Array:
    rate = tree.scalar(rate, a)
    if q.ndim == 1:
        aa, bb = (jnp.sum(tree.abs_sq(y), axis=1) for y in (a, b))
        return q - rate * (aa - bb) * q / jnp.max(aa + bb)
    aa, bb = (matmul(y, y.T.conj()) for y in (a, b))
    return q - rate * matmul(jnp.triu(aa - bb), q) / _spectral_norm_estimate(aa + bb)


def _spectral_norm_estimate(a: jax.Array) -> jax.Array:
    r"""Estimate $\lVert A \rVert$ from below: $\lVert A^2 x \rVert / \lVert A x \rVert$ for its longest column $x$."""
    size = jnp.max(jnp.abs(a))
    a = a / size
    x = matmul(a, a[:, jnp.argmax(jnp.sum(tree.abs_sq(a), axis=0))])
    return size * jnp.linalg.norm(matmul(a, x)) / jnp.linalg.norm(x)


def _apply_both_sides(f: Callable[[jax.Array, jax.Array], jax.Array], factors: Factors, x: jax.Array) -> jax.Array:
    """Apply `f(factor, matrix)` from the left, then from the right."""
    return f(factors.right, f(factors.left, x).T).T


def _multiply_factor(q: jax.Array, x: jax.Array) -> jax.Array:
    """Return $QX$."""
    return q[:, None] * x if q.ndim == 1 else matmul(q, x)


def _solve_factor(q: jax.Array, x: jax.Array) -> jax.Array:
    """Return $Q^{-*} X$."""
    if q.ndim == 1:
        return x / q[:, None]
    return jax.lax.linalg.triangular_solve(q, x, left_side=True, transpose_a=True, conjugate_a=True)
