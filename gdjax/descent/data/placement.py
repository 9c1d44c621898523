"""Where the arrays of a descent lie: on one device, or on those of a mesh, in one process or in many."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gdjax.prng import is_key, plain, typed

EVERYWHERE = PartitionSpec()


@dataclasses.dataclass(frozen=True)
class Placement:
    """How batches are divided, and how a state lies; nothing of it for one device."""

    batch: NamedSharding | None = None
    """Of the first axis of a batch."""
    state: tuple[Any, ...] | None = None
    """The shardings of a state's leaves, and its structure."""

    @classmethod
    def of(cls, mesh: Any) -> "Placement":
        """What `fit` was given: a mesh, over all of whose axes a batch is divided, or the sharding of a batch."""
        if mesh is None:
            return cls()
        if not isinstance(mesh, (Mesh, NamedSharding)):
            raise TypeError(f"fit: mesh must be a Mesh or the NamedSharding of a batch, got {mesh!r}.")
        spec = PartitionSpec(mesh.axis_names) if isinstance(mesh, Mesh) else mesh.spec
        if not spec or spec[0] is None or any(axes is not None for axes in spec[1:]):
            raise ValueError(f"fit: the sharding of a batch must divide its first axis and no other, got {spec}.")
        given: Any = mesh if isinstance(mesh, Mesh) else mesh.mesh
        if not isinstance(given, Mesh):
            raise TypeError(f"fit: mesh must have devices, got the sharding of {given!r}.")
        devices = _auto(given)
        if jax.process_index() not in {device.process_index for device in devices.devices.flat}:
            raise ValueError(
                f"fit: mesh must have a device of every process that calls, and has none of {jax.process_index()}: "
                "make it of jax.devices(), or call fit in those processes alone."
            )
        return cls(NamedSharding(devices, PartitionSpec(spec[0])))

    @property
    def mesh(self) -> Mesh | None:
        """The devices."""
        return self.batch and self.batch.mesh  # pyright: ignore[reportReturnType]

    @property
    def axes(self) -> tuple[Any, ...]:
        """Those that a batch is divided over."""
        first = self.batch.spec[0] if self.batch else ()
        return first if isinstance(first, tuple) else (first,)

    @property
    def parts(self) -> int:
        """How many a batch is divided into."""
        return math.prod(self.mesh.shape[axis] for axis in self.axes) if self.mesh else 1

    def placed(self, tree: Any) -> Any:
        """Arrays that lie on the mesh as they do, all others on each of its devices."""
        if self.mesh is None:
            return jax.device_put(tree)
        return jax.tree.map(lambda x: put(x, self._own(x)), tree)

    def keeping(self, state: Any) -> "Placement":
        """The same, where a state lies as this one does."""
        if self.mesh is None:
            return self
        leaves, treedef = jax.tree.flatten(state)
        return dataclasses.replace(self, state=(tuple(leaf.sharding for leaf in leaves), treedef))

    def shardings(self) -> Any:
        """Those of a state, in its structure."""
        assert self.state is not None
        return jax.tree.unflatten(self.state[1], self.state[0])

    def kept(self, state: Any) -> Any:
        """A state in a program, to lie as the one before did."""
        return state if self.state is None else lax.with_sharding_constraint(state, self.shardings())

    def spread(self, batch: Any) -> Any:
        """A batch in a program, divided."""
        return batch if self.batch is None else lax.with_sharding_constraint(batch, self.batch)

    def divided(self, data: Any) -> Any:
        """Arrays with their rows divided over the devices, the last ones filled up with zeros; global ones stay."""
        if self.batch is None:
            return jax.device_put(data)
        return jax.tree.map(self._divided, data)

    def brought(self, batch: Any) -> Any:
        """A batch of an iterable, of which every process has its part."""
        if self.batch is None:
            return jax.device_put(batch)
        return jax.tree.map(self._brought, batch)

    def rows(self, data: Any, rows: jax.Array) -> Any:
        """A batch in a program, divided: these rows of data that are divided over the devices.

        Each device takes those that it has and zeros for the others; the sum of the bits of all is the batch, of which
        each gets its part in one reduce-scatter.
        """
        if self.batch is None:
            return jax.tree.map(lambda x: x.at[rows].get(mode="promise_in_bounds"), data)
        axes = self.axes

        def local(data: Any, rows: jax.Array) -> Any:
            def taken(x: jax.Array) -> jax.Array:
                at = rows - lax.axis_index(axes) * x.shape[0]
                here = (at >= 0) & (at < x.shape[0])
                found = x.at[jnp.where(here, at, 0)].get(mode="promise_in_bounds")
                found = jnp.where(here.reshape(-1, *[1] * (x.ndim - 1)), found, jnp.zeros((), x.dtype))
                return lax.psum_scatter(found, axes, scatter_dimension=0, tiled=True)

            return jax.tree.map(taken, data)

        divide = jax.shard_map(
            local, mesh=self.mesh, in_specs=(self.batch.spec, EVERYWHERE), out_specs=self.batch.spec,
            axis_names={*axes},
        )  # fmt: skip
        bits = divide(jax.tree.map(_bits, data), rows)
        return jax.tree.map(_of_bits, bits, data)

    def _own(self, x: Any) -> NamedSharding:
        """The sharding of an array on this mesh, or that which has it on every device."""
        assert self.mesh is not None
        sharding = getattr(x, "sharding", None)
        here = isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh) and _auto(sharding.mesh)
        return NamedSharding(self.mesh, sharding.spec if here == self.mesh else EVERYWHERE)  # pyright: ignore

    def _divided(self, x: Any) -> Any:
        assert self.batch is not None
        missing = -len(x) % self.parts
        if _is_global(x):
            return jax.jit(_filled, static_argnums=1, out_shardings=self.batch)(x, missing) if missing else x
        return put(_filled(x, missing), self.batch)

    def _brought(self, x: Any) -> Any:
        assert self.batch is not None
        if _is_global(x):
            return x
        if isinstance(x, jax.Array) and is_key(x):
            return typed(self._brought(plain(x)), x)
        here = len({str(index) for index in self.batch.addressable_devices_indices_map((self.parts,)).values()})
        if not np.ndim(x) or len(x) % here:
            raise ValueError(
                f"fit: batches must have a multiple of {here} rows, as many for every device of mesh that is here, got "
                f"shape {np.shape(x)}."
            )
        if self.batch.is_fully_addressable:
            return jax.device_put(x, self.batch)
        return jax.make_array_from_process_local_data(self.batch, _on_host(x))


def put(x: Any, sharding: NamedSharding) -> Any:
    """An array under a sharding; one that every process has whole, or one that is global already."""
    if sharding.is_fully_addressable or _is_global(x):
        return jax.device_put(x, sharding)
    if isinstance(x, jax.Array) and is_key(x):
        return typed(put(plain(x), sharding), x)
    whole = _on_host(x)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def _on_host(x: Any) -> np.ndarray:
    found = np.asarray(x)
    return found.astype(jax.dtypes.canonicalize_dtype(found.dtype), copy=False)


def _is_global(x: Any) -> bool:
    """Whether parts of an array lie in other processes."""
    return isinstance(x, jax.Array) and not x.is_fully_addressable


def _auto(mesh: Mesh) -> Mesh:
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)


def _filled(x: Any, missing: int) -> Any:
    """Rows of zeros at the end."""
    if not missing:
        return x
    if isinstance(x, jax.Array) and is_key(x):
        return typed(_filled(plain(x), missing), x)
    numpy = jnp if isinstance(x, jax.Array) else np
    return numpy.concatenate([x, numpy.zeros((missing, *x.shape[1:]), x.dtype)])


def _bits(x: jax.Array) -> jax.Array:
    """An array as numbers whose sum with zeros is exact, the sign of a zero too."""
    if is_key(x):
        return plain(x)
    if x.dtype == bool:
        return x.astype(jnp.uint8)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return _bits(jnp.stack([x.real, x.imag], -1))
    if jnp.issubdtype(x.dtype, jnp.floating):
        return lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
    return x


def _of_bits(bits: jax.Array, like: jax.Array) -> jax.Array:
    if is_key(like):
        return typed(bits, like)
    if jnp.issubdtype(like.dtype, jnp.complexfloating):
        parts = lax.bitcast_convert_type(bits, like.real.dtype)
        return lax.complex(parts[..., 0], parts[..., 1])
    if jnp.issubdtype(like.dtype, jnp.floating):
        return lax.bitcast_convert_type(bits, like.dtype)
    return bits.astype(like.dtype)
