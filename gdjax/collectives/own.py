"""What a transform over an axis asks for: that the axis is there, and that gradients are each member's own."""

from typing import Any

from jax import lax

from gdjax import axes, tree


def require_own(who: str, updates: Any, axis_name: axes.AxisName) -> None:
    """Refuse gradients that are the same on all members of an axis by their types, by path.

    The gradient of parameters that are the same on all is the sum over the axis by its type (`shard_map` with
    `check_vma`): what is taken for one member's share of it would be taken as many times as there are members.
    """
    size = members(who, axis_name)
    for path, leaf in tree.leaves_with_paths(updates):
        if not axes.is_divided(leaf, axis_name):
            where = f"updates at {path!r}" if path else "updates"
            raise ValueError(
                f"{who}: {where} must be each member's own over the axis {axis_name!r}, got what is the same on all by "
                f"its type: the sum over the axis is in it already, and its mean would be {size} times too large. Let "
                f"make_step(axis_name={axis_name!r}) take the gradient, or take it yourself of "
                f"jax.lax.pcast(params, {axis_name!r}, to='varying')."
            )


def members(who: str, axis_name: axes.AxisName) -> int:
    """How many members an axis has; an axis that is not there is refused."""
    try:
        return lax.axis_size(axis_name)
    except NameError:
        raise ValueError(
            f"{who}: the axis {axis_name!r} must be there, got no axis of this name. Call init and update within "
            f"vmap(..., axis_name={axis_name!r}), pmap or shard_map."
        ) from None


def require_name(who: str, axis_name: axes.AxisName) -> None:
    """Refuse what names no axis."""
    if not axes.names(axis_name):
        raise ValueError(f"{who}: axis_name must be the name of an axis, or a tuple of them, got {axis_name!r}.")
