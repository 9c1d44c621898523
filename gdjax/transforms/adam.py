"""Adam and its nearest kin: the mean of gradients over a size of them."""

from typing import Annotated

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.transforms.moments import (
    adam_state,
    by_root,
    corrected,
    correction,
    looking_ahead,
    mean_squares,
    means,
    squarable,
)
from gdjax.value import AccumulatorDType, Decay, Interval, NonNegative, Positive, Scalar, transform


@transform(elementwise=True)
def scale_by_adam(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
    *,
    nesterov: bool = False,
):
    r"""Divide the mean of past gradients by the root of the mean of their squares.

    $m \leftarrow \beta_1 m + (1 - \beta_1) g$, $v \leftarrow \beta_2 v + (1 - \beta_2) |g|^2$; the update is
    $\hat m / (\sqrt{\hat v + \epsilon_0} + \epsilon)$ with $\hat m = m / (1 - \beta_1^t)$,
    $\hat v = v / (1 - \beta_2^t)$, and with Nesterov
    $\hat m = \beta_1 m / (1 - \beta_1^{t+1}) + (1 - \beta_1) g / (1 - \beta_1^t)$.

    State: `ScaleByAdamState(count, mu, nu)`, 8 bytes a parameter (16 in float64; 6 with `mu_dtype` bfloat16).
    Source: Kingma and Ba 2014, algorithm 1 (https://arxiv.org/abs/1412.6980); Dozat 2016, algorithm 2
    (https://openreview.net/pdf?id=OM0jvwB8jIp57ZJjtNEZ). Differs from Dozat: $\hat v$ has no further factor $\beta_2$.
    Differs from Optax: moments are float32 at least, and $1 - \beta^t$ keeps its precision at small $t$ (Optax's first
    updates are 1e-5 off).

    A gradient beyond the root of the largest number (1.8e19 in float32) is clipped to that root. Its square is then
    finite, and the step is that of exact arithmetic. In Optax $v$ becomes inf, and the parameter never moves again.
    After inf or NaN the updates are NaN.

    Args:
      b1: $\beta_1$, the decay of the mean, in [0, 1).
      b2: $\beta_2$, the decay of the mean of squares, in [0, 1).
      eps: $\epsilon$, added to the root, in [0, inf).
      eps_root: $\epsilon_0$, added under the root, in [0, inf).
      mu_dtype: the dtype in which `mu` is kept; by default that of the parameters, float32 at least.
      nesterov: whether to look ahead by one step of the mean.

    >>> import gdjax as gd
    >>> tx = gd.scale_by_adam()
    >>> print(tx.update(jnp.array([0.3, -5.0]), tx.init(jnp.zeros(2)))[0].round(5))
    [ 1. -1.]
    """

    def update(updates, state, params=None):
        count = optax.safe_increment(state.count)
        g = tree.widen(updates)
        m, v = means(squarable(g), state.mu, b1), mean_squares(g, state.nu, b2)
        mu, nu = tree.cast_like(m, state.mu), tree.cast_like(v, state.nu)
        return again(updates, state._replace(count=count, mu=m, nu=v)), optax.ScaleByAdamState(count, mu, nu)

    def again(updates, state, params=None):
        m, v, count = state.mu, state.nu, state.count
        m_hat = looking_ahead(squarable(tree.widen(updates)), m, b1, count) if nesterov else corrected(m, b1, count)
        scaled = jax.tree.map(lambda m, v: by_root(m, v, eps, eps_root), m_hat, corrected(v, b2, count))
        return tree.cast_like(scaled, updates)

    def init(params):
        return adam_state(params, mu_dtype)

    return (init, update, again) if mu_dtype is None else (init, update)  # what is kept narrow is no more what it was


@transform(elementwise=True)
def scale_by_amsgrad(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
):
    r"""Adam's step over the largest mean of squares that was seen.

    With $m$, $v$ of `scale_by_adam`, $\bar v \leftarrow \max(\bar v, \hat v)$; the update is
    $\hat m / (\sqrt{\bar v + \epsilon_0} + \epsilon)$.

    State: `ScaleByAmsgradState(count, mu, nu, nu_max)`, 12 bytes a parameter (24 in float64).
    Source: Reddi et al. 2018, algorithm 2 (https://arxiv.org/abs/1904.09237). Differs from the paper: means are divided
    by the sum of their weights, unless this is switched off.
    Gradients beyond 1.8e19 are clipped to that, as in `scale_by_adam`.

    Args:
      b1: as in `scale_by_adam`, in [0, 1).
      b2: as in `scale_by_adam`, in [0, 1).
      eps: as in `scale_by_adam`, in [0, inf).
      eps_root: as in `scale_by_adam`, in [0, inf).
      mu_dtype: as in `scale_by_adam`.
      bias_correction_mu: whether $\hat m = m / (1 - \beta_1^t)$, else $m$.
      bias_correction_nu: whether $\hat v = v / (1 - \beta_2^t)$, else $v$.

    >>> import gdjax as gd
    >>> tx = gd.scale_by_amsgrad()
    >>> print(tx.update(jnp.array([0.3, -5.0]), tx.init(jnp.zeros(2)))[0].round(5))
    [ 1. -1.]
    """

    def init(params):
        mu, nu = tree.accumulators(params, 0, mu_dtype), tree.accumulators(params, 0)
        nu_max = tree.accumulators(params, 0)
        return optax.ScaleByAmsgradState(count=jnp.zeros((), jnp.int32), mu=mu, nu=nu, nu_max=nu_max)

    def update(updates, state, params=None):
        count = optax.safe_increment(state.count)
        g = tree.widen(updates)
        m, v = means(squarable(g), state.mu, b1), mean_squares(g, state.nu, b2)
        m_hat = corrected(m, b1, count) if bias_correction_mu else m
        v_hat = corrected(v, b2, count) if bias_correction_nu else v
        largest = jax.tree.map(jnp.maximum, state.nu_max, v_hat)
        scaled = jax.tree.map(lambda m, v: by_root(m, v, eps, eps_root), m_hat, largest)
        new = {"mu": m, "nu": v, "nu_max": largest}
        kept = {name: tree.cast_like(moment, getattr(state, name)) for name, moment in new.items()}
        return tree.cast_like(scaled, updates), optax.ScaleByAmsgradState(count=count, **kept)

    return init, update


@transform(elementwise=True)
def scale_by_adamax(b1: Decay = 0.9, b2: Decay = 0.999, eps: Positive = 1e-8):
    r"""Divide the mean of past gradients by the largest of them, older ones discounted.

    $m \leftarrow \beta_1 m + (1 - \beta_1) g$, $u \leftarrow \max(\beta_2 u, |g| + \epsilon)$; the update is
    $m / ((1 - \beta_1^t) u)$.

    State: `ScaleByAdamState(count, mu, nu)`, 8 bytes a parameter (16 in float64).
    Source: Kingma and Ba 2014, algorithm 2 (https://arxiv.org/abs/1412.6980). Differs from the paper: $\epsilon$.

    Args:
      b1: $\beta_1$, in [0, 1).
      b2: $\beta_2$, in [0, 1).
      eps: $\epsilon$, in (0, inf]: keeps a gradient of zero from dividing by it.

    >>> import gdjax as gd
    >>> tx = gd.scale_by_adamax()
    >>> print(tx.update(jnp.array([0.3, -5.0]), tx.init(jnp.zeros(2)))[0].round(5))
    [ 1. -1.]
    """

    def update(updates, state, params=None):
        count = optax.safe_increment(state.count)
        g = tree.widen(updates)
        m = means(g, state.mu, b1)
        u = jax.tree.map(lambda g, u: jnp.maximum(b2 * tree.real_part(u), jnp.abs(g) + eps), g, state.nu)
        scaled = jax.tree.map(lambda m, u: m / u, corrected(m, b1, count), u)
        mu, nu = tree.cast_like(m, state.mu), tree.cast_like(u, state.nu)
        return tree.cast_like(scaled, updates), optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return lambda params: adam_state(params), update


@transform(elementwise=True)
def scale_by_radam(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    threshold: Annotated[Scalar, Interval("[4, inf)")] = 5.0,
    *,
    nesterov: bool = False,
):
    r"""Adam's step, rectified while its mean of squares has seen too few gradients to be trusted.

    With $\hat m$, $\hat v$ of `scale_by_adam`, $\rho_\infty = 2 / (1 - \beta_2) - 1$ and
    $\rho = \rho_\infty - 2 t \beta_2^t / (1 - \beta_2^t)$, the update is
    $r\, \hat m / (\sqrt{\hat v + \epsilon_0} + \epsilon)$ where $\rho$ reaches the threshold, else $\hat m$, with
    $r^2 = (\rho - 4)(\rho - 2) \rho_\infty / ((\rho_\infty - 4)(\rho_\infty - 2) \rho)$.

    State: `ScaleByAdamState(count, mu, nu)`, 8 bytes a parameter (16 in float64).
    Source: Liu et al. 2019, algorithm 2 (https://arxiv.org/abs/1908.03265).
    Gradients beyond 1.8e19 are clipped to that, as in `scale_by_adam`.

    Args:
      b1: as in `scale_by_adam`, in [0, 1).
      b2: as in `scale_by_adam`, in [0, 1).
      eps: as in `scale_by_adam`, in [0, inf).
      eps_root: as in `scale_by_adam`, in [0, inf).
      threshold: the $\rho$ from which on squares are trusted, in [4, inf); the paper has 4.
      nesterov: as in `scale_by_adam`.

    >>> import gdjax as gd
    >>> tx = gd.scale_by_radam()
    >>> print(tx.update(jnp.array([0.5, -5.0]), tx.init(jnp.zeros(2)))[0].round(3))
    [ 0.5 -5. ]
    """

    def update(updates, state, params=None):
        count = optax.safe_increment(state.count)
        g = tree.widen(updates)
        m, v = means(squarable(g), state.mu, b1), mean_squares(g, state.nu, b2)
        m_hat = looking_ahead(squarable(g), m, b1, count) if nesterov else corrected(m, b1, count)
        trusted, r = _rectification(b2, count, threshold)
        rectified = jax.tree.map(
            lambda m, v: jnp.where(
                trusted, tree.scalar(r, m) * by_root(m, v, eps, eps_root), m + (v - v)
            ),  # NaN of NaN
            m_hat,
            corrected(v, b2, count),
        )
        mu, nu = tree.cast_like(m, state.mu), tree.cast_like(v, state.nu)
        return tree.cast_like(rectified, updates), optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return lambda params: adam_state(params), update


def _rectification(b2, count, threshold):
    """Whether the mean of squares is trusted, and the factor that makes its variance what it will be."""
    t, weight = count.astype(float), correction(b2, count)
    last = 2.0 / (1.0 - b2) - 1.0
    rho = last - 2.0 * t * (1.0 - weight) / weight
    trusted = rho >= threshold
    safe = jnp.where(trusted, rho, last)
    squared = (safe - 4.0) * (safe - 2.0) * last / ((last - 4.0) * (last - 2.0) * safe)
    return trusted, jnp.sqrt(jnp.where(trusted, squared, 1.0))
