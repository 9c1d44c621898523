"""Describe the transform and the state of each leaf of a model."""

import contextlib
import dataclasses
import html
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.algorithms.hidden import hidden_matrices, hidden_selector
from gdjax.calls import Call
from gdjax.compose.by_path import by_path, labels
from gdjax.compose.chain import chain, named_chain
from gdjax.compose.masked import frozen, masked
from gdjax.compose.partition import freeze, partition, selective_transform
from gdjax.compose.watch import watch
from gdjax.explaining import require_numeric_leaves
from gdjax.transforms.scaling import identity
from gdjax.tree import Tree
from gdjax.value import GradientTransform
from gdjax.value.gradient_transform import require_value
from gdjax.value.printing import text
from gdjax.wrappers.packed import packed

_SHARED = "(shared)"
_HEADER = ("path", "shape", "dtype", "state bytes", "transform")
_BY_PATH = ("learning rate", "weight decay", "pattern")
"""Columns that are shown if a pattern chose the transform of a leaf."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a description: one leaf of the parameters."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    state_bytes: int
    transform: str
    learning_rate: str = ""
    """The learning rate as it prints; empty if the transform has none."""
    weight_decay: str = ""
    """The weight decay as it prints; `0.0` if a mask leaves the leaf out."""
    pattern: str = ""
    """The pattern of `by_path` or `masked` (`mask` for a tree) or the label of `partition` that chose the transform.

    Nested patterns are joined by ` > `.
    """

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, without the columns of patterns."""
        return self.path, str(list(self.shape)), self.dtype, f"{self.state_bytes:,}", self.transform


@dataclasses.dataclass(frozen=True)
class Description:
    """A table of leaves. It prints as text, and as HTML in a notebook."""

    rows: tuple[Row, ...]
    shared_bytes: int
    """Bytes of state that belong to no single leaf, mostly counters."""

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(math.prod(row.shape) for row in self.rows)

    @property
    def state_bytes(self) -> int:
        """The size of the whole state in bytes."""
        return self.shared_bytes + sum(row.state_bytes for row in self.rows)

    @property
    def totals(self) -> str:
        """The last line of the table, with totals."""
        return (
            f"{len(self.rows)} leaves, {self.parameters:,} parameters, {self.state_bytes:,} bytes of state, "
            f"{self.shared_bytes:,} of them shared"
        )

    @property
    def table(self) -> list[tuple[str, ...]]:
        """Return the header and the rows as text, with rates, decays and patterns if there are patterns."""
        if not any(row.pattern for row in self.rows):
            return [_HEADER, *(row.cells() for row in self.rows)]
        wide = ((*row.cells(), row.learning_rate, row.weight_decay, row.pattern) for row in self.rows)
        return [(*_HEADER, *_BY_PATH), *wide]

    def __repr__(self) -> str:
        lines = self.table
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join(line.rstrip() for line in [*table, self.totals])

    def _repr_html_(self) -> str:
        header, *rows = self.table
        head = "".join(f"<th>{name}</th>" for name in header)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{self.totals}</p>"


def describe(tx: GradientTransform, params: Tree) -> Description:
    """List the leaves of a model with the transform and the size of the state of each.

    Args:
      tx: a gdjax transform.
      params: a tree of arrays, or of their shapes (`jax.ShapeDtypeStruct`); nothing is computed.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> gd.describe(gd.by_path({"w": gd.adam(0.1), "b": gd.sgd(0.1)}), {"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)})
    path  shape   dtype    state bytes  transform  learning rate  weight decay  pattern
    b     [3]     float32  0            sgd        0.1                          b
    w     [2, 3]  float32  48           adam       0.1                          w
    2 leaves, 9 parameters, 52 bytes of state, 4 of them shared
    """
    require_value("describe", tx)
    leaves = dict(tree.leaves_with_paths(params))
    require_numeric_leaves("describe", "params", params)
    assigned = _assigned(tx, params)
    sizes = dict.fromkeys([_SHARED, *leaves], 0)
    tx = _without_packed(tx)
    state = jax.eval_shape(tx.init, params)
    for owner, leaf in zip(_owners(tx, state, params), jax.tree.leaves(state), strict=True):
        sizes[owner] += math.prod(leaf.shape) * leaf.dtype.itemsize
    rows = tuple(
        Row(path, jnp.shape(leaf), str(jnp.result_type(leaf)), sizes[path], *assigned[path])
        for path, leaf in leaves.items()
    )
    return Description(rows, shared_bytes=sizes[_SHARED])


def _without_packed(tx: GradientTransform) -> GradientTransform:
    """Return a transform without `packed`, which stores as many bytes in fewer buffers."""

    def is_packed(node):
        return isinstance(node, GradientTransform) and node.factory is packed

    return jax.tree.map(lambda node: node.inner if is_packed(node) else node, tx, is_leaf=is_packed)


def _owners(tx: GradientTransform, state: Any, params: Any) -> list[str]:
    """Return the path of the parameter of each leaf of the state; shared where Optax cannot tell (`lbfgs`)."""
    try:
        return _owning_paths(tx, state, params)
    except Exception:  # an init may fail in any way on the paths that replace the parameters
        return [_SHARED] * len(jax.tree.leaves(state))


def _owning_paths(tx: GradientTransform, state: Any, params: Any) -> list[str]:
    return jax.tree.leaves(
        optax.tree.map_params(
            tx,
            lambda leaf, path: leaf if tree.is_masked(leaf) else path,
            state,
            tree.map_paths(lambda path: path, params),
            transform_non_params=lambda _: _SHARED,
            is_leaf=tree.is_masked,
        )
    )


class Assigned(NamedTuple):
    """The transform of one leaf and its numbers, as `Row` shows them."""

    transform: str = ""
    learning_rate: str = ""
    weight_decay: str = ""
    pattern: str = ""


def _assigned(tx: GradientTransform, params: Any) -> dict[str, Assigned]:
    """Return the transform of each leaf."""
    paths = [path for path, _ in tree.leaves_with_paths(params)]
    factory = tx.factory
    if factory in (chain, named_chain):
        parts = [part if factory is chain else part[1] for part in tx.transforms]
        each = [_assigned(part, params) for part in parts]
        return {path: _join([one[path] for one in each]) for path in paths}
    if factory is by_path:
        return _describe_labels(tx.transforms, labels(list(tx.transforms), params), params)
    if factory is partition:
        label_tree = tx.param_labels(params) if tree.is_function(tx.param_labels) else tx.param_labels
        return _describe_labels(tx.transforms, _broadcast_prefix(label_tree, params), params)
    if factory is selective_transform:
        frozen_ones = _full_mask("selective_transform", tx.freeze_mask, params)
        return _describe_labels(
            {"train": tx.optimizer, "freeze": frozen()}, _label_mask(frozen_ones, "freeze", "train"), params
        )
    if factory is freeze:
        frozen_ones = _label_mask(_full_mask("freeze", tx.mask, params), "mask", "")
        return dict.fromkeys(paths, Assigned()) | _describe_labels({"mask": frozen()}, frozen_ones, params)
    if factory is hidden_matrices:
        hidden = hidden_selector(tx.which)(params)
        each = [
            _assigned(part, _select(params, hidden, is_hidden))
            for is_hidden, part in ((True, tx.inner), (False, tx.others))
        ]
        return {path: one[path] for one in each for path in one}
    if factory is masked:
        name = tx.mask if isinstance(tx.mask, str) else "mask"
        mask = _label_mask(_full_mask("masked", tx.mask, params), name, "")
        return dict.fromkeys(paths, Assigned()) | _describe_labels({name: tx.inner}, mask, params)
    if factory is watch:
        return _assigned(tx.inner, params)
    if isinstance(body := tx.body(), GradientTransform) and body.factory is hidden_matrices:
        hidden = _assigned(body.replace(inner=identity()), params)
        outer = _describe_arguments(tx, params)
        return {path: outer[path] if one.transform == "identity" else one for path, one in hidden.items()}
    inner = [part for part in tx.arguments.values() if isinstance(part, GradientTransform)]
    if len(inner) == 1:
        within, outer = _assigned(inner[0], params), _describe_arguments(tx, params)
        named = {path: f"{factory.__name__}({one.transform})" for path, one in within.items()}
        return {path: _join([within[path], outer[path]])._replace(transform=named[path]) for path in within}
    return _describe_arguments(tx, params)


def _describe_arguments(tx: GradientTransform, params: Any) -> dict[str, Assigned]:
    """Describe each leaf by the arguments of a transform, not by the transforms within it."""
    given = tx.arguments
    rate = _format_number(given.get("learning_rate"))
    decay = _format_number(next((given[name] for name in ("weight_decay", "weight_decay_rate") if name in given), None))
    mask = next((given[name] for name in ("mask", "weight_decay_mask") if name in given), None)
    decayed = dict.fromkeys((path for path, _ in tree.leaves_with_paths(params)), True)
    if decay and mask is not None:
        with contextlib.suppress(
            TypeError, ValueError
        ):  # the mask is for all leaves, and some went to another transform
            decayed |= dict(tree.leaves_with_paths(_full_mask(tx.factory.__name__, mask, params)))
    return {path: Assigned(tx.factory.__name__, rate, decay if decays else "0.0") for path, decays in decayed.items()}


def _format_number(number: Any) -> str:
    """Format a number or a schedule for a cell."""
    if number is None:
        return ""
    shown = text(number)
    return shown if len(shown) <= 60 or not isinstance(number, Call) else f"{number.factory.__name__}(...)"


def _join(parts: list[Assigned]) -> Assigned:
    """Join the descriptions of the transforms that one leaf passes in order."""
    transforms, rates, decays, patterns = ([cell for cell in cells if cell] for cells in zip(*parts, strict=True))
    return Assigned(" + ".join(transforms), " * ".join(rates), " + ".join(decays), " > ".join(patterns))


def _full_mask(who: str, mask: Any, params: Any) -> Any:
    """Return a mask as a tree of booleans like the parameters."""
    mask = tree.selector(who, mask)
    mask = mask(params) if tree.is_function(mask) else mask
    return jax.tree.map(bool, _broadcast_prefix(mask, params))


def _broadcast_prefix(prefix: Any, params: Any) -> Any:
    """Return a tree like the parameters, filled with the leaves of a prefix of it."""
    return jax.tree.map(lambda leaf, part: jax.tree.map(lambda _: leaf, part), prefix, params)


def _label_mask(mask: Any, selected: str, others: str) -> Any:
    """Replace booleans by labels."""
    return jax.tree.map(lambda is_selected: selected if is_selected else others, mask)


def _describe_labels(transforms: Mapping[Any, Any], labels: Any, params: Any) -> dict[str, Assigned]:
    """Describe each leaf by the transform of its label."""
    rows = {}
    for label, part in transforms.items():
        for path, one in _assigned(part, _select(params, labels, label)).items():
            rows[path] = one._replace(pattern=f"{label} > {one.pattern}" if one.pattern else str(label))
    return rows


def _select(params: Any, labels: Any, label: Any) -> Any:
    """Return the parameters of one label, with the others masked."""
    return jax.tree.map(lambda p, other: p if other == label else optax.MaskedNode(), params, labels)
