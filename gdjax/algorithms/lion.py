"""Lion: step by the sign of an interpolated momentum."""

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.compose.chain import chain
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.moments import means
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.value import (
    AccumulatorDType,
    Decay,
    Interval,
    LearningRate,
    Scalar,
    WeightDecay,
    transform,
)


@transform(elementwise=True)
def scale_by_lion(
    b1: Decay = 0.9,
    b2: Annotated[Scalar, Interval("(0, 1)")] = 0.99,
    mu_dtype: AccumulatorDType = None,
    *,
    mode: Literal["hard", "smooth", "refined"] = "hard",
    smooth_beta: float = 1.0,
):
    r"""Step by the sign of a mean of gradients that leans towards the newest.

    $c = \beta_1 m + (1 - \beta_1) g$, $m \leftarrow \beta_2 m + (1 - \beta_2) g$; the update is $\mathrm{sign}(c)$. It
    is computed of the new mean, $\beta_2 c = \beta_1 m + (\beta_2 - \beta_1) g$, so that the old one can be written
    over: no tree of temporaries.

    State: `ScaleByLionState(count, mu)`, 4 bytes a parameter (8 in float64; 2 with `mu_dtype` bfloat16).
    Source: Chen et al. 2023, algorithm 2 (https://arxiv.org/abs/2302.06675).

    Args:
      b1: $\beta_1$, in [0, 1).
      b2: $\beta_2$, in (0, 1).
      mu_dtype: the dtype in which `mu` is kept; by default that of the parameters, float32 at least.
      mode: `hard` for the sign of $c$, `smooth` for $\tanh(s c)$, `refined` for $c$ itself where $|c| < 1$.
      smooth_beta: $s$ of the smooth mode, any number.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_lion()
    >>> print(tx.update(jnp.array([0.3, -5.0]), tx.init(jnp.zeros(2)))[0])
    [ 1. -1.]
    """
    step = _STEPS.get(mode)
    if step is None:
        raise ValueError(f"scale_by_lion: mode must be one of {', '.join(_STEPS)}, got {mode!r}.")

    def init(params):
        mu = tree.accumulators(params, 0, mu_dtype)
        return optax.ScaleByLionState(count=jnp.zeros((), jnp.int32), mu=mu)

    def update(updates, state, params=None):
        g = tree.widen(updates)
        m = means(g, state.mu, b2)
        stepped = jax.tree.map(lambda g, m: step((b1 * m + (b2 - b1) * g) / b2, smooth_beta), g, m)
        mu = tree.cast_like(m, state.mu)
        return tree.cast_like(stepped, updates), optax.ScaleByLionState(optax.safe_increment(state.count), mu)

    return init, update


_STEPS = {
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
    mask: Any = None,
):
    r"""Lion: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ of `scale_by_lion`.

    State: 4 bytes a parameter (8 in float64). Source: Chen et al. 2023, algorithm 2 (https://arxiv.org/abs/2302.06675).

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
