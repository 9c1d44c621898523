"""Adam in the eigenbasis of Shampoo's factors: SOAP."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial

from gdjax import tree
from gdjax.algorithms.hidden import _with_adamw
from gdjax.linalg import eigenbasis, gram, limit_norm, refresh_eigenbasis, two_sided_product
from gdjax.matrices import Layout, in_turn
from gdjax.transforms.moments import by_root, corrected, mean
from gdjax.value import (
    Decay,
    LearningRate,
    NonNegative,
    WeightDecay,
    transform,
)
from gdjax.value.diagnose import require_count


class SoapStack(NamedTuple):
    """What is kept of a stack of matrices, m by n and m the less; `None` for a side that stays as it is."""

    mu: jax.Array
    """$M$, the mean of gradients, in the coordinates of the bases, of shape (matrices, m, n)."""
    nu: jax.Array
    """$V$, the mean of squares of gradients in these coordinates, real, of the same shape."""
    factors: tuple[jax.Array | None, ...]
    """$L$, $R$, the means of $GG^*$ and $G^*G$, of shapes (matrices, m, m) and (matrices, n, n)."""
    bases: tuple[jax.Array | None, ...]
    """$Q_L$, $Q_R$, of the same shapes."""
    failures: jax.Array
    """How many times no finite basis was found, int32 of shape (matrices,)."""


class SoapState(NamedTuple):
    """The count and the stacks."""

    count: Any
    """How many steps were taken, of shape ()."""
    stacks: tuple[SoapStack, ...]
    """One for each shape of matrices."""


@transform
def scale_by_soap(
    b1: Decay = 0.95,
    b2: Decay = 0.95,
    shampoo_beta: Decay = 0.95,
    eps: NonNegative = 1e-8,
    every: int = 10,
    max_dim: int = 10_000,
    one_sided: bool = False,
    views: Any = None,
    axis_name: Any = None,
    dim: int | None = None,
):
    r"""Adam's step in a basis in which the gradients of a matrix are nearly uncorrelated, turned slowly.

    $M \leftarrow \beta_1 M + (1 - \beta_1) Q_L^* G Q_R$, $V \leftarrow \beta_2 V + (1 - \beta_2) |Q_L^* G Q_R|^2$; the
    update is $Q_L (\hat M / (\sqrt{\hat V} + \epsilon)) Q_R^*$. After it $L \leftarrow \beta L + (1 - \beta) GG^*$,
    $R$ alike of $G^*G$, and every so many steps $Q_L$, $Q_R$ take a step of QR towards the eigenvectors,
    `gd.linalg.refresh_eigenbasis`, $M$ turning with them, $V$ following their order. The first step sets up $L$, $R$
    and their eigenvectors, and moves nothing.

    A vector, or a matrix of one row or column, is Adam's. What is a matrix, batches and the division over an axis are
    as in `scale_by_muon`; matrices have their turns to be refreshed one after the other, so that no step but the first
    pays for all. Dimensions are merged by a view, `{".*": "... n -> (...) n"}`.

    State: `SoapState(count, stacks)`, 8 bytes a number and $8 (m^2 + n^2)$ a matrix (twice that in float64), each
    kept by its owner alone where work is divided: the state is then of so many members.
    Source: Vyas et al. 2024, algorithm 3 (https://arxiv.org/abs/2409.11321), and its code (nikhilvyas/SOAP).
    Differs from the code: matrices are refreshed in turn, $\epsilon$ is added to the root of the corrected mean, and
    weights that decay do so at the first step too. No derivative is taken through factors and bases. On a processor
    these are LAPACK's: with few cores, `OPENBLAS_NUM_THREADS=1` in the environment may make them many times as fast.
    Matrices whose norm may be beyond 2.8e14 (in float32) are scaled down to it (`gd.linalg.limit_norm`), so that their
    factors stay finite.

    Args:
      b1: $\beta_1$, in [0, 1).
      b2: $\beta_2$, in [0, 1).
      shampoo_beta: $\beta$, in [0, 1).
      eps: $\epsilon$, in [0, inf).
      every: the steps between two turns of a matrix, at least 1.
      max_dim: the longest side that is rotated; a longer one stays as it is.
      one_sided: whether of a matrix the shorter side alone is rotated.
      views, axis_name, dim: as in `scale_by_muon`.

    Raises:
      ValueError: if `every` or `max_dim` is no integer of at least 1, a view does not fit its leaf, or the axis is not
        there.

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
        return SoapState(jnp.zeros((), jnp.int32), layout.init(kept, params))

    def kept(piece, zeros):
        _, m, n = zeros.shape
        left = square(piece, m, zeros.dtype) if 1 < m <= max_dim else None
        right = square(piece, n, zeros.dtype) if m > 1 and n <= max_dim and not one_sided else None
        bases = jax.tree.map(lambda x: x + jnp.eye(x.shape[-1], dtype=x.dtype), (left, right))
        return SoapStack(zeros, jnp.abs(zeros), (left, right), bases, jnp.zeros(piece.number, jnp.int32))

    def square(piece, side, dtype):
        return jnp.zeros((piece.number, side, side), dtype)

    def update(updates, state, params=None):
        numbers = _Numbers(state.count, b1, b2, shampoo_beta, eps)
        step = Partial(functools.partial(_stepped, every), numbers)
        moved, stacks = layout.map(step, [tree.widen(updates)], state.stacks)
        return tree.cast_like(moved, updates), SoapState(optax.safe_increment(state.count), stacks)

    return init, update


class _Numbers(NamedTuple):
    count: Any
    b1: Any
    b2: Any
    shampoo_beta: Any
    eps: Any


@functools.partial(jax.jit, static_argnums=0)
def _stepped(every, numbers, piece, stack, g):
    """The update of a stack, and what is kept of it; of the first step, zeros."""
    count, b1, b2, shampoo_beta, eps = numbers
    g = limit_norm(g)
    begun, rotated = count > 0, _into(stack.bases, g)
    mu, nu = mean(rotated, stack.mu, b1), mean(tree.abs_sq(rotated), stack.nu, b2)
    mu, nu = jnp.where(begun, mu, stack.mu), jnp.where(begun, nu, stack.nu)
    steps = jnp.maximum(count, 1)
    moved = _out_of(stack.bases, by_root(corrected(mu, b1, steps), corrected(nu, b2, steps), eps))
    moved = jnp.where(begun | jnp.isfinite(g), moved, g)  # the first step moves nothing, and hides no NaN or inf
    factors, kept = _factors(stack, g, shampoo_beta), (stack.bases, mu, nu)
    (bases, mu, nu), failures = in_turn(_turned, factors, kept, stack.failures, count, every, piece, begin=_found)
    return moved, SoapStack(mu, nu, factors, bases, failures)


def _into(bases, x):
    """Matrices in the coordinates of bases: $Q_L^* X Q_R$."""
    left, right = bases
    return two_sided_product(None if left is None else left.mT.conj(), x, right)


def _out_of(bases, x):
    """Matrices given in the coordinates of bases: $Q_L X Q_R^*$."""
    left, right = bases
    return two_sided_product(left, x, None if right is None else right.mT.conj())


def _factors(stack, g, decay):
    """The factors one step on."""
    g = jax.lax.stop_gradient(g)
    of_sides = zip((g, g.mT.conj()), stack.factors, strict=True)
    return tuple(None if old is None else mean(gram(x), old, decay) for x, old in of_sides)


def _found(factors, kept):
    """The eigenvectors of factors, all else as it is."""
    return jax.tree.map(eigenbasis, factors), *kept[1:]


def _turned(factors, kept):
    """Bases one step nearer to the eigenvectors, the mean turned with them, and that of squares in their order."""
    bases, mu, nu = kept
    new = []
    for factor, basis, axis in zip(factors, bases, (-2, -1), strict=True):
        if basis is not None:
            basis, order = refresh_eigenbasis(basis, factor)
            nu = jnp.take_along_axis(nu, jnp.expand_dims(order, -1 if axis == -2 else -2), axis=axis)
        new.append(basis)
    return tuple(new), _into(new, _out_of(bases, mu)), nu


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
    views: Any = None,
    axis_name: Any = None,
    dim: int | None = None,
):
    r"""SOAP: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ of `scale_by_soap` for hidden matrices, else AdamW.

    State: of hidden matrices 8 bytes a parameter and $8 (m^2 + n^2)$ a matrix, of all else 8 (twice that in float64).
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
    return _with_adamw(direction, learning_rate, adam_learning_rate, weight_decay, which)
