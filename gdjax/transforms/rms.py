"""Divide by the root of past squares: RMSProp, AdaGrad, AdaDelta."""

import jax
import jax.numpy as jnp
import optax
from optax._src.transform import ScaleByRmsWithCountState, ScaleByRStdDevWithCountState  # they have no public names

from gdjax import tree
from gdjax.transforms.moments import TERMS, after, corrected, mean_squares, means, squarable, square, with_room
from gdjax.value import Decay, NonNegative, Positive, transform


@transform(elementwise=True)
def scale_by_rms(
    decay: Decay = 0.9,
    eps: NonNegative = 1e-8,
    initial_scale: NonNegative = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
):
    r"""Divide the gradient by the root of the mean of past squares.

    $v \leftarrow \beta v + (1 - \beta) |g|^2$; the update is $g / \sqrt{v + \epsilon}$, or $g / (\sqrt v + \epsilon)$
    with `eps_in_sqrt=False`, of $\hat v = v / (1 - \beta^t)$ with `bias_correction`.

    State: `ScaleByRmsState(nu)`, with bias correction `ScaleByRmsWithCountState(count, nu)`, 4 bytes a parameter (8 in
    float64). Source: Tieleman and Hinton 2012, lecture 6e, slide 29
    (https://www.cs.toronto.edu/~hinton/coursera/lecture6/lec6.pdf).
    Gradients beyond 1.8e19 are clipped to that, as in `scale_by_adam`.

    Args:
      decay: $\beta$, in [0, 1).
      eps: $\epsilon$, in [0, inf).
      initial_scale: the first $v$, in [0, inf).
      eps_in_sqrt: whether $\epsilon$ stands under the root.
      bias_correction: whether to divide $v$ by the sum of its weights.

    >>> import gdjax as gd
    >>> tx = gd.scale_by_rms(decay=0.75, eps=0.0)
    >>> print(tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0])
    [ 2. -2.]
    """

    def init(params):
        nu = tree.accumulators(params, initial_scale)
        if bias_correction:
            return ScaleByRmsWithCountState(count=jnp.zeros((), jnp.int32), nu=nu)
        return optax.ScaleByRmsState(nu=nu)

    def update(updates, state, params=None):
        g = tree.widen(updates)
        new = state._replace(nu=tree.cast_like(mean_squares(g, state.nu, decay), state.nu))
        if bias_correction:
            new = new._replace(count=optax.safe_increment(state.count))
        return again(updates, new), new

    def again(updates, state, params=None):
        v = corrected(state.nu, decay, state.count) if bias_correction else state.nu
        scaled = jax.tree.map(lambda g, v: rms_scaled(g, v, eps, eps_in_sqrt), squarable(tree.widen(updates)), v)
        return tree.cast_like(scaled, updates)

    return init, update, again


@transform(elementwise=True)
def scale_by_stddev(
    decay: Decay = 0.9,
    eps: NonNegative = 1e-8,
    initial_scale: NonNegative = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
):
    r"""Divide the gradient by its running deviation from its running mean: centred RMSProp.

    With $m \leftarrow \beta m + (1 - \beta) g$ and $v$ of `scale_by_rms`, the update is
    $g / \sqrt{v - |m|^2 + \epsilon}$, or $g / (\sqrt{v - |m|^2} + \epsilon)$ with `eps_in_sqrt=False`.

    State: `ScaleByRStdDevState(mu, nu)`, with bias correction `ScaleByRStdDevWithCountState(count, mu, nu)`, 8 bytes a
    parameter (16 in float64). Source: Graves 2013, equations 38-45 (https://arxiv.org/abs/1308.0850). Differs from
    Optax: a variance that rounding makes negative counts as 0.
    Gradients beyond 1.8e19 are clipped to that, as in `scale_by_adam`.

    Args:
      decay: $\beta$, in [0, 1).
      eps: $\epsilon$, in [0, inf).
      initial_scale: the first $v$, in [0, inf).
      eps_in_sqrt: whether $\epsilon$ stands under the root.
      bias_correction: whether to divide $m$ and $v$ by the sum of their weights.

    >>> import gdjax as gd
    >>> tx = gd.scale_by_stddev(decay=0.5, eps=0.0)
    >>> print(tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0])
    [ 2. -2.]
    """

    def init(params):
        mu, nu = tree.accumulators(params, 0), tree.accumulators(params, initial_scale)
        if bias_correction:
            return ScaleByRStdDevWithCountState(count=jnp.zeros((), jnp.int32), mu=mu, nu=nu)
        return optax.ScaleByRStdDevState(mu=mu, nu=nu)

    def update(updates, state, params=None):
        raw = tree.widen(updates)
        g = squarable(raw)
        m, v = m_hat, v_hat = means(g, state.mu, decay), mean_squares(raw, state.nu, decay)
        new = {"mu": tree.cast_like(m, state.mu), "nu": tree.cast_like(v, state.nu)}
        if bias_correction:
            new["count"] = optax.safe_increment(state.count)
            m_hat, v_hat = (corrected(moment, decay, new["count"]) for moment in (m, v))
        variance = jax.tree.map(lambda m, v: jnp.maximum(tree.real_part(v) - tree.abs_sq(m), 0.0), m_hat, v_hat)
        scaled = jax.tree.map(lambda g, v: rms_scaled(g, v, eps, eps_in_sqrt), g, variance)
        return tree.cast_like(scaled, updates), state._replace(**new)

    return init, update


def rms_scaled(g, v, eps, eps_in_sqrt):
    """The gradient over the root of a mean square."""
    v = tree.real_part(v)
    return g * jax.lax.rsqrt(v + (eps + jnp.finfo(v.dtype).tiny)) if eps_in_sqrt else g / (tree.root(v) + eps)


@transform(elementwise=True)
def scale_by_rss(initial_accumulator_value: NonNegative = 0.1, eps: NonNegative = 1e-7):
    r"""Divide the gradient by the root of the sum of all past squares: AdaGrad.

    $s \leftarrow s + |g|^2$; the update is $g / \sqrt{s + \epsilon}$, 0 where $s$ is.

    State: `ScaleByRssState(sum_of_squares)`, 4 bytes a parameter (8 in float64).
    Source: Duchi et al. 2011, figure 1 with diagonal matrices (https://jmlr.org/papers/v12/duchi11a.html). Differs from
    the paper: $\epsilon$ stands under the root.
    Gradients beyond 7.2e16 (in float32) are clipped to that: the sum has room for 65,536 of the largest squares.

    Args:
      initial_accumulator_value: the first $s$, in [0, inf).
      eps: $\epsilon$, in [0, inf).

    >>> import gdjax as gd
    >>> tx = gd.scale_by_rss(0.0, 0.0)
    >>> print(tx.update(jnp.array([0.0, -4.0]), tx.init(jnp.zeros(2)))[0])
    [ 0. -1.]
    """

    def init(params):
        return optax.ScaleByRssState(sum_of_squares=tree.accumulators(params, initial_accumulator_value))

    def update(updates, state, params=None):
        g = tree.widen(updates)
        s = jax.tree.map(lambda g, s: with_room(s) + square(g, TERMS), g, state.sum_of_squares)
        scaled = jax.tree.map(lambda g, s: _over_root(g, s, eps), squarable(g, TERMS), s)
        return tree.cast_like(scaled, updates), optax.ScaleByRssState(tree.cast_like(s, state.sum_of_squares))

    return init, update


def _over_root(g, s, eps):
    empty = s == 0
    return jnp.where(empty, 0.0, g * jax.lax.rsqrt(jnp.where(empty, 1.0, s) + eps))


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
