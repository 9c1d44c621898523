"""PSGD Kron: gradients whitened by learned Kronecker factors."""

import functools
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial

from gdjax import norms, tree
from gdjax.algorithms.hidden import combine_with_adamw
from gdjax.axes import AxisName
from gdjax.linalg import limit_norm
from gdjax.linalg.whitening import Factors, balance_factors, whiten, whitening_step
from gdjax.matrices import Layout
from gdjax.squares import clip_to_norm
from gdjax.transforms.moments import bias_corrected, means
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
from gdjax.value.schedules import at

BALANCE_PROBABILITY = 0.01
"""The fraction of refreshes that first balance the factors: both then have the same largest element."""


class PsgdKronState(NamedTuple):
    """State of PSGD: the momentum, the factors that whiten it, and a key for random numbers."""

    count: Any
    """The number of steps, int32 of shape ()."""
    key: jax.Array
    """A raw key of `jax.random`; each step folds its count into it."""
    mu: Any
    """$m$, the mean of gradients, shaped like the parameters."""
    factors: tuple[Factors, ...]
    """The factors of each stack of matrices."""
    failures: tuple[jax.Array, ...]
    """The number of refreshes of each matrix that were not finite, of shape (matrices,)."""


@transform(upcast=True)
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
    views: Mapping[str, str] | None = None,
    axis_name: AxisName = None,
    dim: int | None = None,
):
    r"""Whiten the momentum of each matrix by one learned factor for each side.

    $m \leftarrow \beta m + (1 - \beta) g$, $G = m / (1 - \beta^t)$; the update is
    $U = Q_L^* Q_L\, G\, (Q_R^* Q_R)^\top$, times $\min(1, r / \mathrm{RMS}(U))$. First, with probability $p_t$, the
    factors take a gradient step on $\mathbb{E} \lVert A \rVert^2 + \lVert B \rVert^2$, which is least where $U$ is
    white. Here $A = Q_L G Q_R^\top$, and $B = Q_L^{-*} V \bar Q_R^{-1}$ with a normal probe $V$:
    $Q_L \leftarrow Q_L - \mu\, \mathrm{triu}(AA^* - BB^*) Q_L / \lVert AA^* + BB^* \rVert$ with a lower bound of the
    norm, $Q_R$ likewise from $A^\top$ and $B^\top$, and a diagonal factor from diagonals. One refresh in a hundred
    first balances the factors: both get the same largest element.

    A refresh that is not finite is counted and changes nothing. A matrix of momentum 0 is not refreshed, since its
    factors would grow without bound. No derivative is taken through factors. Matrices, batches and the distribution
    over an axis are as in `scale_by_muon`. Factors are never sent, and probes do not depend on the sharding.

    State: `PsgdKronState(count, key, mu, factors, failures)`, 4 bytes per parameter. A matrix takes 4 bytes and
    $4 (m^2 + n^2)$ more, or $4 (m + n)$ with diagonal factors (twice that in float64).
    Source: Li 2015 (https://arxiv.org/abs/1512.04202); Li 2018, the Fisher type (https://arxiv.org/abs/1809.10232); as
    in Kron (https://github.com/evanatyourservice/kron_torch). Differs from Kron: leaves are matrices, not tensors, the
    RMS is that of each matrix, and a matrix of momentum 0 is not refreshed.
    Matrices whose norm may exceed 2.8e14 (in float32) are scaled down to it (`gd.linalg.limit_norm`), so that their
    factors stay finite.

    Args:
      b1: $\beta$, in [0, 1).
      preconditioner_update_probability: $p_t$, a number in [0, 1] or a schedule; by default
        $\max(0.03, \min(1, e^{-(t - 500) / 1000}))$.
      precond_lr: $\mu$, in (0, 1). Diagonals stay positive, since no element exceeds that norm.
      precond_init_scale: the first $Q_L \otimes Q_R$ is this multiple of the identity, in (0, inf].
      max_rms: $r$, in (0, inf].
      mu_dtype: the dtype of `mu`; by default that of the parameters, at least float32.
      max_size_triangular: the longest side with a triangular factor, at least 1; a vector has diagonal factors.
      max_skew_triangular: the largest ratio of that side to the other, at least 1; by default no limit.
      seed: the seed of the random numbers, an integer.
      views, axis_name, dim: as in `scale_by_muon`.

    Raises:
      ValueError: if a size or the seed is out of range, if a view does not fit its leaf, or if the axis is not bound.

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
    probability = _psgd_probability if preconditioner_update_probability is None else preconditioner_update_probability

    def init(params):
        mu = tree.accumulators(params, 0, mu_dtype)
        stacks = layout.init(Partial(init_stack, precond_init_scale), params)
        return PsgdKronState(jnp.zeros((), jnp.int32), jax.random.PRNGKey(seed), mu, *_unzip_pairs(stacks))

    def init_stack(scale, batch, x):
        def factor(side, other):
            root = jnp.sqrt(tree.scalar(scale, x))
            if min(side, other) > 1 and side <= min(max_size_triangular, other * (max_skew_triangular or side)):
                return jnp.tile(root * jnp.eye(side, dtype=x.dtype), (batch.count, 1, 1))
            return jnp.full((batch.count, side), root, jnp.finfo(x.dtype).dtype)

        m, n = x.shape[1:]
        return Factors(factor(m, n), factor(n, m)), jnp.zeros(batch.count, jnp.int32)

    def update(g, state, params=None):
        count = optax.safe_increment(state.count)
        m = means(g, state.mu, b1)
        uniform_key, probe_key = jax.random.split(jax.random.fold_in(state.key, state.count))
        uniform = jax.random.uniform(uniform_key, (2,))
        refreshes, balances = uniform[0] < at(probability, state.count), uniform[1] < BALANCE_PROBABILITY
        stacks = tuple(zip(state.factors, state.failures, strict=True))
        step = Partial(_psgd_step, refreshes, balances, probe_key, precond_lr, max_rms)
        direction, stacks = layout.map(step, [bias_corrected(m, b1, count)], stacks)
        return direction, PsgdKronState(count, state.key, m, *_unzip_pairs(stacks))

    return init, update


def _psgd_probability(step):
    """Return the default probability of a refresh: 1 for the first 500 steps, then falling to 0.03."""
    return jnp.clip(jnp.exp((500.0 - step.astype(float)) / 1000.0), 0.03, 1.0)


def _unzip_pairs(stacks):
    return tuple(factors for factors, _ in stacks), tuple(failures for _, failures in stacks)


@jax.jit
def _psgd_step(refreshes, balances, key, rate, max_rms, batch, stack, x):
    """Return the update of a stack, and its factors and failures after a refresh if one is due."""
    x = limit_norm(x)

    def refresh(factors, failures, x):
        refresh_one = functools.partial(_psgd_refresh, balances, key, rate)
        return jax.vmap(refresh_one)(batch.numbers, factors, failures, x)

    def skip(factors, failures, x):
        return factors, failures

    old = jax.lax.stop_gradient((*stack, x))
    new = jax.lax.stop_gradient(jax.lax.cond(refreshes, refresh, skip, *old))
    return jax.vmap(functools.partial(_psgd_direction, max_rms))(new[0], x), new


def _psgd_refresh(balances, key, rate, number, factors, failures, x):
    """Return the factors of a matrix after a step, unchanged if it is not finite, and the number of such failures."""
    probe = jax.random.normal(jax.random.fold_in(key, number), x.shape, x.dtype)
    balanced = jax.tree.map(functools.partial(jnp.where, balances), balance_factors(factors), factors)
    new = whitening_step(balanced, x, probe, rate)
    finite, nonzero = jnp.isfinite(new.left).all() & jnp.isfinite(new.right).all(), jnp.any(x != 0)
    factors = jax.tree.map(functools.partial(jnp.where, finite & nonzero), new, factors)
    return factors, jnp.where(nonzero & ~finite, failures + 1, failures)


def _psgd_direction(max_rms, factors, x):
    """Return the whitened momentum of a matrix, with a bounded root mean square."""
    u = whiten(factors, x)
    return clip_to_norm(u, norms.leaf_scaled_rms(u), max_rms)


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
    views: Mapping[str, str] | None = None,
    axis_name: AxisName = None,
    dim: int | None = None,
):
    r"""PSGD Kron for hidden matrices, AdamW for all other leaves.

    Hidden matrices: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ from `scale_by_psgd_kron`.

    State: 4 bytes per parameter of hidden matrices and $4 (m^2 + n^2)$ per matrix, 8 per other parameter (twice that in
    float64).
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
    refresh = (preconditioner_update_probability, precond_lr, precond_init_scale, max_rms)
    direction = scale_by_psgd_kron(b1, *refresh, mu_dtype, **options)
    return combine_with_adamw(direction, learning_rate, adam_learning_rate, weight_decay, which)
