"""Where a loss or gradient that is not finite came from."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from gdjax import tree


def origin(step: int, params: Any, data: Any, norms: np.ndarray) -> str:
    """What can be told of it, in words.

    Args:
      step: at which it was seen.
      params: which it was seen at, and which were kept.
      data: all of them, where they are at hand.
      norms: of the gradients up to that step, this one too.
    """
    if path := first_nonfinite(params):
        made = "given" if step == 0 else "that the update before it made"
        return f"at step {step:,}: the parameters {made} are not finite at {path!r}"
    if step == 0:
        path = first_nonfinite(data)
        return f"at step 0, of finite parameters{f'; the data are not finite at {path!r}' if path else ''}"
    before = ", ".join(f"{norm:.3g}" for norm in norms[-6:-1])
    return f"at step {step:,}; gradient norms before it {before}; the parameters are the finite ones before it"


def first_nonfinite(arrays: Any) -> str | None:
    """The path of the first array that is not finite everywhere."""
    for path, leaf in tree.leaves_with_paths(arrays):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) and not jnp.isfinite(leaf).all():
            return path or "the one array"
    return None
