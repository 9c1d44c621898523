"""Record norms of gradients, updates and parameters in the state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import axes, norms
from gdjax.axes import AxisName
from gdjax.value import transform
from gdjax.value.diagnose import require_params
from gdjax.value.traits import has_trait, local_grad_axes


class WatchState(NamedTuple):
    """State of `watch`: the inner state, and the norms of the last step."""

    inner_state: Any
    seen: dict[str, jax.Array]
    """Norms by name, each a float of shape ()."""


@transform(shardable=True)
def watch(inner: optax.GradientTransformation, name: str = "", axis_name: AxisName = None):
    r"""Record the norms of the gradients, of a transform's updates, and of the parameters.

    `gd.metrics(state)` reads `grad_norm`, `update_norm` and `param_norm`, which are zero before the first step. The
    state has the same type at every step, so `scan` can carry it. Around a transform that averages gradients over an
    axis, `grad_norm` is the root mean square over its devices. Around `local_steps`, all norms are per device.

    State: `WatchState(inner_state, seen)`, 12 bytes in all beside the inner one.

    Args:
      inner: the transform to watch.
      name: a prefix for the names of the norms (`encoder/grad_norm`), for several watched transforms.
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded.

    Raises:
      ValueError: if `update` is called without `params`.

    >>> import gdjax as gd
    >>> tx = gd.watch(gd.sgd(0.5))
    >>> updates, state = tx.update(4.0, tx.init(3.0), 3.0)
    >>> print({name: float(norm) for name, norm in gd.metrics(state).items()})
    {'grad_norm': 4.0, 'param_norm': 3.0, 'update_norm': 2.0}
    """
    if not isinstance(name, str):
        raise TypeError(f"watch: name must be a string, got {name!r}.")
    prefix = f"{name}/" if name else ""
    watched = [f"{prefix}{of}_norm" for of in ("grad", "param", "update")]

    over, per_device = local_grad_axes(inner), has_trait(inner, "local_params")

    def init(params):
        seen = {norm: jnp.zeros((), float) for norm in watched}
        return WatchState(inner_state=inner.init(params), seen=axes.mark_varying(seen, over) if per_device else seen)

    def update(grads, state, params=None, **extra_args):
        require_params("watch", params)
        updates, inner_state = inner.update(grads, state.inner_state, params, **extra_args)
        grad_norm, *others = norms.global_norms([grads, params, updates], axis_name)
        values = (grad_norm if per_device else norms.rms_over_axis(grad_norm, over), *others)
        seen = {norm: jnp.asarray(value, float) for norm, value in zip(watched, values, strict=True)}
        return updates, WatchState(inner_state=inner_state, seen=seen)

    return init, update


def metrics(state: optax.OptState) -> dict[str, jax.Array]:
    """Return the norms that watched transforms recorded at the last step, by name.

    Args:
      state: the state of any transform.

    Raises:
      TypeError: if `state` is an optimizer.
      ValueError: if two transforms recorded the same name.
    """
    if isinstance(state, optax.GradientTransformation):
        raise TypeError("metrics: give the state that update returned, got the optimizer itself.")
    found: dict[str, jax.Array] = {}
    for node in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, WatchState)):
        for seen in (node.seen, metrics(node.inner_state)) if isinstance(node, WatchState) else ():
            if twice := sorted(found.keys() & seen.keys()):
                raise ValueError(f"metrics: recorded more than once: {twice}. Give each watch a different name.")
            found |= seen
    return found
