"""Weight decay: pull parameters towards zero."""

import jax
import jax.numpy as jnp
import optax
from optax.transforms._adding import WeightDecaySchedule  # its state class has no public name

from gdjax import tree
from gdjax.tree import Mask
from gdjax.value import Rate, transform
from gdjax.value.diagnose import require_params


@transform(elementwise=True, upcast=True)
def add_decayed_weights(
    weight_decay: Rate = 0.0,
    mask: Mask | None = None,
):
    r"""Add $\lambda p$ to the update: before a `scale_by_*` this is L2 regularization, after it decoupled weight decay.

    State: none, or `WeightDecaySchedule(count)` if $\lambda$ is a schedule, in a `MaskedState` if there is a mask.
    Source: Loshchilov and Hutter 2017, algorithm 2, line 12 (https://arxiv.org/abs/1711.05101).

    Args:
      weight_decay: $\lambda$, any number (a negative one makes weights grow), or a schedule of it.
      mask: a regular expression that matches whole paths (`".*kernel"`), a tree of booleans like the parameters or a
        prefix of it, or a function of the parameters that returns one. It selects the leaves that decay; default all.

    Raises:
      ValueError: if `update` is called without `params`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.add_decayed_weights(0.01)
    >>> print(tx.update(jnp.zeros(2), tx.init(jnp.ones(2)), jnp.ones(2))[0])
    [0.01 0.01]
    """
    return _add_decay("add_decayed_weights", weight_decay, mask, lambda g, p: p)


@transform(elementwise=True, upcast=True)
def add_cautious_weight_decay(
    weight_decay: Rate = 0.0,
    mask: Mask | None = None,
):
    r"""Add $\lambda p$ to the update where both have the same sign, so that decay never opposes the step.

    $u + \lambda p\, 1[u p \ge 0]$.

    State: that of `add_decayed_weights`. Source: Chen et al. 2025, algorithm 1 (https://arxiv.org/abs/2510.12402).

    Args:
      weight_decay: $\lambda$, any number, or a schedule of it.
      mask: as in `add_decayed_weights`.

    Raises:
      ValueError: if `update` is called without `params`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.add_cautious_weight_decay(0.5)
    >>> print(tx.update(jnp.array([1.0, -1.0]), tx.init(jnp.ones(2)), jnp.ones(2))[0])
    [ 1.5 -1. ]
    """

    def where_signs_agree(g, p):
        return jnp.where(tree.real_part(jnp.sign(g) * jnp.conj(jnp.sign(p))) >= 0, p, 0)

    return _add_decay("add_cautious_weight_decay", weight_decay, mask, where_signs_agree)


def _add_decay(who, weight_decay, mask, decay_term):
    r"""Return the functions of a transform that adds $\lambda$ times `decay_term(update, parameter)`."""

    def init(params):
        return WeightDecaySchedule(count=jnp.zeros((), jnp.int32)) if callable(weight_decay) else optax.EmptyState()

    def update(updates, state, params=None):
        require_params(who, params)
        new = WeightDecaySchedule(optax.safe_increment(state.count)) if callable(weight_decay) else state
        return again(updates, new, params), new

    def again(updates, state, params=None):
        if isinstance(weight_decay, float) and weight_decay == 0.0:
            return updates
        rate = weight_decay(state.count - 1) if callable(weight_decay) else weight_decay
        return jax.tree.map(lambda g, p: g + tree.scalar(rate, p) * decay_term(g, p), updates, tree.widen(params))

    if mask is None:
        return init, update, again
    return optax.masked(optax.GradientTransformation(init, update), tree.selector(who, mask))
