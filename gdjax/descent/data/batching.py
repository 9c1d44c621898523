"""How arrays that stay on the device are cut into batches."""

import collections
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import tree
from gdjax.descent.data.shuffling import LARGEST, shuffled
from gdjax.value.printing import brief, text


@dataclasses.dataclass(frozen=True)
class Plan:
    """How arrays of some length are cut into batches, epoch after epoch."""

    examples: int
    batch_size: int
    drop_remainder: bool = True

    @property
    def full(self) -> int:
        """Batches of an epoch that have all their examples."""
        return self.examples // self.batch_size

    @property
    def remainder(self) -> int:
        """Examples in the last batch of an epoch if it has fewer and is not dropped, else 0."""
        return 0 if self.drop_remainder else self.examples % self.batch_size

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch."""
        return self.full + (self.remainder > 0)

    @property
    def whole(self) -> bool:
        """Whether every batch is all there is: nothing to shuffle, nothing to gather."""
        return self.batch_size == self.examples

    def rows(self, key: jax.Array, count: Any, size: int) -> jax.Array:
        """The examples of the batch of a step: those next in the order of its epoch, each of them once."""
        epoch, batch = count // self.per_epoch, count % self.per_epoch
        return shuffled(jax.random.fold_in(key, epoch), batch * self.batch_size + jnp.arange(size), self.examples)


def plan(data: Any, batch_size: Any, drop_remainder: bool) -> Plan:
    """Check arrays and the size of a batch against each other."""
    if callable(data):
        raise TypeError(f"fit: data must be arrays or an iterable of batches, got the function {brief(data)}: call it.")
    if isinstance(data, list):
        raise TypeError(
            "fit: data must be arrays in a tuple or dict, or an iterable of batches; a list may be meant as either: "
            "give tuple(data), or np.asarray(data), where it holds all examples, and iter(data) where it holds batches."
        )
    if hasattr(data, "loss"):
        raise TypeError(f"fit: data must be arrays or an iterable of batches, got {brief(data)}; give its train.")
    leaves = list(tree.leaves_with_paths(data))
    if data is None:
        leaves = [("", np.zeros(1))]  # a loss without data: one step is one epoch
    if not leaves:
        raise ValueError(f"fit: data must hold one array at least, got {data!r}; None is for a loss that needs none.")
    for path, leaf in leaves:
        at = f" at {path!r}" if path else ""
        require_numbers("data", leaf, at)
        if not jnp.ndim(leaf):
            inside = any(isinstance(part, list) for part in jax.tree.leaves(data, is_leaf=_is_list))
            way = "; make arrays of lists: np.asarray" if inside else ""
            raise ValueError(f"fit: data must have a first axis of examples, got a scalar{at}{way}.")
    counts = collections.Counter(len(leaf) for _, leaf in leaves)
    examples = counts.most_common(1)[0][0]
    for path, leaf in leaves:
        if len(leaf) != examples:
            others = next(other for other, x in leaves if len(x) == examples)
            raise ValueError(
                f"fit: all data must have as many examples; {path!r} has {len(leaf):,}, {others!r} has {examples:,}."
            )
    if not examples:
        raise ValueError("fit: data must hold one example at least, got none.")
    if examples > LARGEST:
        raise ValueError(f"fit: data must hold {LARGEST:,} examples at the most, got {examples:,}; give an iterable.")
    size = examples if batch_size == "full" else batch_size
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f'fit: batch_size must be "full" or an integer of 1 at least, got {text(batch_size)}.')
    if size > examples:
        raise ValueError(
            f"fit: batch_size must be at most the number of examples, {examples:,}, got {text(size)}; "
            'batch_size="full" takes all of them.'
        )
    return Plan(examples, size, drop_remainder)


def require_numbers(what: str, leaf: Any, at: str) -> None:
    """Refuse strings, and arrays of strings, times or Python objects."""
    kind = getattr(getattr(leaf, "dtype", None), "kind", "")  # a PRNG key's dtype has none
    if isinstance(leaf, str) or kind in tuple("OSUMm"):
        raise TypeError(f"fit: {what} must be arrays of numbers, got {tree.short(leaf)}{at}.")


def _is_list(node: Any) -> bool:
    return isinstance(node, list)
