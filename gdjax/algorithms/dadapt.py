"""D-Adaptation for AdamW: an estimate of the distance to the solution as the learning rate."""

import jax
import jax.numpy as jnp
import optax
from optax.contrib import DAdaptAdamWState

from gdjax import norms, tree, xla
from gdjax.axes import AxisName
from gdjax.transforms.distance import (
    bias_corrected_rate,
    clip_for_sum,
    initial_estimate,
    leaf_sums,
    nonzero_or_one,
    real_product,
    require_betas,
)
from gdjax.transforms.moments import (
    clip_to_squarable,
    decay_below_one,
    divide_by_root,
    mean,
    mean_squares,
    means,
)
from gdjax.value import Decay, LearningRate, NonNegative, Positive, WeightDecay, at, transform
from gdjax.value.diagnose import require_params


@transform(packable=True, shardable=True, upcast=True)
def dadapt_adamw(
    learning_rate: LearningRate = 1.0,
    betas: tuple[Decay, Decay] = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    estim_lr0: Positive = 1e-6,
    weight_decay: WeightDecay = 0.0,
    axis_name: AxisName = None,
):
    r"""D-Adaptation: AdamW whose learning rate is a growing lower bound $d$ on the distance to the solution.

    With $\eta = \gamma d \sqrt{1 - \beta_2^t} / (1 - \beta_1^t)$ and $\beta_3 = \sqrt{\beta_2}$,
    $r \leftarrow \beta_3 r + (1 - \beta_3) \eta \langle g, s / (\sqrt v + \epsilon) \rangle$,
    $m \leftarrow \beta_1 m + (1 - \beta_1) \eta g$, $v \leftarrow \beta_2 v + (1 - \beta_2) |g|^2$,
    $s \leftarrow \beta_3 s + (1 - \beta_3) \eta g$, $d \leftarrow \max(d, r / ((1 - \beta_3) \lVert s \rVert_1))$ and
    $p \leftarrow p - m / (\sqrt v + \epsilon) - \eta \lambda p$.

    State: `DAdaptAdamWState(exp_avg, exp_avg_sq, grad_sum, estim_lr, numerator_weighted, count)`, which are
    $m, v, s, d, r, t$: 12 bytes per parameter (24 in float64).
    Source: Defazio and Mishchenko 2023, Adam with D-Adaptation (https://arxiv.org/abs/2301.07733). Differs from the
    paper, as its authors' code and Optax do: Adam's bias correction is part of $\eta$, and $r$ uses the $v$
    before the step. Differs from Optax: $d$ is unchanged while $s = 0$, under zero gradients or a warmup from 0.
    Gradients beyond 1.8e19 are clipped to it, as in `scale_by_adam`.

    Args:
      learning_rate: $\gamma$, a number or a schedule of it.
      betas: $(\beta_1, \beta_2)$, each in [0, 1).
      eps: $\epsilon$, in [0, inf).
      estim_lr0: the first $d$, in (0, inf]; choose it below any distance you expect.
      weight_decay: $\lambda$, in [0, inf), or a schedule of it.
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded.

    Raises:
      ValueError: if `update` is called without `params`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.dadapt_adamw(estim_lr0=0.5)
    >>> print(tx.update(jnp.array([3.0, -4.0]), tx.init(jnp.zeros(2)), jnp.zeros(2))[0].round(4))
    [-0.5  0.5]
    """
    b1, b2 = require_betas("dadapt_adamw", betas)
    b3 = decay_below_one(b2) ** 0.5

    def init(params):
        m, v, s = (tree.accumulators(params, 0) for _ in range(3))
        return DAdaptAdamWState(m, v, s, *initial_estimate(estim_lr0, params), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        require_params("dadapt_adamw", params)
        p = tree.cast_like(tree.widen(params), updates)
        d = state.estim_lr
        rate = bias_corrected_rate(d, learning_rate, betas, state.count)

        def normalized(x, v):
            return divide_by_root(x, v, tree.scalar(eps, x))

        inner = leaf_sums(
            lambda g, s, v: real_product(g, normalized(s, v)), clip_for_sum(updates), state.grad_sum, state.exp_avg_sq
        )
        raw = jax.tree.map(xla.depend_on, updates, inner)  # the sum reads s and v before they are overwritten
        g = clip_to_squarable(raw)
        scaled_g = jax.tree.map(lambda g: tree.scalar(rate, g) * g, g)
        m, v, s = (
            means(scaled_g, state.exp_avg, b1),
            mean_squares(raw, state.exp_avg_sq, b2),
            means(scaled_g, state.grad_sum, b3),
        )
        product, s_norm = norms.scalar_sums([inner, leaf_sums(jnp.abs, s)], axis_name)
        r = mean(rate * product, state.numerator_weighted, b3)
        d = jnp.maximum(d, r / nonzero_or_one((1.0 - tree.scalar(b3, r)) * s_norm))
        decay = rate * tree.scalar(at(weight_decay, state.count), rate)
        step = jax.tree.map(lambda m, v, p: -(normalized(m, v) + tree.scalar(decay, p) * p), m, v, p)
        return step, DAdaptAdamWState(m, v, s, d, r, optax.safe_increment(state.count))

    return init, update
