"""What a transform over an axis asks for: an axis, and gradients that are each member's own."""

from typing import Any

from gdjax import axes, tree


def require_own(who: str, updates: Any, axis_name: axes.AxisName) -> None:
    """Refuse gradients that are the same on all members of an axis by their types, by path.

    The gradient of parameters that are the same on all is the sum over the axis by its type (`shard_map` with
    `check_vma`): what is taken for one member's share of it would be taken as many times as there are members.
    """
    for path, leaf in tree.leaves_with_paths(updates):
        if same := [name for name in axes.names(axis_name) if name not in axes.sharded_axes(leaf, axis_name)]:
            where = f"updates at {path!r}" if path else "updates"
            shown = repr(same[0] if len(same) == 1 else tuple(same))
            raise ValueError(
                f"{who}: {where} must be each member's own over the axis {shown}, got what is the same on all by its "
                "type: their mean was taken before; or, of parameters that all share, it is the sum, "
                f"{axes.size(tuple(same))} times too large. Let make_step(axis_name={shown}) take the gradient, or "
                f"take it yourself of jax.lax.pcast(params, {shown}, to='varying')."
            )


def require_name(who: str, axis_name: Any) -> axes.AxisName:
    """The name of an axis, or several in a tuple; anything else is refused."""
    names = axes.names(axis_name)
    if not names or len(set(names)) < len(names):
        must = "must be the name of an axis, or a tuple of different ones"
        raise ValueError(f"{who}: axis_name {must}, got {axis_name!r}.")
    return names if isinstance(axis_name, list) else axis_name
