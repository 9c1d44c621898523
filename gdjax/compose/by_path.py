"""Choose the transform of each parameter by its path."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import optax

from gdjax import tree
from gdjax.tree import Tree
from gdjax.value import transform
from gdjax.value.traits import with_routed_weight


@transform(shardable=True)
def by_path(transforms: Mapping[str, optax.GradientTransformation]):
    """Apply to each leaf the transform of the first pattern that matches its path.

    A pattern is a regular expression that matches a whole path (`encoder/layers/0/kernel`). Dicts, modules and NNX
    states have the same paths, at `init` and at `update`.

    State: `PartitionState(inner_states)`, a dict of states by pattern, each for the leaves of that pattern.

    Args:
      transforms: transforms by pattern, in the order in which the patterns are tried.

    Raises:
      ValueError: if a pattern is not a regular expression or matches no leaf, or if a leaf matches no pattern.

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
            raise ValueError(f"by_path: {pattern!r} is not a regular expression: {error}.") from error
    patterns = list(transforms)
    routed: dict[Any, Any] = {pattern: with_routed_weight(tx) for pattern, tx in transforms.items()}
    init, _ = optax.partition(routed, lambda params: labels(patterns, params))
    _, update = optax.partition(routed, lambda updates: labels(patterns, updates, allow_unused=True))
    return init, update


def labels(patterns: list[str], params: Tree, allow_unused: bool = False) -> Tree:
    """Return the first pattern that matches the path of each leaf; with `allow_unused`, a pattern may match none."""
    paths = [path for path, _ in tree.leaves_with_paths(params)]
    if unmatched := [path for path in paths if _first_match(patterns, path) is None]:
        raise ValueError(
            f"by_path: no pattern matches {tree.listed(unmatched)}; the patterns are {tree.listed(patterns)}. "
            'A last pattern ".*" takes all that is left.'
        )
    chosen = tree.map_paths(lambda path: _first_match(patterns, path), params)
    matched = set(jax.tree.leaves(chosen))
    if paths and not allow_unused and (left := [pattern for pattern in patterns if pattern not in matched]):
        taken = [pattern for pattern in left if any(re.fullmatch(pattern, path) for path in paths)]
        why = (
            f"; earlier ones took all that {tree.listed(taken)} match"
            if taken
            else f"; the paths are {tree.listed(paths)}"
        )
        raise ValueError(f"by_path: nothing is left for the patterns {tree.listed(left)}{why}.")
    return chosen


def _first_match(patterns: list[str], path: str) -> str | None:
    return next((pattern for pattern in patterns if re.fullmatch(pattern, path)), None)
