"""Adam with one second moment for each block of parameters: Adam-mini."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.matrices import Layout
from gdjax.specs import with_auto_axes
from gdjax.transforms.moments import bias_corrected, clip_to_squarable, divide_by_root, mean, means, safe_square
from gdjax.value import AccumulatorDType, Decay, NonNegative, transform


class AdamMiniState(NamedTuple):
    """State of Adam with one second moment per block."""

    count: Any
    """The number of steps, int32 of shape ()."""
    mu: Any
    """$m$, the mean of gradients, shaped like the parameters."""
    nu: Any
    """$v$, real; of shape (k, 1, n) for a leaf viewed as matrices of shape (k, m, n)."""


@transform(upcast=True)
def scale_by_adam_mini(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    mu_dtype: AccumulatorDType = None,
    views: Mapping[str, str] | None = None,
):
    r"""Divide the mean of past gradients by one root mean square per block: the weights of one output.

    $m \leftarrow \beta_1 m + (1 - \beta_1) g$, and for each block $b$
    $v_b \leftarrow \beta_2 v_b + (1 - \beta_2)\, \mathrm{mean}_{i \in b} |g_i|^2$; the update is
    $\hat m / (\sqrt{\hat v_b} + \epsilon)$ with $\hat m$, $\hat v$ as in `scale_by_adam`.

    A leaf is viewed as a stack of matrices, and each column is a block: one output of a kernel of shape (inputs,
    outputs). A vector is one block. A view chooses other blocks by what it makes a column:

    - `{"embed": "tokens d -> d tokens"}`: the row of a token, as an embedding needs it;
    - `{".*/(query|key)": "d (heads=8 w) -> (d w) heads"}`: a head;
    - `{".*/conv": "... outputs -> (...) outputs"}`: the filter of an output;
    - `{"layers/bias": "layers n -> n layers"}`: one vector of a stack of vectors.

    State: `AdamMiniState(count, mu, nu)`, 4 bytes per parameter and 4 per block (8 and 8 in float64).
    Source: Zhang et al. 2024, algorithm 1, with the blocks of Transformers (https://arxiv.org/abs/2406.16793).
    Differs from the paper: weight decay is a separate transform, and blocks are never guessed from names.

    Over a mesh axis, shard leaves along their outputs, so that each device holds whole columns.
    Gradients beyond 1.8e19 are clipped to it, as in `scale_by_adam`.

    Args:
      b1: $\beta_1$, in [0, 1).
      b2: $\beta_2$, in [0, 1).
      eps: $\epsilon$, in [0, inf).
      mu_dtype: the dtype of `mu`; by default that of the parameters, at least float32.
      views: views by pattern of paths, as in `gd.matrices.view`.

    Raises:
      ValueError: if a view does not fit its leaf.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_adam_mini()
    >>> g = jnp.array([[0.5, 3.0], [0.0, 3.0], [0.0, -3.0], [0.0, 3.0]])
    >>> print(tx.update(g, tx.init(g))[0].round(3))
    [[ 2.  1.]
     [ 0.  1.]
     [ 0. -1.]
     [ 0.  1.]]
    """
    layout = Layout.of("scale_by_adam_mini", views)

    def functions(numbers):
        """Return `(init, update)` for Auto mesh axes: a view may split a dimension that Explicit axes shard."""

        def init(params):
            layout.require_matches([path for path, _ in tree.leaves_with_paths(params)])
            nu = map_views(_block_mean_squares, tree.accumulators(params, 0))
            return AdamMiniState(jnp.zeros((), jnp.int32), tree.accumulators(params, 0, mu_dtype), nu)

        def update(g, state, params=None):
            count = optax.safe_increment(state.count)
            m, nu = means(clip_to_squarable(g), state.mu, numbers["b1"]), map_views(second_moment, g, state.nu)
            m_hat, v_hat = bias_corrected(m, numbers["b1"], count), bias_corrected(nu, numbers["b2"], count)
            return map_views(divide_by_blocks, m_hat, v_hat), AdamMiniState(count, m, nu)

        def second_moment(view, g, old):
            return mean(_block_mean_squares(view, g), old, numbers["b2"])

        def divide_by_blocks(view, m, v):
            return view.leaf(divide_by_root(view.matrices(m), v, numbers["eps"]))

        return init, update

    def map_views(f, first, *others):
        """Return the tree of `f(view, *leaves)`."""
        leaves, treedef = jax.tree.flatten(first)
        paths = [path for path, _ in tree.leaves_with_paths(first)]
        leaf_views = [layout.view(path, x.shape) for path, x in zip(paths, leaves, strict=True)]
        return treedef.unflatten(map(f, leaf_views, leaves, *map(treedef.flatten_up_to, others)))

    return with_auto_axes(functions, {"b1": b1, "b2": b2, "eps": eps})


def _block_mean_squares(view, x):
    """Return the mean square of each column of a leaf's matrices, and 0 for an empty one."""
    size = max(view.sizes()[1], 1)
    # divided before it is summed, since the sum may overflow where the mean does not
    return jnp.sum(safe_square(view.matrices(x)) / size, axis=-2, keepdims=True)
