"""AdaMax: Adam with a decaying maximum instead of a root mean square."""

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.compose.chain import chain
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.moments import (
    adam_state,
    bias_corrected,
    means,
)
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.tree import Mask
from gdjax.value import (
    Decay,
    LearningRate,
    Positive,
    WeightDecay,
    transform,
)


@transform(elementwise=True, upcast=True)
def scale_by_adamax(b1: Decay = 0.9, b2: Decay = 0.999, eps: Positive = 1e-8):
    r"""Divide the mean of past gradients by a decaying maximum of their absolute values.

    $m \leftarrow \beta_1 m + (1 - \beta_1) g$, $u \leftarrow \max(\beta_2 u, |g| + \epsilon)$; the update is
    $m / ((1 - \beta_1^t) u)$.

    State: `ScaleByAdamState(count, mu, nu)`, 8 bytes per parameter (16 in float64).
    Source: Kingma and Ba 2014, algorithm 2 (https://arxiv.org/abs/1412.6980). Differs from the paper: adds $\epsilon$.

    Args:
      b1: $\beta_1$, in [0, 1).
      b2: $\beta_2$, in [0, 1).
      eps: $\epsilon$, in (0, inf]; prevents division by zero.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_adamax()
    >>> print(tx.update(jnp.array([0.3, -5.0]), tx.init(jnp.zeros(2)))[0].round(5))
    [ 1. -1.]
    """

    def update(g, state, params=None):
        count = optax.safe_increment(state.count)
        m = means(g, state.mu, b1)
        u = jax.tree.map(lambda g, u: jnp.maximum(b2 * tree.real_part(u), jnp.abs(g) + eps), g, state.nu)
        scaled = jax.tree.map(lambda m, u: m / u, bias_corrected(m, b1, count), u)
        return scaled, optax.ScaleByAdamState(count, m, u)

    return lambda params: adam_state(params), update


@transform
def adamax(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: Positive = 1e-8,
):
    r"""AdaMax: $p \leftarrow p - \eta\, u$ with $u$ from `scale_by_adamax`.

    State: 8 bytes per parameter (16 in float64). Source: Kingma and Ba 2014, algorithm 2 (https://arxiv.org/abs/1412.6980).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps: as in `scale_by_adamax`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.adamax(0.1)).transforms]
    ['scale_by_adamax', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_adamax(b1, b2, eps),
        scale_by_learning_rate(learning_rate),
    )


@transform
def adamaxw(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: Positive = 1e-8,
    weight_decay: WeightDecay = 1e-4,
    mask: Mask | None = None,
):
    r"""AdaMax with decoupled weight decay: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ from `scale_by_adamax`.

    State: 8 bytes per parameter (16 in float64). Source: Loshchilov and Hutter 2017, section 3 (https://arxiv.org/abs/1711.05101).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps: as in `scale_by_adamax`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.adamaxw(0.1)).transforms]
    ['scale_by_adamax', 'add_decayed_weights', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_adamax(b1, b2, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
