"""Gradients whitened from both sides by inverse roots of their Kronecker factors: Shampoo."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial

from gdjax import tree
from gdjax.algorithms.adam import scale_by_adam
from gdjax.algorithms.hidden import _with_adamw
from gdjax.linalg import (
    gram,
    inverse_root,
    inverse_root_by_newton,
    limit_norm,
    norm_ratio,
    root_degree,
    two_sided_product,
)
from gdjax.matrices import Layout, blocks, in_turn, joined
from gdjax.transforms.moments import corrected, correction, mean, over, rounded
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
    """What is kept of a stack of matrices, rows never more than columns, each cut into blocks of a by b."""

    mu: jax.Array
    """$M$, the mean of gradients, of shape (matrices, m, n)."""
    factors: tuple[jax.Array | None, ...]
    """$L$, $R$, of shapes (blocks, a, a) and (blocks, b, b), of all blocks; `None` for a side that is not whitened."""
    roots: tuple[jax.Array | None, ...]
    """The inverse roots of these, of the same shapes."""
    failures: jax.Array
    """How many times no finite root was found, int32 of shape (blocks,)."""


class ShampooState(NamedTuple):
    """The count, the state of what is grafted, and the stacks."""

    count: Any
    """How many steps were taken, of shape ()."""
    graft: Any
    """Of the transform whose lengths the updates have."""
    stacks: tuple[ShampooStack, ...]
    """One for each shape of matrices."""


@transform
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
    root: Literal["eigh", "newton"] = "eigh",
    views: Any = None,
    axis_name: Any = None,
    dim: int | None = None,
):
    r"""Shampoo's direction, as long as the step of another transform.

    $L \leftarrow \beta_2 L + (1 - \beta_2) GG^*$, $R$ alike of $G^*G$, sums where $\beta_2 = 1$;
    $P = (\hat L + \epsilon I)^{-e}\, \hat M\, (\hat R + \epsilon I)^{-e}$ with $e = 1/4$ and
    $\hat M = M / (1 - \beta_1^t)$, $M$ the mean of gradients; the update is $P\, \lVert U \rVert / \lVert P \rVert$
    with the update $U$ of `graft`, block by block, and $U$ itself until all roots are there.

    What is a matrix, batches and the division over an axis are as in `scale_by_muon`; of a vector, one side is
    whitened, $e = 1/2$. Large matrices are cut into blocks as equal as can be, each with factors of its own; blocks
    have their turns to get new roots one after the other, so that no step pays for all.

    State: `ShampooState(count, graft, stacks)`: that of `graft`, 4 bytes a number and $8 (a^2 + b^2)$ a block (twice
    that in float64), each matrix kept by its owner alone where work is divided: the state is of so many members.
    Source: Gupta et al. 2018, algorithm 1 (https://arxiv.org/abs/1802.09568); Shi et al. 2023, algorithm 2
    (https://arxiv.org/abs/2309.06497), and its code (facebookresearch/optimizers). Differs from the code: blocks get
    their roots in turn. No derivative of gradients is taken through factors.
    On a processor roots are LAPACK's: with few cores,
    `OPENBLAS_NUM_THREADS=1` in the environment may make them many times as fast.
    Matrices whose norm may be beyond 2.8e14 (in float32) are scaled down to it (`gd.linalg.limit_norm`), so that their
    factors stay finite.

    Args:
      graft: what the lengths are of: `scale_by_adam()`, `scale_by_rms()`, `identity()`.
      b1: $\beta_1$, in [0, 1).
      b2: $\beta_2$, in [0, 1].
      eps: $\epsilon$, in (0, inf].
      every: the steps between two turns of a block, at least 1.
      start: the first step, counted from 1, that Shampoo directs, no less than `every`, when all blocks had their turn;
        by default that.
      block: the longest side of a block, at least 1.
      one_sided: whether of a matrix the shorter side alone is whitened, $e = 1/2$.
      exponent: $e$, a Python number in (0, 1]; by default one over twice the number of sides that are whitened.
      root: how roots are found: `eigh` by eigenvalues, `newton` by products alone, of a whole $1 / e$.
      views, axis_name, dim: as in `scale_by_muon`.

    Raises:
      ValueError: if `every`, `start`, `block`, `exponent` or `root` is out of its range, a view does not fit its leaf,
        or the axis is not there.

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
        raise ValueError(f"scale_by_shampoo: start must be {every} at least, when all have roots, got {start}.")
    if not (exponent is None or (type(exponent) in (int, float) and 0 < exponent <= 1)):
        raise ValueError(f"scale_by_shampoo: exponent must be a Python number in (0, 1], got {exponent!r}.")
    rooted_by = _ROOTS.get(root)
    if rooted_by is None:
        raise ValueError(f"scale_by_shampoo: root must be one of {', '.join(_ROOTS)}, got {root!r}.")
    if root == "newton" and exponent is not None:
        root_degree("scale_by_shampoo", exponent)
    layout = Layout.of("scale_by_shampoo", views, axis_name, dim)

    def init(params):
        return ShampooState(jnp.zeros((), jnp.int32), graft.init(params), layout.init(kept, params))

    def kept(piece, zeros):
        number, a, b = blocks(zeros, block).shape
        left = square(number, a, zeros.dtype) if a > 1 else None
        right = square(number, b, zeros.dtype) if b > 1 and not (one_sided and a > 1) else None
        roots = jax.tree.map(lambda x: x + jnp.eye(x.shape[-1], dtype=x.dtype), (left, right))
        return ShampooStack(zeros, (left, right), roots, jnp.zeros(number, jnp.int32))

    def square(number, side, dtype):
        return jnp.zeros((number, side, side), dtype)

    def update(updates, state, params=None):
        count, g = optax.safe_increment(state.count), tree.widen(updates)
        grafted, graft_state = graft.update(updates, state.graft, params)
        stepped = functools.partial(_stepped, rooted_by, exponent, every, start, block)
        step = Partial(stepped, _Numbers(count, b1, b2, eps))
        moved, stacks = layout.map(step, [g, tree.widen(grafted)], state.stacks)
        return tree.cast_like(moved, updates), ShampooState(count, graft_state, stacks)

    return init, update


_ROOTS = {"eigh": inverse_root, "newton": inverse_root_by_newton}


class _Numbers(NamedTuple):
    count: Any
    b1: Any
    b2: Any
    eps: Any


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _stepped(root, exponent, every, start, block, numbers, piece, stack, g, length):
    """The update of a stack, and what is kept of it; that of the grafted transform until the roots are there."""
    count, b1, b2, eps = numbers
    g = limit_norm(g)
    mu, own = mean(g, stack.mu, b1), jax.lax.stop_gradient(blocks(g, block))
    of_sides = zip((own, own.mT.conj()), stack.factors, strict=True)
    factors = tuple(None if old is None else _summed(gram(x), old, b2) for x, old in of_sides)
    power = exponent or 0.5 / max(len(jax.tree.leaves(factors)), 1)

    def rooted(factors, _):
        return jax.tree.map(lambda a: root(_fair(a, b2, count), power, eps), factors)

    def directed(roots, mu, length):
        left, right = roots
        whitened = two_sided_product(left, blocks(corrected(mu, b1, count), block), right)
        length = blocks(length, block)
        return joined(whitened * norm_ratio(length, whitened), mu.shape, block)

    turns = piece.cut(len(stack.failures) // piece.number)
    roots, failures = in_turn(rooted, factors, stack.roots, stack.failures, count, every, turns)
    moved = jax.lax.cond(count >= start, directed, lambda roots, mu, length: length, roots, mu, length)
    return moved, ShampooStack(mu, factors, roots, failures)


def _summed(x, old, decay):
    """An exponential mean one step on, or the sum where nothing decays."""
    decay = rounded(decay, jnp.finfo(old.dtype).dtype)
    return decay * old + tree.scalar(jnp.where(decay < 1, 1 - decay, 1.0), old) * x


def _fair(x, decay, count):
    """A mean over the sum of its weights; a sum as it is."""
    weight = correction(decay, count, jnp.finfo(x.dtype).dtype)
    return over(x, jnp.where(weight > 0, weight, 1.0))


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
    views: Any = None,
    axis_name: Any = None,
    dim: int | None = None,
):
    r"""Shampoo: $p \leftarrow p - \eta (u + \lambda p)$, $u$ of `scale_by_shampoo` for hidden matrices, else AdamW.

    State: of hidden matrices 12 bytes a parameter and $8 (a^2 + b^2)$ a block, of all else 8 (twice that in float64).
    Source: Gupta et al. 2018, algorithm 1 (https://arxiv.org/abs/1802.09568); Shi et al. 2023, algorithm 2
    (https://arxiv.org/abs/2309.06497).

    Args:
      learning_rate, adam_learning_rate, weight_decay, which: as in `muon`.
      graft, b1, b2, eps, every, start, block, one_sided, views, axis_name, dim: as in `scale_by_shampoo`.

    >>> import gdjax as gd
    >>> gd.expand(gd.shampoo(1e-3)).inner.transforms[0].factory.__name__
    'scale_by_shampoo'
    """
    options = {"every": every, "start": start, "block": block, "one_sided": one_sided}
    options |= {"views": views, "axis_name": axis_name, "dim": dim}
    direction = scale_by_shampoo(graft, b1, b2, eps, **options)
    return _with_adamw(direction, learning_rate, adam_learning_rate, weight_decay, which)
