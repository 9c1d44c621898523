"""Cautious updates: zero where their sign opposes the gradient."""

import jax
import jax.numpy as jnp
import optax

from gdjax import norms, tree
from gdjax.algorithms.adam import scale_by_adam
from gdjax.axes import AxisName
from gdjax.compose.chain import chain
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.tree import Mask
from gdjax.value import (
    Decay,
    GradientTransform,
    LearningRate,
    NonNegative,
    WeightDecay,
    transform,
)
from gdjax.value.hyperparams import hyperparams
from gdjax.value.traits import refuse_local_grads


@transform(any_dtype=False)
def cautious(inner: optax.GradientTransformation, axis_name: AxisName = None):
    r"""Set elements of an update to zero where their sign differs from the gradient's, and scale up the others.

    $u\, 1[u g > 0]\, n / \max(\#[u g > 0], n / 1000)$, with $n$ the size of a leaf. The inner transform must be a
    direction before the sign flip, as every `scale_by_*` is. Weight decay and learning rate come after it in a chain.

    State: that of the inner transform.
    Source: Liang et al. 2024, algorithm 1 (https://arxiv.org/abs/2411.16085). Differs from the paper, as its authors'
    code does: the fraction is taken per leaf, and is at least 1/1000.

    Args:
      inner: the transform that gives the direction.
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded.

    Raises:
      ValueError: if the inner transform has a learning rate.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.cautious(gd.trace(0.5))
    >>> updates, state = tx.update(jnp.array([2.0, -4.0]), tx.init(jnp.zeros(2)))
    >>> print(tx.update(jnp.array([2.0, 1.0]), state)[0])
    [6. 0.]
    """
    refuse_local_grads("cautious", inner)
    if isinstance(inner, GradientTransform) and any(path[-1] == "learning_rate" for path in hyperparams(inner)):
        raise ValueError(
            f"cautious: inner must be a direction, and {inner.factory.__name__} has a learning rate, which flips "
            "its sign: write chain(cautious(scale_by_adam()), scale_by_learning_rate(1e-3))."
        )

    def update(updates, state, params=None, **extra_args):
        new_updates, new_state = inner.update(updates, state, params, **extra_args)
        u = tree.widen(new_updates)
        mask = jax.tree.map(_has_same_sign, u, tree.widen(updates))
        fractions = norms.leaf_means(mask, u, axis_name)
        return tree.cast_like(jax.tree.map(_cautious_update, u, mask, fractions), updates), new_state

    return inner.init, update


def _has_same_sign(u, g):
    return tree.real_part(jnp.sign(u) * jnp.conj(jnp.sign(g))) > 0  # the product u * g may underflow


def _cautious_update(u, mask, fraction):
    return jnp.where(mask | jnp.isnan(u), u / jnp.maximum(fraction, 1e-3), 0)


@transform
def cautious_adamw(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    weight_decay: WeightDecay = 1e-4,
    mask: Mask | None = None,
    axis_name: AxisName = None,
):
    r"""C-AdamW: `adamw` with `cautious` around all but the weight decay.

    State: 8 bytes per parameter (16 in float64). Source: Liang et al. 2024, algorithm 1 (https://arxiv.org/abs/2411.16085).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps: as in `scale_by_adam`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.
      axis_name: as in `cautious`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.cautious_adamw(0.1)).transforms]
    ['cautious', 'add_decayed_weights', 'scale_by_learning_rate']
    """
    return chain(
        cautious(scale_by_adam(b1, b2, eps), axis_name),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
