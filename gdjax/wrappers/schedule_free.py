"""Schedule-free optimization: an average of the parameters replaces the schedule."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import ScheduleFreeState

from gdjax import tree, xla
from gdjax.algorithms.rmsprop import scale_by_rms
from gdjax.algorithms.sgd import sgd
from gdjax.compose.chain import chain
from gdjax.schedules import warmup_constant_schedule
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.value import (
    AccumulatorDType,
    Decay,
    Interval,
    LearningRate,
    NonNegative,
    Scalar,
    WeightDecay,
    at,
    transform,
)
from gdjax.value.diagnose import require_params


@transform(any_dtype=False, shardable=True)
def schedule_free(
    base_optimizer: optax.GradientTransformation,
    learning_rate: LearningRate,
    b1: Annotated[Scalar, Interval("(0, 1]")] = 0.9,
    weight_lr_power: NonNegative = 2.0,
    state_dtype: AccumulatorDType = None,
):
    r"""Take gradients at a point $y$ between the base optimizer's iterate $z$ and the average $x$ of its iterates.

    $z \leftarrow z + u$ with $u$ the base optimizer's update at $y$; $x \leftarrow (1 - c) x + c z$ with
    $c = w / \sum w$, $w = (\max \eta)^r$; $y = (1 - \beta) z + \beta x$. The parameters are $y$, and `eval_params`
    returns $x$: train at $y$, evaluate at $x$. The update is $c (z - y) + (1 - c)(1 - \beta) u$, where $u$ is the
    change of the stored $z$.

    State: `ScheduleFreeState(b1, weight_sum, step_count, max_lr, base_optimizer_state, z)`, 4 bytes per parameter (8 in
    float64), or those of `state_dtype`, plus the state of the base optimizer.
    Source: Defazio et al. 2024, algorithm 1 (https://arxiv.org/abs/2405.15682). Differs from the paper, as Optax does:
    $\eta$ does not include Adam's bias correction. Differs from Optax: $w$ uses the rate of the current step, as in the
    paper; Optax uses the rate of the next step. $\sum w$, $\max \eta$, $\beta$ and $z$ are at least float32, since a
    sum in bfloat16 stops growing at 256.

    Args:
      base_optimizer: the transform that updates $z$, without momentum.
      learning_rate: $\eta$, the learning rate of the base optimizer, a number or a schedule of it.
      b1: $\beta$, in (0, 1].
      weight_lr_power: $r$, in [0, inf).
      state_dtype: the dtype of $z$; by default that of the parameters, at least float32.

    Raises:
      ValueError: if `update` is called without `params`.

    >>> import gdjax as gd
    >>> tx = gd.schedule_free(gd.sgd(1.0), 1.0, b1=0.5)
    >>> params, state = 0.0, tx.init(0.0)
    >>> for gradient in (-1.0, -1.0):
    ...     updates, state = tx.update(gradient, state, params)
    ...     params = gd.apply_updates(params, updates)
    >>> print(params, state.z, gd.eval_params(tx, state, params))
    1.75 2.0 1.5
    """

    def init(params):
        return ScheduleFreeState(
            b1=tree.fresh(b1, float),
            weight_sum=jnp.zeros((), float),
            step_count=jnp.ones((), jnp.int32),
            max_lr=jnp.zeros((), float),
            base_optimizer_state=base_optimizer.init(params),
            z=tree.copies(params, state_dtype),
        )

    def update(grads, state, params=None, **extra_args):
        require_params("schedule_free", params)
        rate = at(learning_rate, state.step_count - 1)  # Optax counts from 1, schedules count from 0
        max_lr = jnp.maximum(state.max_lr, jnp.asarray(rate, float))
        weight = max_lr**weight_lr_power
        weight_sum = state.weight_sum + weight
        c = jnp.where(weight_sum > 0, weight / jnp.where(weight_sum > 0, weight_sum, 1.0), 0.0)
        base_updates, base_state = base_optimizer.update(grads, state.base_optimizer_state, params, **extra_args)
        old = tree.widen(state.z)
        new_z = tree.cast_like(jax.tree.map(jnp.add, old, tree.widen(base_updates)), state.z)
        z, y = tree.widen(new_z), tree.widen(params)
        recomputed = None
        if state_dtype is None:
            recomputed = base_optimizer.again(grads, xla.mark(base_state, c), params)  # pyright: ignore
        u = jax.tree.map(jnp.subtract, z, old) if recomputed is None else tree.widen(recomputed)

        def step(z, y, u):
            weight_z, weight_u = tree.scalar(c, y), tree.scalar((1 - c) * (1 - b1), y)
            return weight_z * (z - y) + weight_u * u

        new = state._replace(
            b1=tree.fresh(b1, float),
            weight_sum=weight_sum,
            step_count=optax.safe_increment(state.step_count),
            max_lr=max_lr,
            base_optimizer_state=base_state,
            z=new_z,
        )
        return tree.cast_like(jax.tree.map(step, z, y, u), grads), new

    return init, update


def read_x(y, z, state):
    """Return $x$ from $y$ and $z$."""
    b1 = tree.scalar(state.b1, y)
    return (y - (1 - b1) * z) / b1


@transform
def schedule_free_sgd(
    learning_rate: LearningRate = 1.0,
    warmup_steps: Annotated[Scalar, Interval("[0, inf)")] | None = None,
    b1: Annotated[Scalar, Interval("(0, 1]")] = 0.9,
    weight_decay: WeightDecay | None = None,
    weight_lr_power: NonNegative = 2.0,
    state_dtype: AccumulatorDType = None,
):
    r"""Schedule-free SGD: `sgd` within `schedule_free`.

    State: 4 bytes per parameter (8 in float64), or those of `state_dtype`.
    Source: Defazio et al. 2024, algorithm 1 (https://arxiv.org/abs/2405.15682).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      warmup_steps: the number of steps in which the rate rises to $\eta$, in [0, inf); `None` for no warmup.
      b1, weight_lr_power, state_dtype: as in `schedule_free`.
      weight_decay: $\lambda$, in [0, inf), or a schedule of it; `None` for no decay.

    >>> import gdjax as gd
    >>> gd.expand(gd.schedule_free_sgd(0.1)).factory.__name__
    'schedule_free'
    """
    rate = _with_warmup(learning_rate, warmup_steps)
    base = sgd(rate) if weight_decay is None else chain(add_decayed_weights(weight_decay), sgd(rate))
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype)


@transform
def schedule_free_adamw(
    learning_rate: LearningRate = 0.0025,
    warmup_steps: Annotated[Scalar, Interval("[0, inf)")] | None = None,
    b1: Annotated[Scalar, Interval("(0, 1]")] = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    weight_decay: WeightDecay = 0.0,
    weight_lr_power: NonNegative = 2.0,
    state_dtype: AccumulatorDType = None,
):
    r"""Schedule-free AdamW: AdamW without momentum within `schedule_free`, which replaces the momentum.

    State: 8 bytes per parameter (16 in float64), of which `state_dtype` changes half.
    Source: Defazio et al. 2024, algorithm 1 (https://arxiv.org/abs/2405.15682).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      warmup_steps: the number of steps in which the rate rises to $\eta$, in [0, inf); `None` for no warmup.
      b1, weight_lr_power, state_dtype: as in `schedule_free`.
      b2: the decay of the mean of squares, in [0, 1).
      eps: added to the root of that mean, in [0, inf).
      weight_decay: $\lambda$, in [0, inf), or a schedule of it.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.schedule_free_adamw()).base_optimizer.transforms]
    ['scale_by_rms', 'add_decayed_weights', 'scale_by_learning_rate']
    """
    rate = _with_warmup(learning_rate, warmup_steps)
    base = chain(
        scale_by_rms(decay=b2, eps=eps, eps_in_sqrt=False, bias_correction=True),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(rate),
    )
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype)


def _with_warmup(learning_rate: Any, warmup_steps: Any) -> Any:
    if warmup_steps is None:
        return learning_rate
    if callable(learning_rate):
        warm = warmup_constant_schedule(0.0, 1.0, warmup_steps)
        return lambda count: warm(count) * jnp.asarray(learning_rate(count))
    return warmup_constant_schedule(0.0, learning_rate, warmup_steps)
