"""One row per optimizer: its peak learning rate on every problem, and its schedule."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import gdjax as gd


def falling(peak, steps):
    """A cosine decay: steps that do not shrink with the gradient converge only if the rate decays."""
    return gd.warmup_cosine(peak, 0, steps)


def halving(peak, steps):
    """Eighteen evenly spaced halvings: sign descent without momentum needs a high rate for longer."""
    return gd.exponential_decay(peak, steps, 2.0**-18)


def rising(peak, steps):
    """A rising rate: a schedule-free average is weighted by squared rates, and so forgets the first steps."""
    return gd.linear_schedule(0.0, peak, steps)


class Descent(NamedTuple):
    """A factory of a rate, the peak rates, and a schedule of the peak rate and the number of steps."""

    optimizer: Callable[..., gd.GradientTransform]
    quadratic: float
    rosenbrock: float
    digits: float
    course: Callable = falling


def _optimistic_adam(rate):
    """Return `optimistic_adam` with a schedule, which it does not accept itself."""
    return gd.chain(gd.optimistic_adam(1.0), gd.scale_by_schedule(rate))


def _rprop(rate):
    """Return rprop with step sizes in [0.3, 1] of a decaying rate, since mini-batches flip signs too often."""
    return gd.chain(gd.rprop(1.0, min_step_size=0.3, max_step_size=1.0), gd.scale_by_schedule(rate))


DESCENTS = {
    "adabelief": Descent(gd.adabelief, 0.03, 0.03, 0.025),
    "adadelta": Descent(gd.adadelta, 5.0, 0.1, 9.0),
    "adafactor": Descent(partial(gd.adafactor, min_dim_size_to_factor=4), 0.02, 0.014, 0.06),
    "adagrad": Descent(gd.adagrad, 2.0, 0.4, 0.25),
    "adam": Descent(gd.adam, 0.03, 0.03, 0.03),
    "adamax": Descent(gd.adamax, 0.03, 0.03, 0.06),
    "adamaxw": Descent(gd.adamaxw, 0.03, 0.03, 0.06),
    "adamw": Descent(gd.adamw, 0.03, 0.015, 0.03),
    "adan": Descent(gd.adan, 0.03, 0.03, 0.03),
    "ademamix": Descent(gd.ademamix, 0.03, 0.03, 0.025),
    "adopt": Descent(gd.adopt, 0.4, 0.3, 0.025),
    "amsgrad": Descent(gd.amsgrad, 1.0, 0.5, 0.03),
    "came": Descent(gd.came, 0.03, 0.03, 0.002),
    "cautious_adamw": Descent(gd.cautious_adamw, 0.03, 0.015, 0.015),
    "dadapt_adamw": Descent(gd.dadapt_adamw, 1.0, 1.0, 1.0),
    "dog": Descent(partial(gd.dog, init_step=("heuristic", 0.01)), 1.0, 0.8, 0.8),  # less is lost in bfloat16
    "dowg": Descent(gd.dowg, 0.6, 0.3, 0.55),
    "fromage": Descent(gd.fromage, 0.03, 0.05, 0.05),
    "lamb": Descent(gd.lamb, 0.01, 0.02, 0.013),
    "laprop": Descent(gd.laprop, 0.03, 0.03, 0.03),
    "lars": Descent(gd.lars, 10.0, 3.0, 5.0),
    "lion": Descent(gd.lion, 0.005, 0.01, 0.007),
    "mars_adamw": Descent(gd.mars_adamw, 0.05, 0.05, 0.045),
    "muon": Descent(partial(gd.muon, scale=gd.moonlight_scale()), 0.03, 0.03, 0.03),
    "nadam": Descent(gd.nadam, 0.03, 0.03, 0.025),
    "nadamw": Descent(gd.nadamw, 0.03, 0.007, 0.025),
    "normuon": Descent(partial(gd.normuon, scale=gd.moonlight_scale()), 0.03, 0.03, 0.03),
    "novograd": Descent(gd.novograd, 0.03, 0.03, 0.07),
    "optimistic_adam": Descent(_optimistic_adam, 0.03, 0.02, 0.02),
    "optimistic_adam_v2": Descent(gd.optimistic_adam_v2, 0.03, 0.02, 0.02),
    "optimistic_gradient_descent": Descent(gd.optimistic_gradient_descent, 0.5, 0.0006, 0.3),
    "prodigy": Descent(partial(gd.prodigy, estim_lr0=1e-4), 1.0, 1.0, 1.0),  # less is lost in bfloat16
    "psgd_kron": Descent(gd.psgd_kron, 0.03, 0.03, 0.03),
    "radam": Descent(gd.radam, 0.03, 0.001, 0.15),
    "rmsprop": Descent(gd.rmsprop, 0.03, 0.004, 0.02),
    "rprop": Descent(_rprop, 0.01, 0.003, 0.06, halving),
    "schedule_free_adamw": Descent(gd.schedule_free_adamw, 0.2, 0.003, 0.04),
    "schedule_free_sgd": Descent(gd.schedule_free_sgd, 7.0, 0.01, 2.0, rising),
    "sgd": Descent(partial(gd.sgd, momentum=0.9), 0.3, 0.0006, 0.2),
    "shampoo": Descent(partial(gd.shampoo, weight_decay=0.0), 0.03, 0.03, 0.03),
    "sign_sgd": Descent(gd.sign_sgd, 0.003, 0.001, 0.09, halving),
    "signum": Descent(gd.signum, 0.02, 0.006, 0.007),
    "simplified_ademamix": Descent(gd.simplified_ademamix, 3e-4, 3e-4, 3e-4),
    "sm3": Descent(gd.sm3, 0.8, 0.3, 0.3),
    "soap": Descent(partial(gd.soap, weight_decay=0.0), 0.03, 0.03, 0.03),
    "yogi": Descent(gd.yogi, 0.5, 0.25, 0.03),
}
"""Other arguments are defaults. Each rate is in the middle of those that pass: 0.8 and 1.25 times it pass too."""
