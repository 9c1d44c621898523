"""Schedules that decay: along a line, a power, an exponential, a cosine, a root."""

import jax.numpy as jnp

from gdjax.schedules.progress import (
    Factor,
    Number,
    Steps,
    after,
    between,
    half_cosine,
    nonnegative,
    progress,
    raised,
    since,
)
from gdjax.value import NonNegative, schedule


@schedule
def polynomial_schedule(
    init_value: Number,
    end_value: Number,
    power: NonNegative,
    transition_steps: Number,
    transition_begin: Number = 0,
):
    r"""Go from one value to another along a power.

    $\eta_t = e + (\eta_0 - e)(1 - x)^p$ with $x = (t - b) / T$, before $t = b$ $\eta_0$, from $t = b + T$ on $e$.

    With $T \leq 0$ it stays at $\eta_0$, as in Optax; a negative $b$ counts as 0.

    Args:
      init_value: $\eta_0$, any number.
      end_value: $e$, any number.
      power: $p$, in [0, inf).
      transition_steps: $T$, any number.
      transition_begin: $b$, any number.

    >>> import gdjax as gd
    >>> rate = gd.polynomial_schedule(1.0, 0.0, 2.0, 100)
    >>> print(rate(0), rate(50), rate(100))
    1.0 0.25 0.0
    """

    def at(count):
        done = progress(after(count, nonnegative(transition_begin)), transition_steps, empty=0.0)
        return between(init_value, end_value, raised(1.0 - done, power))

    return at


@schedule
def linear_schedule(init_value: Number, end_value: Number, transition_steps: Number, transition_begin: Number = 0):
    r"""Go from one value to another along a line: $\eta_t = \eta_0 + (e - \eta_0)\, x$, $x = (t - b) / T$ in [0, 1].

    With $T \leq 0$ it stays at $\eta_0$, as in Optax.

    Args:
      init_value, end_value, transition_steps, transition_begin: $\eta_0$, $e$, $T$, $b$ of `polynomial_schedule`.

    >>> import gdjax as gd
    >>> rate = gd.linear_schedule(1.0, 0.0, 100, transition_begin=100)
    >>> print(rate(50), rate(150), rate(200))
    1.0 0.5 0.0
    """

    def at(count):
        done = progress(after(count, nonnegative(transition_begin)), transition_steps, empty=0.0)
        return between(init_value, end_value, 1.0 - done)

    return at


@schedule
def exponential_decay(
    init_value: Number,
    transition_steps: Number,
    decay_rate: NonNegative,
    transition_begin: Number = 0,
    staircase: bool = False,
    end_value: Number | None = None,
):
    r"""Multiply by a rate every so many steps: $\eta_t = \eta_0\, \gamma^x$ with $x = \max(0, t - b) / T$.

    With $T \leq 0$ or $\gamma = 0$ it stays at $\eta_0$, as in Optax; a negative $b$ counts as 0.

    Args:
      init_value: $\eta_0$, any number.
      transition_steps: $T$, any number.
      decay_rate: $\gamma$, in [0, inf).
      transition_begin: $b$, any number.
      staircase: whether $x$ is rounded down.
      end_value: the least value where $\gamma < 1$, the largest otherwise; `None` for no end.

    >>> import gdjax as gd
    >>> rate = gd.exponential_decay(1.0, 100, 0.5, end_value=0.25)
    >>> print(rate(0), rate(100), rate(1_000))
    1.0 0.5 0.25
    """

    def at(count):
        stays = jnp.logical_or(transition_steps <= 0, decay_rate == 0)
        steps, rate = jnp.where(stays, 1.0, transition_steps), jnp.where(stays, 1.0, decay_rate)
        passed = since(count, nonnegative(transition_begin))
        times = jnp.where(passed > 0, passed / steps, 0.0)
        value = init_value * jnp.power(rate, jnp.floor(times) if staircase else times)
        if end_value is None:
            return value
        ended = jnp.where(decay_rate < 1.0, jnp.maximum(value, end_value), jnp.minimum(value, end_value))
        return jnp.where(stays, value, ended)

    return at


@schedule
def cosine_decay_schedule(init_value: Number, decay_steps: Factor, alpha: Number = 0.0, exponent: NonNegative = 1.0):
    r"""Fall along half a cosine: $\eta_t = \eta_0 (\alpha + (1 - \alpha)\, c^p)$ with $c = (1 + \cos \pi x) / 2$.

    $x = t / T$, and 1 from $t = T$ on.

    Source: Loshchilov and Hutter 2016, equation 5, one run of it (https://arxiv.org/abs/1608.03983).

    Args:
      init_value: $\eta_0$, any number.
      decay_steps: $T$, in (0, inf).
      alpha: $\alpha$, the last value as a share of the first, any number.
      exponent: $p$, in [0, inf).

    >>> import gdjax as gd
    >>> rate = gd.cosine_decay_schedule(1.0, 100, alpha=0.5)
    >>> print([round(float(rate(step)), 3) for step in (0, 50, 100)])
    [1.0, 0.75, 0.5]
    """

    def at(count):
        left = raised(half_cosine(jnp.minimum(after(count) / decay_steps, 1.0)), exponent)
        return between(init_value, alpha * init_value, left)

    return at


@schedule
def inverse_sqrt(peak: Number, warmup_steps: Steps, timescale: Factor | None = None):
    r"""Rise linearly from 0 to the peak, then fall as the inverse of a root, without an end.

    $\eta_t = \eta\, t / w$ for $t < w$, then $\eta / \sqrt{1 + (t - w) / s}$. With $s = w$ it is $\eta \sqrt{w / t}$.

    Source: Vaswani et al. 2017, equation 3, with $\eta = (d_{model} w)^{-1/2}$ (https://arxiv.org/abs/1706.03762); with
    a timescale the reciprocal square root of Zhai et al. 2021 (https://arxiv.org/abs/2106.04560).

    Args:
      peak: $\eta$, the largest value, any number.
      warmup_steps: $w$, in [0, inf).
      timescale: $s$, the steps after the peak in which it falls by a root of 2, in (0, inf); by default `warmup_steps`.

    Raises:
      ValueError: if there is neither a warm-up nor a timescale.

    >>> import gdjax as gd
    >>> rate = gd.inverse_sqrt(1.0, 100)
    >>> print(rate(50), rate(100), rate(400))
    0.5 1.0 0.5
    """
    if timescale is None and isinstance(warmup_steps, float) and warmup_steps == 0:
        raise ValueError(
            "inverse_sqrt: without a warm-up it needs a timescale, got warmup_steps=0.0 and timescale=None."
        )

    def at(count):
        passed = after(count, warmup_steps)
        times = jnp.where(passed > 0, passed / (warmup_steps if timescale is None else timescale), 0.0)
        return jnp.where(passed < 0, peak * progress(after(count), warmup_steps), peak / jnp.sqrt(1.0 + times))

    return at
