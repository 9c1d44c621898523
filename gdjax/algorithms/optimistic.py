"""Optimistic descent: extrapolate the gradient, so that two-player games do not cycle."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.algorithms.adam import scale_by_adam
from gdjax.compose.chain import chain
from gdjax.transforms.scaling import scale, scale_by_learning_rate
from gdjax.value import AccumulatorDType, Decay, LearningRate, NonNegative, Scalar, transform


@transform(elementwise=True, upcast=True)
def scale_by_optimistic_gradient(alpha: Scalar = 1.0, beta: Scalar = 1.0):
    r"""Add to the gradient its change since the last step: $\alpha g_t + \beta (g_t - g_{t-1})$, with $g_0 = g_1$.

    State: `ScaleByOptimisticGradientState(is_initial_step, previous_gradient)`, 4 bytes per parameter (8 in float64).
    Source: Mokhtari et al. 2020, the generalized OGDA (https://arxiv.org/abs/1901.08511); with $\alpha = \beta$, OMD of
    Daskalakis et al. 2018 (https://arxiv.org/abs/1711.00141).

    Args:
      alpha: $\alpha$, any number; not a schedule.
      beta: $\beta$, any number; not a schedule.

    >>> import gdjax as gd
    >>> tx = gd.scale_by_optimistic_gradient()
    >>> state = tx.init(0.0)
    >>> for gradient in (1.0, 3.0):
    ...     update, state = tx.update(gradient, state)
    ...     print(update)
    1.0
    5.0
    """

    def init(params):
        state: Any = optax.scale_by_optimistic_gradient().init(())  # its class has no public name
        return state._replace(is_initial_step=jnp.ones((), bool), previous_gradient=tree.accumulators(params, 0))

    def update(g, state, params=None):
        g_old = jax.tree.map(lambda g, old: jnp.where(state.is_initial_step, g, old), g, state.previous_gradient)
        update = jax.tree.map(lambda g, old: tree.scalar(alpha, g) * g + tree.scalar(beta, g) * (g - old), g, g_old)
        new = state._replace(is_initial_step=jnp.zeros((), bool), previous_gradient=tree.fresh(g))
        return update, new

    return init, update


@transform
def optimistic_gradient_descent(learning_rate: LearningRate, alpha: Scalar = 1.0, beta: Scalar = 1.0):
    r"""Optimistic gradient descent: $p \leftarrow p - \eta (\alpha g_t + \beta (g_t - g_{t-1}))$.

    State: 4 bytes per parameter (8 in float64). Source: Mokhtari et al. 2020, the generalized OGDA
    (https://arxiv.org/abs/1901.08511).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      alpha, beta: as in `scale_by_optimistic_gradient`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.optimistic_gradient_descent(0.1)).transforms]
    ['scale_by_optimistic_gradient', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_optimistic_gradient(alpha, beta),
        scale_by_learning_rate(learning_rate),
    )


@transform
def optimistic_adam_v2(
    learning_rate: LearningRate,
    *,
    alpha: Scalar = 1.0,
    beta: Scalar = 1.0,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
    nesterov: bool = True,
):
    r"""Optimistic Adam: $p \leftarrow p - \eta (\alpha u_t + \beta (u_t - u_{t-1}))$ with $u$ from `scale_by_adam`.

    State: 12 bytes per parameter (24 in float64). Source: Daskalakis et al. 2018, algorithm 1
    (https://arxiv.org/abs/1711.00141). Differs from the paper, as Optax does: Nesterov's mean by default, and
    $u_0 = u_1$, where the paper has $u_0 = 0$.

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      alpha, beta: as in `scale_by_optimistic_gradient`; 1 and 1 are the paper's.
      b1, b2, eps, eps_root, mu_dtype, nesterov: as in `scale_by_adam`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.optimistic_adam_v2(0.1)).transforms]
    ['scale_by_adam', 'scale_by_optimistic_gradient', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_optimistic_gradient(alpha, beta),
        scale_by_learning_rate(learning_rate),
    )


@transform
def optimistic_adam(
    learning_rate: NonNegative,
    optimism: Scalar | None = None,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
    *,
    nesterov: bool = True,
):
    r"""Optimistic Adam with two rates: $p \leftarrow p - \eta u_t - \omega (u_t - u_{t-1})$, $u$ from `scale_by_adam`.

    Takes no schedules. For a schedule use `optimistic_adam_v2`, which is equal with $\alpha = 1$ and
    $\beta = \omega / \eta$.

    State: 12 bytes per parameter (24 in float64). Source: Daskalakis et al. 2018, algorithm 1
    (https://arxiv.org/abs/1711.00141). Differs from the paper, as Optax does: Nesterov's mean by default, and
    $u_0 = u_1$, where the paper has $u_0 = 0$.

    Args:
      learning_rate: $\eta$, a number.
      optimism: $\omega$, a number; by default $\eta$, as in the paper.
      b1, b2, eps, eps_root, mu_dtype, nesterov: as in `scale_by_adam`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.optimistic_adam(0.1)).transforms]
    ['scale_by_adam', 'scale_by_optimistic_gradient', 'scale']
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_optimistic_gradient(learning_rate, learning_rate if optimism is None else optimism),
        scale(-1.0),
    )
