"""NovoGrad: Adam with one second moment per leaf."""

import jax
import jax.numpy as jnp
import optax

from gdjax import norms, tree
from gdjax.axes import AxisName
from gdjax.compose.chain import chain
from gdjax.squares import clip_to_norm, largest_squarable
from gdjax.transforms.moments import (
    divide_by_root,
    mean,
)
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.value import (
    AccumulatorDType,
    Decay,
    LearningRate,
    NonNegative,
    WeightDecay,
    at,
    transform,
)
from gdjax.value.diagnose import require_params


@transform(shardable=True, upcast=True)
def scale_by_novograd(
    b1: Decay = 0.9,
    b2: Decay = 0.25,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    weight_decay: WeightDecay = 0.0,
    mu_dtype: AccumulatorDType = None,
    axis_name: AxisName = None,
):
    r"""Sum gradients, each divided by the moving average of the norm of its leaf.

    For each leaf $v \leftarrow \beta_2 v + (1 - \beta_2) \lVert g \rVert^2$, at first $\lVert g \rVert^2$;
    $m \leftarrow \beta_1 m + g / (\sqrt{v + \epsilon_0} + \epsilon) + \lambda p$; the update is $m$.

    State: `ScaleByNovogradState(count, mu, nu)`, 4 bytes per parameter and 4 per leaf (8 in float64).
    Source: Ginsburg et al. 2019, algorithm 1 (https://arxiv.org/abs/1905.11286).
    A gradient whose norm exceeds 1.8e19 (in float32) is scaled down to it, so that $v$ stays finite.

    Args:
      b1: $\beta_1$, in [0, 1).
      b2: $\beta_2$, in [0, 1).
      eps: $\epsilon$, added to the norm, in [0, inf).
      eps_root: $\epsilon_0$, added under the root, in [0, inf).
      weight_decay: $\lambda$, in [0, inf), or a schedule of it.
      mu_dtype: the dtype of `mu`; by default that of the parameters, at least float32.
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded.

    Raises:
      ValueError: if `update` is called without `params`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_novograd()
    >>> print(tx.update(jnp.array([3.0, -4.0]), tx.init(jnp.zeros(2)), jnp.zeros(2))[0])
    [ 0.6 -0.8]
    """

    def init(params):
        nu = jax.tree.map(lambda p: jnp.zeros((), tree.wide(jnp.result_type(p))), params)
        mu = tree.accumulators(params, 0, mu_dtype)
        return optax.ScaleByNovogradState(count=jnp.zeros((), jnp.int32), mu=mu, nu=nu)

    def update(g, state, params=None):
        require_params("scale_by_novograd", params)
        count = optax.safe_increment(state.count)
        rate = at(weight_decay, state.count)
        b2_t = jnp.where(state.count == 0, 0.0, b2)
        g_norms = norms.leaf_scaled_norms(g, axis_name)
        squares = jax.tree.map(lambda g, norm: jnp.minimum(norm.norm(), largest_squarable(g.dtype)) ** 2, g, g_norms)
        g = jax.tree.map(lambda g, norm: clip_to_norm(g, norm, largest_squarable(g.dtype)), g, g_norms)
        v = jax.tree.map(lambda g, s, v: mean(s, v, tree.scalar(b2_t, g)), g, squares, state.nu)
        p = tree.widen(params)
        terms = jax.tree.map(lambda g, v, p: divide_by_root(g, v, eps, eps_root) + tree.scalar(rate, p) * p, g, v, p)
        m = jax.tree.map(lambda m, term: b1 * m + term, state.mu, terms)
        return m, optax.ScaleByNovogradState(count, m, v)

    return init, update


@transform
def novograd(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.25,
    eps: NonNegative = 1e-6,
    eps_root: NonNegative = 0.0,
    weight_decay: WeightDecay = 0.0,
    axis_name: AxisName = None,
):
    r"""NovoGrad: $p \leftarrow p - \eta\, m$ with $m$ from `scale_by_novograd`.

    State: 4 bytes per parameter (8 in float64) and 4 per leaf. Source: Ginsburg et al. 2019, algorithm 1 (https://arxiv.org/abs/1905.11286).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps, eps_root, weight_decay, axis_name: as in `scale_by_novograd`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.novograd(0.1)).transforms]
    ['scale_by_novograd', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_novograd(b1, b2, eps, eps_root, weight_decay, axis_name=axis_name),
        scale_by_learning_rate(learning_rate),
    )
