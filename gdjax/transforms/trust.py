"""Make the step of a leaf as long as its weights allow."""

from typing import Any

import jax
import jax.numpy as jnp

from gdjax import norms, tree
from gdjax.squares import multiply_in_turn
from gdjax.value import NonNegative, stateless, transform
from gdjax.value.diagnose import require_params


@transform(shardable=True)
def scale_by_trust_ratio(
    min_norm: NonNegative = 0.0,
    trust_coefficient: NonNegative = 1.0,
    eps: NonNegative = 0.0,
    axis_name: Any = None,
):
    r"""Scale the update of a leaf by the norm of its weights over its own.

    The ratio is $\eta \max(\lVert p \rVert, c) / (\max(\lVert u \rVert, c) + \epsilon)$, and 1 where either norm is 0.

    Stateless: 0 bytes a parameter. Source: You et al. 2017, equation 6 (https://arxiv.org/abs/1708.03888); You et al.
    2019, algorithm 2 (https://arxiv.org/abs/1904.00962).

    Args:
      min_norm: $c$, in [0, inf).
      trust_coefficient: $\eta$, in [0, inf).
      eps: $\epsilon$, in [0, inf).
      axis_name: the axis over which leaves are divided, as in `shard_map`; one that its type says is the same on all
        members is whole, and where no type tells (`vmap`, `pmap`, `check_vma=False`) none is.

    Raises:
      ValueError: if `update` is called without `params`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> print(gd.scale_by_trust_ratio().update(jnp.array([3.0, 4.0]), (), jnp.array([0.0, 10.0]))[0])
    [6. 8.]
    """

    def of_trust(updates, params):
        require_params("scale_by_trust_ratio", params)

        def trusted(u, length, weight):
            root, weight = jnp.maximum(length.root, min_norm * length.scale), jnp.maximum(weight.norm(), min_norm)
            alive = (root > 0) & (weight > 0)
            ratio = trust_coefficient * weight / (jnp.where(alive, root, 1.0) + eps * length.scale)
            factors = jnp.where(alive, length.scale, 1.0), jnp.where(alive, ratio, 1.0)
            return multiply_in_turn(u, *(tree.scalar(factor, u) for factor in factors))

        u, p = tree.widen(updates), tree.widen(params)
        return tree.cast_like(jax.tree.map(trusted, u, *norms.leaf_scaled_norms((u, p), axis_name)), updates)

    return stateless(of_trust)


@transform(shardable=True)
def scale_by_param_block_norm(min_scale: NonNegative = 1e-3, axis_name: Any = None):
    r"""Scale the update of every leaf by the norm of its weights: $u \max(\lVert p \rVert, c)$.

    Stateless: 0 bytes a parameter.

    Args:
      min_scale: $c$, in [0, inf).
      axis_name: the axis over which leaves are divided, as in `shard_map`; one that its type says is the same on all
        members is whole, and where no type tells (`vmap`, `pmap`, `check_vma=False`) none is.

    Raises:
      ValueError: if `update` is called without `params`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> print(gd.scale_by_param_block_norm().update(jnp.array([1.0, 2.0]), (), jnp.array([3.0, 4.0]))[0])
    [ 5. 10.]
    """
    return _by_size("scale_by_param_block_norm", norms.leaf_norms, min_scale, axis_name)


@transform
def scale_by_param_block_rms(min_scale: NonNegative = 1e-3, axis_name: Any = None):
    r"""Scale the update of every leaf by the root mean square of its weights: $u \max(\mathrm{RMS}(p), c)$.

    Stateless: 0 bytes a parameter. Source: Shazeer and Stern 2018, section 8 (https://arxiv.org/abs/1804.04235).

    Args:
      min_scale: $c$, in [0, inf).
      axis_name: the axis over which leaves are divided, as in `shard_map`; one that its type says is the same on all
        members is whole, and where no type tells (`vmap`, `pmap`, `check_vma=False`) none is.

    Raises:
      ValueError: if `update` is called without `params`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> print(gd.scale_by_param_block_rms().update(jnp.array([1.0, 2.0]), (), jnp.array([3.0, 3.0]))[0])
    [3. 6.]
    """
    return _by_size("scale_by_param_block_rms", norms.leaf_rms, min_scale, axis_name)


def _by_size(who, sizes, least, axis_name):
    def sized(updates, params):
        require_params(who, params)
        found = sizes(tree.widen(params), axis_name)
        scaled = jax.tree.map(lambda u, size: u * jnp.maximum(size, least), tree.widen(updates), found)
        return tree.cast_like(scaled, updates)

    return stateless(sized)
