"""Give the gradient another size or mean, and mend what is not a number."""

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.value import Positive, Scalar, stateless, transform


@transform(flat=True)
def normalize_by_update_norm(scale_factor: Scalar = 1.0, eps: Positive = 1e-6):
    r"""Give the gradient one norm: $c\, g / (\lVert g \rVert + \epsilon)$, the norm that of all leaves as one vector.

    Stateless: 0 bytes a parameter.

    Args:
      scale_factor: $c$, any number.
      eps: $\epsilon$, in (0, inf].

    >>> import gdjax as gd
    >>> print(gd.normalize_by_update_norm(eps=1e-9).update(jnp.array([3.0, 4.0]), ())[0])
    [0.6 0.8]
    """

    def normalized(updates, params):
        ratio = scale_factor / (tree.global_norm(updates) + eps)
        return tree.cast_like(jax.tree.map(lambda g: g * tree.scalar(ratio, g), tree.widen(updates)), updates)

    return stateless(normalized)


@transform
def centralize():
    r"""Subtract from a matrix of gradients the mean of each of its rows: $g - \bar g$, over all axes but the first.

    Vectors and scalars stay as they are. Stateless: 0 bytes a parameter.
    Source: Yong et al. 2020, equation 1 (https://arxiv.org/abs/2004.01461). Differs from the paper, as Optax does: the
    mean there is one of each output unit, whose weights are a column of a kernel `[inputs, outputs]`.

    >>> import gdjax as gd
    >>> print(gd.centralize().update(jnp.array([[1.0, 3.0]]), ())[0])
    [[-1.  1.]]
    """

    def centred(g):
        return g - jnp.mean(g, axis=tuple(range(1, g.ndim)), keepdims=True) if g.ndim > 1 else g

    return stateless(lambda updates, params: tree.cast_like(jax.tree.map(centred, tree.widen(updates)), updates))


@transform
def zero_nans():
    """Replace NaN by zero, and say in which leaves there was one.

    State: `ZeroNansState(found_nan)`, 1 byte a leaf: whether the last gradient held a NaN.

    >>> import gdjax as gd
    >>> tx = gd.zero_nans()
    >>> updates, state = tx.update(jnp.array([jnp.nan, 2.0]), tx.init(jnp.zeros(2)))
    >>> print(updates, state.found_nan)
    [0. 2.] True
    """

    def init(params):
        return optax.ZeroNansState(found_nan=jax.tree.map(lambda p: jnp.zeros((), bool), params))

    def update(updates, state, params=None):
        found = jax.tree.map(lambda g: jnp.any(jnp.isnan(g)), updates)
        return jax.tree.map(lambda g: jnp.where(jnp.isnan(g), 0, g), updates), optax.ZeroNansState(found)

    return init, update
