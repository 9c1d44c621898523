"""Choose the transform of each parameter by a tree of labels or of booleans."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from gdjax import tree
from gdjax.tree import Mask
from gdjax.value import transform
from gdjax.value.printing import brief


@transform
def partition(
    transforms: Mapping[Any, optax.GradientTransformation],
    param_labels: Any,
    *,
    mask_compatible_extra_args: bool = False,
):
    """Apply to each leaf the transform of its label.

    State: `PartitionState(inner_states)`, a dict of states by label, each for the leaves of that label.

    Args:
      transforms: transforms by label.
      param_labels: a tree of labels like the parameters or a prefix of it, or a function of the parameters that returns
        one. A callable tree, such as a module with `__call__`, counts as a tree unless all of its leaves are functions.
      mask_compatible_extra_args: whether to split extra arguments that are shaped like the parameters by label, too.

    Raises:
      ValueError: if a label has no transform.

    >>> import gdjax as gd
    >>> tx = gd.partition({"fast": gd.sgd(1.0), "slow": gd.sgd(0.1)}, {"w": "fast", "b": "slow"})
    >>> params = {"w": 1.0, "b": 1.0}
    >>> updates, state = tx.update(params, tx.init(params))
    >>> print(updates["w"], updates["b"])
    -1.0 -0.1
    """
    if not isinstance(transforms, Mapping):
        hint = "; write {label: transform}, with the labels of param_labels"
        raise TypeError(f"partition: transforms must be a dict of transforms by label, got {brief(transforms)}{hint}.")

    def labels(params: Any) -> Any:
        label_tree = param_labels(params) if tree.is_function(param_labels) else param_labels
        for path, label in tree.leaves_with_paths(label_tree):
            if label not in transforms:
                where = f" at {path!r}" if path else ""
                known = tree.listed([*transforms])
                raise ValueError(
                    f"partition: every label of param_labels must be one of {known}, got {label!r}{where}."
                )
        return label_tree

    return optax.partition({**transforms}, labels, mask_compatible_extra_args=mask_compatible_extra_args)


multi_transform = partition
"""Alias of `partition`, as in Optax."""


@transform(any_dtype=True)
def freeze(mask: Mask):
    """Keep the parameters where a mask is true, and pass the updates of the others unchanged.

    State: `MaskedState(inner_state)`, 0 bytes per parameter.

    Args:
      mask: a tree of booleans like the parameters or a prefix of it, or a function of the parameters that returns one.

    >>> import gdjax as gd
    >>> tx = gd.freeze({"w": False, "b": True})
    >>> params = {"w": 1.0, "b": 1.0}
    >>> updates, state = tx.update(params, tx.init(params))
    >>> print(updates["w"], updates["b"])
    1.0 0.0
    """
    return optax.masked(optax.set_to_zero(), tree.selector("freeze", mask))


@transform
def selective_transform(optimizer: optax.GradientTransformation, *, freeze_mask: Mask):
    """Keep the parameters where a mask is true, and transform the others.

    State: `PartitionState(inner_states)`, for the leaves that are not frozen.

    Args:
      optimizer: the transform for the leaves that are not frozen.
      freeze_mask: a tree of booleans like the parameters or a prefix of it, or a function of the parameters that
        returns one.

    >>> import gdjax as gd
    >>> tx = gd.selective_transform(gd.sgd(0.1), freeze_mask={"w": False, "b": True})
    >>> params = {"w": 1.0, "b": 1.0}
    >>> updates, state = tx.update(params, tx.init(params))
    >>> print(updates["w"], updates["b"])
    -0.1 0.0
    """
    mask = tree.selector("selective_transform", freeze_mask, "freeze_mask")

    def labels(params: Any) -> Any:
        frozen = mask(params) if tree.is_function(mask) else mask
        return jax.tree.map(lambda is_frozen: "freeze" if is_frozen else "train", frozen)

    return optax.partition({"train": optimizer, "freeze": optax.set_to_zero()}, labels)
