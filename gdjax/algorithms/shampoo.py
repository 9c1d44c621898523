"""Shampoo: gradients whitened from both sides by inverse roots of Kronecker factors."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial

from gdjax import tree
from gdjax.algorithms.adam import scale_by_adam
from gdjax.algorithms.hidden import combine_with_adamw
from gdjax.axes import AxisName
from gdjax.linalg import gram, limit_norm, norm_ratio, root_degree, two_sided_product
from gdjax.matrices import (
    InverseRootOrFunction,
    Layout,
    eigh_root,
    join_blocks,
    newton_root,
    refresh_due,
    split_into_blocks,
)
from gdjax.transforms.moments import bias_corrected, bias_correction, divide_by_scalar, mean, rounded_decay
from gdjax.value import (
    Decay,
    LearningRate,
    Momentum,
    Positive,
    WeightDecay,
    transform,
)
from gdjax.value.diagnose import require_count


class ShampooStack(NamedTuple):
    """State of a stack of m x n matrices with m <= n, each cut into blocks of shape (a, b)."""

    mu: jax.Array
    """$M$, the mean of gradients, of shape (matrices, m, n)."""
    factors: tuple[jax.Array | None, ...]
    """$L$, $R$ of all blocks, of shapes (blocks, a, a) and (blocks, b, b); `None` for a side that is not whitened."""
    roots: tuple[jax.Array | None, ...]
    """The inverse roots of the factors, of the same shapes."""
    failures: jax.Array
    """The number of refreshes without a finite root, int32 of shape (blocks,)."""


class ShampooState(NamedTuple):
    """State of Shampoo: the count, the state of the grafted transform, and the stacks."""

    count: Any
    """The number of steps, int32 of shape ()."""
    graft: Any
    """The state of the transform that gives the norms of the updates."""
    stacks: tuple[ShampooStack, ...]
    """One stack per shape of matrices."""


@transform(upcast=True)
def scale_by_shampoo(
    graft: optax.GradientTransformation = scale_by_adam(0.9, 0.999, 1e-8),  # noqa: B008  (a value)
    b1: Decay = 0.9,
    b2: Momentum = 0.999,
    eps: Positive = 1e-12,
    every: int = 10,
    start: int | None = None,
    block: int = 1024,
    one_sided: bool = False,
    exponent: Any = None,
    root: InverseRootOrFunction = eigh_root(),  # noqa: B008  (a value)
    views: Mapping[str, str] | None = None,
    axis_name: AxisName = None,
    dim: int | None = None,
):
    r"""Replace the gradient by Shampoo's direction, with the norm of another transform's update.

    $L \leftarrow \beta_2 L + (1 - \beta_2) GG^*$, $R$ likewise from $G^*G$, or plain sums if
    $\beta_2 = 1$; $P = (\hat L + \epsilon I)^{-e}\, \hat M\, (\hat R + \epsilon I)^{-e}$ with $e = 1/4$ and
    $\hat M = M / (1 - \beta_1^t)$, $M$ the mean of gradients; the update is $P\, \lVert U \rVert / \lVert P \rVert$
    with the update $U$ of `graft`, block by block, and $U$ itself until all blocks have roots.

    Matrices, batches and the distribution over an axis are as in `scale_by_muon`. A vector is whitened on one side,
    with $e = 1/2$. Large matrices are cut into blocks of nearly equal size, each with separate factors. Blocks refresh
    their roots at different steps, so that no step pays for all of them.

    State: `ShampooState(count, graft, stacks)`: that of `graft`, 4 bytes per parameter and $8 (a^2 + b^2)$ per block
    (twice that in float64). Over an axis, the state of a matrix lives only on the device that owns the matrix, and so
    depends on the number of devices.
    Source: Gupta et al. 2018, algorithm 1 (https://arxiv.org/abs/1802.09568); Shi et al. 2023, algorithm 2
    (https://arxiv.org/abs/2309.06497), and its code (facebookresearch/optimizers). Differs from the code: blocks
    refresh their roots at different steps. No derivative is taken through factors.
    On a CPU, LAPACK computes the roots. With few cores, `OPENBLAS_NUM_THREADS=1` in the environment may speed this up
    many times.
    Matrices whose norm may exceed 2.8e14 (in float32) are scaled down to it (`gd.linalg.limit_norm`), so that their
    factors stay finite.

    Args:
      graft: the transform that gives the norms: `scale_by_adam()`, `scale_by_rms()`, `identity()`.
      b1: $\beta_1$, in [0, 1).
      b2: $\beta_2$, in [0, 1].
      eps: $\epsilon$, in (0, inf].
      every: the number of steps between two refreshes of a block, at least 1.
      start: the first step, counted from 1, with Shampoo's direction; at least `every`, the default, when all blocks
        have roots.
      block: the longest side of a block, at least 1.
      one_sided: whether to whiten only the shorter side of a matrix, with $e = 1/2$.
      exponent: $e$, a Python number in (0, 1]; by default one over twice the number of whitened sides.
      root: the inverse root: `eigh_root()` by eigenvalues, `newton_root()` by products alone for an integer $1 / e$, or
        a function `(a, exponent, eps)` of matrices. The names `"eigh"` and `"newton"` are accepted too.
      views, axis_name, dim: as in `scale_by_muon`.

    Raises:
      ValueError: if `every`, `start`, `block` or `exponent` is out of range, if a view does not fit its leaf,
        or if the axis is not bound.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_shampoo(gd.identity(), every=1)
    >>> g = jnp.array([[3.0, 0.0], [0.0, 4.0]])
    >>> print(tx.update(g, tx.init(g))[0].round(2))
    [[3.54 0.  ]
     [0.   3.54]]
    """
    start = every if start is None else start
    for name, number in (("every", every), ("start", start), ("block", block)):
        require_count("scale_by_shampoo", name, number)
    if start < every:
        raise ValueError(f"scale_by_shampoo: start must be at least {every}, when all blocks have roots, got {start}.")
    if not (exponent is None or (type(exponent) in (int, float) and 0 < exponent <= 1)):
        raise ValueError(f"scale_by_shampoo: exponent must be a Python number in (0, 1], got {exponent!r}.")
    if root == newton_root() and exponent is not None:
        root_degree("scale_by_shampoo", exponent)
    layout = Layout.of("scale_by_shampoo", views, axis_name, dim)

    def init(params):
        return ShampooState(jnp.zeros((), jnp.int32), graft.init(params), layout.init(init_stack, params))

    def init_stack(batch, zeros):
        number, a, b = split_into_blocks(zeros, block).shape
        left = square(number, a, zeros.dtype) if a > 1 else None
        right = square(number, b, zeros.dtype) if b > 1 and not (one_sided and a > 1) else None
        roots = jax.tree.map(lambda x: x + jnp.eye(x.shape[-1], dtype=x.dtype), (left, right))
        return ShampooStack(zeros, (left, right), roots, jnp.zeros(number, jnp.int32))

    def square(number, side, dtype):
        return jnp.zeros((number, side, side), dtype)

    def update(g, state, params=None):
        count = optax.safe_increment(state.count)
        grafted, graft_state = graft.update(g, state.graft, params)
        step = functools.partial(_shampoo_step, root, exponent, every, start, block)
        step = Partial(step, _Hyperparams(count, b1, b2, eps))
        direction, stacks = layout.map(step, [g, grafted], state.stacks)
        return direction, ShampooState(count, graft_state, stacks)

    return init, update


class _Hyperparams(NamedTuple):
    count: Any
    b1: Any
    b2: Any
    eps: Any


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _shampoo_step(root, exponent, every, start, block, hyperparams, batch, stack, g, u):
    """Return the update of a stack and its new state; until all blocks have roots, the grafted update `u`."""
    count, b1, b2, eps = hyperparams
    g = limit_norm(g)
    mu, g_blocks = mean(g, stack.mu, b1), jax.lax.stop_gradient(split_into_blocks(g, block))
    sides = zip((g_blocks, g_blocks.mT.conj()), stack.factors, strict=True)
    factors = tuple(None if old is None else _shampoo_factor(gram(x), old, b2) for x, old in sides)
    power = exponent or 0.5 / max(len(jax.tree.leaves(factors)), 1)

    def inverse_roots(factors, _):
        return jax.tree.map(lambda a: root(_corrected_factor(a, b2, count), power, eps), factors)

    def graft_direction(roots, mu, u):
        left, right = roots
        p = two_sided_product(left, split_into_blocks(bias_corrected(mu, b1, count), block), right)
        return join_blocks(p * norm_ratio(split_into_blocks(u, block), p), mu.shape, block)

    turns = batch.split(len(stack.failures) // batch.count)
    roots, failures = refresh_due(inverse_roots, factors, stack.roots, stack.failures, count, every, turns)
    update = jax.lax.cond(count >= start, graft_direction, lambda roots, mu, u: u, roots, mu, u)
    return update, ShampooStack(mu, factors, roots, failures)


def _shampoo_factor(x, old, decay):
    """Return a moving average after one step, or the sum if `decay` is 1."""
    decay = rounded_decay(decay, jnp.finfo(old.dtype).dtype)
    return decay * old + tree.scalar(jnp.where(decay < 1, 1 - decay, 1.0), old) * x


def _corrected_factor(x, decay, count):
    """Return a mean divided by the sum of its weights, and a sum unchanged."""
    weight = bias_correction(decay, count, jnp.finfo(x.dtype).dtype)
    return divide_by_scalar(x, jnp.where(weight > 0, weight, 1.0))


@transform
def shampoo(
    learning_rate: LearningRate,
    adam_learning_rate: LearningRate | None = None,
    graft: optax.GradientTransformation = scale_by_adam(0.9, 0.999, 1e-8),  # noqa: B008  (a value)
    b1: Decay = 0.9,
    b2: Momentum = 0.999,
    eps: Positive = 1e-12,
    weight_decay: WeightDecay = 1e-4,
    every: int = 10,
    start: int | None = None,
    block: int = 1024,
    one_sided: bool = False,
    which: str | None = None,
    views: Mapping[str, str] | None = None,
    axis_name: AxisName = None,
    dim: int | None = None,
    root: InverseRootOrFunction = eigh_root(),  # noqa: B008  (a value)
):
    r"""Shampoo for hidden matrices, AdamW for all other leaves.

    Hidden matrices: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ from `scale_by_shampoo`.

    State: 12 bytes per parameter of hidden matrices and $8 (a^2 + b^2)$ per block, 8 per other parameter (twice that in
    float64).
    Source: Gupta et al. 2018, algorithm 1 (https://arxiv.org/abs/1802.09568); Shi et al. 2023, algorithm 2
    (https://arxiv.org/abs/2309.06497).

    Args:
      learning_rate, adam_learning_rate, weight_decay, which: as in `muon`.
      graft, b1, b2, eps, every, start, block, one_sided, views, axis_name, dim, root: as in `scale_by_shampoo`.

    >>> import gdjax as gd
    >>> gd.expand(gd.shampoo(1e-3)).inner.transforms[0].factory.__name__
    'scale_by_shampoo'
    """
    options = {"every": every, "start": start, "block": block, "one_sided": one_sided}
    options |= {"root": root, "views": views, "axis_name": axis_name, "dim": dim}
    direction = scale_by_shampoo(graft, b1, b2, eps, **options)
    return combine_with_adamw(direction, learning_rate, adam_learning_rate, weight_decay, which)
