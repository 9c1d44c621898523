"""Scale the update of each leaf by the norm of its weights."""

import jax
import jax.numpy as jnp

from gdjax import norms, tree
from gdjax.axes import AxisName
from gdjax.squares import multiply_in_turn, roots
from gdjax.value import NonNegative, stateless, stateless_rereading, transform
from gdjax.value.diagnose import require_params


@transform(shardable=True, rereads_updates=True, upcast=True)
def scale_by_trust_ratio(
    min_norm: NonNegative = 0.0,
    trust_coefficient: NonNegative = 1.0,
    eps: NonNegative = 0.0,
    axis_name: AxisName = None,
):
    r"""Scale the update of each leaf by the ratio of the norm of its weights to the norm of the update.

    The ratio is $\eta \max(\lVert p \rVert, c) / (\max(\lVert u \rVert, c) + \epsilon)$, and 1 where either norm is 0.

    Stateless: 0 bytes per parameter. Source: You et al. 2017, equation 6 (https://arxiv.org/abs/1708.03888); You et al.
    2019, algorithm 2 (https://arxiv.org/abs/1904.00962).

    Args:
      min_norm: $c$, in [0, inf).
      trust_coefficient: $\eta$, in [0, inf).
      eps: $\epsilon$, in [0, inf).
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded.

    Raises:
      ValueError: if `update` is called without `params`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> print(gd.scale_by_trust_ratio().update(jnp.array([3.0, 4.0]), (), jnp.array([0.0, 10.0]))[0])
    [6. 8.]
    """

    def scale_leaves(updates, params, recompute):
        require_params("scale_by_trust_ratio", params)

        def scale_leaf(u, u_norm, p_norm):  # the norm of u is u_norm.root / u_norm.scale
            root, weight = jnp.maximum(u_norm.root, min_norm * u_norm.scale), jnp.maximum(p_norm.norm(), min_norm)
            nonzero = (root > 0) & (weight > 0)
            ratio = trust_coefficient * weight / (jnp.where(nonzero, root, 1.0) + eps * u_norm.scale)
            factors = jnp.where(nonzero, u_norm.scale, 1.0), jnp.where(nonzero, ratio, 1.0)
            return multiply_in_turn(u, *(tree.scalar(factor, u) for factor in factors))

        p = tree.widen(params)
        again = recompute and (lambda: (recompute(), p))
        u_norms, p_norms = norms.result_scaled_norms((updates, p), axis_name, again)
        u = recompute(roots(u_norms)) if recompute else updates
        return jax.tree.map(scale_leaf, u, u_norms, p_norms)

    return stateless_rereading(scale_leaves)


@transform(shardable=True, upcast=True)
def scale_by_param_block_norm(min_scale: NonNegative = 1e-3, axis_name: AxisName = None):
    r"""Scale the update of each leaf by the norm of its weights: $u \max(\lVert p \rVert, c)$.

    Stateless: 0 bytes per parameter.

    Args:
      min_scale: $c$, in [0, inf).
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded.

    Raises:
      ValueError: if `update` is called without `params`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> print(gd.scale_by_param_block_norm().update(jnp.array([1.0, 2.0]), (), jnp.array([3.0, 4.0]))[0])
    [ 5. 10.]
    """
    return _scale_by_size("scale_by_param_block_norm", norms.leaf_norms, min_scale, axis_name)


@transform(upcast=True)
def scale_by_param_block_rms(min_scale: NonNegative = 1e-3, axis_name: AxisName = None):
    r"""Scale the update of each leaf by the root mean square of its weights: $u \max(\mathrm{RMS}(p), c)$.

    Stateless: 0 bytes per parameter. Source: Shazeer and Stern 2018, section 8 (https://arxiv.org/abs/1804.04235).

    Args:
      min_scale: $c$, in [0, inf).
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded.

    Raises:
      ValueError: if `update` is called without `params`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> print(gd.scale_by_param_block_rms().update(jnp.array([1.0, 2.0]), (), jnp.array([3.0, 3.0]))[0])
    [3. 6.]
    """
    return _scale_by_size("scale_by_param_block_rms", norms.leaf_rms, min_scale, axis_name)


def _scale_by_size(who, leaf_sizes, min_scale, axis_name):
    def scale_leaves(updates, params):
        require_params(who, params)
        sizes = leaf_sizes(tree.widen(params), axis_name)
        return jax.tree.map(lambda u, size: u * jnp.maximum(size, min_scale), updates, sizes)

    return stateless(scale_leaves)
