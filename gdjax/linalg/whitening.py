r"""Factors that learn to whiten a matrix: $Q_L X Q_R^\top$ has uncorrelated elements of variance 1."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.linalg.products import matmul


class Factors(NamedTuple):
    """$Q_L$ and $Q_R$ of a matrix of m by n, or of a stack of such: upper triangular `[m, m]`, or diagonals `[m]`."""

    left: jax.Array
    right: jax.Array


def whiten(factors: Factors, x: jax.Array) -> jax.Array:
    r"""$Q_L^* Q_L\, X\, (Q_R^* Q_R)^\top$.

    >>> print(whiten(Factors(jnp.array([0.5, 1.0]), jnp.array([1.0, 2.0])), jnp.ones((2, 2))))
    [[0.25 1.  ]
     [1.   4.  ]]
    """
    adjoint = jax.tree.map(lambda q: q.T.conj(), factors)
    return _both(_times, adjoint, _both(_times, factors, x))


def balance_factors(factors: Factors) -> Factors:
    """The same product of factors whose largest elements are one size."""
    ratio = jnp.sqrt(jnp.max(jnp.abs(factors.right)) / jnp.max(jnp.abs(factors.left)))
    return Factors(factors.left * ratio, factors.right / ratio)


def whitening_step(factors: Factors, x: jax.Array, probe: jax.Array, rate: Any) -> Factors:
    r"""Factors one step down $\lVert A \rVert^2 + \lVert B \rVert^2$, which is least where they whiten.

    With $A = Q_L X Q_R^\top$ and $B = Q_L^{-*} V \bar Q_R^{-1}$:
    $Q_L \leftarrow Q_L - \mu\, \mathrm{triu}(AA^* - BB^*) Q_L / \lVert AA^* + BB^* \rVert$, $Q_R$ alike of $A^\top$ and
    $B^\top$, a diagonal factor of diagonals.

    Source: Li 2015 (https://arxiv.org/abs/1512.04202); Li 2018 (https://arxiv.org/abs/1809.10232).

    Args:
      factors: $Q_L$, $Q_R$.
      x: $X$, of m by n.
      probe: $V$, of the same shape, normal.
      rate: $\mu$, in (0, 1).
    """
    a, b = _both(_times, factors, x), _both(_solved, factors, probe)
    return Factors(_step(factors.left, a, b, rate), _step(factors.right, a.T, b.T, rate))


def _step(q, a, b, rate):
    rate = tree.scalar(rate, a)
    if q.ndim == 1:
        up, down = (jnp.sum(tree.abs_sq(y), axis=1) for y in (a, b))
        return q - rate * (up - down) * q / jnp.max(up + down)
    up, down = (matmul(y, y.T.conj()) for y in (a, b))
    return q - rate * matmul(jnp.triu(up - down), q) / _norm(up + down)


def _norm(a):
    r"""At most $\lVert A \rVert$: $\lVert A^2 x \rVert / \lVert A x \rVert$ with its longest column $x$."""
    size = jnp.max(jnp.abs(a))
    a = a / size
    x = matmul(a, a[:, jnp.argmax(jnp.sum(tree.abs_sq(a), axis=0))])
    return size * jnp.linalg.norm(matmul(a, x)) / jnp.linalg.norm(x)


def _both(f, factors, x):
    """What a function of a factor and of a matrix makes of this on both sides."""
    return f(factors.right, f(factors.left, x).T).T


def _times(q, x):
    """$QX$."""
    return q[:, None] * x if q.ndim == 1 else matmul(q, x)


def _solved(q, x):
    """$Q^{-*} X$."""
    if q.ndim == 1:
        return x / q[:, None]
    return jax.lax.linalg.triangular_solve(q, x, left_side=True, transpose_a=True, conjugate_a=True)
