"""AdaDelta: scale by the ratio of root mean squares of past updates and past gradients."""

import jax
import jax.numpy as jnp
import optax

from gdjax import tree, xla
from gdjax.compose.chain import chain
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.moments import clip_to_squarable, mean_squares
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.tree import Mask
from gdjax.value import Decay, LearningRate, Positive, WeightDecay, transform


@transform(elementwise=True, upcast=True)
def scale_by_adadelta(rho: Decay = 0.9, eps: Positive = 1e-6):
    r"""Multiply the gradient by the root mean square of past updates over that of past gradients.

    $v \leftarrow \rho v + (1 - \rho) |g|^2$, $u = g \sqrt{(x + \epsilon) / (v + \epsilon)}$,
    $x \leftarrow \rho x + (1 - \rho) |u|^2$; the update is $u$.
    With $r = |g|^2 / (v + \epsilon)$, the code computes $u$ from the new $x$, which needs no temporaries:
    $u = g \sqrt{(x + \rho \epsilon) / ((\rho + (1 - \rho) r)(v + \epsilon))}$.

    State: `ScaleByAdaDeltaState(e_g, e_x)`, 8 bytes per parameter (16 in float64).
    Source: Zeiler 2012, algorithm 1 (https://arxiv.org/abs/1212.5701).
    Gradients beyond 1.8e19 are clipped to it, as in `scale_by_adam`.

    Args:
      rho: $\rho$, in [0, 1).
      eps: $\epsilon$, in (0, inf]; its root sets the size of the first step.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_adadelta(rho=0.0, eps=1.0)
    >>> print(tx.update(jnp.array([0.0, -1.0]), tx.init(jnp.zeros(2)))[0].round(3))
    [ 0.    -0.707]
    """

    def init(params):
        return optax.ScaleByAdaDeltaState(e_g=tree.accumulators(params, 0), e_x=tree.accumulators(params, 0))

    def update(g, state, params=None):
        v, g = mean_squares(g, state.e_g, rho), clip_to_squarable(g)
        x = jax.tree.map(lambda g, v, x: rho * x + (1 - rho) * _adadelta_ratio(g, v, eps) * (x + eps), g, v, state.e_x)
        u = jax.tree.map(
            lambda g, v, x: g * _adadelta_scale(g, xla.depend_on(v, x), tree.real_part(x), rho, eps), g, v, x
        )
        return u, optax.ScaleByAdaDeltaState(e_g=v, e_x=x)

    return init, update


def _adadelta_ratio(g, v, eps):
    return tree.abs_sq(g) / (tree.real_part(v) + eps)


def _adadelta_scale(g, v, x, rho, eps):
    """Return `sqrt((x_old + eps) / (v + eps))` from the new `x`, so that XLA can overwrite the old one."""
    tiny = jnp.finfo(x.dtype).tiny
    divisor = (rho + (1 - rho) * _adadelta_ratio(g, v, eps) + tiny) * (tree.real_part(v) + eps)
    return jnp.sqrt(x + rho * eps) / jnp.sqrt(divisor)  # the ratio itself may underflow


@transform
def adadelta(
    learning_rate: LearningRate | None = None,
    rho: Decay = 0.9,
    eps: Positive = 1e-6,
    weight_decay: WeightDecay = 0.0,
    weight_decay_mask: Mask | None = None,
):
    r"""AdaDelta: $p \leftarrow p - \eta\, u$ with $u$ from `scale_by_adadelta`, applied to $g + \lambda p$.

    State: 8 bytes per parameter (16 in float64). Source: Zeiler 2012, algorithm 1 (https://arxiv.org/abs/1212.5701).

    Args:
      learning_rate: $\eta$, a number or a schedule of it. `None`, as in Optax, leaves $u$ unchanged, and so ascends.
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
