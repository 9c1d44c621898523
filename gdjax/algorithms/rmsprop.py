"""RMSProp: divide the gradient by its root mean square."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.compose.chain import chain
from gdjax.transforms.moments import bias_corrected, clip_to_squarable, mean_squares, means
from gdjax.transforms.momentum import trace
from gdjax.transforms.scaling import identity, scale_by_learning_rate
from gdjax.value import Decay, LearningRate, Momentum, NonNegative, transform


@transform(elementwise=True, upcast=True)
def scale_by_rms(
    decay: Decay = 0.9,
    eps: NonNegative = 1e-8,
    initial_scale: NonNegative = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
):
    r"""Divide the gradient by the root of the mean of past squares.

    $v \leftarrow \beta v + (1 - \beta) |g|^2$; the update is $g / \sqrt{v + \epsilon}$, or $g / (\sqrt v + \epsilon)$
    with `eps_in_sqrt=False`. With `bias_correction`, $v$ is replaced by $\hat v = v / (1 - \beta^t)$.

    State: `ScaleByRmsState(nu)`, with bias correction `ScaleByRmsWithCountState(count, nu)`, 4 bytes per parameter (8
    in float64). Source: Tieleman and Hinton 2012, lecture 6e, slide 29
    (https://www.cs.toronto.edu/~hinton/coursera/lecture6/lec6.pdf).
    Gradients beyond 1.8e19 are clipped to it, as in `scale_by_adam`.

    Args:
      decay: $\beta$, in [0, 1).
      eps: $\epsilon$, in [0, inf).
      initial_scale: the first $v$, in [0, inf).
      eps_in_sqrt: whether $\epsilon$ stands under the root.
      bias_correction: whether to use $\hat v$ instead of $v$.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_rms(decay=0.75, eps=0.0)
    >>> print(tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0])
    [ 2. -2.]
    """

    def init(params):
        nu = tree.accumulators(params, initial_scale)
        if bias_correction:
            state: Any = optax.scale_by_rms(bias_correction=True).init(())  # its class has no public name
            return state._replace(nu=nu)
        return optax.ScaleByRmsState(nu=nu)

    def update(g, state, params=None):
        new = state._replace(nu=mean_squares(g, state.nu, decay))
        if bias_correction:
            new = new._replace(count=optax.safe_increment(state.count))
        return again(g, new), new

    def again(g, state, params=None):
        v = bias_corrected(state.nu, decay, state.count) if bias_correction else state.nu
        return jax.tree.map(lambda g, v: divide_by_rms(g, v, eps, eps_in_sqrt), clip_to_squarable(g), v)

    return init, update, again


@transform(elementwise=True, upcast=True)
def scale_by_stddev(
    decay: Decay = 0.9,
    eps: NonNegative = 1e-8,
    initial_scale: NonNegative = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
):
    r"""Divide the gradient by its running standard deviation: centered RMSProp.

    With $m \leftarrow \beta m + (1 - \beta) g$ and $v$ from `scale_by_rms`, the update is
    $g / \sqrt{v - |m|^2 + \epsilon}$, or $g / (\sqrt{v - |m|^2} + \epsilon)$ with `eps_in_sqrt=False`.

    State: `ScaleByRStdDevState(mu, nu)`, with bias correction `ScaleByRStdDevWithCountState(count, mu, nu)`, 8 bytes a
    parameter (16 in float64). Source: Graves 2013, equations 38-45 (https://arxiv.org/abs/1308.0850). Differs from
    Optax: if rounding makes the variance negative, it counts as 0.
    Gradients beyond 1.8e19 are clipped to it, as in `scale_by_adam`.

    Args:
      decay: $\beta$, in [0, 1).
      eps: $\epsilon$, in [0, inf).
      initial_scale: the first $v$, in [0, inf).
      eps_in_sqrt: whether $\epsilon$ stands under the root.
      bias_correction: whether to divide $m$ and $v$ by $1 - \beta^t$.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_stddev(decay=0.5, eps=0.0)
    >>> print(tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0])
    [ 2. -2.]
    """

    def init(params):
        mu, nu = tree.accumulators(params, 0), tree.accumulators(params, initial_scale)
        if bias_correction:
            state: Any = optax.scale_by_stddev(bias_correction=True).init(())
            return state._replace(mu=mu, nu=nu)
        return optax.ScaleByRStdDevState(mu=mu, nu=nu)

    def update(updates, state, params=None):
        g = clip_to_squarable(updates)
        m, v = m_hat, v_hat = means(g, state.mu, decay), mean_squares(updates, state.nu, decay)
        new = state._replace(mu=m, nu=v)
        if bias_correction:
            new = new._replace(count=optax.safe_increment(state.count))
            m_hat, v_hat = (bias_corrected(moment, decay, new.count) for moment in (m, v))
        variance = jax.tree.map(lambda m, v: jnp.maximum(tree.real_part(v) - tree.abs_sq(m), 0.0), m_hat, v_hat)
        return jax.tree.map(lambda g, v: divide_by_rms(g, v, eps, eps_in_sqrt), g, variance), new

    return init, update


def divide_by_rms(g, v, eps, eps_in_sqrt):
    """Return the gradient divided by the root of a mean square."""
    v = tree.real_part(v)
    return g * jax.lax.rsqrt(v + (eps + jnp.finfo(v.dtype).tiny)) if eps_in_sqrt else g / (tree.root(v) + eps)


@transform
def rmsprop(
    learning_rate: LearningRate,
    decay: Decay = 0.9,
    eps: NonNegative = 1e-8,
    initial_scale: NonNegative = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Momentum | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
):
    r"""RMSProp: $p \leftarrow p - \eta\, u$ with $u$ from `scale_by_rms`, or momentum over it.

    State: 4 bytes per parameter, 4 more with momentum, 4 more if centered.
    Source: Tieleman and Hinton 2012, lecture 6e, slide 29
    (https://www.cs.toronto.edu/~hinton/coursera/lecture6/lec6.pdf); centered: Graves 2013, equations 38-45
    (https://arxiv.org/abs/1308.0850).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      decay, eps, initial_scale, eps_in_sqrt: as in `scale_by_rms`.
      centered: whether to divide by the standard deviation instead of the root mean square.
      momentum: the decay of the `trace` of the steps, in [0, 1]; `None` for no momentum.
      nesterov: as in `trace`.
      bias_correction: as in `scale_by_rms`.

    >>> import gdjax as gd
    >>> tx = gd.rmsprop(0.1, decay=0.75, eps=0.0)
    >>> print(f"{tx.update(6.0, tx.init(5.0))[0]:.4f}")
    -0.2000
    """
    scale_gradient = scale_by_stddev if centered else scale_by_rms
    return chain(
        scale_gradient(decay, eps, initial_scale, eps_in_sqrt, bias_correction),
        scale_by_learning_rate(learning_rate),
        identity() if momentum is None else trace(momentum, nesterov),
    )
