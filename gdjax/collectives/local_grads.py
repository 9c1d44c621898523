"""Checks of transforms over an axis: the name of the axis, and gradients that are per-device."""

from gdjax import axes, tree
from gdjax.tree import Tree


def require_local_grads(who: str, updates: Tree, axis_name: axes.AxisName) -> None:
    """Refuse gradients whose types are invariant over an axis, by path.

    Under `shard_map(check_vma=True)` the gradient of invariant parameters is already the sum over the axis. A mean that
    takes it for one device's gradient would be too large by the number of devices.
    """
    for path, leaf in tree.leaves_with_paths(updates):
        sharded = axes.sharded_axes(leaf, axis_name)
        if invariant := [name for name in axes.names(axis_name) if name not in sharded]:
            where = f"updates at {path!r}" if path else "updates"
            shown = repr(invariant[0] if len(invariant) == 1 else tuple(invariant))
            raise ValueError(
                f"{who}: {where} must be per-device over the axis {shown}, got an array that is invariant by its type. "
                "It is a mean already; or it is the gradient of invariant parameters, and so the sum over the axis, "
                f"{axes.size(tuple(invariant))} times too large. Let make_step(axis_name={shown}) take the gradient, "
                f"or take it of jax.lax.pcast(params, {shown}, to='varying')."
            )


def require_axis_name(who: str, axis_name: axes.AxisName) -> axes.AxisName:
    """Return the name of an axis, or several as a tuple; refuse anything else."""
    names = axes.names(axis_name)
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"{who}: axis_name must be the name of an axis, or a tuple of different names, got {axis_name!r}."
        )
    return names if isinstance(axis_name, list) else axis_name
