"""Bodies written without a thought of Explicit axes, whose divisions are in types: they run with automatic ones."""

import collections
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from gdjax import tree
from gdjax.value.base import Value


class Near:
    """Arrays by their paths, and how each is divided: what others follow that have their paths and shapes."""

    def __init__(self, *trees: Any, spec: Callable[[Any], PartitionSpec] | None = None):
        self.found = collections.defaultdict(list)
        for each in trees:
            for path, x in tree.leaves_with_paths(each):
                if hasattr(x, "shape"):
                    self.found[_parts(path)].append((x.shape, (spec or spec_of)(x)))

    def spec(self, path: str, shape: tuple[int, ...]) -> PartitionSpec:
        """That of the array whose path a path ends in, of several the longest, if the last dimensions are its."""
        parts = _parts(path)
        ends = (parts[i:] for i in range(len(parts) + 1))
        for last, spec in next((self.found[end] for end in ends if end in self.found), []):
            ahead = len(shape) - len(last)
            if ahead >= 0 and shape[ahead:] == last:
                return PartitionSpec(*[None] * ahead, *spec)
        return PartitionSpec()

    def specs(self, values: Any) -> list[PartitionSpec]:
        """Those of all leaves that are arrays."""
        return [self.spec(path, x.shape) for path, x in tree.leaves_with_paths(values) if hasattr(x, "shape")]


def automatic(make: Callable[[Mapping[str, Any]], Any], arguments: Mapping[str, Any]) -> Any:
    """The pair `(init, update)` that `make(arguments)` returns, for which Explicit axes are automatic.

    What comes out has types again: updates, and what `init` makes, are divided as the parameters of their paths and
    shapes, and a state is as it was. Functions among the extra arguments (`value_fn`) are called with Explicit axes,
    for which they were written. Where no axis is Explicit the pair is used as it is.
    """
    body = make(arguments)
    if isinstance(body, Value) or not (isinstance(body, tuple) and len(body) == 2):
        return body

    def init(params: Any) -> Any:
        if (mesh := explicit_mesh(params)) is None:
            return body[0](params)
        return _run(lambda given, params: make(given)[0](params), (arguments, params), mesh, Near(params).specs)

    @functools.wraps(body[1])
    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        if (mesh := explicit_mesh((updates, state, params))) is None:
            return body[1](updates, state, params, **extra_args)
        near = Near(params, updates, extra_args)

        def run(given: Any, updates: Any, state: Any, params: Any, extra: Any) -> Any:
            extra = jax.tree.map(lambda x: _explicitly(x, mesh, near) if callable(x) else x, extra)
            return make(given)[1](updates, state, params, **extra)

        def specs(after: Any) -> list[PartitionSpec]:
            kept = jax.tree.structure(after[1]) == jax.tree.structure(state)
            return near.specs(after[0]) + (
                [spec_of(x) for x in jax.tree.leaves(state)] if kept else near.specs(after[1])
            )

        return _run(run, (arguments, updates, state, params, extra_args), mesh, specs)

    return init, update


def explicit_mesh(values: Any) -> AbstractMesh | None:
    """The mesh with Explicit axes that arrays live on, if there is one."""
    meshes = (jax.typeof(x).sharding.mesh for x in jax.tree.leaves(values) if isinstance(x, jax.Array))
    return next((mesh for mesh in meshes if mesh.explicit_axes), None)


def _run(f: Callable[..., Any], args: Any, mesh: AbstractMesh, specs: Callable[[Any], list[PartitionSpec]]) -> Any:
    """Call a function with automatic axes; `specs` says how the leaves of what it returns are divided."""
    arrays, rest = apart(args)
    typed = functools.partial(jax.sharding.auto_axes, axes=mesh.explicit_axes)

    def run(*arrays: Any) -> Any:
        return f(*rest(arrays))

    like = jax.eval_shape(typed(run, out_sharding=NamedSharding(mesh, PartitionSpec())), *arrays)
    if not jax.tree.leaves(like):
        return like
    shardings = [NamedSharding(mesh, spec) for spec in specs(like)]
    leaves = typed(lambda *arrays: jax.tree.leaves(run(*arrays)), out_sharding=shardings)(*arrays)
    return jax.tree.structure(like).unflatten(leaves)


def _explicitly(f: Callable[..., Any], mesh: AbstractMesh, near: Near) -> Callable[..., Any]:
    """A function called with Explicit axes from where they are automatic, its arguments divided as those known."""

    @functools.wraps(f)
    def called(*args: Any, **kwargs: Any) -> Any:
        arrays, rest = apart((args, kwargs))

        def run(*arrays: Any) -> Any:
            args, kwargs = rest(arrays)
            return f(*args, **kwargs)

        found = [near.spec(path, x.shape) for path, x in tree.leaves_with_paths((args, kwargs)) if _is_array(x)]
        return jax.sharding.explicit_axes(run, axes=mesh.explicit_axes, in_sharding=tuple(found))(*arrays)

    return called


def apart(values: Any) -> tuple[list[Any], Callable[[Any], Any]]:
    """The arrays of a tree, and the function that puts others in their places."""
    leaves, treedef = jax.tree.flatten(values)
    places = [i for i, x in enumerate(leaves) if _is_array(x)]

    def rest(arrays: Any) -> Any:
        given = dict(zip(places, arrays, strict=True))
        return treedef.unflatten([given.get(i, x) for i, x in enumerate(leaves)])

    return [leaves[i] for i in places], rest


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array)


def spec_of(x: Any) -> PartitionSpec:
    """How an array is divided, as its type tells."""
    return jax.typeof(x).sharding.spec if _is_array(x) else PartitionSpec()


def _parts(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")) if path else ()
