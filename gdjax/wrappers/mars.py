"""MARS: gradients with reduced variance."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.algorithms.adam import scale_by_adam
from gdjax.axes import AxisName
from gdjax.compose.chain import chain
from gdjax.transforms.clipping import clip_by_global_norm
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.moments import decay_below_one
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.tree import Mask
from gdjax.value import (
    Decay,
    LearningRate,
    NonNegative,
    Positive,
    WeightDecay,
    transform,
)
from gdjax.value.traits import refuse_example_grads, refuse_local_grads


class MarsState(NamedTuple):
    """State of `mars`: the inner state, and the last gradient."""

    inner_state: Any
    count: Any
    """The number of steps, int32 of shape ()."""
    grads: Any
    """The last gradient, at least float32."""


CLIP_SCALE = 2.0**-8
"""Scale of $c$ while it is computed and clipped: it keeps $c$ finite, and a power of two rounds nothing."""


@transform(any_dtype=False, shardable=True)
def mars(
    inner: optax.GradientTransformation,
    b1: Decay = 0.95,
    gamma: NonNegative = 0.025,
    max_norm: Positive = 1.0,
    axis_name: AxisName = None,
):
    r"""Correct gradients by their change since the last step, which reduces their variance.

    $c = g + \gamma \frac{\beta_1}{1 - \beta_1} (g - g_{old})$, then $c \leftarrow c \min(1, C / \lVert c \rVert)$; the
    inner transform gets $c$. At the first step $c = g$.

    State: `MarsState(inner_state, count, grads)`, 4 bytes per parameter (8 in float64) plus the inner state.
    Source: Yuan et al. 2024, algorithm 1, the approximate form of section 3.2 (https://arxiv.org/abs/2411.10438).
    Differs from the authors' code, as the paper does: the norm is taken over all leaves, including vectors.

    Args:
      inner: the transform that gets $c$; in the paper, $\beta_1$ is also the decay of its mean.
      b1: $\beta_1$, in [0, 1).
      gamma: $\gamma$, in [0, inf).
      max_norm: $C$, in (0, inf].
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded.

    >>> import gdjax as gd
    >>> tx = gd.mars(gd.identity(), b1=0.5, gamma=0.5, max_norm=10.0)
    >>> update, state = tx.update(1.0, tx.init(0.0))
    >>> print(tx.update(3.0, state)[0])
    4.0
    """
    refuse_local_grads("mars", inner)
    refuse_example_grads("mars", inner)
    clip = clip_by_global_norm(max_norm * CLIP_SCALE, axis_name)

    def init(params):
        zeros = tree.accumulators(params, 0)
        return MarsState(inner_state=inner.init(params), count=jnp.zeros((), jnp.int32), grads=zeros)

    def update(updates, state, params=None, **extra_args):
        g = tree.widen(updates)
        decay = decay_below_one(b1)
        factor = jnp.where(state.count == 0, 0, gamma * decay / (1 - decay))
        small, old = jax.tree.map(lambda x: x * CLIP_SCALE, (g, state.grads))
        corrected = jax.tree.map(lambda g, old: g + tree.scalar(factor, g) * (g - old), small, old)
        clipped, _ = clip.update(corrected, optax.EmptyState())
        clipped = jax.tree.map(lambda c: c / CLIP_SCALE, clipped)
        new_updates, inner_state = inner.update(
            tree.cast_like(clipped, updates), state.inner_state, params, **extra_args
        )
        count = optax.safe_increment(state.count)
        return new_updates, MarsState(inner_state, count, tree.fresh(tree.cast_like(g, state.grads)))

    return init, update


@transform
def mars_adamw(
    learning_rate: LearningRate,
    b1: Decay = 0.95,
    b2: Decay = 0.99,
    eps: NonNegative = 1e-8,
    gamma: NonNegative = 0.025,
    max_norm: Positive = 1.0,
    weight_decay: WeightDecay = 0.0,
    mask: Mask | None = None,
    axis_name: AxisName = None,
):
    r"""MARS-AdamW: `adamw` within `mars`.

    State: 12 bytes per parameter (24 in float64).
    Source: Yuan et al. 2024, algorithm 2 (https://arxiv.org/abs/2411.10438).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps: as in `scale_by_adam`.
      gamma, max_norm, axis_name: as in `mars`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.mars_adamw(0.1)).transforms]
    ['mars', 'add_decayed_weights', 'scale_by_learning_rate']
    """
    return chain(
        mars(scale_by_adam(b1, b2, eps), b1, gamma, max_norm, axis_name),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
