"""AdaDelta: past updates over past gradients, both by root mean square."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.compose.chain import chain
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.moments import after, mean_squares, squarable
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.value import Decay, LearningRate, Positive, WeightDecay, transform


@transform(elementwise=True)
def scale_by_adadelta(rho: Decay = 0.9, eps: Positive = 1e-6):
    r"""Scale the gradient by the root mean square of past updates over that of past gradients.

    $v \leftarrow \rho v + (1 - \rho) |g|^2$, $u = g \sqrt{(x + \epsilon) / (v + \epsilon)}$,
    $x \leftarrow \rho x + (1 - \rho) |u|^2$; the update is $u$. With $r = |g|^2 / (v + \epsilon)$ it is computed of the
    new $x$, $u = g \sqrt{(x + \rho \epsilon) / ((\rho + (1 - \rho) r)(v + \epsilon))}$: no tree of temporaries.

    State: `ScaleByAdaDeltaState(e_g, e_x)`, 8 bytes a parameter (16 in float64).
    Source: Zeiler 2012, algorithm 1 (https://arxiv.org/abs/1212.5701).
    Gradients beyond 1.8e19 are clipped to that, as in `scale_by_adam`.

    Args:
      rho: $\rho$, in [0, 1).
      eps: $\epsilon$, in (0, inf]: the first step is as long as its root.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_adadelta(rho=0.0, eps=1.0)
    >>> print(tx.update(jnp.array([0.0, -1.0]), tx.init(jnp.zeros(2)))[0].round(3))
    [ 0.    -0.707]
    """

    def init(params):
        return optax.ScaleByAdaDeltaState(e_g=tree.accumulators(params, 0), e_x=tree.accumulators(params, 0))

    def update(updates, state, params=None):
        g = tree.widen(updates)
        v, g = mean_squares(g, state.e_g, rho), squarable(g)
        x = jax.tree.map(lambda g, v, x: rho * x + (1 - rho) * _ratio(g, v, eps) * (x + eps), g, v, state.e_x)
        u = jax.tree.map(lambda g, v, x: g * _step(g, after(v, x), tree.real_part(x), rho, eps), g, v, x)
        new = {"e_g": v, "e_x": x}
        kept = {name: tree.cast_like(moment, getattr(state, name)) for name, moment in new.items()}
        return tree.cast_like(u, updates), optax.ScaleByAdaDeltaState(**kept)

    return init, update


def _ratio(g, v, eps):
    return tree.abs_sq(g) / (tree.real_part(v) + eps)


def _step(g, v, x, rho, eps):
    """`sqrt((x_old + eps) / (v + eps))` of the new `x`, so that the old one can be written over."""
    tiny = jnp.finfo(x.dtype).tiny
    divisor = (rho + (1 - rho) * _ratio(g, v, eps) + tiny) * (tree.real_part(v) + eps)
    return jnp.sqrt(x + rho * eps) / jnp.sqrt(divisor)  # their ratio itself may be too small a number


@transform
def adadelta(
    learning_rate: LearningRate | None = None,
    rho: Decay = 0.9,
    eps: Positive = 1e-6,
    weight_decay: WeightDecay = 0.0,
    weight_decay_mask: Any = None,
):
    r"""AdaDelta: $p \leftarrow p - \eta\, u$ with $u$ of `scale_by_adadelta`, of the gradient and $\lambda p$.

    State: 8 bytes a parameter (16 in float64). Source: Zeiler 2012, algorithm 1 (https://arxiv.org/abs/1212.5701).

    Args:
      learning_rate: $\eta$, a number or a schedule of it. `None`, as in Optax, leaves $u$ as it is, and so climbs.
      rho, eps: as in `scale_by_adadelta`.
      weight_decay, weight_decay_mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.adadelta(1.0)).transforms]
    ['add_decayed_weights', 'scale_by_adadelta', 'scale_by_learning_rate']
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_adadelta(rho, eps),
        scale_by_learning_rate(learning_rate),
    )
