"""A matrix method for the hidden matrices of a model, AdamW for the rest."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.algorithms.adam import adamw
from gdjax.compose.chain import chain
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.value import (
    transform,
)
from gdjax.value.traits import with_routed_weight

_ENDS = r"\w*embed\w*|wte|wpe|tok(en)?s?|pos(ition(s|al)?)?|symbols?|vocab(ulary)?|((lm|output)_)?head|logits?"

_VECTORS = r"b|bias|scale|gamma|beta|offset|\w*norm\w*|ln\w*"

NOT_HIDDEN = rf"(?i)(.*/)?({_ENDS})(/.*)?|out(put)?(/.*)?|(.*/)?({_VECTORS})|(.*/)?(\w*norm\w*|ln\w*)/.*"
"""Paths of leaves that are never hidden matrices: embeddings, heads, `output` layers, and the vectors of layers.

The vectors are matrices if layers are stacked."""


@transform(shardable=True)
def hidden_matrices(
    inner: optax.GradientTransformation, others: optax.GradientTransformation, which: str | None = None
):
    """Apply one transform to the hidden matrices of a model, and another to vectors, embeddings and the head.

    A hidden matrix is a leaf of at least two dimensions whose path contains none of these names:

    - a name with `embed`, or `wte`, `wpe`, `token`, `position`, `symbol`, `vocab`, `head`, `lm_head`, `output_head` or
      `logits`;
    - `out` or `output` as the first name;
    - `b`, `bias`, `scale`, `gamma`, `beta` or `offset` as the last name: a vector, which stacked layers make a matrix;
    - a name with `norm`, or one that begins with `ln`.

    Names can mislead. Check the choice with `gd.describe(tx, params)`, and pass a pattern if it is wrong.

    State: `PartitionState(inner_states)`, a dict of the states of `inner` and of `others`.

    Args:
      inner: the transform of hidden matrices.
      others: the transform of all other leaves.
      which: a regular expression over whole paths (`"blocks/.*/kernel"`) that selects the hidden matrices.

    Raises:
      ValueError: if the pattern is not a regular expression, or if no path matches it.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> params = {"embed": jnp.ones((9, 4)), "layer": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}}
    >>> gd.describe(gd.hidden_matrices(gd.scale_by_muon(), gd.adam(0.1)), params)
    path          shape   dtype    state bytes  transform
    embed         [9, 4]  float32  288          adam
    layer/bias    [4]     float32  32           adam
    layer/kernel  [4, 4]  float32  64           scale_by_muon
    3 leaves, 56 parameters, 404 bytes of state, 20 of them shared
    """
    select = hidden_selector(which)

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda is_hidden: "inner" if is_hidden else "others", select(params))

    return optax.partition({"inner": with_routed_weight(inner), "others": with_routed_weight(others)}, labels)


def hidden_selector(which: str | None) -> Callable[[Any], Any]:
    """Return a function that marks the hidden matrices of a tree of parameters, by a pattern or by shape and path."""
    return _hidden_by_default if which is None else tree.selector("hidden_matrices", which, "which")


def _hidden_by_default(params: Any) -> Any:
    """Mark the leaves that are hidden matrices by their shape and path."""
    by_name = tree.map_paths(lambda path: re.fullmatch(NOT_HIDDEN, path) is None, params)
    return jax.tree.map(lambda is_hidden, p: is_hidden and jnp.ndim(p) > 1, by_name, params)


def combine_with_adamw(direction, learning_rate, adam_learning_rate, weight_decay, which):
    """Step along `direction` for hidden matrices, and by AdamW for all other leaves."""
    rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    inner = chain(direction, add_decayed_weights(weight_decay), scale_by_learning_rate(learning_rate))
    return hidden_matrices(inner, adamw(rate, weight_decay=weight_decay), which)
