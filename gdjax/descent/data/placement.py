"""Place the arrays of a descent: on one device, or on a mesh, in one process or in several."""

import dataclasses
import math
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from gdjax.prng import is_key, raw, typed_like
from gdjax.tree import Tree

T = TypeVar("T")

REPLICATED = PartitionSpec()


@dataclasses.dataclass(frozen=True)
class Placement:
    """Shardings of batches and of the state; both are `None` on one device."""

    batch: NamedSharding | None = None
    """Sharding of the first axis of a batch."""
    state: tuple[Any, ...] | None = None
    """Shardings of the leaves of the state, and its structure."""

    @classmethod
    def of(cls, mesh: Mesh | NamedSharding | None) -> "Placement":
        """Return the placement for the `mesh` of `fit`: a mesh shards batches over all its axes."""
        if mesh is None:
            return cls()
        if not isinstance(mesh, (Mesh, NamedSharding)):
            raise TypeError(f"fit: mesh must be a Mesh or the NamedSharding of a batch, got {mesh!r}.")
        spec = PartitionSpec(mesh.axis_names) if isinstance(mesh, Mesh) else mesh.spec
        if not spec or spec[0] is None or any(axes is not None for axes in spec[1:]):
            raise ValueError(f"fit: the sharding of a batch must shard its first axis and no other, got {spec}.")
        given: Any = mesh if isinstance(mesh, Mesh) else mesh.mesh
        if not isinstance(given, Mesh):
            raise TypeError(f"fit: mesh must have devices, got the sharding of {given!r}.")
        devices = _auto(given)
        if jax.process_index() not in {device.process_index for device in devices.devices.flat}:
            raise ValueError(
                f"fit: mesh must have a device of every process that calls fit, and has none of process "
                f"{jax.process_index()}. Make it of jax.devices(), or call fit in the processes of the mesh alone."
            )
        return cls(NamedSharding(devices, PartitionSpec(spec[0])))

    @property
    def mesh(self) -> Mesh | None:
        """The devices, with Auto axes."""
        return self.batch and self.batch.mesh  # pyright: ignore[reportReturnType]

    @property
    def axes(self) -> tuple[Any, ...]:
        """The mesh axes over which a batch is sharded."""
        first = self.batch.spec[0] if self.batch else ()
        return first if isinstance(first, tuple) else (first,)

    @property
    def shards(self) -> int:
        """Number of shards of a batch."""
        return math.prod(self.mesh.shape[axis] for axis in self.axes) if self.mesh else 1

    def place(self, tree: T) -> T:
        """Put arrays on the mesh: those that lie on it stay as they are, all others are replicated."""
        if self.mesh is None:
            return jax.device_put(tree)
        return jax.tree.map(lambda x: put(x, self._sharding_of(x)), tree)

    def with_state(self, state: object) -> "Placement":
        """Return this placement with the shardings of a state."""
        if self.mesh is None:
            return self
        leaves, treedef = jax.tree.flatten(state)
        return dataclasses.replace(self, state=(tuple(leaf.sharding for leaf in leaves), treedef))

    def state_shardings(self) -> Tree:
        """Return the shardings of the state, in its structure."""
        assert self.state is not None
        return jax.tree.unflatten(self.state[1], self.state[0])

    def constrain_state(self, state: T) -> T:
        """Keep the shardings of the state, inside a program."""
        return state if self.state is None else lax.with_sharding_constraint(state, self.state_shardings())

    def constrain_batch(self, batch: T) -> T:
        """Shard a batch, inside a program."""
        return batch if self.batch is None else lax.with_sharding_constraint(batch, self.batch)

    def shard_rows(self, data: T) -> T:
        """Shard the rows of arrays over the devices, padded with zeros at the end; global arrays stay."""
        if self.batch is None:
            return jax.device_put(data)
        return jax.tree.map(self._shard_rows, data)

    def place_local(self, batch: T) -> T:
        """Put a batch of an iterable on the devices; every process gives its local rows."""
        if self.batch is None:
            return jax.device_put(batch)
        return jax.tree.map(self._place_local, batch)

    def gather_rows(self, data: T, rows: jax.Array) -> T:
        """Gather a sharded batch from sharded data, inside a program.

        Each device takes the rows that it holds, and zeros for the others. The bits of all are summed, and each device
        gets its shard of the sum in one reduce-scatter.
        """
        if self.batch is None:
            return jax.tree.map(lambda x: x.at[rows].get(mode="promise_in_bounds"), data)
        axes = self.axes

        def local(data: Any, rows: jax.Array) -> Any:
            def gather(x: jax.Array) -> jax.Array:
                at = rows - lax.axis_index(axes) * x.shape[0]
                here = (at >= 0) & (at < x.shape[0])
                taken = x.at[jnp.where(here, at, 0)].get(mode="promise_in_bounds")
                taken = jnp.where(here.reshape(-1, *[1] * (x.ndim - 1)), taken, jnp.zeros((), x.dtype))
                return lax.psum_scatter(taken, axes, scatter_dimension=0, tiled=True)

            return jax.tree.map(gather, data)

        gather_bits = jax.shard_map(
            local, mesh=self.mesh, in_specs=(self.batch.spec, REPLICATED), out_specs=self.batch.spec,
            axis_names={*axes},
        )  # fmt: skip
        bits = gather_bits(jax.tree.map(_to_bits, data), rows)
        return jax.tree.map(_from_bits, bits, data)

    def _sharding_of(self, x: Any) -> NamedSharding:
        """Return the sharding of an array on this mesh; replicated if it lies elsewhere."""
        assert self.mesh is not None
        sharding = getattr(x, "sharding", None)
        mesh = isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh) and _auto(sharding.mesh)
        return NamedSharding(self.mesh, sharding.spec if mesh == self.mesh else REPLICATED)  # pyright: ignore

    def _shard_rows(self, x: Any) -> Any:
        assert self.batch is not None
        missing = -len(x) % self.shards
        if _is_global(x):
            return jax.jit(_pad_rows, static_argnums=1, out_shardings=self.batch)(x, missing) if missing else x
        return put(_pad_rows(x, missing), self.batch)

    def _place_local(self, x: Any) -> Any:
        assert self.batch is not None
        if _is_global(x):
            return x
        if isinstance(x, jax.Array) and is_key(x):
            return typed_like(self._place_local(raw(x)), x)
        shards = len({str(index) for index in self.batch.addressable_devices_indices_map((self.shards,)).values()})
        if not np.ndim(x) or len(x) % shards:
            raise ValueError(
                f"fit: batches must have a multiple of {shards} rows, the same number for every local device of mesh, "
                f"got shape {np.shape(x)}."
            )
        if self.batch.is_fully_addressable:
            return jax.device_put(x, self.batch)
        return jax.make_array_from_process_local_data(self.batch, _to_host(x))


def put(x: ArrayLike, sharding: NamedSharding) -> jax.Array:
    """Put an array under a sharding; it is global already, or every process has all of it."""
    if sharding.is_fully_addressable or _is_global(x):
        return jax.device_put(x, sharding)
    if isinstance(x, jax.Array) and is_key(x):
        return typed_like(put(raw(x), sharding), x)
    host = _to_host(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _to_host(x: Any) -> np.ndarray:
    array = np.asarray(x)
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)


def _is_global(x: Any) -> bool:
    """Return whether an array has shards in other processes."""
    return isinstance(x, jax.Array) and not x.is_fully_addressable


def _auto(mesh: Mesh) -> Mesh:
    """Return the same mesh with Auto axes."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)


def _pad_rows(x: Any, missing: int) -> Any:
    """Add rows of zeros at the end."""
    if not missing:
        return x
    if isinstance(x, jax.Array) and is_key(x):
        return typed_like(_pad_rows(raw(x), missing), x)
    numpy = jnp if isinstance(x, jax.Array) else np
    return numpy.concatenate([x, numpy.zeros((missing, *x.shape[1:]), x.dtype)])


def _to_bits(x: jax.Array) -> jax.Array:
    """Return an array as integers: a sum with zeros then keeps every bit, also the sign of a zero."""
    if is_key(x):
        return raw(x)
    if x.dtype == bool:
        return x.astype(jnp.uint8)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return _to_bits(jnp.stack([x.real, x.imag], -1))
    if jnp.issubdtype(x.dtype, jnp.floating):
        return lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
    return x


def _from_bits(bits: jax.Array, like: jax.Array) -> jax.Array:
    """Return the array whose `_to_bits` these are."""
    if is_key(like):
        return typed_like(bits, like)
    if jnp.issubdtype(like.dtype, jnp.complexfloating):
        parts = lax.bitcast_convert_type(bits, like.real.dtype)
        return lax.complex(parts[..., 0], parts[..., 1])
    if jnp.issubdtype(like.dtype, jnp.floating):
        return lax.bitcast_convert_type(bits, like.dtype)
    return bits.astype(like.dtype)
