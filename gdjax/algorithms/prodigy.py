"""Prodigy: AdamW whose learning rate is an estimate of the distance to the solution."""

import jax
import jax.numpy as jnp
import optax
from optax.contrib import ProdigyState

from gdjax import norms, tree
from gdjax.axes import AxisName
from gdjax.transforms.distance import (
    bias_corrected_rate,
    clip_for_sum,
    decayed_sum,
    displacement,
    initial_estimate,
    leaf_sum_pairs,
    nonzero_or_one,
    real_product,
    require_betas,
)
from gdjax.transforms.moments import clip_to_squarable, decay_below_one, divide_by_root, mean_squares, means
from gdjax.value import Decay, LearningRate, NonNegative, Positive, WeightDecay, at, transform
from gdjax.value.diagnose import require_params


@transform(packable=True, shardable=True, upcast=True)
def prodigy(
    learning_rate: LearningRate = 1.0,
    betas: tuple[Decay, Decay] = (0.9, 0.999),
    beta3: Decay | None = None,
    eps: NonNegative = 1e-8,
    estim_lr0: Positive = 1e-6,
    estim_lr_coef: NonNegative = 1.0,
    weight_decay: WeightDecay = 0.0,
    safeguard_warmup: bool = False,
    axis_name: AxisName = None,
):
    r"""Prodigy: AdamW with gradients and learning rate scaled by an estimate $d$ of the distance to the solution.

    With $\eta = \gamma d \sqrt{1 - \beta_2^t} / (1 - \beta_1^t)$, $m \leftarrow \beta_1 m + (1 - \beta_1) d g$,
    $v \leftarrow \beta_2 v + (1 - \beta_2) |d g|^2$,
    $r \leftarrow \beta_3 r + \eta d \langle g, p_0 - p \rangle / d_0$, $s \leftarrow \beta_3 s + \eta d g / d_0$,
    $d' = \max(d, c\, r / \lVert s \rVert_1)$ and $p \leftarrow p - \eta (m / (\sqrt v + d' \epsilon) + \lambda p)$.

    State: `ProdigyState(exp_avg, exp_avg_sq, grad_sum, params0, estim_lr, numerator_weighted, count)`, which are
    $m, v, s, p_0, d, r, t$: 16 bytes per parameter (32 in float64, 14 if parameters are bfloat16).
    Source: Mishchenko and Defazio 2023, algorithm 4 (https://arxiv.org/abs/2306.06101). Differs from the paper, as its
    authors' code and Optax do: Adam's bias correction is part of $\eta$, $r$ and $s$ have another unit, and the new
    estimate multiplies $\epsilon$. Differs from Optax: $d$ is unchanged while $s = 0$, under zero gradients or a warmup
    from 0.

    In bfloat16, steps of the default $d_0$ may round to nothing, and then $d$ never grows. Use 0.01 there.
    Gradients beyond 1.8e19 are clipped to it, as in `scale_by_adam`.

    Args:
      learning_rate: $\gamma$, a number or a schedule of it.
      betas: $(\beta_1, \beta_2)$, each in [0, 1).
      beta3: $\beta_3$, in [0, 1); by default $\sqrt{\beta_2}$.
      eps: $\epsilon$, in [0, inf).
      estim_lr0: $d_0$, the first $d$, in (0, inf]; choose it below any distance you expect.
      estim_lr_coef: $c$, in [0, inf).
      weight_decay: $\lambda$, in [0, inf), or a schedule of it.
      safeguard_warmup: whether $s$ uses $d$ instead of $\eta$, so that a warmup does not make $d$ too large.
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded.

    Raises:
      ValueError: if `update` is called without `params`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.prodigy(estim_lr0=0.5)
    >>> print(tx.update(jnp.array([3.0, -4.0]), tx.init(jnp.zeros(2)), jnp.zeros(2))[0].round(4))
    [-0.5  0.5]
    """
    b1, b2 = require_betas("prodigy", betas)
    b3 = decay_below_one(b2) ** 0.5 if beta3 is None else decay_below_one(beta3)

    def init(params):
        m, v, s = (tree.accumulators(params, 0) for _ in range(3))
        return ProdigyState(m, v, s, tree.fresh(params), *initial_estimate(estim_lr0, params), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        require_params("prodigy", params)
        p, g, d = tree.widen(params), clip_to_squarable(updates), state.estim_lr
        rate, weight = bias_corrected_rate(d, learning_rate, betas, state.count), d / tree.scalar(estim_lr0, d)
        dg = jax.tree.map(lambda g: tree.scalar(d, g) * g, updates)
        m, v = means(clip_to_squarable(dg), state.exp_avg, b1), mean_squares(dg, state.exp_avg_sq, b2)
        ratio = weight * (d if safeguard_warmup else rate)
        s = jax.tree.map(lambda g, s: decayed_sum(g, s, b3, ratio), g, state.grad_sum)
        moved = displacement(p, state.params0)
        terms = leaf_sum_pairs(lambda g, x, s: (real_product(g, x), jnp.abs(s)), clip_for_sum(updates), moved, s)
        product, s_norm = norms.scalar_sums(terms, axis_name)
        r = decayed_sum(product, state.numerator_weighted, b3, weight * rate)
        d = jnp.maximum(d, tree.scalar(estim_lr_coef, r) * r / nonzero_or_one(s_norm))
        decay, offset = at(weight_decay, state.count), tree.scalar(eps, d) * d

        def step(m, v, p):
            return -tree.scalar(rate, p) * (divide_by_root(m, v, tree.scalar(offset, p)) + tree.scalar(decay, p) * p)

        new = ProdigyState(m, v, s, state.params0, d, r, optax.safe_increment(state.count))
        return jax.tree.map(step, m, v, p), new

    return init, update
