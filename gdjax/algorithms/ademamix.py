"""AdEMAMix: Adam with a slow mean of gradients beside the fast one."""

from typing import Annotated

import jax
import jax.numpy as jnp
import optax
from optax.contrib import ScaleByAdemamixState

from gdjax import tree
from gdjax.compose.chain import chain
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.moments import bias_corrected, clip_to_squarable, divide_by_root, mean_squares, means
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.tree import Mask
from gdjax.value import (
    AccumulatorDType,
    Decay,
    Interval,
    LearningRate,
    NonNegative,
    ScalarOrSchedule,
    WeightDecay,
    at,
    transform,
)


@transform(elementwise=True, upcast=True)
def scale_by_ademamix(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    b3: Annotated[ScalarOrSchedule, Interval("[0, 1)")] = 0.9999,
    alpha: Annotated[ScalarOrSchedule, Interval("[0, inf)")] = 5.0,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
):
    r"""Divide a fast mean of gradients plus a multiple of a slow one by the root of the mean of squares.

    With $m_1 = m$ and $v$ from `scale_by_adam`: $m_2 \leftarrow \beta_3 m_2 + (1 - \beta_3) g$; the update is
    $(\hat m_1 + \alpha m_2) / (\sqrt{\hat v + \epsilon_0} + \epsilon)$.

    State: `ScaleByAdemamixState(count, count_m2, m1, m2, nu)`, 12 bytes per parameter (24 in float64).
    Source: Pagliardini et al. 2024, algorithm 1 (https://arxiv.org/abs/2409.03137). Differs from the paper: schedules
    count from 0, as in its authors' JAX code. Differs from Optax: $\alpha$ has the paper's default here and in
    `ademamix`.
    Gradients beyond 1.8e19 are clipped to it, as in `scale_by_adam`.

    Args:
      b1: $\beta_1$, in [0, 1).
      b2: $\beta_2$, in [0, 1).
      b3: $\beta_3$, in [0, 1), or a schedule of it (`ademamix_b3`).
      alpha: $\alpha$, in [0, inf), or a schedule of it (`ademamix_alpha`).
      eps: $\epsilon$, added to the root, in [0, inf).
      eps_root: $\epsilon_0$, added under the root, in [0, inf).
      mu_dtype: the dtype of the means; by default that of the parameters, at least float32.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_ademamix(b3=0.5)
    >>> print(tx.update(jnp.array([0.3, -5.0]), tx.init(jnp.zeros(2)))[0].round(4))
    [ 3.5 -3.5]
    """

    def init(params):
        m1, m2 = (tree.accumulators(params, 0, mu_dtype) for _ in range(2))
        count, count_m2 = (jnp.zeros((), jnp.int32) for _ in range(2))
        return ScaleByAdemamixState(count, count_m2, m1, m2, tree.accumulators(params, 0))

    def update(updates, state, params=None):
        b3_t, alpha_t = at(b3, state.count_m2), at(alpha, state.count_m2)
        count, count_m2 = optax.safe_increment(state.count), optax.safe_increment(state.count_m2)
        g = clip_to_squarable(updates)
        m1, m2, v = means(g, state.m1, b1), means(g, state.m2, b3_t), mean_squares(updates, state.nu, b2)
        mixed = jax.tree.map(lambda m1, m2: m1 + tree.scalar(alpha_t, m2) * m2, bias_corrected(m1, b1, count), m2)
        scaled = jax.tree.map(lambda m, v: divide_by_root(m, v, eps, eps_root), mixed, bias_corrected(v, b2, count))
        return scaled, ScaleByAdemamixState(count, count_m2, m1, m2, v)

    return init, update


@transform
def ademamix(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    b3: Annotated[ScalarOrSchedule, Interval("[0, 1)")] = 0.9999,
    alpha: Annotated[ScalarOrSchedule, Interval("[0, inf)")] = 5.0,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
    weight_decay: WeightDecay = 0.0,
    mask: Mask | None = None,
):
    r"""AdEMAMix: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ from `scale_by_ademamix`.

    State: 12 bytes per parameter (24 in float64). Source: Pagliardini et al. 2024, algorithm 1 (https://arxiv.org/abs/2409.03137).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, b3, alpha, eps, eps_root, mu_dtype: as in `scale_by_ademamix`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.ademamix(0.1)).transforms]
    ['scale_by_ademamix', 'add_decayed_weights', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
