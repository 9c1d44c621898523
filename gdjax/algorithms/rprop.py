"""Rprop: one step size per element, which grows while the gradient keeps its sign and shrinks when it flips."""

from typing import Annotated

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.compose.chain import chain
from gdjax.schedules.progress import require_order
from gdjax.transforms.scaling import scale
from gdjax.value import Interval, NonNegative, Positive, Scalar, transform

ShrinkFactor = Annotated[Scalar, Interval("(0, 1]")]
GrowthFactor = Annotated[Scalar, Interval("[1, inf]")]


@transform(elementwise=True, upcast=True)
def scale_by_rprop(
    learning_rate: Positive,
    eta_minus: ShrinkFactor = 0.5,
    eta_plus: GrowthFactor = 1.2,
    min_step_size: NonNegative = 1e-6,
    max_step_size: Positive = 50.0,
):
    r"""Replace each element of the gradient by its sign times its step size.

    With $s = \mathrm{sign}(g_t)\, \mathrm{sign}(u_{t-1})$: where $s = 1$ the step size grows,
    $\Delta \leftarrow \min(\eta_+ \Delta, \Delta_{max})$; where $s = -1$ it shrinks,
    $\Delta \leftarrow \max(\eta_- \Delta, \Delta_{min})$, and this update is 0. The update is otherwise
    $u_t = \Delta\, \mathrm{sign}(g_t)$. The real and the imaginary part of a complex number each have a step size.

    State: `ScaleByRpropState(step_sizes, prev_updates)`, 8 bytes per parameter (16 in float64).
    Source: Igel and Hüsken 2003, algorithm iRprop- (https://doi.org/10.1016/S0925-2312(01)00700-7), after Riedmiller
    and Braun 1993 (https://doi.org/10.1109/ICNN.1993.298623). Differs from Optax, which returns the update of the
    previous step, and compares signs by a product that may underflow.

    Args:
      learning_rate: the first $\Delta$, in (0, inf]; not a schedule.
      eta_minus: $\eta_-$, in (0, 1].
      eta_plus: $\eta_+$, in [1, inf].
      min_step_size: $\Delta_{min}$, in [0, inf).
      max_step_size: $\Delta_{max}$, in (0, inf], at least $\Delta_{min}$.

    Raises:
      ValueError: if `min_step_size` is greater than `max_step_size`.

    >>> import gdjax as gd
    >>> tx = gd.scale_by_rprop(0.1)
    >>> state = tx.init(0.0)
    >>> for gradient in (1.0, 1.0, -1.0, 1.0):
    ...     update, state = tx.update(gradient, state)
    ...     print(f"{update:.2f}")
    0.10
    0.12
    0.00
    0.06
    """
    require_order("scale_by_rprop", "min_step_size", min_step_size, "max_step_size", max_step_size)

    def init(params):
        steps = jax.tree.map(_copy_to_imaginary, tree.accumulators(params, learning_rate))
        return optax.ScaleByRpropState(step_sizes=steps, prev_updates=tree.accumulators(params, 0))

    def update(g, state, params=None):
        sizes = jax.tree.map(step_size, g, state.prev_updates, state.step_sizes)
        steps = jax.tree.map(step, g, state.prev_updates, sizes)
        return steps, optax.ScaleByRpropState(sizes, tree.fresh(steps))

    @_on_real_parts
    def step_size(g, prev_update, size):
        agreement = jnp.sign(g) * jnp.sign(prev_update)
        factor = jnp.where(agreement > 0, tree.scalar(eta_plus, g), tree.scalar(eta_minus, g))
        changed = jnp.clip(size * factor, tree.scalar(min_step_size, g), tree.scalar(max_step_size, g))
        return jnp.where(agreement == 0, size, changed)

    @_on_real_parts
    def step(g, prev_update, size):
        flipped = jnp.sign(g) * jnp.sign(prev_update) < 0
        return jnp.where(flipped, 0, size * jnp.sign(g))

    return init, update


def _on_real_parts(f):
    """Apply a function of real arrays to the real and to the imaginary parts of complex arrays."""

    def applied(*xs):
        if not jnp.iscomplexobj(xs[0]):
            return f(*xs)
        return jax.lax.complex(f(*(x.real for x in xs)), f(*(x.imag for x in xs)))

    return applied


def _copy_to_imaginary(x):
    return jax.lax.complex(x.real, x.real) if jnp.iscomplexobj(x) else x


@transform
def rprop(
    learning_rate: Positive,
    eta_minus: ShrinkFactor = 0.5,
    eta_plus: GrowthFactor = 1.2,
    min_step_size: NonNegative = 1e-6,
    max_step_size: Positive = 50.0,
):
    r"""Rprop: $p \leftarrow p - u$ with $u$ from `scale_by_rprop`. For full-batch gradients: noise flips signs.

    State: 8 bytes per parameter (16 in float64). Source: Igel and Hüsken 2003, algorithm iRprop-
    (https://doi.org/10.1016/S0925-2312(01)00700-7).

    Args:
      learning_rate: the first step size, in (0, inf]; not a schedule.
      eta_minus, eta_plus, min_step_size, max_step_size: as in `scale_by_rprop`.

    Raises:
      ValueError: if `min_step_size` is greater than `max_step_size`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.rprop(0.1)
    >>> print(tx.update(jnp.array([3.0, -1e-9]), tx.init(jnp.zeros(2)))[0])
    [-0.1  0.1]
    """
    return chain(
        scale_by_rprop(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size),
        scale(-1.0),
    )
