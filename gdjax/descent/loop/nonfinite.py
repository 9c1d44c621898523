"""Explain where a loss or gradient that is not finite came from."""

import jax.numpy as jnp
import numpy as np
import optax

from gdjax import tree
from gdjax.tree import Tree


def explain_nonfinite(step: int, params: optax.Params, data: Tree, norms: np.ndarray) -> str:
    """Describe the likely origin of a step that is not finite.

    Args:
      step: the step.
      params: the parameters before it, which the descent kept.
      data: all data, if they are arrays.
      norms: of the gradients up to and including that step.
    """
    if path := first_nonfinite(params):
        source = "given" if step == 0 else "made by the update before it"
        return f"at step {step:,}: the parameters {source} are not finite at {path!r}"
    if step == 0:
        path = first_nonfinite(data)
        return f"at step 0, of finite parameters{f'; the data are not finite at {path!r}' if path else ''}"
    before = ", ".join(f"{norm:.3g}" for norm in norms[-6:-1])
    return f"at step {step:,}; gradient norms before it {before}; the parameters are the finite ones before it"


def first_nonfinite(arrays: optax.Params) -> str | None:
    """Return the path of the first array with an element that is not finite."""
    for path, leaf in tree.leaves_with_paths(arrays):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) and not jnp.isfinite(leaf).all():
            return path or "the one array"
    return None
