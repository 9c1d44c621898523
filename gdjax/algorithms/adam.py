"""Adam: the mean of gradients over the root of the mean of their squares."""

import jax
import optax

from gdjax.compose.chain import chain
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.moments import (
    adam_state,
    bias_corrected,
    clip_to_squarable,
    divide_by_root,
    mean_squares,
    means,
    nesterov_mean,
)
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.tree import Mask
from gdjax.value import (
    AccumulatorDType,
    Decay,
    LearningRate,
    NonNegative,
    WeightDecay,
    transform,
)


@transform(elementwise=True, upcast=True)
def scale_by_adam(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
    *,
    nesterov: bool = False,
):
    r"""Divide the mean of past gradients by the root of the mean of their squares.

    $m \leftarrow \beta_1 m + (1 - \beta_1) g$, $v \leftarrow \beta_2 v + (1 - \beta_2) |g|^2$; the update is
    $\hat m / (\sqrt{\hat v + \epsilon_0} + \epsilon)$ with $\hat m = m / (1 - \beta_1^t)$,
    $\hat v = v / (1 - \beta_2^t)$, and with Nesterov
    $\hat m = \beta_1 m / (1 - \beta_1^{t+1}) + (1 - \beta_1) g / (1 - \beta_1^t)$.

    State: `ScaleByAdamState(count, mu, nu)`, 8 bytes per parameter (16 in float64; 6 with `mu_dtype` bfloat16).
    Source: Kingma and Ba 2014, algorithm 1 (https://arxiv.org/abs/1412.6980); Dozat 2016, algorithm 2
    (https://openreview.net/pdf?id=OM0jvwB8jIp57ZJjtNEZ). Differs from Dozat: $\hat v$ has no further factor $\beta_2$.
    Differs from Optax: moments are at least float32, and $1 - \beta^t$ keeps its precision at small $t$ (Optax's first
    updates are 1e-5 off).

    A gradient beyond the root of the largest number (1.8e19 in float32) is clipped to that root. So its square is
    finite, and the step equals that of exact arithmetic. In Optax $v$ becomes inf, and the parameter never moves again.
    After a gradient of inf or NaN the updates are NaN.

    Args:
      b1: $\beta_1$, the decay of the mean, in [0, 1).
      b2: $\beta_2$, the decay of the mean of squares, in [0, 1).
      eps: $\epsilon$, added to the root, in [0, inf).
      eps_root: $\epsilon_0$, added under the root, in [0, inf).
      mu_dtype: the dtype of `mu`; by default that of the parameters, at least float32.
      nesterov: whether to use Nesterov's mean, one step ahead.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_adam()
    >>> print(tx.update(jnp.array([0.3, -5.0]), tx.init(jnp.zeros(2)))[0].round(5))
    [ 1. -1.]
    """

    def update(g, state, params=None):
        count = optax.safe_increment(state.count)
        m, v = means(clip_to_squarable(g), state.mu, b1), mean_squares(g, state.nu, b2)
        new = optax.ScaleByAdamState(count, m, v)
        return again(g, new), new

    def again(g, state, params=None):
        count, m, v = state
        m_hat = nesterov_mean(clip_to_squarable(g), m, b1, count) if nesterov else bias_corrected(m, b1, count)
        v_hat = bias_corrected(v, b2, count)
        return jax.tree.map(lambda m, v: divide_by_root(m, v, eps, eps_root), m_hat, v_hat)

    def init(params):
        return adam_state(params, mu_dtype)

    return (init, update, again) if mu_dtype is None else (init, update)  # a rounded mu cannot reproduce the update


@transform
def adam(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
    *,
    nesterov: bool = False,
):
    r"""Adam: $p \leftarrow p - \eta\, u$ with $u$ from `scale_by_adam`.

    State: 8 bytes per parameter. Source: Kingma and Ba 2014, algorithm 1 (https://arxiv.org/abs/1412.6980).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps, eps_root, mu_dtype, nesterov: as in `scale_by_adam`.

    >>> import gdjax as gd
    >>> tx = gd.adam(0.1)
    >>> print(f"{tx.update(6.0, tx.init(5.0))[0]:.4f}")
    -0.1000
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )


@transform
def adamw(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
    weight_decay: WeightDecay = 1e-4,
    mask: Mask | None = None,
    *,
    nesterov: bool = False,
):
    r"""Adam with decoupled weight decay: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ from `scale_by_adam`.

    State: 8 bytes per parameter. Source: Loshchilov and Hutter 2017, algorithm 2 (https://arxiv.org/abs/1711.05101).
    Differs from the paper, as Optax does: $\lambda$ is multiplied by the learning rate, not by its schedule alone.

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps, eps_root, mu_dtype: as in `scale_by_adam`.
      weight_decay: $\lambda$, in [0, inf), or a schedule of it.
      mask: which leaves decay, as in `add_decayed_weights`.
      nesterov: as in `scale_by_adam`.

    >>> import gdjax as gd
    >>> tx = gd.adamw(0.1, weight_decay=0.5)
    >>> print(f"{tx.update(6.0, tx.init(2.0), 2.0)[0]:.4f}")
    -0.2000
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transform
def nadam(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
    *,
    nesterov: bool = True,
):
    """NAdam: `adam` with Nesterov's mean.

    State: 8 bytes per parameter. Source: Dozat 2016, algorithm 2 (https://openreview.net/pdf?id=OM0jvwB8jIp57ZJjtNEZ).

    Args:
      learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov: as in `adam`.

    >>> import gdjax as gd
    >>> gd.nadam(0.1).nesterov
    True
    """
    return adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)


@transform
def nadamw(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
    weight_decay: WeightDecay = 1e-4,
    mask: Mask | None = None,
    *,
    nesterov: bool = True,
):
    """NAdam with decoupled weight decay: `adamw` with Nesterov's mean.

    State: 8 bytes per parameter. Source: Dozat 2016, algorithm 2 (https://openreview.net/pdf?id=OM0jvwB8jIp57ZJjtNEZ).

    Args:
      learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, nesterov: as in `adamw`.

    >>> import gdjax as gd
    >>> gd.nadamw(0.1).nesterov
    True
    """
    return adamw(learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, nesterov=nesterov)
