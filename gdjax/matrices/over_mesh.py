"""Run matrix methods under `jit` over a mesh: `shard_map` binds an axis of the mesh that is not bound yet."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from gdjax import axes
from gdjax.specs import split_arrays
from gdjax.tree import Tree


def find_mesh(axis_name: axes.AxisName, leaves: Sequence[jax.Array]) -> AbstractMesh | None:
    """Return the mesh that has an axis, of the context or of the leaves; `None` if the axis is bound already."""
    if axis_name is None or axes.is_bound(axis_name):
        return None
    meshes = [jax.sharding.get_abstract_mesh(), *(jax.typeof(x).sharding.mesh for x in leaves)]
    return next((mesh for mesh in meshes if {*axes.names(axis_name)} <= {*mesh.axis_names}), None)


def run_over_mesh(
    axis_name: axes.AxisName,
    dim: int | None,
    run: Callable[..., Any],
    f: Callable[..., Any],
    leaves_of_trees: Sequence[Sequence[jax.Array]],
    states: Tree,
) -> tuple[list[jax.Array], Tree]:
    """Call `run(f, leaves_of_trees, states)`; on each device of a mesh, if a mesh has the axis.

    Leaves are replicated over all other axes. Without a mesh the call is a plain one.

    Args:
      axis_name: the axis.
      dim: the dimension along which leaves are sharded over it, if they are.
      run: returns leaves like those of the first tree, and states.
      f: a function; arrays in it are passed on to the devices.
      leaves_of_trees: the leaves of trees of one structure.
      states: a tree of arrays, sharded over the axis along their first dimension.
    """
    mesh = find_mesh(axis_name, leaves_of_trees[0])
    if mesh is None:
        replicated = [[_reshard_explicit(x, PartitionSpec()) for x in leaves] for leaves in leaves_of_trees]
        return run(f, replicated, states)
    specs = [_spec(x, axis_name, dim, mesh) for x in leaves_of_trees[0]]
    placed = [[_reshard_explicit(*both) for both in zip(leaves, specs, strict=True)] for leaves in leaves_of_trees]
    arrays, rebuild = split_arrays(f)
    spec_of_states = PartitionSpec(axis_name)
    return jax.shard_map(
        lambda arrays, *args: run(rebuild(arrays), *args),
        mesh=mesh,
        in_specs=(PartitionSpec(), [specs] * len(placed), spec_of_states),
        out_specs=(specs, spec_of_states),
        axis_names={*axes.names(axis_name), *mesh.explicit_axes},
    )(arrays, placed, states)


def _spec(x: jax.Array, axis_name: axes.AxisName, dim: int | None, mesh: AbstractMesh) -> PartitionSpec:
    """Return the spec of a leaf over the axis: replicated where the axis does not divide the dimension."""
    devices = math.prod(mesh.shape[name] for name in axes.names(axis_name))
    if dim is None or not x.ndim:
        return PartitionSpec()
    at = dim % x.ndim if x.ndim > 1 else 0
    if x.shape[at] % devices:
        return PartitionSpec()
    return PartitionSpec(*[None] * at, axis_name)


def _reshard_explicit(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    """Return an array sharded over Explicit axes by a spec; the compiler decides about Auto axes."""
    mesh = jax.typeof(x).sharding.mesh
    if not mesh.explicit_axes:
        return x
    explicit = [tuple(name for name in axes.names(names) if name in mesh.explicit_axes) or None for names in spec]
    return jax.reshard(x, NamedSharding(mesh, PartitionSpec(*explicit)))
