"""Partition specs of arrays, read from their types; and code that knows Auto axes alone, run under Explicit ones."""

import collections
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from gdjax import tree
from gdjax.calls import Call
from gdjax.tree import Tree


class SpecsByPath:
    """The specs of known arrays, by path and shape. An array that shares a path and a shape with one follows it.

    Args:
      *trees: the known arrays.
      spec: returns the spec of a known array; by default the one in its type.
    """

    def __init__(self, *trees: Any, spec: Callable[[Any], PartitionSpec] | None = None):
        self._known = collections.defaultdict(list)
        for known in trees:
            for path, x in tree.leaves_with_paths(known):
                if hasattr(x, "shape"):
                    self._known[_names(path)].append((x.shape, (spec or spec_of)(x)))

    def spec(self, path: str, shape: tuple[int, ...]) -> PartitionSpec:
        """Return the spec of the known array with the longest path that `path` ends in.

        The known shape must be the last dimensions of `shape`; dimensions ahead of them are replicated. Without such an
        array the spec is replicated.
        """
        names = _names(path)
        endings = (names[i:] for i in range(len(names) + 1))
        for known_shape, spec in next((self._known[ending] for ending in endings if ending in self._known), []):
            ahead = len(shape) - len(known_shape)
            if ahead >= 0 and shape[ahead:] == known_shape:
                return PartitionSpec(*[None] * ahead, *spec)
        return PartitionSpec()

    def of_leaves(self, values: Tree) -> list[PartitionSpec]:
        """Return the spec of every leaf that is an array, in order."""
        return [self.spec(path, x.shape) for path, x in tree.leaves_with_paths(values) if hasattr(x, "shape")]


def spec_of(x: object) -> PartitionSpec:
    """Return the partition spec in the type of an array."""
    return jax.typeof(x).sharding.spec if _is_array(x) else PartitionSpec()


def explicit_mesh(values: Tree) -> AbstractMesh | None:
    """Return the mesh with Explicit axes that the arrays of a tree lie on; `None` if there is none."""
    meshes = (jax.typeof(x).sharding.mesh for x in jax.tree.leaves(values) if _is_array(x))
    return next((mesh for mesh in meshes if mesh.explicit_axes), None)


def split_arrays(values: Tree) -> tuple[list[Any], Callable[[Any], Any]]:
    """Return the arrays of a tree, and a function that rebuilds the tree with other arrays in their places."""
    leaves, treedef = jax.tree.flatten(values)
    places = [i for i, x in enumerate(leaves) if _is_array(x)]

    def rebuild(arrays: Any) -> Any:
        by_place = dict(zip(places, arrays, strict=True))
        return treedef.unflatten([by_place.get(i, x) for i, x in enumerate(leaves)])

    return [leaves[i] for i in places], rebuild


def with_auto_axes(make: Callable[[Mapping[str, Any]], Any], arguments: Mapping[str, Any]) -> Any:
    """Return the pair `(init, update)` of `make(arguments)`, which then need not know Explicit axes.

    Its results have types again. Updates, and the state of `init`, take the specs of the parameters whose paths and
    shapes they share; the state of `update` keeps its specs. Functions among the extra arguments (`value_fn`) were
    written for Explicit axes and are called with them. Where no axis is Explicit, the pair runs as it is.
    """
    body = make(arguments)
    if isinstance(body, Call) or not (isinstance(body, tuple) and len(body) == 2):
        return body

    def init(params: Any) -> Any:
        if (mesh := explicit_mesh(params)) is None:
            return body[0](params)
        return _run_auto(
            lambda args, params: make(args)[0](params), (arguments, params), mesh, SpecsByPath(params).of_leaves
        )

    @functools.wraps(body[1])
    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        if (mesh := explicit_mesh((updates, state, params))) is None:
            return body[1](updates, state, params, **extra_args)
        known = SpecsByPath(params, updates, extra_args)

        def run(arguments: Any, updates: Any, state: Any, params: Any, extra: Any) -> Any:
            extra = jax.tree.map(lambda x: _with_explicit_axes(x, mesh, known) if callable(x) else x, extra)
            return make(arguments)[1](updates, state, params, **extra)

        def specs(result: Any) -> list[PartitionSpec]:
            updates, new_state = result
            if jax.tree.structure(new_state) == jax.tree.structure(state):
                return known.of_leaves(updates) + [spec_of(x) for x in jax.tree.leaves(state)]
            return known.of_leaves(updates) + known.of_leaves(new_state)

        return _run_auto(run, (arguments, updates, state, params, extra_args), mesh, specs)

    return init, update


def _run_auto(f: Callable[..., Any], args: Any, mesh: AbstractMesh, specs: Callable[[Any], list[PartitionSpec]]) -> Any:
    """Call a function with Auto axes; `specs` returns the specs of the leaves of its result."""
    arrays, rebuild = split_arrays(args)
    auto = functools.partial(jax.sharding.auto_axes, axes=mesh.explicit_axes)

    def run(*arrays: Any) -> Any:
        return f(*rebuild(arrays))

    like = jax.eval_shape(auto(run, out_sharding=NamedSharding(mesh, PartitionSpec())), *arrays)
    if not jax.tree.leaves(like):
        return like
    shardings = [NamedSharding(mesh, spec) for spec in specs(like)]
    leaves = auto(lambda *arrays: jax.tree.leaves(run(*arrays)), out_sharding=shardings)(*arrays)
    return jax.tree.structure(like).unflatten(leaves)


def _with_explicit_axes(f: Callable[..., Any], mesh: AbstractMesh, known: SpecsByPath) -> Callable[..., Any]:
    """Return a function that runs `f` with Explicit axes when called where they are Auto."""

    @functools.wraps(f)
    def called(*args: Any, **kwargs: Any) -> Any:
        arrays, rebuild = split_arrays((args, kwargs))

        def run(*arrays: Any) -> Any:
            args, kwargs = rebuild(arrays)
            return f(*args, **kwargs)

        named = tree.leaves_with_paths((args, kwargs))
        specs = tuple(known.spec(path, x.shape) for path, x in named if _is_array(x))
        return jax.sharding.explicit_axes(run, axes=mesh.explicit_axes, in_sharding=specs)(*arrays)

    return called


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array)


def _names(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")) if path else ()
