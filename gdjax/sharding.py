"""How the state of any optimizer is divided over the devices of a mesh, for `jit`."""

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
from gdjax.value.diagnose import require_optimizer
from gdjax.value.printing import brief


def of_state(tx: optax.GradientTransformation, params: Any, mesh: Mesh | AbstractMesh | None = None) -> Any:
    """A tree of `NamedSharding` in the structure of `tx.init(params)`, which follow those of the parameters.

    They are what JAX infers from the types of the parameters, as if all axes were Explicit: a moment is divided as its
    parameter is, the sums of Adafactor as the rows and columns that they are sums of, and counters are whole on every
    device from the start. What is made without looking at a parameter, but has its path and, in the last dimensions,
    its shape (the memory of L-BFGS), is divided as it is too.

    Fully sharded training (FSDP, ZeRO-3) is had so: divide the parameters over the axis of the batch, and the state
    follows. Where the loss uses them, gather them, by `jax.reshard(params, P())` or with Auto axes
    `jax.lax.with_sharding_constraint`; left to itself, XLA may move the batch instead.

    Args:
      tx: the optimizer, a value or one of Optax.
      params: arrays, or `jax.ShapeDtypeStruct`s with shardings; what is not on a mesh counts as whole on all devices.
      mesh: the mesh, Auto or Explicit; by default that of the parameters.

    Raises:
      ValueError: if no parameter lies on a mesh and none is given, they lie on several, or are divided over an axis
        that the mesh does not have.

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
    tx: optax.GradientTransformation, params: Any, mesh: Mesh | AbstractMesh | None = None, axis: str = "data"
) -> Any:
    """The shardings of `of_state`, and every leaf that is no scalar divided further over an axis: ZeRO-1.

    A leaf is divided along its first dimension that is whole and that the size of the axis divides; where there is
    none, along the first that is divided over other axes and may be divided further. What no dimension allows stays as
    it is, and so do leaves of `uint32`, as raw keys are. Over $N$ devices each holds $1 / N$ of the state; the
    parameters stay whole, and are gathered after a step.

    Args:
      tx: the optimizer, a value or one of Optax.
      params: as in `of_state`.
      mesh: the mesh; by default that of the parameters.
      axis: the axis of the mesh that the state is divided over, as a rule that of the batch.

    Raises:
      ValueError: if the mesh has no such axis, and where `of_state` does.

    >>> import jax.numpy as jnp
    >>> import jax
    >>> import gdjax as gd
    >>> from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    >>> n = jax.device_count()
    >>> mesh = jax.make_mesh((n,), ("data",), axis_types=(AxisType.Auto,))
    >>> tx = gd.adamw(0.1)
    >>> whole, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    >>> params = jax.device_put({"w": jnp.ones((2 * n, 4))}, whole)
    >>> shardings = gd.sharding.zero(tx, params)
    >>> state = gd.sharding.init(tx, params, shardings)
    >>> state[0].mu["w"].sharding.shard_shape((2 * n, 4))
    (2, 4)
    >>> def step(params, state, batch):
    ...     grads = jax.grad(lambda params: jnp.mean((batch @ params["w"]) ** 2))(params)
    ...     updates, state = tx.update(grads, state, params)
    ...     return gd.apply_updates(params, updates), state
    >>> step = jax.jit(step, donate_argnums=(0, 1), out_shardings=(whole, shardings))
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
    return jax.tree.map(lambda x, sharding: _divided(x, sharding, axis), like, shardings)


def init(tx: optax.GradientTransformation, params: Any, shardings: Any = None) -> Any:
    """The state before the first step, made where it belongs: never is it whole on one device.

    A step that donates it and returns it with these shardings compiles once.

    Args:
      tx: the optimizer, a value or one of Optax.
      params: arrays; at least one on a mesh, if no shardings are given.
      shardings: where the state belongs; by default as `of_state` says.

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
        way = "; sharding.of_state makes them"
        raise TypeError(f"{who}: shardings must be a tree of shardings like the state, got {brief(strange[0])}{way}.")
    own = jax.jit(lambda params: tree.fresh(tx.init(params)), out_shardings=shardings)
    return own(params)  # in buffers of its own: a lifted one may hold the parameters, and both may be donated


def _of_state(
    who: str, tx: optax.GradientTransformation, params: Any, mesh: Mesh | AbstractMesh | None
) -> tuple[Any, Any]:
    """The state as shapes, and its shardings."""
    require_optimizer(who, tx)
    if not (mesh is None or isinstance(mesh, (Mesh, AbstractMesh))):
        raise TypeError(f"{who}: mesh must be a jax.sharding.Mesh, as jax.make_mesh makes it, got {brief(mesh)}.")
    require_numeric_leaves(who, "params", params)
    mesh = _mesh(who, params) if mesh is None else mesh
    for path, leaf in tree.leaves_with_paths(params):
        _require_axes(who, path, _spec(leaf), mesh)
    own = mesh.abstract_mesh
    typed = own.update(axis_types=(AxisType.Explicit,) * len(mesh.axis_names))
    told = _shapes(tx, params, typed)
    like = told if own == typed else _shapes(tx, params, own)
    if like is None:  # written without a thought of types
        like = _shapes(tx, params, None)
    if told is None or jax.tree.map(jnp.shape, told) != jax.tree.map(jnp.shape, like):
        told = like  # shapes and paths must do
    near = SpecsByPath(params, spec=_spec)

    def at(path: str, leaf: Any) -> NamedSharding:
        spec = _spec(leaf)
        return NamedSharding(mesh, spec if any(spec) else near.spec(path, leaf.shape))

    leaves = [at(path, leaf) for path, leaf in tree.leaves_with_paths(told)]
    return like, jax.tree.structure(like).unflatten(leaves)


def _shapes(tx: Any, params: Any, mesh: AbstractMesh | None) -> Any:
    """The state as shapes, with what types tell over a mesh; `None` where `tx` cannot be told over it."""
    arrays, made_of = split_arrays(tx)
    numbers = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays]

    def like(x: Any) -> jax.ShapeDtypeStruct:
        sharding = None if mesh is None else NamedSharding(mesh, _spec(x))
        return jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x), sharding=sharding)

    try:
        with jax.sharding.use_abstract_mesh(mesh or AbstractMesh((), ())):
            return jax.eval_shape(
                lambda numbers, params: made_of(numbers).init(params), numbers, jax.tree.map(like, params)
            )
    except Exception:
        if mesh is None:
            raise
        return None


def _spec(x: Any) -> PartitionSpec:
    """How an array or a shape is divided."""
    sharding = jax.typeof(x).sharding if isinstance(x, Tracer) else getattr(x, "sharding", None)
    return sharding.spec if isinstance(sharding, NamedSharding) else PartitionSpec()


def _mesh(who: str, params: Any) -> Mesh | AbstractMesh:
    """The one mesh of the parameters."""
    found = meshes(params)
    if len(found) != 1:
        got = f"those of {len(found)} meshes" if found else "none that does"
        raise ValueError(f"{who}: the parameters must lie on one mesh, got {got}. Give mesh=, or place them.")
    return found.pop()


def meshes(params: Any) -> set[Any]:
    """The meshes that parameters lie on, as far as that is known before they are traced."""
    shardings = (getattr(x, "sharding", None) for x in jax.tree.leaves(params) if not isinstance(x, Tracer))
    return {sharding.mesh for sharding in shardings if isinstance(sharding, NamedSharding)}


def _require_axes(who: str, path: str, spec: PartitionSpec, mesh: Mesh | AbstractMesh) -> None:
    if missing := [name for name in _axes(spec) if name not in mesh.axis_names]:
        where = f"params at {path!r}" if path else "params"
        has = tree.listed([*mesh.axis_names])
        raise ValueError(f"{who}: {where} must be divided over axes of the mesh, {has}, got {tree.listed(missing)}.")


def _axes(spec: PartitionSpec) -> list[Any]:
    return [name for dimension in spec for name in axes.names(dimension)]


def _divided(x: Any, sharding: NamedSharding, axis: str) -> NamedSharding:
    """The sharding of a leaf, divided further over an axis where a dimension allows it."""
    spec, size = sharding.spec, sharding.mesh.shape
    if not x.ndim or x.dtype == jnp.uint32 or axis in _axes(spec):
        return sharding
    dimensions = [axes.names(names) for names in (*spec, *[None] * (x.ndim - len(spec)))]
    for whole in (True, False):
        for i, names in enumerate(dimensions):
            parts = math.prod(size[name] for name in (*names, axis))
            if bool(names) != whole and x.shape[i] and not x.shape[i] % parts:
                dimensions[i] = (*names, axis)
                return NamedSharding(sharding.mesh, PartitionSpec(*(names or None for names in dimensions)))
    return sharding
