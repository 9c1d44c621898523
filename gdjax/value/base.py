"""Values: calls of factories, kept as pytrees of the numbers in their arguments."""

import functools
import inspect
import sys
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Self, TypeVar

import jax
import numpy as np
from jax.core import Tracer
from jax.tree_util import GetAttrKey

from gdjax.calls import Call
from gdjax.value import hyperparams
from gdjax.value.fingerprint import fingerprint
from gdjax.value.printing import text


class Value(Call):
    """A call of a factory, kept as a pytree."""

    def __init__(self, factory: Any, arguments: Mapping[str, Any]):
        self.__dict__.update(factory=factory, arguments=MappingProxyType(arguments))
        is_plain = _PLAIN.issuperset(map(type, arguments.values()))
        if not is_plain and "flax.nnx" in sys.modules and any(map(_holds_array, arguments.values())):
            _register_with_nnx()

    def body(self) -> Any:
        """Run the factory's body on the arguments.

        It runs at every use, since an array made under one trace must not be used in the next. A body that is a value
        of plain numbers and strings, such as the chain of a named optimizer, belongs to no trace and is made once.
        """
        body = self.__dict__.get("_body")
        if body is None:
            body = self.factory.run(self.arguments)
            if isinstance(body, Value) and body.is_plain:
                self.__dict__["_body"] = body
        return body

    @functools.cached_property
    def is_plain(self) -> bool:
        """Return whether the arguments are numbers, strings and such values alone, none of them traced."""
        arguments = self.arguments.values()
        return _PLAIN.issuperset(map(type, arguments)) or all(map(_is_plain, arguments))

    def replace(self, changes: Mapping[str, Any] = MappingProxyType({}), /, **named: object) -> Self:
        """Return a copy with other hyperparameters.

        A name is looked up here first, then in the values inside. If several have the name, give a path.

        >>> import gdjax as gd
        >>> tx = gd.chain(gd.clip(1.0), gd.sgd(0.1))
        >>> tx.replace(learning_rate=0.2).learning_rate
        0.2
        >>> tx.replace({"transforms/1/learning_rate": 0.3}).learning_rate
        0.3

        Raises:
          AttributeError: if nothing has the name, or several have it.
        """
        if not isinstance(changes, Mapping):
            way = 'replace(learning_rate=0.1), or replace({"transforms/0/learning_rate": 0.1})'
            raise TypeError(f"replace: give hyperparameters by name, or a dict of them by path: {way}.")
        changed = self
        for where, argument in {**changes, **named}.items():
            way = hyperparams.locate(changed, where, hyperparams.changing(argument))
            changed = hyperparams.put(changed, way, argument)
        return changed

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "arguments" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return hyperparams.get(self, hyperparams.locate(self, name, hyperparams.reading))

    def __dir__(self) -> Iterable[str]:
        return {*super().__dir__(), *self.arguments}

    def __setattr__(self, name: str, argument: Any) -> None:
        raise AttributeError(f"{self.factory.__name__} is a value; make another: replace({name}={text(argument)}).")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{self.factory.__name__} is a value; {name} cannot be deleted.")

    def __repr__(self) -> str:
        written = []
        parameters, slots = self.factory.signature.parameters, self.factory.slots
        for name, argument in self.arguments.items():
            leaf = slots[name].leaf
            if parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
                written += (text(part, ordered=leaf) for part in argument)
            elif not self._is_implied(name):
                written.append(f"{name}={text(argument, ordered=leaf)}")
        return f"{self.factory.__name__}({', '.join(written)})"

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Value) and self._fingerprint() == other._fingerprint())

    def __ne__(self, other: object) -> bool:  # tuple has its own
        return not self == other

    def __hash__(self) -> int:
        if "_hash" not in self.__dict__:  # once: `nnx.jit` asks at every call
            self.__dict__["_hash"] = self._computed_hash()
        return self.__dict__["_hash"]

    def _computed_hash(self) -> int:
        for keys, leaf in jax.tree_util.tree_leaves_with_path(self):
            if isinstance(leaf, (jax.Array, np.ndarray)):
                where = jax.tree_util.keystr(keys, simple=True, separator="/")
                raise TypeError(
                    f"{self.factory.__name__} cannot be hashed: {where} is {text(leaf)}, and only Python numbers "
                    "have a hash. Pass it as an argument of jit, not as a static one, or replace the array by a float."
                )
        return hash(self._fingerprint())

    def _fingerprint(self) -> Any:
        return self.factory, fingerprint(OrderedDict(self.arguments))

    @functools.cached_property
    def _static(self) -> "Static":
        leaf = {name: slot.leaf for name, slot in self.factory.slots.items()}
        return Static(self.factory, {name: x for name, x in self.arguments.items() if not leaf[name]})

    def __reduce__(self) -> Any:
        """Pickle the call; as in the text, a default that has no expression (a function of Optax's) is left out."""
        return _restored, (self.factory, {name: x for name, x in self.arguments.items() if not self._is_implied(name)})

    def _is_implied(self, name: str) -> bool:
        """Return whether this argument is a default that has no expression."""
        argument, default = self.arguments[name], self.factory.defaults.get(name)
        if fingerprint(argument) != fingerprint(default):  # first: the text of values within values is long
            return False
        shown = text(argument)
        return "<" in shown and shown == text(default)


V = TypeVar("V", bound=Value)


class Static:
    """The static part of a value, equal and hashable by value, as the aux data of a pytree must be."""

    def __init__(self, factory: Any, arguments: Mapping[str, Any]):
        self.factory, self.arguments = factory, arguments

    @functools.cached_property
    def _fingerprint(self) -> Any:
        return self.factory, fingerprint(self.arguments)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Static) and self._fingerprint == other._fingerprint)

    def __hash__(self) -> int:
        return hash(self._fingerprint)

    def __repr__(self) -> str:
        return f"{self.factory.__name__}: {text(self.arguments)}"


_PLAIN = {bool, int, float, complex, str, type(None)}


def _is_plain(argument: Any) -> bool:
    """Return whether an argument consists of numbers and strings alone, none of them traced."""
    if isinstance(argument, Value):
        return argument.is_plain
    if isinstance(argument, Mapping):
        return all(map(_is_plain, argument.values()))
    if type(argument) in (list, tuple):
        return all(map(_is_plain, argument))
    return isinstance(argument, (bool, int, float, complex, str, np.dtype)) or argument is None


KINDS: list[type[Value]] = []
"""The kinds of values."""


def _holds_array(argument: Any) -> bool:
    if isinstance(argument, (list, tuple)) and type(argument) in (list, tuple):
        return any(map(_holds_array, argument))
    return isinstance(argument, (jax.Array, np.ndarray)) and not isinstance(argument, Tracer)


def _register_with_nnx() -> None:
    """Register values as data with Flax's NNX: one that holds arrays cannot be a static attribute."""
    if tell := getattr(sys.modules["flax.nnx"], "register_data_type", None):
        for kind in KINDS:
            tell(kind)


def register(kind: type[V]) -> type[V]:
    """Make a kind of value a pytree: its numeric arguments are the children, the others the aux data."""
    KINDS.append(kind)
    jax.tree_util.register_pytree_with_keys(kind, _children_with_keys, _unflatten, _children)
    return kind


def _children(value: Value) -> tuple[list[Any], Static]:
    static = value._static
    return [x for name, x in value.arguments.items() if name not in static.arguments], static


def _children_with_keys(value: Value) -> tuple[list[tuple[Any, Any]], Static]:
    static = value._static
    return [(GetAttrKey(name), x) for name, x in value.arguments.items() if name not in static.arguments], static


def _unflatten(static: Static, leaves: Iterable[Any]) -> Value:
    left = iter(leaves)
    names = static.factory.slots
    fixed = static.arguments
    value = _value(static.factory, {name: fixed[name] if name in fixed else next(left) for name in names})
    value.__dict__["_static"] = static
    return value


def _restored(factory: Any, given: Mapping[str, Any]) -> Value:
    return _value(factory, {name: given[name] if name in given else factory.defaults[name] for name in factory.slots})


def _value(factory: Any, arguments: Mapping[str, Any]) -> Value:
    return factory.kind(factory, arguments)
