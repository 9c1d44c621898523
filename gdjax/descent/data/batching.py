"""Cut arrays that stay on the device into batches."""

import collections
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import tree
from gdjax.descent.data.shuffling import MAX_EXAMPLES, shuffled
from gdjax.value.printing import brief, text


@dataclasses.dataclass(frozen=True)
class Batching:
    """Batches of arrays with a common number of examples, epoch after epoch."""

    examples: int
    batch_size: int
    drop_remainder: bool = True

    @property
    def full_batches(self) -> int:
        """Number of full batches in an epoch."""
        return self.examples // self.batch_size

    @property
    def remainder(self) -> int:
        """Number of examples in the incomplete last batch of an epoch; 0 if there is none or it is dropped."""
        return 0 if self.drop_remainder else self.examples % self.batch_size

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Number of steps in an epoch."""
        return self.full_batches + (self.remainder > 0)

    @property
    def is_full_batch(self) -> bool:
        """Does every batch hold all examples? Then there is nothing to shuffle or gather."""
        return self.batch_size == self.examples

    def rows(self, key: jax.Array, count: jax.Array, size: int) -> jax.Array:
        """Return the examples of one batch: the next ones in the shuffled order of its epoch.

        Args:
          key: of the order of examples.
          count: steps taken before.
          size: examples in the batch.
        """
        epoch, batch = count // self.steps_per_epoch, count % self.steps_per_epoch
        return shuffled(jax.random.fold_in(key, epoch), batch * self.batch_size + jnp.arange(size), self.examples)


def make_batching(data: object, batch_size: int | str, drop_remainder: bool) -> Batching:
    """Check arrays and a batch size against each other, and return the batches that they make.

    Raises:
      TypeError: if data are not arrays of numbers.
      ValueError: if arrays differ in length, or the batch size does not fit them.
    """
    if callable(data):
        raise TypeError(f"fit: data must be arrays or an iterable of batches, got the function {brief(data)}: call it.")
    if isinstance(data, list):
        raise TypeError(
            "fit: data must be arrays in a tuple or dict, or an iterable of batches; a list could mean either. "
            "Give tuple(data), or np.asarray(data), where it holds all examples, and iter(data) where it holds batches."
        )
    if hasattr(data, "loss"):
        raise TypeError(f"fit: data must be arrays or an iterable of batches, got {brief(data)}; give its train.")
    leaves = list(tree.leaves_with_paths(data))
    if data is None:
        leaves = [("", np.zeros(1))]  # a loss without data: one step is one epoch
    if not leaves:
        raise ValueError(f"fit: data must hold at least one array, got {data!r}; None is for a loss that needs none.")
    for path, leaf in leaves:
        _require_examples(data, path, leaf)
    examples = _common_length(leaves)
    size = examples if batch_size == "full" else batch_size
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f'fit: batch_size must be "full" or an integer of at least 1, got {text(batch_size)}.')
    if size > examples:
        raise ValueError(
            f"fit: batch_size must be at most the number of examples, {examples:,}, got {text(size)}; "
            'batch_size="full" takes all of them.'
        )
    return Batching(examples, size, drop_remainder)


def _require_examples(data: Any, path: str, leaf: Any) -> None:
    at = f" at {path!r}" if path else ""
    require_numbers("data", leaf, at)
    if not jnp.ndim(leaf):
        has_lists = any(isinstance(node, list) for node in jax.tree.leaves(data, is_leaf=_is_list))
        hint = "; make arrays of lists: np.asarray" if has_lists else ""
        raise ValueError(f"fit: data must have a first axis of examples, got a scalar{at}{hint}.")


def _common_length(leaves: list[tuple[str, Any]]) -> int:
    """Return the number of examples, the same for all leaves."""
    lengths = collections.Counter(len(leaf) for _, leaf in leaves)
    examples = lengths.most_common(1)[0][0]
    for path, leaf in leaves:
        if len(leaf) != examples:
            other = next(other for other, x in leaves if len(x) == examples)
            raise ValueError(
                "fit: all arrays of data must have the same number of examples; "
                f"{path!r} has {len(leaf):,}, {other!r} has {examples:,}."
            )
    if not examples:
        raise ValueError("fit: data must hold at least one example, got none.")
    if examples > MAX_EXAMPLES:
        raise ValueError(f"fit: data must hold at most {MAX_EXAMPLES:,} examples, got {examples:,}; give an iterable.")
    return examples


def require_numbers(name: str, leaf: object, at: str) -> None:
    """Raise for strings, and for arrays of strings, times or Python objects."""
    kind = getattr(getattr(leaf, "dtype", None), "kind", "")  # a PRNG key's dtype has none
    if isinstance(leaf, str) or kind in tuple("OSUMm"):
        raise TypeError(f"fit: {name} must be arrays of numbers, got {tree.short(leaf)}{at}.")


def _is_list(node: Any) -> bool:
    return isinstance(node, list)
