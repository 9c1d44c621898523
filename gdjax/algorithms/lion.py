"""Lion: step by the sign of a mix of momentum and gradient."""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.compose.chain import chain
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.moments import means
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.tree import Mask
from gdjax.value import (
    AccumulatorDType,
    Decay,
    Interval,
    LearningRate,
    Scalar,
    WeightDecay,
    transform,
)


@transform(elementwise=True, upcast=True)
def scale_by_lion(
    b1: Decay = 0.9,
    b2: Annotated[Scalar, Interval("(0, 1)")] = 0.99,
    mu_dtype: AccumulatorDType = None,
    *,
    mode: Literal["hard", "smooth", "refined"] = "hard",
    smooth_beta: float = 1.0,
):
    r"""Replace the gradient by the sign of its mix with the momentum.

    $c = \beta_1 m + (1 - \beta_1) g$, $m \leftarrow \beta_2 m + (1 - \beta_2) g$; the update is $\mathrm{sign}(c)$.
    The code computes $c$ from the new mean, $\beta_2 c = \beta_1 m + (\beta_2 - \beta_1) g$. So the new mean can
    overwrite the old one, without temporaries.

    State: `ScaleByLionState(count, mu)`, 4 bytes per parameter (8 in float64; 2 with `mu_dtype` bfloat16).
    Source: Chen et al. 2023, algorithm 2 (https://arxiv.org/abs/2302.06675).

    Args:
      b1: $\beta_1$, in [0, 1).
      b2: $\beta_2$, in (0, 1).
      mu_dtype: the dtype of `mu`; by default that of the parameters, at least float32.
      mode: `hard` for the sign of $c$, `smooth` for $\tanh(s c)$, `refined` for $c$ itself where $|c| < 1$.
      smooth_beta: $s$ in the smooth mode, any number.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_lion()
    >>> print(tx.update(jnp.array([0.3, -5.0]), tx.init(jnp.zeros(2)))[0])
    [ 1. -1.]
    """
    sign = _LION_SIGNS.get(mode)
    if sign is None:
        raise ValueError(f"scale_by_lion: mode must be one of {', '.join(_LION_SIGNS)}, got {mode!r}.")

    def init(params):
        mu = tree.accumulators(params, 0, mu_dtype)
        return optax.ScaleByLionState(count=jnp.zeros((), jnp.int32), mu=mu)

    def update(g, state, params=None):
        m = means(g, state.mu, b2)
        signs = jax.tree.map(lambda g, m: sign((b1 * m + (b2 - b1) * g) / b2, smooth_beta), g, m)
        return signs, optax.ScaleByLionState(optax.safe_increment(state.count), m)

    return init, update


_LION_SIGNS = {
    "hard": lambda c, _: jnp.sign(c),
    "smooth": lambda c, smooth_beta: jnp.tanh(smooth_beta * c),
    "refined": lambda c, _: jnp.where(jnp.abs(c) < 1.0, c, jnp.sign(c)),
}


@transform
def lion(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Annotated[Scalar, Interval("(0, 1)")] = 0.99,
    mu_dtype: AccumulatorDType = None,
    weight_decay: WeightDecay = 1e-3,
    mask: Mask | None = None,
):
    r"""Lion: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ from `scale_by_lion`.

    State: 4 bytes per parameter (8 in float64). Source: Chen et al. 2023, algorithm 2 (https://arxiv.org/abs/2302.06675).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, mu_dtype: as in `scale_by_lion`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.lion(0.1)).transforms]
    ['scale_by_lion', 'add_decayed_weights', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_lion(b1, b2, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
