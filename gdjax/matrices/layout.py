"""Apply a function to the matrices of trees, on one device or shared among the devices of an axis.

In order: leaves are seen as matrices (`views`), matrices of one shape are stacked (`stacking`), each stack is divided
among devices (`assignment`), operands and results are exchanged (`communication`).
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gdjax import axes, tree
from gdjax.matrices.assignment import Assignment, MatrixBatch, assign_matrices, has_batch, local_batches
from gdjax.matrices.communication import collect, distribute
from gdjax.matrices.over_mesh import find_mesh, run_over_mesh
from gdjax.matrices.stacking import LeafMatrices, StackPlan, make_stack, plan_stacks, split_stacks
from gdjax.matrices.views import View, split_pattern, view
from gdjax.tree import Tree


@dataclasses.dataclass(frozen=True)
class MatrixShape:
    """The numbers of inputs and outputs of a matrix."""

    inputs: int
    outputs: int


class Layout(NamedTuple):
    """Settings of a matrix method: which matrices leaves hold, and which devices share the work on them."""

    who: str
    """Name of the transform, for errors."""
    views: Mapping[str, str] | None = None
    """Views by patterns of paths; the first pattern that matches a path counts."""
    axis_name: axes.AxisName = None
    """The axis whose devices share the work: a bound one, or one of the mesh that `jit` runs over."""
    dim: int | None = None
    """The dimension along which leaves are sharded over that axis; `None` if they are replicated."""
    oriented: bool = False
    """True if inputs and outputs differ, so that a stack must not mix transposed matrices with others."""

    @classmethod
    def of(
        cls,
        who: str,
        views: Mapping[str, str] | None = None,
        axis_name: axes.AxisName = None,
        dim: int | None = None,
        oriented: bool = False,
    ) -> "Layout":
        """Return a layout, or refuse arguments that cannot be; whether views fit is known when there are leaves."""
        if not (views is None or isinstance(views, Mapping)):
            raise ValueError(f"{who}: views must be a dict of views by patterns of paths, got {views!r}.")
        for pattern, pattern_of_view in (views or {}).items():
            try:
                re.compile(pattern)
                split_pattern(pattern_of_view)
            except (TypeError, ValueError, re.error) as error:
                raise ValueError(
                    f"{who}: views has {pattern!r}: {pattern_of_view!r}, which cannot be read: {error}."
                ) from None
        if not (dim is None or type(dim) is int) or (dim is not None and axis_name is None):
            must = "must be the dimension along which leaves are sharded over the axis axis_name"
            raise ValueError(f"{who}: dim {must}, got {dim!r} and axis_name {axis_name!r}.")
        return cls(who, views, axis_name, dim, oriented)

    def require_matches(self, paths: Sequence[str]) -> None:
        """Refuse a pattern of views that matches no path."""
        unmatched = [
            pattern for pattern in self.views or {} if paths and not any(re.fullmatch(pattern, path) for path in paths)
        ]
        if unmatched:
            raise ValueError(
                f"{self.who}: no path matches {tree.listed(unmatched)} of views; the paths are {tree.listed([*paths])}."
            )

    def view(self, path: str, shape: tuple[int, ...]) -> View:
        """Return the view of a leaf."""
        views = self.views or {}
        pattern = next((views[paths] for paths in views if re.fullmatch(paths, path)), None)
        try:
            return view(pattern, shape)
        except ValueError as error:
            where = f"views at {path!r}" if path else "views"
            raise ValueError(f"{self.who}: {where} must fit the leaf: {error}.") from None

    def shapes(self, values: Tree) -> Tree:
        """Return the tree of the shapes of global matrices."""
        paths, leaves, treedef = _flatten(values)
        is_sharded = self.dim is not None and axes.is_bound(self.axis_name)

        def shape(path: str, leaf: jax.Array) -> MatrixShape:
            of_leaf = axes.global_shape(leaf, self.axis_name, self.dim or 0) if is_sharded else leaf.shape
            return MatrixShape(*self.view(path, of_leaf).sizes()[1:])

        return treedef.unflatten(map(shape, paths, leaves))

    def check(self, params: Tree) -> None:
        """Refuse parameters that views do not fit and an axis that is not bound, for a method without stacked state."""
        paths, leaves, _ = _flatten(params)
        self.require_matches(paths)
        if find_mesh(self.axis_name, leaves) is None:
            self._plan(paths, leaves)
        self.shapes(params)

    def init(self, make: Callable[[MatrixBatch, jax.Array], Any], params: Tree) -> tuple[Any, ...]:
        """Return the state of each batch, `make(batch, zeros)` with zeros of the batch's shape `[count, m, n]`.

        Arrays that `make` uses are bound by `jax.tree_util.Partial`, as in `map`.
        """
        paths, leaves, _ = _flatten(tree.widen(tree.filled(params)))
        self.require_matches(paths)

        def run(make: Callable[..., Any], trees: Sequence[Any], _: Any) -> tuple[Any, tuple[Any, ...]]:
            batches = self._plan(paths, trees[0]).batches(self.axis_name)
            states = (axes.mark_varying(make(batch, zeros(batch)), self.axis_name) for batch in batches)
            return trees[0], tuple(states)

        def zeros(batch: MatrixBatch) -> jax.Array:
            return jnp.zeros((batch.count, *batch.plan.shape), batch.plan.dtype)

        return run_over_mesh(self.axis_name, self.dim, run, make, [leaves], ())[1]

    def map_stacks(self, f: Callable[[jax.Array], jax.Array], values: Tree) -> Tree:
        """Return the tree of `f(stack)`, for a function without state."""
        return self.map(lambda batch, _, stack: (f(stack), ()), [values], None)[0]

    def map(
        self, f: Callable[..., tuple[jax.Array, Any]], trees: Sequence[Any], state: Sequence[Any] | None
    ) -> tuple[Any, tuple[Any, ...]]:
        """Apply `f(batch, state, *stacks)` to every batch; return the tree of its results, and the new states.

        The state of a matrix without an update stays as it is.

        Args:
          f: takes the stacks `[count, m, n]` of all trees, with no more rows than columns, and returns one like them
            and the new state. The result must not depend on whether a matrix is transposed, nor on the order of its
            rows and columns. Arrays that `f` uses besides its arguments are bound by `jax.tree_util.Partial`, not
            closed over.
          trees: trees of one structure.
          state: the state of each batch, in order; `None` if `f` has none.
        """
        absent = [] if state is None else tree.absent_leaves(trees[0])
        like, trees = trees[0], tree.filled(trees) if any(absent) else trees
        paths, first, treedef = _flatten(trees[0])
        leaves_of_trees = [first, *(treedef.flatten_up_to(other) for other in trees[1:])]

        def run(f: Callable[..., Any], leaves_of_trees: Sequence[Sequence[jax.Array]], states: Sequence[Any]) -> Any:
            plan = self._plan(paths, leaves_of_trees[0])
            stacks = [[make_stack(stack, plan.matrices, leaves) for stack in plan.stacks] for leaves in leaves_of_trees]
            operands = zip(*distribute(plan.stacks, plan.assignments, stacks, self.axis_name), strict=True)
            batches = plan.batches(self.axis_name)
            before = [()] * len(batches) if state is None else states
            results = [self._apply(f, *of_batch) for of_batch in zip(batches, before, operands, strict=True)]
            if any(absent):
                flags = _flags_by_number(plan.matrices, absent, axes.size(self.axis_name))
                of_batches = zip(batches, before, results, strict=True)
                results = [(x, _keep_absent(flags, batch, old, new)) for batch, old, (x, new) in of_batches]
            collected = collect(plan.stacks, plan.assignments, [x for x, _ in results], self.axis_name)
            leaves = split_stacks(plan.stacks, plan.matrices, collected, leaves_of_trees[0])
            return leaves, tuple(new for _, new in results)

        leaves, states = run_over_mesh(self.axis_name, self.dim, run, f, leaves_of_trees, tuple(state or ()))
        result = treedef.unflatten(map(tree.typed_like, leaves, first))
        return tree.emptied(result, like) if any(absent) else result, states

    def _apply(self, f: Callable[..., Any], batch: MatrixBatch, state: Any, stacks: Sequence[jax.Array]) -> Any:
        """Return `f(batch, state, *stacks)`; a device that does not own the batch computes nothing."""
        rows = [len(x) for x in jax.tree.leaves(state)]
        if rows and min(rows) != batch.count:  # it would broadcast
            raise ValueError(
                f"{self.who}: the state must hold {batch.count} matrices in this stack, got {min(rows)}; "
                "make it with init for these params."
            )

        def work(state: Any, *stacks: jax.Array) -> Any:
            return axes.mark_varying(f(batch, state, *stacks), self.axis_name)

        def rest(state: Any, *stacks: jax.Array) -> Any:
            return axes.mark_varying((jnp.zeros_like(stacks[0]), state), self.axis_name)

        if not batch.owners:
            return f(batch, state, *stacks)
        return lax.cond(has_batch(batch, self.axis_name), work, rest, state, *stacks)

    def _plan(self, paths: Sequence[str], leaves: Sequence[jax.Array]) -> "_Plan":
        """Plan the matrices of leaves, their stacks, and the devices that work on these."""
        devices, first = axes.size(self.axis_name), 0
        matrices: dict[int, LeafMatrices] = {}
        for i, (path, leaf) in enumerate(zip(paths, leaves, strict=True)):
            if not leaf.size:
                continue
            of_leaf, view_here, sharded_dim = self._views_of(path, leaf, devices)
            local = self.axis_name is None if sharded_dim is None else not sharded_dim
            number, m, n = of_leaf.sizes()
            matrices[i] = LeafMatrices(view_here, (m, n), sharded_dim or None, local, first)
            first += number
        stacks = plan_stacks(matrices, leaves, devices, self.oriented)
        return _Plan(matrices, stacks, assign_matrices(stacks, devices))

    def _views_of(self, path: str, leaf: jax.Array, devices: int) -> tuple[View, View, int | None]:
        """Return the views of a global leaf and of this device's shard, and the sharded dimension of the stack.

        The dimension is 0 if the matrices on each device are complete, and `None` if the leaf is replicated.
        """
        at = None if self.dim is None else axes.sharded_dim(leaf, self.axis_name, self.dim)
        if at is None:
            self._require_invariant(path, leaf)
            replicated = self.view(path, leaf.shape)
            return replicated, replicated, None
        of_leaf = self.view(path, axes.global_shape(leaf, self.axis_name, self.dim or 0))
        try:
            return of_leaf, *of_leaf.shard(at, devices)
        except ValueError as error:
            raise ValueError(f"{self.who}: at {path!r}, {error}.") from None

    def _require_invariant(self, path: str, leaf: jax.Array) -> None:
        """Refuse a leaf that varies over the axis by its type where leaves must be replicated."""
        if over := axes.varying_axes(leaf) & axes.tracked_axes(self.axis_name):
            raise ValueError(
                f"{self.who}: updates at {path!r} must be the same on all devices of the axis {self.axis_name!r}, "
                f"got an array that varies over {sorted(map(str, over))}. Put mean_over before it, or pass the "
                "dimension along which leaves are sharded, dim=."
            )


class _Plan(NamedTuple):
    """The matrices of a tree, their stacks, and the devices that work on each stack."""

    matrices: Mapping[int, LeafMatrices]
    """By the index of the leaf."""
    stacks: Sequence[StackPlan]
    assignments: Sequence[Assignment]

    def batches(self, axis_name: axes.AxisName) -> list[MatrixBatch]:
        """Return the batches that this device works on."""
        return local_batches(self.stacks, self.assignments, self.matrices, axis_name)


def _flatten(values: Any) -> tuple[list[str], list[jax.Array], Any]:
    """Return the paths and the leaves of a tree, and its structure."""
    paths = [path for path, _ in tree.leaves_with_paths(values)]
    leaves, treedef = jax.tree.flatten(values)
    return paths, [jnp.asarray(x) for x in leaves], treedef


def _flags_by_number(matrices: Mapping[int, LeafMatrices], flags: Sequence[bool], devices: int) -> np.ndarray:
    """Return, by matrix number, whether the matrix belongs to a flagged leaf."""
    most = max((held.first + held.view.sizes()[0] * devices for held in matrices.values()), default=0)
    by_number = np.zeros(most, bool)
    for leaf, held in matrices.items():  # in the order of their numbers
        by_number[held.first :] = flags[leaf]
    return by_number


def _keep_absent(absent: np.ndarray, batch: MatrixBatch, before: Any, after: Any) -> Any:
    """Return the state of a batch after a step, in which matrices without an update keep their old state."""
    flags = jnp.asarray(absent)[batch.numbers]

    def chosen(old: jax.Array, new: jax.Array) -> jax.Array:
        rows = jnp.repeat(flags, len(old) // batch.count)
        return jnp.where(rows.reshape(-1, *[1] * (old.ndim - 1)), old, new)

    return jax.tree.map(chosen, before, after)
