"""A transform for every part of a model, chosen by the paths of its parameters."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import optax

from gdjax import tree
from gdjax.value import transform
from gdjax.value.traits import with_routed_weight


@transform(shardable=True)
def by_path(transforms: Mapping[str, optax.GradientTransformation]):
    """Give every leaf the transform of the first pattern that matches its path.

    A pattern is a regular expression that matches a whole path (`encoder/layers/0/kernel`). The paths are the same for
    dicts, modules and NNX states, at `init` and at `update`.

    State: `PartitionState(inner_states)`, a dict of the transforms' states by pattern, each of its own leaves alone.

    Args:
      transforms: transforms by pattern, in the order in which the patterns are tried.

    Raises:
      ValueError: if a pattern is no regular expression, a leaf matches no pattern, or a pattern no leaf.

    >>> import gdjax as gd
    >>> tx = gd.by_path({".*/bias": gd.frozen(), ".*": gd.sgd(0.1)})
    >>> params = {"dense": {"kernel": 1.0, "bias": 1.0}}
    >>> updates, state = tx.update(params, tx.init(params))
    >>> print(updates["dense"]["kernel"], updates["dense"]["bias"])
    -0.1 0.0
    """
    if not (isinstance(transforms, Mapping) and transforms):
        raise TypeError(f"by_path: transforms must be a dict of at least one, by pattern, got {transforms}.")
    for pattern in transforms:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ValueError(f"by_path: {pattern!r} is no regular expression: {error}.") from error
    patterns = list(transforms)
    each: dict[Any, Any] = {pattern: with_routed_weight(tx) for pattern, tx in transforms.items()}
    init, _ = optax.partition(each, lambda params: labels(patterns, params))
    _, update = optax.partition(each, lambda updates: labels(patterns, updates, idle=True))
    return init, update


def labels(patterns: list[str], params: Any, idle: bool = False) -> Any:
    """Return the first pattern that matches the path of each leaf; with `idle` some patterns may match none."""
    paths = [path for path, _ in tree.leaves_with_paths(params)]
    if unmatched := [path for path in paths if _first(patterns, path) is None]:
        raise ValueError(
            f"by_path: no pattern matches {tree.listed(unmatched)}; the patterns are {tree.listed(patterns)}. "
            'A last pattern ".*" takes all that is left.'
        )
    found = tree.map_paths(lambda path: _first(patterns, path), params)
    matched = set(jax.tree.leaves(found))
    if paths and not idle and (left := [pattern for pattern in patterns if pattern not in matched]):
        taken = [pattern for pattern in left if any(re.fullmatch(pattern, path) for path in paths)]
        why = (
            f"; earlier ones took all that {tree.listed(taken)} match"
            if taken
            else f"; the paths are {tree.listed(paths)}"
        )
        raise ValueError(f"by_path: nothing is left for the patterns {tree.listed(left)}{why}.")
    return found


def _first(patterns: list[str], path: str) -> str | None:
    return next((pattern for pattern in patterns if re.fullmatch(pattern, path)), None)
