"""Shardings of the state of any optimizer over a mesh, for `jit`."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from gdjax import axes, tree
from gdjax.explaining import require_numeric_leaves
from gdjax.specs import SpecsByPath, split_arrays
from gdjax.tree import Tree
from gdjax.value.diagnose import require_optimizer
from gdjax.value.printing import brief


def of_state(tx: optax.GradientTransformation, params: optax.Params, mesh: Mesh | AbstractMesh | None = None) -> Tree:
    """Return a tree of `NamedSharding` in the structure of `tx.init(params)`, which follow those of the parameters.

    They are what JAX infers from the types of the parameters, as if all axes were Explicit. A moment is sharded as its
    parameter is. The sums of Adafactor are sharded as the rows and columns that they sum. Counters are replicated from
    the start. An array that `init` makes without looking at a parameter follows the parameter with its path, if the
    last dimensions agree (the memory of L-BFGS).

    For FSDP (ZeRO-3), shard the parameters over the axis of the batch: the state follows. In the loss, gather them by
    `jax.reshard(params, P())`, or with Auto axes by `jax.lax.with_sharding_constraint`. Otherwise XLA may move the
    batch instead.

    Args:
      tx: the optimizer, of gdjax or of Optax.
      params: arrays, or `jax.ShapeDtypeStruct`s with shardings. An array that is not on a mesh counts as replicated.
      mesh: the mesh, Auto or Explicit; by default that of the parameters.

    Raises:
      ValueError: if no mesh is given and the parameters lie on none or on several, or if a parameter is sharded over an
        axis that the mesh does not have.

    >>> import jax.numpy as jnp
    >>> import jax
    >>> import gdjax as gd
    >>> from jax.sharding import NamedSharding, PartitionSpec as P
    >>> mesh = jax.sharding.AbstractMesh((4, 2), ("data", "model"))
    >>> w = jax.ShapeDtypeStruct((8, 6), jnp.float32, sharding=NamedSharding(mesh, P("data", "model")))
    >>> of = gd.sharding.of_state(gd.adafactor(1e-3, min_dim_size_to_factor=2), {"w": w})
    >>> [(path, sharding.spec) for path, sharding in gd.tree.leaves_with_paths(of) if "v_" in path]
    [('0/v_row/w', P('model',)), ('0/v_col/w', P('data',))]
    """
    return _of_state("sharding.of_state", tx, params, mesh)[1]


def zero(
    tx: optax.GradientTransformation,
    params: optax.Params,
    mesh: Mesh | AbstractMesh | None = None,
    axis: str = "data",
) -> Tree:
    """Return the shardings of `of_state`, with every leaf sharded further over an axis: ZeRO-1.

    A leaf is sharded along its first replicated dimension that the size of the axis divides. If there is none, it is
    sharded along its first dimension that other axes shard and that the axis can divide further. A leaf without such a
    dimension keeps its sharding, and so do leaves of `uint32`, the dtype of raw keys. Each of $N$ devices holds
    $1 / N$ of the state; the parameters stay replicated, and are gathered after a step.

    Args:
      tx: the optimizer, of gdjax or of Optax.
      params: as in `of_state`.
      mesh: the mesh; by default that of the parameters.
      axis: the axis of the mesh that shards the state, usually that of the batch.

    Raises:
      ValueError: if the mesh has no such axis, and as in `of_state`.

    >>> import jax.numpy as jnp
    >>> import jax
    >>> import gdjax as gd
    >>> from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    >>> n = jax.device_count()
    >>> mesh = jax.make_mesh((n,), ("data",), axis_types=(AxisType.Auto,))
    >>> tx = gd.adamw(0.1)
    >>> replicated, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    >>> params = jax.device_put({"w": jnp.ones((2 * n, 4))}, replicated)
    >>> shardings = gd.sharding.zero(tx, params)
    >>> state = gd.sharding.init(tx, params, shardings)
    >>> state[0].mu["w"].sharding.shard_shape((2 * n, 4))
    (2, 4)
    >>> def step(params, state, batch):
    ...     grads = jax.grad(lambda params: jnp.mean((batch @ params["w"]) ** 2))(params)
    ...     updates, state = tx.update(grads, state, params)
    ...     return gd.apply_updates(params, updates), state
    >>> step = jax.jit(step, donate_argnums=(0, 1), out_shardings=(replicated, shardings))
    >>> params, state = step(params, state, jax.device_put(jnp.ones((4 * n, 2 * n)), rows))
    """
    who = "sharding.zero"
    like, shardings = _of_state(who, tx, params, mesh)
    if not isinstance(axis, str):
        raise TypeError(f"{who}: axis must be the name of an axis, got {brief(axis)}.")
    leaves = jax.tree.leaves(shardings)
    names = leaves[0].mesh.axis_names if leaves else (axis,)
    if axis not in names:
        raise ValueError(f"{who}: axis must be one of the mesh, {tree.listed([*names])}, got {axis!r}.")
    return jax.tree.map(lambda x, sharding: _shard_further(x, sharding, axis), like, shardings)


def init(tx: optax.GradientTransformation, params: optax.Params, shardings: Tree = None) -> optax.OptState:
    """Return the state before the first step, computed with its shardings: no device ever holds all of it.

    A step that donates it and returns it with these shardings compiles once.

    Args:
      tx: the optimizer, of gdjax or of Optax.
      params: arrays; at least one is on a mesh if no shardings are given.
      shardings: the shardings of the state; by default those of `of_state`.

    >>> import jax.numpy as jnp
    >>> import jax
    >>> import gdjax as gd
    >>> from jax.sharding import NamedSharding, PartitionSpec as P
    >>> n = jax.device_count()
    >>> mesh = jax.make_mesh((n,), ("model",))
    >>> params = jax.device_put({"w": jnp.ones((2 * n, 4))}, NamedSharding(mesh, P("model")))
    >>> state = gd.sharding.init(gd.adam(0.1), params)
    >>> state[0].nu["w"].sharding.spec, state[0].count.sharding.spec
    (P('model', None), P())
    """
    who = "sharding.init"
    require_optimizer(who, tx)
    shardings = _of_state(who, tx, params, None)[1] if shardings is None else shardings
    strange = [x for x in jax.tree.leaves(shardings) if not isinstance(x, (Sharding, PartitionSpec))]
    if strange:
        raise TypeError(
            f"{who}: shardings must be a tree of shardings like the state, got {brief(strange[0])}. "
            "sharding.of_state returns one."
        )
    make = jax.jit(lambda params: tree.fresh(tx.init(params)), out_shardings=shardings)
    return make(params)  # in new buffers: the state of a lifted transform may hold params, and both may be donated


def _of_state(
    who: str, tx: optax.GradientTransformation, params: Any, mesh: Mesh | AbstractMesh | None
) -> tuple[Any, Any]:
    """Return the state as shapes, and its shardings."""
    require_optimizer(who, tx)
    if not (mesh is None or isinstance(mesh, (Mesh, AbstractMesh))):
        raise TypeError(f"{who}: mesh must be a jax.sharding.Mesh, as jax.make_mesh makes it, got {brief(mesh)}.")
    require_numeric_leaves(who, "params", params)
    mesh = _mesh(who, params) if mesh is None else mesh
    for path, leaf in tree.leaves_with_paths(params):
        _require_axes(who, path, _spec(leaf), mesh)
    abstract = mesh.abstract_mesh
    explicit = abstract.update(axis_types=(AxisType.Explicit,) * len(mesh.axis_names))
    typed = _shapes(tx, params, explicit)
    like = typed if abstract == explicit else _shapes(tx, params, abstract)
    if like is None:  # the transform does not run over a mesh
        like = _shapes(tx, params, None)
    if typed is None or jax.tree.map(jnp.shape, typed) != jax.tree.map(jnp.shape, like):
        typed = like  # without types, only shapes and paths decide
    by_path = SpecsByPath(params, spec=_spec)

    def sharding(path: str, leaf: Any) -> NamedSharding:
        spec = _spec(leaf)
        return NamedSharding(mesh, spec if any(spec) else by_path.spec(path, leaf.shape))

    leaves = [sharding(path, leaf) for path, leaf in tree.leaves_with_paths(typed)]
    return like, jax.tree.structure(like).unflatten(leaves)


def _shapes(tx: Any, params: Any, mesh: AbstractMesh | None) -> Any:
    """Return the state as shapes with the shardings of their types; `None` if `tx` does not run over the mesh."""
    arrays, rebuild = split_arrays(tx)
    numbers = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays]

    def like(x: Any) -> jax.ShapeDtypeStruct:
        sharding = None if mesh is None else NamedSharding(mesh, _spec(x))
        return jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x), sharding=sharding)

    try:
        with jax.sharding.use_abstract_mesh(mesh or AbstractMesh((), ())):
            return jax.eval_shape(
                lambda numbers, params: rebuild(numbers).init(params), numbers, jax.tree.map(like, params)
            )
    except Exception:
        if mesh is None:
            raise
        return None


def _spec(x: Any) -> PartitionSpec:
    """Return the partition spec of an array or a shape."""
    sharding = jax.typeof(x).sharding if isinstance(x, Tracer) else getattr(x, "sharding", None)
    return sharding.spec if isinstance(sharding, NamedSharding) else PartitionSpec()


def _mesh(who: str, params: Any) -> Mesh | AbstractMesh:
    """Return the mesh that all parameters lie on."""
    found = meshes(params)
    if len(found) != 1:
        raise ValueError(
            f"{who}: the parameters must lie on one mesh, got {len(found) or 'no'} meshes. Pass mesh=, or place the "
            "parameters by jax.device_put."
        )
    return found.pop()


def meshes(params: Tree) -> set[Any]:
    """Return the meshes that parameters lie on; traced parameters are left out."""
    shardings = (getattr(x, "sharding", None) for x in jax.tree.leaves(params) if not isinstance(x, Tracer))
    return {sharding.mesh for sharding in shardings if isinstance(sharding, NamedSharding)}


def _require_axes(who: str, path: str, spec: PartitionSpec, mesh: Mesh | AbstractMesh) -> None:
    """Refuse a parameter that is sharded over an axis that the mesh does not have."""
    if missing := [name for name in _axes(spec) if name not in mesh.axis_names]:
        where = f"params at {path!r}" if path else "params"
        has = tree.listed([*mesh.axis_names])
        raise ValueError(f"{who}: {where} must be sharded over axes of the mesh, {has}, got {tree.listed(missing)}.")


def _axes(spec: PartitionSpec) -> list[Any]:
    return [name for dimension in spec for name in axes.names(dimension)]


def _shard_further(x: Any, sharding: NamedSharding, axis: str) -> NamedSharding:
    """Return the sharding of a leaf, sharded over one more axis if a dimension allows it."""
    spec, size = sharding.spec, sharding.mesh.shape
    if not x.ndim or x.dtype == jnp.uint32 or axis in _axes(spec):
        return sharding
    dimensions = [axes.names(names) for names in (*spec, *[None] * (x.ndim - len(spec)))]
    for replicated in (True, False):
        for i, names in enumerate(dimensions):
            shards = math.prod(size[name] for name in (*names, axis))
            if bool(names) != replicated and x.shape[i] and not x.shape[i] % shards:
                dimensions[i] = (*names, axis)
                return NamedSharding(sharding.mesh, PartitionSpec(*(names or None for names in dimensions)))
    return sharding
