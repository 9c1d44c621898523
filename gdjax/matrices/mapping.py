"""A function of stacks of matrices, on the leaves of trees: alone, among the members of an axis, or over a mesh."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from gdjax import axes, tree
from gdjax.matrices.exchange import given, returned
from gdjax.matrices.shares import Piece, has, pieces, shares
from gdjax.matrices.stacks import Matrices, groups, stacked, taken_apart
from gdjax.matrices.view import View, sides, view
from gdjax.specs import split_arrays


@dataclasses.dataclass(frozen=True)
class Shape:
    """How many inputs and outputs a matrix has."""

    inputs: int
    outputs: int


class Layout(NamedTuple):
    """How leaves are matrices, and among whom the work on these is divided."""

    who: str
    """Of whom errors speak."""
    views: Mapping[str, str] | None = None
    """A view for every pattern of paths that has one; the first that matches."""
    axis_name: Any = None
    """The axis whose members divide the work: a bound one, or of the mesh that `jit` runs over."""
    dim: int | None = None
    """Along which dimension leaves are divided over that axis; none where every member has whole ones."""
    oriented: bool = False
    """Whether it matters what of a matrix is inputs: a stack then holds none that is turned beside one that is not."""

    @classmethod
    def of(
        cls, who: str, views: Any = None, axis_name: Any = None, dim: Any = None, oriented: bool = False
    ) -> "Layout":
        """A layout whose arguments can be: what patterns say of leaves is seen when there are any."""
        if not (views is None or isinstance(views, Mapping)):
            raise ValueError(f"{who}: views must be a dict of views by patterns of paths, got {views!r}.")
        for pattern, own in (views or {}).items():
            try:
                re.compile(pattern)
                sides(own)
            except (TypeError, ValueError, re.error) as error:
                raise ValueError(f"{who}: views has {pattern!r}: {own!r}, and that cannot be: {error}.") from None
        if not (dim is None or type(dim) is int) or (dim is not None and axis_name is None):
            must = "must be the dimension along which leaves are divided over the axis axis_name"
            raise ValueError(f"{who}: dim {must}, got {dim!r} and axis_name {axis_name!r}.")
        return cls(who, views, axis_name, dim, oriented)

    def require_matches(self, paths: Sequence[str]) -> None:
        """Refuse a pattern that no path matches."""
        idle = [own for own in self.views or {} if paths and not any(re.fullmatch(own, path) for path in paths)]
        if idle:
            found = tree.listed([*paths])
            raise ValueError(f"{self.who}: no path matches {tree.listed(idle)} of views; the paths are {found}.")

    def view(self, path: str, shape: tuple[int, ...]) -> View:
        """That of a leaf."""
        try:
            patterns = self.views or {}
            return view(next((patterns[own] for own in patterns if re.fullmatch(own, path)), None), shape)
        except ValueError as error:
            where = f"views at {path!r}" if path else "views"
            raise ValueError(f"{self.who}: {where} must fit the leaf: {error}.") from None

    def check(self, params: Any) -> None:
        """Refuse leaves that cannot be seen so, and an axis that is not there; where nothing is kept of stacks."""
        paths, leaves, _ = _flat(params)
        self.require_matches(paths)
        if self._mesh(leaves) is None:
            self._plan(paths, leaves)
        self.shapes(params)

    def init(self, make: Callable[[Piece, jax.Array], Any], params: Any) -> tuple[Any, ...]:
        """What is kept of each piece: `make(piece, zeros)` gets zeros of its shape, `[count, m, n]`."""
        paths, leaves, _ = _flat(tree.widen(tree.filled(params)))
        self.require_matches(paths)
        mesh = self._mesh(leaves)

        def own(make: Callable[..., Any], leaves: Sequence[Any], _: Any) -> tuple[Any, tuple[Any, ...]]:
            found, made, share = self._plan(paths, leaves[0])
            own = pieces(made, share, found, self.axis_name)
            return leaves[0], tuple(axes.mark_varying(make(piece, zeros(piece)), self.axis_name) for piece in own)

        def zeros(piece: Piece) -> jax.Array:
            return jnp.zeros((piece.number, *piece.group.shape), piece.group.dtype)

        return self._over(mesh, own, make, [leaves], ())[1]

    def each(self, f: Callable[[jax.Array], jax.Array], values: Any) -> Any:
        """The tree of what a function makes of every stack."""
        return self.map(lambda piece, _, stack: (f(stack), ()), [values], None)[0]

    def map(self, f: Callable[..., tuple[jax.Array, Any]], trees: Sequence[Any], kept: Sequence[Any] | None) -> Any:
        """The tree of what `f(piece, kept, *stacks)` makes of every piece, and what is kept after it.

        `f` takes the stacks `[count, m, n]` of all trees, rows never more than columns, and returns one like them; it
        must not mind if a matrix is turned, or has its rows or columns in another order. Arrays that it needs beside
        them are bound by `jax.tree_util.Partial`, not closed over. What is kept of a matrix without an update stays.
        """
        of_absent = [] if kept is None else tree.absent_leaves(trees[0])
        like, trees = trees[0], tree.filled(trees) if any(of_absent) else trees
        paths, first, treedef = _flat(trees[0])
        all_leaves = [first, *(treedef.flatten_up_to(other) for other in trees[1:])]

        def mapped(f: Callable[..., Any], all_leaves: Sequence[Sequence[jax.Array]], kept: Sequence[Any]) -> Any:
            found, made, share = self._plan(paths, all_leaves[0])
            stacks = [[stacked(group, found, leaves) for group in made] for leaves in all_leaves]
            own = zip(*given(made, share, stacks, self.axis_name), strict=True)
            worked = pieces(made, share, found, self.axis_name)
            before = [()] * len(worked) if stateless else kept
            done = [self._worked(f, *of) for of in zip(worked, before, own, strict=True)]
            if any(of_absent):
                left = _flags_by_number(found, of_absent, axes.size(self.axis_name))
                of_pieces = zip(worked, before, done, strict=True)
                done = [(moved, _keep_absent(left, piece, old, new)) for piece, old, (moved, new) in of_pieces]
            results = returned(made, share, [result for result, _ in done], self.axis_name)
            return taken_apart(made, found, results, all_leaves[0]), tuple(after for _, after in done)

        stateless = kept is None
        moved, kept = self._over(self._mesh(first), mapped, f, all_leaves, tuple(kept or ()))
        result = treedef.unflatten(map(tree.typed_like, moved, first))
        return tree.emptied(result, like) if any(of_absent) else result, kept

    def shapes(self, values: Any) -> Any:
        """The tree of the shapes `(inputs, outputs)` of whole matrices."""
        paths, leaves, treedef = _flat(values)
        bound = self.dim is not None and axes.is_bound(self.axis_name)

        def shape(path: str, leaf: jax.Array) -> "Shape":
            whole = axes.global_shape(leaf, self.axis_name, self.dim or 0) if bound else leaf.shape
            return Shape(*self.view(path, whole).sizes()[1:])

        return treedef.unflatten(map(shape, paths, leaves))

    def _worked(self, f: Callable[..., Any], piece: Piece, kept: Any, stacks: Sequence[jax.Array]) -> Any:
        """What a piece becomes; nothing is computed by members that have none."""
        rows = [len(x) for x in jax.tree.leaves(kept)]
        if rows and min(rows) != piece.number:  # it would broadcast
            raise ValueError(
                f"{self.who}: the state must hold {piece.number} matrices in this stack, got {min(rows)}; "
                "make it with init for these params."
            )

        def work(kept: Any, *stacks: jax.Array) -> Any:
            return axes.mark_varying(f(piece, kept, *stacks), self.axis_name)

        def rest(kept: Any, *stacks: jax.Array) -> Any:
            return axes.mark_varying((jnp.zeros_like(stacks[0]), kept), self.axis_name)

        return (
            lax.cond(has(piece, self.axis_name), work, rest, kept, *stacks) if piece.owners else f(piece, kept, *stacks)
        )

    def _plan(self, paths: Sequence[str], leaves: Sequence[jax.Array]) -> Any:
        """What each leaf is, the stacks that leaves lie in, and who works on each."""
        members, first = axes.size(self.axis_name), 0
        found: dict[int, Matrices] = {}
        for i, (path, leaf) in enumerate(zip(paths, leaves, strict=True)):
            if not leaf.size:
                continue
            at = None if self.dim is None else axes.sharded_dim(leaf, self.axis_name, self.dim)
            if at is None:
                self._require_same(path, leaf)
                own = part = self.view(path, leaf.shape)
                divided, alone = 0, self.axis_name is None
            else:
                own = self.view(path, axes.global_shape(leaf, self.axis_name, self.dim or 0))
                try:
                    part, divided = own.part(at, members)
                except ValueError as error:
                    raise ValueError(f"{self.who}: at {path!r}, {error}.") from None
                alone = not divided
            number, m, n = own.sizes()
            found[i] = Matrices(part, (m, n), divided or None, alone, first)
            first += number
        made = groups(found, leaves, members, self.oriented)
        return found, made, shares(made, members)

    def _require_same(self, path: str, leaf: jax.Array) -> None:
        if over := axes.varying_axes(leaf) & axes.tracked_axes(self.axis_name):
            raise ValueError(
                f"{self.who}: updates at {path!r} must be the same on all members of the axis {self.axis_name!r}, "
                f"got one that differs over {sorted(map(str, over))}. Put mean_over before it, or say along which "
                "dimension leaves are divided, dim=."
            )

    def _mesh(self, leaves: Sequence[jax.Array]) -> AbstractMesh | None:
        """The mesh that has the axis, where it is not bound."""
        if self.axis_name is None or axes.is_bound(self.axis_name):
            return None
        meshes = [jax.sharding.get_abstract_mesh(), *(jax.typeof(x).sharding.mesh for x in leaves)]
        own = {*axes.names(self.axis_name)}
        return next((mesh for mesh in meshes if own <= {*mesh.axis_names}), None)

    def _over(self, mesh: AbstractMesh | None, run: Callable[..., Any], f: Any, all_leaves: Any, kept: Any) -> Any:
        """Call `run(f, all_leaves, kept)`, over a mesh on each of its members; leaves are whole over all other axes."""
        if mesh is None:
            return run(f, [[_placed(x, PartitionSpec()) for x in leaves] for leaves in all_leaves], kept)
        specs = [self._spec(x, mesh) for x in all_leaves[0]]
        placed = [[_placed(x, spec) for x, spec in zip(of, specs, strict=True)] for of in all_leaves]
        parts = PartitionSpec(self.axis_name)
        arrays, bound = split_arrays(f)
        return jax.shard_map(
            lambda arrays, *given: run(bound(arrays), *given),
            mesh=mesh,
            in_specs=(PartitionSpec(), [specs] * len(placed), parts),
            out_specs=(specs, parts),
            axis_names={*axes.names(self.axis_name), *mesh.explicit_axes},
        )(arrays, placed, kept)

    def _spec(self, x: jax.Array, mesh: AbstractMesh) -> PartitionSpec:
        """How a leaf is divided over the axis of a mesh."""
        number = math.prod(mesh.shape[name] for name in axes.names(self.axis_name))
        if self.dim is None or not x.ndim:
            return PartitionSpec()
        at = self.dim % x.ndim if x.ndim > 1 else 0
        if x.shape[at] % number:
            return PartitionSpec()
        return PartitionSpec(*[None] * at, self.axis_name)


def _flat(values: Any) -> tuple[list[str], list[jax.Array], Any]:
    """The paths and the leaves of a tree, and its structure."""
    paths = [path for path, _ in tree.leaves_with_paths(values)]
    leaves, treedef = jax.tree.flatten(values)
    return paths, [jnp.asarray(x) for x in leaves], treedef


def _flags_by_number(found: Mapping[int, Matrices], flags: Sequence[bool], members: int) -> np.ndarray:
    """Return, by matrix number, whether the matrix belongs to a flagged leaf."""
    most = max((own.first + own.view.sizes()[0] * members for own in found.values()), default=0)
    by_number = np.zeros(most, bool)
    for leaf, own in found.items():  # in the order of their numbers
        by_number[own.first :] = flags[leaf]
    return by_number


def _keep_absent(absent: np.ndarray, piece: Piece, before: Any, after: Any) -> Any:
    """Return the state of a piece after a step, in which matrices without an update keep what they had."""
    own = jnp.asarray(absent)[piece.numbers]

    def of(x: jax.Array, new: jax.Array) -> jax.Array:
        rows = jnp.repeat(own, len(x) // piece.number)
        return jnp.where(rows.reshape(-1, *[1] * (x.ndim - 1)), x, new)

    return jax.tree.map(of, before, after)


def _placed(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    """An array divided over Explicit axes as a spec says; of others it says nothing."""
    mesh = jax.typeof(x).sharding.mesh
    if not mesh.explicit_axes:
        return x
    typed = [tuple(name for name in axes.names(own) if name in mesh.explicit_axes) or None for own in spec]
    return jax.reshard(x, NamedSharding(mesh, PartitionSpec(*typed)))
