"""Schedules of AdEMAMix."""

from typing import Annotated

import jax.numpy as jnp

from gdjax.schedules.progress import Number, Steps, elapsed_steps, progress
from gdjax.value import Interval, Scalar, schedule

UnitInterval = Annotated[Scalar, Interval("(0, 1)")]


@schedule
def ademamix_alpha(alpha: Number = 5.0, steps: Steps = 0.0):
    r"""Increase AdEMAMix's weight of the slow average linearly: $\alpha \min(1, t / T)$.

    Source: Pagliardini et al. 2024, section 3 (https://arxiv.org/abs/2409.03137).

    Args:
      alpha: $\alpha$, the final weight, in (-inf, inf).
      steps: $T$, the number of steps until the final value, in [0, inf).

    >>> import gdjax as gd
    >>> print(gd.ademamix_alpha(5.0, 100)(50))
    2.5
    """
    return lambda count: alpha * progress(elapsed_steps(count), steps)


@schedule
def ademamix_b3(b1: UnitInterval = 0.9, b3: UnitInterval = 0.9999, steps: Steps = 0.0):
    r"""Increase AdEMAMix's $\beta_3$ so that the half-life of the slow average grows linearly.

    $\beta_3(t) = \min(\beta_3, \exp(\ln \beta_1 \ln \beta_3 / ((1 - x) \ln \beta_3 + x \ln \beta_1)))$, $x = t / T$.

    Source: Pagliardini et al. 2024, section 3 and appendix A.1 (https://arxiv.org/abs/2409.03137).

    Args:
      b1: $\beta_1$, the initial value, in (0, 1).
      b3: $\beta_3$, the final value, in (0, 1).
      steps: $T$, the number of steps until the final value, in [0, inf).

    >>> import gdjax as gd
    >>> print(gd.ademamix_b3(0.5, 0.9999, 100)(0), gd.ademamix_b3(0.5, 0.9999, 100)(100))
    0.5 0.9999
    """

    def at(count):
        x = progress(elapsed_steps(count), steps)
        first, last = jnp.log(b1), jnp.log(b3)
        return jnp.minimum(b3, jnp.exp(first * last / ((1.0 - x) * last + x * first)))

    return at
