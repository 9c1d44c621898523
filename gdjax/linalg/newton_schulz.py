r"""Newton-Schulz iteration: approximate the orthogonal polar factor of a matrix by matrix products alone.

A step is $X \leftarrow aX + b(XX^*)X + c(XX^*)^2X$. It maps each singular value $\sigma$ to
$a\sigma + b\sigma^3 + c\sigma^5$ and keeps the singular vectors. A table of coefficients has one row $(a, b, c)$ per
step, for a matrix of Frobenius norm 1.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gdjax import tree
from gdjax.linalg.products import matmul

Coefficients = tuple[tuple[float, float, float], ...]
"""A table with one row $(a, b, c)$ per step."""

JORDAN: Coefficients = ((3.4445, -4.7750, 2.0315),) * 5
"""Jordan 2024 (https://kellerjordan.github.io/posts/muon). Steep at 0: singular values of at least 0.01 end
in [0.68, 1.14], but do not converge to 1."""

QUINTIC: Coefficients = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
"""One fitted polynomial per step (https://github.com/NVIDIA-NeMo/Emerging-Optimizers, `muon_utils`)."""

_MARGIN = 1.02
"""Polar Express starts at norm 1 / 1.02, so that rounding cannot push a singular value above 1."""

POLAR_EXPRESS: Coefficients = (
    (8.156554524902461 / _MARGIN, -22.48329292557795 / _MARGIN**3, 15.878769915207462 / _MARGIN**5),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""Amsel et al. 2025, algorithm 1 (https://arxiv.org/abs/2505.16932).

Each row is the best polynomial for the range of singular values that the previous rows leave.
"""

POLAR_EXPRESS_8: Coefficients = (
    (8.2051 / _MARGIN, -22.9019 / _MARGIN**3, 16.4607 / _MARGIN**5),
    (4.0664, -2.8612, 0.5184),
    (3.9096, -2.8234, 0.5250),
    (3.2856, -2.4153, 0.4853),
    (2.2779, -1.6198, 0.3985),
    (1.8726, -1.2307, 0.3585),
    (1.8564, -1.2132, 0.3568),
    (1.8750, -1.2500, 0.3750),
)
"""Polar Express in eight steps; repeating the last row converges to 1."""

CONVERGING: Coefficients = (*JORDAN, *JORDAN[:3], (2.0, -1.5, 0.5), (2.0, -1.5, 0.5))
"""Eight of Jordan's steps, then two that converge to 1 (as in DeepSeek-V4)."""

GRAM_FROM = 1.5
"""The ratio $n / m$ from which iterating on $XX^*$ is cheaper.

Five steps cost $4m^2n + 34m^3$ operations on $XX^*$, and $20m^2n + 10m^3$ on $X$.
"""

_MAX_GROWTH = 2.0**18
"""The growth of the rounding error in an eigenvalue of 0 at which an iteration on $XX^*$ starts a new pass."""


def orthogonalize(x: jax.Array, coefficients: Coefficients = JORDAN, products: DTypeLike | None = None) -> jax.Array:
    r"""Approximate the orthogonal factor $UV^*$ of $X = U \Sigma V^*$, as closely as the coefficients allow.

    The result does not depend on the scale of $X$, and 0 stays 0. A matrix with more rows than columns is transposed.
    A matrix with $n \ge 1.5 m$ is iterated on $R = XX^*$: each step takes $M = aI + bR + cR^2$, $Q \leftarrow MQ$ and
    $R \leftarrow MRM$, and the result is $QX$. A long table is split into passes, each of which starts again from
    $X \leftarrow QX$: otherwise rounding errors in an eigenvalue of 0 would grow past 1.

    Args:
      x: matrices `[..., m, n]`, real or complex, in float32 or wider.
      coefficients: a table, such as `POLAR_EXPRESS`.
      products: the dtype of the factors in products of real matrices, such as `bfloat16`; sums stay in the dtype of
        `x`. The default is the dtype of `x`. With another dtype, the iteration is always on $X$, since $XX^*$ has the
        square of its condition number.

    >>> x = jnp.array([[3.0, 0.0, 0.0], [0.0, -0.1, 0.0]])
    >>> print(orthogonalize(x, POLAR_EXPRESS_8).round(3))
    [[ 1.  0.  0.]
     [ 0. -1.  0.]]
    """
    return _orthogonalize(x, tuple(map(tuple, coefficients)), products)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _orthogonalize(x: jax.Array, coefficients: Coefficients, products: DTypeLike | None) -> jax.Array:
    m, n = x.shape[-2:]
    if m > n:
        return _orthogonalize(x.mT, coefficients, products).mT
    iterate = iterate_gram if n >= GRAM_FROM * m and products is None else iterate_directly
    return iterate(normalize_matrices(x), coefficients, products)


def normalize_matrices(x: jax.Array) -> jax.Array:
    """Divide matrices by their Frobenius norms, without overflow or underflow of the squares."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True, initial=0))
    x = x / jnp.where(largest > 0, largest, 1)
    square = jnp.sum(tree.abs_sq(x), axis=(-2, -1), keepdims=True)
    return x / jnp.where(largest > 0, jnp.sqrt(jnp.where(largest > 0, square, 1)), 1)


def iterate_directly(x: jax.Array, coefficients: Coefficients, products: DTypeLike | None = None) -> jax.Array:
    """Iterate on $X$ itself, which must have norm 1."""
    for a, b, c in coefficients:
        r = matmul(x, x.mT.conj(), products)
        x = a * x + matmul(b * r + c * matmul(r, r, products), x, products)
    return x


def iterate_gram(x: jax.Array, coefficients: Coefficients, products: DTypeLike | None = None) -> jax.Array:
    """Iterate on $XX^*$, where $X$ must have norm 1."""
    for rows in _split_into_passes(coefficients):
        r = matmul(x, x.mT.conj(), products)
        q = None
        for step, (a, b, c) in enumerate(rows, 1):
            m = a * jnp.eye(r.shape[-1], dtype=r.dtype) + b * r + c * matmul(r, r, products)
            q = m if q is None else matmul(m, q, products)
            r = matmul(matmul(m, r, products), m, products) if step < len(rows) else r
        x = x if q is None else matmul(q, x, products)
    return x


def _split_into_passes(coefficients: Coefficients) -> list[Coefficients]:
    """Split a table into passes, each ending once an eigenvalue near 0 has grown past `_MAX_GROWTH`."""
    passes: list[Coefficients] = [()]
    growth = 1.0
    for row in coefficients:
        if growth > _MAX_GROWTH:
            passes, growth = [*passes, ()], 1.0
        passes[-1] = (*passes[-1], row)
        growth *= row[0] ** 2
    return passes
