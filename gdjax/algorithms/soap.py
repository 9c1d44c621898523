"""SOAP: Adam in the eigenbasis of Shampoo's factors."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial

from gdjax import tree
from gdjax.algorithms.hidden import combine_with_adamw
from gdjax.axes import AxisName
from gdjax.linalg import eigenbasis, gram, limit_norm, refresh_eigenbasis, two_sided_product
from gdjax.matrices import Layout, refresh_due
from gdjax.transforms.moments import bias_corrected, divide_by_root, mean
from gdjax.value import (
    Decay,
    LearningRate,
    NonNegative,
    WeightDecay,
    transform,
)
from gdjax.value.diagnose import require_count


class SoapStack(NamedTuple):
    """State of a stack of m x n matrices with m <= n; `None` for a side that is not rotated."""

    mu: jax.Array
    """$M$, the mean of rotated gradients, of shape (matrices, m, n)."""
    nu: jax.Array
    """$V$, the mean of squares of rotated gradients, real, of the same shape."""
    factors: tuple[jax.Array | None, ...]
    """$L$, $R$, the means of $GG^*$ and $G^*G$, of shapes (matrices, m, m) and (matrices, n, n)."""
    bases: tuple[jax.Array | None, ...]
    """$Q_L$, $Q_R$, of the same shapes."""
    failures: jax.Array
    """The number of refreshes without a finite basis, int32 of shape (matrices,)."""


class SoapState(NamedTuple):
    """State of SOAP: the count and the stacks."""

    count: Any
    """The number of steps, int32 of shape ()."""
    stacks: tuple[SoapStack, ...]
    """One stack per shape of matrices."""


@transform(upcast=True)
def scale_by_soap(
    b1: Decay = 0.95,
    b2: Decay = 0.95,
    shampoo_beta: Decay = 0.95,
    eps: NonNegative = 1e-8,
    every: int = 10,
    max_dim: int = 10_000,
    one_sided: bool = False,
    views: Mapping[str, str] | None = None,
    axis_name: AxisName = None,
    dim: int | None = None,
):
    r"""Take Adam's step in a slowly rotating basis, in which the gradients of a matrix are nearly uncorrelated.

    $M \leftarrow \beta_1 M + (1 - \beta_1) Q_L^* G Q_R$, $V \leftarrow \beta_2 V + (1 - \beta_2) |Q_L^* G Q_R|^2$; the
    update is $Q_L (\hat M / (\sqrt{\hat V} + \epsilon)) Q_R^*$. Then $L \leftarrow \beta L + (1 - \beta) GG^*$, and $R$
    likewise from $G^*G$. Every `every` steps a QR step moves $Q_L$, $Q_R$ towards the eigenvectors
    (`gd.linalg.refresh_eigenbasis`); $M$ is rotated with them, and $V$ is reordered like them. The first step computes
    $L$, $R$ and their eigenvectors, and its update is 0.

    A vector, or a matrix of one row or column, takes Adam's step. Matrices, batches and the distribution over an axis
    are as in `scale_by_muon`. Matrices are refreshed at different steps, so that only the first step pays for all of
    them. A view merges dimensions: `{".*": "... n -> (...) n"}`.

    State: `SoapState(count, stacks)`, 8 bytes per parameter and $8 (m^2 + n^2)$ per matrix (twice that in float64).
    Over an axis, the state of a matrix lives only on the device that owns the matrix, and so depends on the number of
    devices.
    Source: Vyas et al. 2024, algorithm 3 (https://arxiv.org/abs/2409.11321), and its code (nikhilvyas/SOAP).
    Differs from the code: matrices are refreshed at different steps, $\epsilon$ is added to the root of the
    bias-corrected mean, and weights decay at the first step, too. No derivative is taken through factors and bases.
    On a CPU, LAPACK computes the bases. With few cores, `OPENBLAS_NUM_THREADS=1` in the environment may speed this up
    many times.
    Matrices whose norm may exceed 2.8e14 (in float32) are scaled down to it (`gd.linalg.limit_norm`), so that their
    factors stay finite.

    Args:
      b1: $\beta_1$, in [0, 1).
      b2: $\beta_2$, in [0, 1).
      shampoo_beta: $\beta$, in [0, 1).
      eps: $\epsilon$, in [0, inf).
      every: the number of steps between two refreshes of a matrix, at least 1.
      max_dim: the longest side to rotate; longer sides are not rotated.
      one_sided: whether to rotate only the shorter side of a matrix.
      views, axis_name, dim: as in `scale_by_muon`.

    Raises:
      ValueError: if `every` or `max_dim` is not an integer of at least 1, if a view does not fit its leaf, or if the
        axis is not bound.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_soap()
    >>> g = jnp.array([[3.0, 0.0], [0.0, 4.0]])
    >>> updates, state = tx.update(g, tx.init(g))
    >>> print(tx.update(g, state)[0].round(3))
    [[1. 0.]
     [0. 1.]]
    """
    require_count("scale_by_soap", "every", every)
    require_count("scale_by_soap", "max_dim", max_dim)
    layout = Layout.of("scale_by_soap", views, axis_name, dim)

    def init(params):
        return SoapState(jnp.zeros((), jnp.int32), layout.init(init_stack, params))

    def init_stack(batch, zeros):
        _, m, n = zeros.shape
        left = square(batch, m, zeros.dtype) if 1 < m <= max_dim else None
        right = square(batch, n, zeros.dtype) if m > 1 and n <= max_dim and not one_sided else None
        bases = jax.tree.map(lambda x: x + jnp.eye(x.shape[-1], dtype=x.dtype), (left, right))
        return SoapStack(zeros, jnp.abs(zeros), (left, right), bases, jnp.zeros(batch.count, jnp.int32))

    def square(batch, side, dtype):
        return jnp.zeros((batch.count, side, side), dtype)

    def update(g, state, params=None):
        hyperparams = _Hyperparams(state.count, b1, b2, shampoo_beta, eps)
        step = Partial(functools.partial(_soap_step, every), hyperparams)
        direction, stacks = layout.map(step, [g], state.stacks)
        return direction, SoapState(optax.safe_increment(state.count), stacks)

    return init, update


class _Hyperparams(NamedTuple):
    count: Any
    b1: Any
    b2: Any
    shampoo_beta: Any
    eps: Any


@functools.partial(jax.jit, static_argnums=0)
def _soap_step(every, hyperparams, batch, stack, g):
    """Return the update of a stack, zeros at the first step, and its new state."""
    count, b1, b2, shampoo_beta, eps = hyperparams
    g = limit_norm(g)
    has_bases, rotated = count > 0, _rotate(stack.bases, g)
    mu, nu = mean(rotated, stack.mu, b1), mean(tree.abs_sq(rotated), stack.nu, b2)
    mu, nu = jnp.where(has_bases, mu, stack.mu), jnp.where(has_bases, nu, stack.nu)
    steps = jnp.maximum(count, 1)
    update = _rotate_back(
        stack.bases, divide_by_root(bias_corrected(mu, b1, steps), bias_corrected(nu, b2, steps), eps)
    )
    update = jnp.where(has_bases | jnp.isfinite(g), update, g)  # the zeros of the first step hide no NaN or inf
    factors, rotation = _mean_factors(stack, g, shampoo_beta), (stack.bases, mu, nu)
    (bases, mu, nu), failures = refresh_due(
        _refresh_bases, factors, rotation, stack.failures, count, every, batch, begin=_first_bases
    )
    return update, SoapStack(mu, nu, factors, bases, failures)


def _rotate(bases, x):
    """Rotate matrices into bases: $Q_L^* X Q_R$."""
    left, right = bases
    return two_sided_product(None if left is None else left.mT.conj(), x, right)


def _rotate_back(bases, x):
    """Rotate matrices back from bases: $Q_L X Q_R^*$."""
    left, right = bases
    return two_sided_product(left, x, None if right is None else right.mT.conj())


def _mean_factors(stack, g, decay):
    """Return the means of $GG^*$ and $G^*G$ after one step."""
    g = jax.lax.stop_gradient(g)
    sides = zip((g, g.mT.conj()), stack.factors, strict=True)
    return tuple(None if old is None else mean(gram(x), old, decay) for x, old in sides)


def _first_bases(factors, rotation):
    """Return the eigenvectors of the factors, and the means unchanged."""
    return jax.tree.map(eigenbasis, factors), *rotation[1:]


def _refresh_bases(factors, rotation):
    """Move the bases towards the eigenvectors, rotate the mean with them, and reorder the mean of squares."""
    bases, mu, nu = rotation
    new = []
    for factor, basis, axis in zip(factors, bases, (-2, -1), strict=True):
        if basis is not None:
            basis, order = refresh_eigenbasis(basis, factor)
            nu = jnp.take_along_axis(nu, jnp.expand_dims(order, -1 if axis == -2 else -2), axis=axis)
        new.append(basis)
    return tuple(new), _rotate(new, _rotate_back(bases, mu)), nu


@transform
def soap(
    learning_rate: LearningRate = 3e-3,
    adam_learning_rate: LearningRate | None = None,
    b1: Decay = 0.95,
    b2: Decay = 0.95,
    shampoo_beta: Decay = 0.95,
    eps: NonNegative = 1e-8,
    weight_decay: WeightDecay = 0.01,
    every: int = 10,
    max_dim: int = 10_000,
    one_sided: bool = False,
    which: str | None = None,
    views: Mapping[str, str] | None = None,
    axis_name: AxisName = None,
    dim: int | None = None,
):
    r"""SOAP for hidden matrices, AdamW for all other leaves.

    Hidden matrices: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ from `scale_by_soap`.

    State: 8 bytes per parameter and $8 (m^2 + n^2)$ per hidden matrix (twice that in float64).
    Source: Vyas et al. 2024, algorithm 3 (https://arxiv.org/abs/2409.11321).

    Args:
      learning_rate, adam_learning_rate, weight_decay, which: as in `muon`.
      b1, b2, shampoo_beta, eps, every, max_dim, one_sided, views, axis_name, dim: as in `scale_by_soap`.

    >>> import gdjax as gd
    >>> gd.expand(gd.soap()).inner.transforms[0].every
    10
    """
    options = {"every": every, "max_dim": max_dim, "one_sided": one_sided}
    options |= {"views": views, "axis_name": axis_name, "dim": dim}
    direction = scale_by_soap(b1, b2, shampoo_beta, eps, **options)
    return combine_with_adamw(direction, learning_rate, adam_learning_rate, weight_decay, which)
