"""Decaying schedules: polynomial, linear, exponential, cosine and inverse square root."""

import jax.numpy as jnp

from gdjax.schedules.progress import (
    FinitePositive,
    Number,
    Steps,
    clip_negative,
    elapsed_or_zero,
    elapsed_steps,
    half_cosine,
    interpolate,
    progress,
    safe_power,
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
    r"""Go from one value to another along a polynomial.

    $\eta_t = e + (\eta_0 - e)(1 - x)^p$ with $x = (t - b) / T$, clipped to [0, 1].

    If $T \leq 0$, the value stays $\eta_0$, as in Optax. A negative $b$ counts as 0.

    Args:
      init_value: $\eta_0$, in (-inf, inf).
      end_value: $e$, in (-inf, inf).
      power: $p$, in [0, inf).
      transition_steps: $T$, the length of the transition in steps, in (-inf, inf).
      transition_begin: $b$, the step at which it begins, in (-inf, inf).

    >>> import gdjax as gd
    >>> rate = gd.polynomial_schedule(1.0, 0.0, 2.0, 100)
    >>> print(rate(0), rate(50), rate(100))
    1.0 0.25 0.0
    """

    def at(count):
        done = progress(elapsed_steps(count, clip_negative(transition_begin)), transition_steps, empty=0.0)
        return interpolate(init_value, end_value, safe_power(1.0 - done, power))

    return at


@schedule
def linear_schedule(init_value: Number, end_value: Number, transition_steps: Number, transition_begin: Number = 0):
    r"""Go from one value to another along a line: $\eta_t = \eta_0 + (e - \eta_0)\, x$, $x = (t - b) / T$ in [0, 1].

    If $T \leq 0$, the value stays $\eta_0$, as in Optax.

    Args:
      init_value, end_value, transition_steps, transition_begin: $\eta_0$, $e$, $T$, $b$ of `polynomial_schedule`.

    >>> import gdjax as gd
    >>> rate = gd.linear_schedule(1.0, 0.0, 100, transition_begin=100)
    >>> print(rate(50), rate(150), rate(200))
    1.0 0.5 0.0
    """

    def at(count):
        done = progress(elapsed_steps(count, clip_negative(transition_begin)), transition_steps, empty=0.0)
        return interpolate(init_value, end_value, 1.0 - done)

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
    r"""Decay exponentially, by a rate per transition: $\eta_t = \eta_0\, \gamma^x$ with $x = \max(0, t - b) / T$.

    If $T \leq 0$ or $\gamma = 0$, the value stays $\eta_0$, as in Optax. A negative $b$ counts as 0.

    Args:
      init_value: $\eta_0$, in (-inf, inf).
      transition_steps: $T$, the number of steps in which the value is multiplied by $\gamma$, in (-inf, inf).
      decay_rate: $\gamma$, in [0, inf).
      transition_begin: $b$, the step at which the decay begins, in (-inf, inf).
      staircase: round $x$ down to an integer.
      end_value: the lower bound if $\gamma < 1$, else the upper bound; `None` means no bound.

    >>> import gdjax as gd
    >>> rate = gd.exponential_decay(1.0, 100, 0.5, end_value=0.25)
    >>> print(rate(0), rate(100), rate(1_000))
    1.0 0.5 0.25
    """

    def at(count):
        is_constant = jnp.logical_or(transition_steps <= 0, decay_rate == 0)
        steps, rate = jnp.where(is_constant, 1.0, transition_steps), jnp.where(is_constant, 1.0, decay_rate)
        passed = elapsed_or_zero(count, clip_negative(transition_begin))
        times = jnp.where(passed > 0, passed / steps, 0.0)
        value = init_value * jnp.power(rate, jnp.floor(times) if staircase else times)
        if end_value is None:
            return value
        bounded = jnp.where(decay_rate < 1.0, jnp.maximum(value, end_value), jnp.minimum(value, end_value))
        return jnp.where(is_constant, value, bounded)

    return at


@schedule
def cosine_decay_schedule(
    init_value: Number, decay_steps: FinitePositive, alpha: Number = 0.0, exponent: NonNegative = 1.0
):
    r"""Fall along half a cosine: $\eta_t = \eta_0 (\alpha + (1 - \alpha)\, c^p)$ with $c = (1 + \cos \pi x) / 2$.

    Here $x = t / T$, at most 1.

    Source: Loshchilov and Hutter 2016, equation 5, for one cycle (https://arxiv.org/abs/1608.03983).

    Args:
      init_value: $\eta_0$, in (-inf, inf).
      decay_steps: $T$, in (0, inf).
      alpha: $\alpha$, the final value over the initial value, in (-inf, inf).
      exponent: $p$, in [0, inf).

    >>> import gdjax as gd
    >>> rate = gd.cosine_decay_schedule(1.0, 100, alpha=0.5)
    >>> print([round(float(rate(step)), 3) for step in (0, 50, 100)])
    [1.0, 0.75, 0.5]
    """

    def at(count):
        remaining = safe_power(half_cosine(jnp.minimum(elapsed_steps(count) / decay_steps, 1.0)), exponent)
        return interpolate(init_value, alpha * init_value, remaining)

    return at


@schedule
def inverse_sqrt(peak: Number, warmup_steps: Steps, timescale: FinitePositive | None = None):
    r"""Rise linearly from 0 to the peak, then fall as an inverse square root, without end.

    $\eta_t = \eta\, t / w$ for $t < w$, then $\eta / \sqrt{1 + (t - w) / s}$. With $s = w$ it is $\eta \sqrt{w / t}$.

    Source: Vaswani et al. 2017, equation 3, with $\eta = (d_{model} w)^{-1/2}$ (https://arxiv.org/abs/1706.03762). With
    a timescale: the reciprocal square root of Zhai et al. 2021 (https://arxiv.org/abs/2106.04560).

    Args:
      peak: $\eta$, the largest value, in (-inf, inf).
      warmup_steps: $w$, the step that reaches the peak, in [0, inf).
      timescale: $s$, the number of steps from the peak to $\eta / \sqrt 2$, in (0, inf). The default is `warmup_steps`.

    Raises:
      ValueError: `warmup_steps` is 0 and `timescale` is `None`.

    >>> import gdjax as gd
    >>> rate = gd.inverse_sqrt(1.0, 100)
    >>> print(rate(50), rate(100), rate(400))
    0.5 1.0 0.5
    """
    if timescale is None and isinstance(warmup_steps, float) and warmup_steps == 0:
        raise ValueError("inverse_sqrt: timescale must be a number above 0 if warmup_steps is 0, got None.")

    def at(count):
        passed = elapsed_steps(count, warmup_steps)
        times = jnp.where(passed > 0, passed / (warmup_steps if timescale is None else timescale), 0.0)
        return jnp.where(passed < 0, peak * progress(elapsed_steps(count), warmup_steps), peak / jnp.sqrt(1.0 + times))

    return at
