"""Adam with another second moment: of the surprise, with another growth, of a whole leaf."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gdjax import norms, tree
from gdjax.squares import clip_to_norm, largest_squarable
from gdjax.transforms.moments import (
    by_root,
    corrected,
    looking_ahead,
    mean,
    means,
    rounded,
    squarable,
    square,
)
from gdjax.value import AccumulatorDType, Decay, NonNegative, WeightDecay, at, transform
from gdjax.value.diagnose import require_params


@transform(elementwise=True)
def scale_by_belief(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-16,
    eps_root: NonNegative = 1e-16,
    *,
    nesterov: bool = False,
):
    r"""Adam's step over the root of the mean square of how far gradients are from their mean: AdaBelief.

    With $m$ of `scale_by_adam`, $s \leftarrow \beta_2 s + (1 - \beta_2) |g - m|^2 + \epsilon_0$; the update is
    $\hat m / (\sqrt{\hat s} + \epsilon)$.

    State: `ScaleByBeliefState(count, mu, nu)`, 8 bytes a parameter (16 in float64).
    Source: Zhuang et al. 2020, algorithm 2 (https://arxiv.org/abs/2010.07468).
    Gradients beyond 9.1e18 (in float32) are clipped to that, as in `scale_by_adam`.

    Args:
      b1: $\beta_1$, in [0, 1).
      b2: $\beta_2$, in [0, 1).
      eps: $\epsilon$, added to the root, in [0, inf).
      eps_root: $\epsilon_0$, added to $s$ at every step, in [0, inf).
      nesterov: as in `scale_by_adam`.

    >>> import gdjax as gd
    >>> tx = gd.scale_by_belief(b1=0.5)
    >>> print(tx.update(jnp.array([0.3, -5.0]), tx.init(jnp.zeros(2)))[0].round(4))
    [ 2. -2.]
    """

    def init(params):
        mu, nu = tree.accumulators(params, 0), tree.accumulators(params, 0)
        return optax.ScaleByBeliefState(count=jnp.zeros((), jnp.int32), mu=mu, nu=nu)

    def update(updates, state, params=None):
        count = optax.safe_increment(state.count)
        raw = tree.widen(updates)
        g = squarable(raw, terms=4)  # the square is of up to 2 of them
        m = means(g, state.mu, b1)
        surprise = jax.tree.map(lambda g, m, raw: square(g - m, of=raw), g, m, raw)
        s = jax.tree.map(lambda d, s: _belief_moment(d, s, b2, eps_root), surprise, state.nu)
        m_hat = looking_ahead(g, m, b1, count) if nesterov else corrected(m, b1, count)
        scaled = jax.tree.map(lambda m, s: by_root(m, s, eps), m_hat, corrected(s, b2, count))
        mu, nu = tree.cast_like(m, state.mu), tree.cast_like(s, state.nu)
        return tree.cast_like(scaled, updates), optax.ScaleByBeliefState(count=count, mu=mu, nu=nu)

    return init, update


def _belief_moment(square, s, b2, eps_root):
    decay = rounded(b2, square.dtype)
    return decay * s + (eps_root + (1 - decay) * square)


@transform(flat=True)  # zeros filled up would not stay zeros
def scale_by_yogi(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-3,
    eps_root: NonNegative = 0.0,
    initial_accumulator_value: NonNegative = 1e-6,
):
    r"""Adam's step with a second moment that grows and shrinks by the square of the gradient alone.

    With $m$ of `scale_by_adam`, $v \leftarrow v - (1 - \beta_2) \mathrm{sign}(v - |g|^2) |g|^2$; the update is
    $\hat m / (\sqrt{\hat v + \epsilon_0} + \epsilon)$.

    State: `ScaleByAdamState(count, mu, nu)`, 8 bytes a parameter (16 in float64).
    Source: Zaheer et al. 2018, algorithm 2
    (https://papers.nips.cc/paper/2018/hash/90365351ccc7437a1309dc64e4db32a3-Abstract.html). Differs from the paper:
    means are divided by the sum of their weights, and $m$ starts at the initial value too, as in Optax.
    Gradients beyond 1.8e19 are clipped to that, as in `scale_by_adam`.

    Args:
      b1: $\beta_1$, in [0, 1).
      b2: $\beta_2$, in [0, 1).
      eps: $\epsilon$, added to the root, in [0, inf).
      eps_root: $\epsilon_0$, added under the root, in [0, inf).
      initial_accumulator_value: the first $m$ and $v$, in [0, inf).

    >>> import gdjax as gd
    >>> tx = gd.scale_by_yogi(eps=0.0, initial_accumulator_value=0.0)
    >>> print(tx.update(jnp.array([0.3, -5.0]), tx.init(jnp.zeros(2)))[0].round(4))
    [ 1. -1.]
    """

    def init(params):
        mu, nu = (tree.accumulators(params, initial_accumulator_value) for _ in range(2))
        return optax.ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=mu, nu=nu)

    def update(updates, state, params=None):
        count = optax.safe_increment(state.count)
        g = tree.widen(updates)
        m = means(squarable(g), state.mu, b1)
        v = jax.tree.map(lambda g, v: _yogi_moment(square(g), tree.real_part(v), b2), g, state.nu)
        m_hat, v_hat = corrected(m, b1, count), corrected(v, b2, count)
        scaled = jax.tree.map(lambda m, v: by_root(m, v, eps, eps_root), m_hat, v_hat)
        mu, nu = tree.cast_like(m, state.mu), tree.cast_like(v, state.nu)
        return tree.cast_like(scaled, updates), optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return init, update


def _yogi_moment(square, v, b2):
    return v - (1 - b2) * jnp.sign(v - square) * square


@transform(parts=True)
def scale_by_novograd(
    b1: Decay = 0.9,
    b2: Decay = 0.25,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    weight_decay: WeightDecay = 0.0,
    mu_dtype: AccumulatorDType = None,
    axis_name: Any = None,
):
    r"""Momentum over gradients each divided by the running norm of its leaf.

    $v \leftarrow \beta_2 v + (1 - \beta_2) \lVert g \rVert^2$ for a leaf, at first $\lVert g \rVert^2$;
    $m \leftarrow \beta_1 m + g / (\sqrt{v + \epsilon_0} + \epsilon) + \lambda p$; the update is $m$.

    State: `ScaleByNovogradState(count, mu, nu)`, 4 bytes a parameter and 4 a leaf (8 in float64).
    Source: Ginsburg et al. 2019, algorithm 1 (https://arxiv.org/abs/1905.11286).
    A leaf whose gradient has a norm beyond 1.8e19 (in float32) is scaled down to it, so that $v$ stays finite.

    Args:
      b1: $\beta_1$, in [0, 1).
      b2: $\beta_2$, in [0, 1).
      eps: $\epsilon$, added to the norm, in [0, inf).
      eps_root: $\epsilon_0$, added under the root, in [0, inf).
      weight_decay: $\lambda$, in [0, inf), or a schedule of it.
      mu_dtype: the dtype in which `mu` is kept; by default that of the parameters, float32 at least.
      axis_name: the axis over which leaves are divided, as in `shard_map`; one that its type says is the same on all
        members is whole, and where no type tells (`vmap`, `pmap`, `check_vma=False`) none is.

    Raises:
      ValueError: if `update` is called without `params`.

    >>> import gdjax as gd
    >>> tx = gd.scale_by_novograd()
    >>> print(tx.update(jnp.array([3.0, -4.0]), tx.init(jnp.zeros(2)), jnp.zeros(2))[0])
    [ 0.6 -0.8]
    """

    def init(params):
        nu = jax.tree.map(lambda p: jnp.zeros((), tree.wide(jnp.result_type(p))), params)
        mu = tree.accumulators(params, 0, mu_dtype)
        return optax.ScaleByNovogradState(count=jnp.zeros((), jnp.int32), mu=mu, nu=nu)

    def update(updates, state, params=None):
        require_params("scale_by_novograd", params)
        count = optax.safe_increment(state.count)
        rate = at(weight_decay, state.count)
        b2_now = jnp.where(state.count == 0, 0.0, b2)
        g = tree.widen(updates)
        sizes = norms.leaf_scaled_norms(g, axis_name)
        squares = jax.tree.map(lambda g, size: jnp.minimum(size.norm(), largest_squarable(g.dtype)) ** 2, g, sizes)
        g = jax.tree.map(lambda g, size: clip_to_norm(g, size, largest_squarable(g.dtype)), g, sizes)
        v = jax.tree.map(lambda g, s, v: mean(s, v, tree.scalar(b2_now, g)), g, squares, state.nu)
        p = tree.widen(params)
        pull = jax.tree.map(lambda g, v, p: by_root(g, v, eps, eps_root) + tree.scalar(rate, p) * p, g, v, p)
        m = jax.tree.map(lambda m, pull: b1 * m + pull, tree.widen(state.mu), pull)
        mu, nu = tree.cast_like(m, state.mu), tree.cast_like(v, state.nu)
        return tree.cast_like(m, updates), optax.ScaleByNovogradState(count=count, mu=mu, nu=nu)

    return init, update
