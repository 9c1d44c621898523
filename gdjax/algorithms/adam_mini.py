"""Adam with one second moment for each block of parameters: Adam-mini."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.matrices import Layout
from gdjax.specs import with_auto_axes
from gdjax.transforms.moments import by_root, corrected, mean, means, squarable, square
from gdjax.value import AccumulatorDType, Decay, NonNegative, transform


class AdamMiniState(NamedTuple):
    """Adam's state, with few second moments."""

    count: Any
    """How many steps were taken, of shape ()."""
    mu: Any
    """$m$, the mean of gradients, shaped like the parameters."""
    nu: Any
    """$v$, of a leaf that is seen as matrices `[k, m, n]` of shape (k, 1, n), real."""


@transform
def scale_by_adam_mini(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    mu_dtype: AccumulatorDType = None,
    views: Any = None,
):
    r"""Adam with one second moment a block: all that feeds one output.

    $m \leftarrow \beta_1 m + (1 - \beta_1) g$, and of every block $b$
    $v_b \leftarrow \beta_2 v_b + (1 - \beta_2)\, \mathrm{mean}_{i \in b} |g_i|^2$; the update is
    $\hat m / (\sqrt{\hat v_b} + \epsilon)$ with $\hat m$, $\hat v$ as in `scale_by_adam`.

    A block is a column of the matrices that a leaf is seen as: of a kernel of inputs by outputs, one output; a vector
    is one block. A view says otherwise, by what it puts into a column:

    - `{"embed": "tokens d -> d tokens"}`: the row of a token, as an embedding needs it;
    - `{".*/(query|key)": "d (heads=8 w) -> (d w) heads"}`: a head;
    - `{".*/conv": "... outputs -> (...) outputs"}`: the filter of an output;
    - `{"layers/bias": "layers n -> n layers"}`: a vector of a stack of such.

    State: `AdamMiniState(count, mu, nu)`, 4 bytes a parameter and 4 a block (8 and 8 in float64).
    Source: Zhang et al. 2024, algorithm 1, blocks as of Transformers (https://arxiv.org/abs/2406.16793). Differs
    from the paper: weight decay is a transform of its own, and what a block is nobody guesses from names.

    Over an axis columns must be whole: divide leaves along their outputs.
    Gradients beyond 1.8e19 are clipped to that, as in `scale_by_adam`.

    Args:
      b1: $\beta_1$, in [0, 1).
      b2: $\beta_2$, in [0, 1).
      eps: $\epsilon$, in [0, inf).
      mu_dtype: the dtype in which `mu` is kept; by default that of the parameters, float32 at least.
      views: a view for every pattern of paths that has one, as in `gd.matrices.view`.

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

    def functions(given):
        """`(init, update)`, written for with_auto_axes axes: a view may cut what Explicit ones divide."""

        def init(params):
            layout.require_matches([path for path, _ in tree.leaves_with_paths(params)])
            nu = viewed(_mean_squares, tree.accumulators(params, 0))
            return AdamMiniState(jnp.zeros((), jnp.int32), tree.accumulators(params, 0, mu_dtype), nu)

        def update(updates, state, params=None):
            count, g = optax.safe_increment(state.count), tree.widen(updates)
            m, nu = means(squarable(g), state.mu, given["b1"]), viewed(second_moment, g, state.nu)
            scaled = viewed(over_blocks, corrected(m, given["b1"], count), corrected(nu, given["b2"], count))
            return tree.cast_like(scaled, updates), AdamMiniState(count, tree.cast_like(m, state.mu), nu)

        def second_moment(view, g, old):
            return mean(_mean_squares(view, g), old, given["b2"])

        def over_blocks(view, m, v):
            return view.leaf(by_root(view.matrices(m), v, given["eps"]))

        return init, update

    def viewed(f, first, *others):
        """The tree of `f(view, *leaves)`."""
        leaves, treedef = jax.tree.flatten(first)
        paths = [path for path, _ in tree.leaves_with_paths(first)]
        found = [layout.view(path, x.shape) for path, x in zip(paths, leaves, strict=True)]
        return treedef.unflatten(map(f, found, leaves, *map(treedef.flatten_up_to, others)))

    return with_auto_axes(functions, {"b1": b1, "b2": b2, "eps": eps})


def _mean_squares(view, x):
    """That of every column of a leaf's matrices; of none, 0."""
    number = max(view.sizes()[1], 1)
    return jnp.sum(square(view.matrices(x)) / number, axis=-2, keepdims=True)  # the sum may be inf, the mean not
