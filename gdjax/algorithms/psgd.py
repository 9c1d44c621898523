"""Gradients whitened by Kronecker factors that follow them: PSGD."""

import functools
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial

from gdjax import norms, tree
from gdjax.algorithms.hidden import _with_adamw
from gdjax.linalg import limit_norm
from gdjax.linalg.whitening import Factors, balance_factors, whiten, whitening_step
from gdjax.matrices import Layout
from gdjax.squares import clip_to_norm
from gdjax.transforms.moments import corrected, means
from gdjax.value import (
    AccumulatorDType,
    Decay,
    Interval,
    LearningRate,
    Positive,
    Scalar,
    ScalarOrSchedule,
    WeightDecay,
    transform,
)
from gdjax.value.diagnose import require_count
from gdjax.value.schedule import at

BALANCE = 0.01
"""How many of the refreshes bring both factors to one size."""


class PsgdKronState(NamedTuple):
    """Momentum, the factors that whiten it, and what chance is drawn from."""

    count: Any
    """How many steps were taken, of shape ()."""
    key: jax.Array
    """Of `jax.random`, in raw numbers; a step draws from it folded with its count."""
    mu: Any
    """$m$, the mean of gradients, shaped like the parameters."""
    factors: tuple[Factors, ...]
    """Those of every stack of matrices."""
    failures: tuple[jax.Array, ...]
    """How many refreshes of each matrix were not finite, of shape (matrices,)."""


@transform
def scale_by_psgd_kron(
    b1: Decay = 0.9,
    preconditioner_update_probability: Annotated[ScalarOrSchedule, Interval("[0, 1]")] | None = None,
    precond_lr: Annotated[Scalar, Interval("(0, 1)")] = 0.1,
    precond_init_scale: Positive = 1.0,
    max_rms: Positive = 1.1,
    mu_dtype: AccumulatorDType = None,
    max_size_triangular: int = 8192,
    max_skew_triangular: int | None = None,
    seed: int = 0,
    views: Any = None,
    axis_name: Any = None,
    dim: int | None = None,
):
    r"""Whiten the momentum of every matrix by a factor for each side, which learn its covariance.

    $m \leftarrow \beta m + (1 - \beta) g$, $G = m / (1 - \beta^t)$; the update is
    $U = Q_L^* Q_L\, G\, (Q_R^* Q_R)^\top$, times $\min(1, r / \mathrm{RMS}(U))$. Before it, with a probability $p_t$,
    the factors take a step down $\mathbb{E} \lVert A \rVert^2 + \lVert B \rVert^2$, $A = Q_L G Q_R^\top$,
    $B = Q_L^{-*} V \bar Q_R^{-1}$ with a normal probe $V$, which is least where $U$ is white:
    $Q_L \leftarrow Q_L - \mu\, \mathrm{triu}(AA^* - BB^*) Q_L / \lVert AA^* + BB^* \rVert$ (a lower bound), $Q_R$
    alike of $A^\top$ and $B^\top$, a diagonal factor of diagonals. One refresh in a hundred first gives
    both one largest element.

    A refresh that is not finite is counted, and changes nothing; nor does that of a matrix of momentum 0, whose factors
    would grow without end. No derivative is taken through factors. What is a matrix, batches and the division over an
    axis are as in `scale_by_muon`; factors are never sent, and probes are the same however matrices are divided.

    State: `PsgdKronState(count, key, mu, factors, failures)`, 4 bytes a parameter and a matrix's $4 (m^2 + n^2)$, or
    $4 (m + n)$ with diagonal factors (twice that in float64), and 4.
    Source: Li 2015 (https://arxiv.org/abs/1512.04202); Li 2018, of the Fisher type
    (https://arxiv.org/abs/1809.10232); as in Kron (https://github.com/evanatyourservice/kron_torch). Differs from Kron:
    leaves are matrices and no tensors, and the RMS is that of each; a matrix of momentum 0 waits.
    Matrices whose norm may be beyond 2.8e14 (in float32) are scaled down to it (`gd.linalg.limit_norm`), so that their
    factors stay finite.

    Args:
      b1: $\beta$, in [0, 1).
      preconditioner_update_probability: $p_t$, a number in [0, 1] or a schedule; by default
        $\max(0.03, \min(1, e^{-(t - 500) / 1000}))$.
      precond_lr: $\mu$, in (0, 1): diagonals stay positive, since no element is larger than that norm.
      precond_init_scale: the first $Q_L \otimes Q_R$ is so much of the identity, in (0, inf].
      max_rms: $r$, in (0, inf].
      mu_dtype: the dtype in which `mu` is kept; by default that of the parameters, float32 at least.
      max_size_triangular: the longest side that has a triangular factor, at least 1; of a vector neither has.
      max_skew_triangular: how many times as long as the other that side may be, at least 1; by default any.
      seed: of what is drawn, an integer.
      views, axis_name, dim: as in `scale_by_muon`.

    Raises:
      ValueError: if a size or the seed is no such integer, a view does not fit its leaf, or the axis is not there.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_psgd_kron(max_skew_triangular=1)
    >>> factors = tx.init(jnp.zeros((64, 16))).factors[0]
    >>> print(factors.left.shape, factors.right.shape)
    (1, 16, 16) (1, 64)
    """
    who = "scale_by_psgd_kron"
    require_count(who, "max_size_triangular", max_size_triangular)
    require_count(who, "max_skew_triangular", 1 if max_skew_triangular is None else max_skew_triangular)
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise ValueError(f"{who}: seed must be an integer in [0, 2^32), got {seed!r}.")
    layout = Layout.of(who, views, axis_name, dim)
    probability = _probability if preconditioner_update_probability is None else preconditioner_update_probability

    def init(params):
        mu, kept = tree.accumulators(params, 0, mu_dtype), layout.init(Partial(start, precond_init_scale), params)
        return PsgdKronState(jnp.zeros((), jnp.int32), jax.random.PRNGKey(seed), mu, *_apart(kept))

    def start(scale, piece, x):
        def factor(side, other):
            size = jnp.sqrt(tree.scalar(scale, x))
            if min(side, other) > 1 and side <= min(max_size_triangular, other * (max_skew_triangular or side)):
                return jnp.tile(size * jnp.eye(side, dtype=x.dtype), (piece.number, 1, 1))
            return jnp.full((piece.number, side), size, jnp.finfo(x.dtype).dtype)

        m, n = x.shape[1:]
        return Factors(factor(m, n), factor(n, m)), jnp.zeros(piece.number, jnp.int32)

    def update(updates, state, params=None):
        count = optax.safe_increment(state.count)
        m = means(tree.widen(updates), state.mu, b1)
        by_chance, by_probe = jax.random.split(jax.random.fold_in(state.key, state.count))
        chance = jax.random.uniform(by_chance, (2,))
        due, balances = chance[0] < at(probability, state.count), chance[1] < BALANCE
        kept = tuple(zip(state.factors, state.failures, strict=True))
        step = Partial(_stepped, due, balances, by_probe, precond_lr, max_rms)
        moved, kept = layout.map(step, [corrected(m, b1, count)], kept)
        mu = tree.cast_like(m, state.mu)
        return tree.cast_like(moved, updates), PsgdKronState(count, state.key, mu, *_apart(kept))

    return init, update


def _probability(step):
    """Of a refresh: 1 as long as factors are new, then ever less."""
    return jnp.clip(jnp.exp((500.0 - step.astype(float)) / 1000.0), 0.03, 1.0)


def _apart(kept):
    return tuple(factors for factors, _ in kept), tuple(failures for _, failures in kept)


@jax.jit
def _stepped(due, balances, key, rate, most, piece, kept, x):
    """The update of a stack, and its factors and failures after a refresh, if one is due."""
    x = limit_norm(x)

    def refreshed(factors, failures, x):
        one = functools.partial(_refreshed, balances, key, rate)
        return jax.vmap(one)(piece.numbers, factors, failures, x)

    before = jax.lax.stop_gradient((*kept, x))
    after = jax.lax.stop_gradient(jax.lax.cond(due, refreshed, lambda *of: of[:2], *before))
    return jax.vmap(functools.partial(_directed, most))(after[0], x), after


def _refreshed(balances, key, rate, number, factors, failures, x):
    """The factors of a matrix one step on, or the last good ones, and how many steps were not finite."""
    probe = jax.random.normal(jax.random.fold_in(key, number), x.shape, x.dtype)
    even = jax.tree.map(functools.partial(jnp.where, balances), balance_factors(factors), factors)
    new = whitening_step(even, x, probe, rate)
    finite, some = jnp.isfinite(new.left).all() & jnp.isfinite(new.right).all(), jnp.any(x != 0)
    kept = jax.tree.map(functools.partial(jnp.where, finite & some), new, factors)
    return kept, jnp.where(some & ~finite, failures + 1, failures)


def _directed(most, factors, x):
    """The update of a matrix, within a root mean square."""
    u = whiten(factors, x)
    return clip_to_norm(u, norms.leaf_scaled_rms(u), most)


@transform
def psgd_kron(
    learning_rate: LearningRate,
    adam_learning_rate: LearningRate | None = None,
    b1: Decay = 0.9,
    preconditioner_update_probability: Annotated[ScalarOrSchedule, Interval("[0, 1]")] | None = None,
    precond_lr: Annotated[Scalar, Interval("(0, 1)")] = 0.1,
    precond_init_scale: Positive = 1.0,
    max_rms: Positive = 1.1,
    weight_decay: WeightDecay = 0.0,
    mu_dtype: AccumulatorDType = None,
    max_size_triangular: int = 8192,
    max_skew_triangular: int | None = None,
    seed: int = 0,
    which: str | None = None,
    views: Any = None,
    axis_name: Any = None,
    dim: int | None = None,
):
    r"""PSGD Kron: $p \leftarrow p - \eta (u + \lambda p)$, $u$ of `scale_by_psgd_kron` for hidden matrices, else AdamW.

    State: of hidden matrices 4 bytes a parameter and $4 (m^2 + n^2)$ a matrix, of all else 8 (twice that in float64).
    Source: Li 2018 (https://arxiv.org/abs/1809.10232), as in Kron (https://github.com/evanatyourservice/kron_torch).

    Args:
      learning_rate, adam_learning_rate, weight_decay, which: as in `muon`.
      b1, preconditioner_update_probability, precond_lr, precond_init_scale, max_rms: as in `scale_by_psgd_kron`.
      mu_dtype, max_size_triangular, max_skew_triangular, seed, views, axis_name, dim: as in `scale_by_psgd_kron`.

    >>> import gdjax as gd
    >>> gd.expand(gd.psgd_kron(1e-3)).inner.transforms[0].precond_lr
    0.1
    """
    options = {"max_size_triangular": max_size_triangular, "max_skew_triangular": max_skew_triangular, "seed": seed}
    options |= {"views": views, "axis_name": axis_name, "dim": dim}
    learning = (preconditioner_update_probability, precond_lr, precond_init_scale, max_rms)
    direction = scale_by_psgd_kron(b1, *learning, mu_dtype, **options)
    return _with_adamw(direction, learning_rate, adam_learning_rate, weight_decay, which)
