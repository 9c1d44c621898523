"""AdaBelief: Adam with the second moment of the gradient's deviation from its mean."""

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.compose.chain import chain
from gdjax.transforms.moments import (
    bias_corrected,
    clip_to_squarable,
    divide_by_root,
    means,
    nesterov_mean,
    rounded_decay,
    safe_square,
)
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.value import (
    Decay,
    LearningRate,
    NonNegative,
    transform,
)


@transform(elementwise=True, upcast=True)
def scale_by_belief(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-16,
    eps_root: NonNegative = 1e-16,
    *,
    nesterov: bool = False,
):
    r"""Divide the mean of past gradients by the root mean square of their deviations from it.

    With $m$ from `scale_by_adam`: $s \leftarrow \beta_2 s + (1 - \beta_2) |g - m|^2 + \epsilon_0$; the update is
    $\hat m / (\sqrt{\hat s} + \epsilon)$.

    State: `ScaleByBeliefState(count, mu, nu)`, 8 bytes per parameter (16 in float64).
    Source: Zhuang et al. 2020, algorithm 2 (https://arxiv.org/abs/2010.07468).
    Gradients beyond 9.1e18 (in float32) are clipped to it, as in `scale_by_adam`.

    Args:
      b1: $\beta_1$, in [0, 1).
      b2: $\beta_2$, in [0, 1).
      eps: $\epsilon$, added to the root, in [0, inf).
      eps_root: $\epsilon_0$, added to $s$ at every step, in [0, inf).
      nesterov: as in `scale_by_adam`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_belief(b1=0.5)
    >>> print(tx.update(jnp.array([0.3, -5.0]), tx.init(jnp.zeros(2)))[0].round(4))
    [ 2. -2.]
    """

    def init(params):
        mu, nu = tree.accumulators(params, 0), tree.accumulators(params, 0)
        return optax.ScaleByBeliefState(count=jnp.zeros((), jnp.int32), mu=mu, nu=nu)

    def update(updates, state, params=None):
        count = optax.safe_increment(state.count)
        g = clip_to_squarable(updates, terms=4)  # the difference of two such numbers is squared
        m = means(g, state.mu, b1)
        deviation_sq = jax.tree.map(lambda g, m, source: safe_square(g - m, source=source), g, m, updates)
        s = jax.tree.map(lambda d_sq, s: _belief_moment(d_sq, s, b2, eps_root), deviation_sq, state.nu)
        m_hat = nesterov_mean(g, m, b1, count) if nesterov else bias_corrected(m, b1, count)
        s_hat = bias_corrected(s, b2, count)
        scaled = jax.tree.map(lambda m, s: divide_by_root(m, s, eps), m_hat, s_hat)
        return scaled, optax.ScaleByBeliefState(count, m, s)

    return init, update


def _belief_moment(deviation_sq, s, b2, eps_root):
    b2 = rounded_decay(b2, deviation_sq.dtype)
    return b2 * s + (eps_root + (1 - b2) * deviation_sq)


@transform
def adabelief(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-16,
    eps_root: NonNegative = 1e-16,
    *,
    nesterov: bool = False,
):
    r"""AdaBelief: $p \leftarrow p - \eta\, u$ with $u$ from `scale_by_belief`.

    State: 8 bytes per parameter (16 in float64). Source: Zhuang et al. 2020, algorithm 2 (https://arxiv.org/abs/2010.07468).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps, eps_root, nesterov: as in `scale_by_belief`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.adabelief(0.1)).transforms]
    ['scale_by_belief', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )
