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
"""Paths of what is no hidden matrix whatever its shape: embeddings and heads, by a name on the way, an `output` at the
root, and the vectors of layers, which are matrices where layers are stacked."""


@transform(shardable=True)
def hidden_matrices(
    inner: optax.GradientTransformation, others: optax.GradientTransformation, which: str | None = None
):
    """Give the hidden matrices of a model one transform, and all else another: vectors, embeddings, the head.

    A hidden matrix is a leaf of two dimensions at least, unless its path says otherwise: a name on it contains `embed`
    or is `wte`, `wpe`, `token`, `position`, `symbol`, `vocab`, `head`, `lm_head`, `output_head` or `logits`; the first
    name is `out` or `output`; the last is `b`, `bias`, `scale`, `gamma`, `beta` or `offset`, a vector of which stacked
    layers have a matrix; or a name contains `norm` or begins with `ln`. Names are all that can tell: look at what
    `gd.describe(tx, params)` says, and give a pattern where it is not what you mean.

    State: `PartitionState(inner_states)`, a dict of the states of `inner` and of `others`.

    Args:
      inner: what is done to hidden matrices.
      others: what is done to all else.
      which: a regular expression over whole paths (`"blocks/.*/kernel"`) that says which leaves are hidden matrices.

    Raises:
      ValueError: if the pattern is no regular expression, or no path matches it.

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
    are_hidden = chosen(which)

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda own: "inner" if own else "others", are_hidden(params))

    return optax.partition({"inner": with_routed_weight(inner), "others": with_routed_weight(others)}, labels)


def chosen(which: str | None) -> Callable[[Any], Any]:
    """The function of parameters that says which are hidden matrices: as a pattern does, or by shape and path."""
    return _are_hidden if which is None else tree.selector("hidden_matrices", which, "which")


def _are_hidden(params: Any) -> Any:
    """Of every leaf whether it is a hidden matrix, as far as its shape and its path tell."""
    named = tree.map_paths(lambda path: re.fullmatch(NOT_HIDDEN, path) is None, params)
    return jax.tree.map(lambda own, p: own and jnp.ndim(p) > 1, named, params)


def _with_adamw(direction, learning_rate, adam_learning_rate, weight_decay, which):
    """Hidden matrices go in a direction, all else as AdamW does."""
    rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    inner = chain(direction, add_decayed_weights(weight_decay), scale_by_learning_rate(learning_rate))
    return hidden_matrices(inner, adamw(rate, weight_decay=weight_decay), which)
