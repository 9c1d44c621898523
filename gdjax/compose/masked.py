"""Apply a transform to some leaves only."""

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.tree import Mask
from gdjax.value import stateless, transform


@transform(shardable=True)
def masked(inner: optax.GradientTransformation, mask: Mask, *, mask_compatible_extra_args: bool = False):
    """Transform the leaves where a mask is true, and pass the others unchanged.

    State: `MaskedState(inner_state)`, for the selected leaves only.

    Args:
      inner: the transform of the selected leaves.
      mask: a regular expression over whole paths (`".*kernel"`), a tree of booleans, or a function of the parameters
        that returns one. The tree may be a prefix of the parameters, and 1 and 0 count as booleans.
      mask_compatible_extra_args: whether to mask extra arguments that are shaped like the parameters, too.

    >>> import gdjax as gd
    >>> tx = gd.masked(gd.scale(10.0), {"w": True, "b": False})
    >>> params = {"w": 1.0, "b": 1.0}
    >>> updates, state = tx.update(params, tx.init(params))
    >>> print(updates["w"], updates["b"])
    10.0 1.0
    """
    if mask is None:
        raise TypeError("masked: mask must be a pattern, or a tree or a function of booleans, got None.")
    return optax.masked(inner, tree.selector("masked", mask), mask_compatible_extra_args=mask_compatible_extra_args)


@transform(any_dtype=True, elementwise=True)
def frozen():
    """Keep parameters unchanged: every update is zero. Takes leaves of any dtype, also integers.

    Stateless: 0 bytes per parameter.

    >>> import gdjax as gd
    >>> gd.by_path({"head/.*": gd.sgd(0.1), ".*": gd.frozen()}).transforms[".*"]
    frozen()
    """
    return stateless(lambda updates, params: jax.tree.map(jnp.zeros_like, updates))  # float0 stays float0
