"""The value that is an Optax optimizer."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

from gdjax import tree
from gdjax.tree import Tree
from gdjax.value import absent, diagnose, misplaced
from gdjax.value.base import Value, register
from gdjax.value.printing import brief, text, uncalled
from gdjax.value.traits import inner_transforms, require_weight_effect

_MISSING: Any = inspect.Parameter.empty


class Functions(NamedTuple):
    """The functions that a factory of transforms returns; the last two are optional."""

    init: Callable[..., Any]
    update: Callable[..., Any]
    again: Callable[..., Any] | None = None
    descend: Callable[..., Any] | None = None


class Method:
    """One of the two functions that a transform unpacks as. It prints as the value that it belongs to.

    A tuple cannot hold the value that it is a part of, so a method holds the call and makes the value again.
    """

    __name__: str
    call: tuple[type, Any, Mapping[str, Any]]

    @functools.cached_property
    def value(self) -> "GradientTransform":
        """The value that the method belongs to."""
        kind, factory, arguments = self.call
        return kind(factory, arguments)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method of the value."""
        return getattr(self.value, self.__name__)(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(getattr(GradientTransform, self.__name__).__get__(self))

    def __eq__(self, other: object) -> bool:
        """Equal the bound method of the same value, so that `tx[0] == tx.init`."""
        owner = getattr(other, "__self__", None)
        return self is other or (isinstance(owner, GradientTransform) and any(part is self for part in owner))

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"{self.value!r}.{self.__name__}"


class Init(Method):
    """The first function of a transform."""

    __name__ = "init"


class Update(Method):
    """The second function of a transform."""

    __name__ = "update"


@register
class GradientTransform(Value, optax.GradientTransformationExtraArgs):
    """A gradient transform: a pair of pure functions, and the hyperparameters that they were made of.

    It unpacks as `init, update = tx` and is an Optax optimizer to every library that takes one.

    - `init(params)` returns the state.
    - `update(updates, state, params=None, **extra_args)` returns the new updates and the new state. As in Optax, an
      extra argument that no part of the transform names is ignored. A `weight` that no part takes is an error: without
      it the mean of gradients would be wrong.
    """

    def __new__(cls, factory: Any, arguments: Mapping[str, Any]) -> "GradientTransform":
        """Keep the call. A function of the pair runs the factory when it is used."""
        init, update = Init.__new__(Init), Update.__new__(Update)
        init.call = update.call = cls, factory, arguments
        return super().__new__(cls, init, update)

    def init(self, params: Tree = _MISSING, *surplus: object) -> Tree:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Return the state before the first update."""
        if params is _MISSING or surplus:
            raise self._call_error("init", "(params)", [params], surplus)
        who = self.factory.__name__
        if what := misplaced.of_init(params):
            raise diagnose.MismatchError(who, what)
        try:
            init = self._functions().init
            if self.factory.takes_any or not (others := diagnose.not_inexact(params)):
                return init(params)
            return self._init_beside(init, params, others)
        except Exception as error:
            if (cause := diagnose.cause_of_init(error, self)) is None:
                raise
            raise cause from error

    def update(  # pyright: ignore[reportIncompatibleVariableOverride]
        self,
        updates: Tree = _MISSING,
        state: Tree = _MISSING,
        params: Tree = None,
        *surplus: object,
        **extra_args: object,
    ) -> tuple[Tree, Tree]:
        """Return the new updates and the new state."""
        if state is _MISSING or surplus:
            raise self._call_error("update", "(grads, state, params)", [updates, state], surplus)
        if updates is None and params is not None:  # no leaf has an update
            return None, state
        return self._step("update", updates, state, params, extra_args)

    def descend(self, updates: Tree, state: Tree, params: Tree, **extra_args: object) -> tuple[Tree, Tree]:
        """Return the parameters and the state after the step that the transform computes itself."""
        return self._step("descend", updates, state, params, extra_args)

    def again(self, updates: Tree, state: Tree, params: Tree = None) -> Tree:
        """Compute the updates again from the state after them; `None` if this transform cannot."""
        again = self._functions().again
        if again is None:
            return None
        if not self.factory.traits.upcast:
            return again(updates, state, params)
        return tree.cast_like(again(*tree.upcast((updates, state)), params), updates)

    @functools.cached_property
    def recomputes(self) -> bool:
        """Return whether `again` computes the updates, here and in every transform inside."""
        body = self.body()
        if isinstance(body, GradientTransform):
            return body.recomputes
        return self._functions(body).again is not None and all(tx.recomputes for tx in inner_transforms(self))

    @property
    def descends(self) -> bool:
        """Return whether the transform computes new parameters itself, not updates to add."""
        body = self.body()
        return body.descends if isinstance(body, GradientTransform) else self._functions(body).descend is not None

    def check(self) -> None:
        """Run the body once, so that an argument it refuses is refused when the value is made."""
        given, default = self.arguments, self.factory.defaults.get("dim")
        if default is not None and given["dim"] != default and given.get("axis_name", "") is None:
            raise ValueError(
                f"{self.factory.__name__}: dim has no effect without axis_name, over which it says how leaves are "
                f"divided, got dim={given['dim']!r}. Give axis_name too, or leave dim out."
            )
        try:
            body = self.body()
            if not (isinstance(body, tuple) and 2 <= len(body) <= 4):
                self._functions(body)
            if self.factory.traits.upcast and isinstance(body, GradientTransform):
                raise TypeError(
                    f"{self.factory.__name__}: upcast=True has no effect on a transform made of others, got "
                    f"{brief(body)}. Leave it out, and declare it of those that compute."
                )
        except diagnose.BRANCHED as error:
            if (cause := diagnose.traced_error(self)) is None:
                raise
            raise cause from error

    def pair(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Return the functions `(init, update)` of the body."""
        return self._functions()[:2]

    def _functions(self, body: Any = None) -> Functions:
        """Return the functions of the body, which runs unless it is given."""
        body = self.body() if body is None else body
        if isinstance(body, GradientTransform):
            return Functions(body.init, body.update, body.again)
        if isinstance(body, tuple) and 2 <= len(body) <= 4:
            return Functions(*body)
        raise TypeError(f"{self.factory.__name__} must return (init, update) or a transform, got {text(body)}.")

    def _step(self, name: str, updates: Any, state: Any, params: Any, extra_args: dict[str, Any]) -> tuple[Any, Any]:
        """Call `update` or `descend`, and explain what goes wrong."""
        if "weight" in extra_args:
            require_weight_effect(self.factory.__name__, self, extra_args)
        if params is not None and jax.tree.structure(params) != jax.tree.structure(updates):
            return self._step_beside(name, updates, state, params, extra_args)
        try:
            return self._run(name, updates, state, params, extra_args)
        except Exception as error:
            if isinstance(error, absent.ERRORS) and absent.has_none(updates):
                return self._step_beside(name, updates, state, params, extra_args)
            if (cause := diagnose.cause_of_update(error, self, updates, state, params, extra_args)) is None:
                raise
            raise cause from error

    def _run(self, name: str, updates: Any, state: Any, params: Any, extra_args: dict[str, Any]) -> tuple[Any, Any]:
        """Run a function of the body on updates of which none is missing."""
        body = self.body()
        if isinstance(body, GradientTransform):
            return getattr(body, name)(updates, state, params, **extra_args)
        if not self.factory.takes_any:
            for leaf in jax.tree.leaves(updates):
                if not (isinstance(leaf, jax.Array) and diagnose.is_inexact(leaf.dtype)):
                    diagnose.require_inexact(self.factory.__name__, "updates", updates)
                    break
        function = body[1] if name == "update" else body[3]
        accepted = _accepted(function, extra_args) if extra_args else {}
        if not self.factory.traits.upcast:
            return function(updates, state, params, **accepted)
        if recompute := accepted.get("recompute"):
            accepted = {**accepted, "recompute": lambda *numbers: tree.upcast(recompute(*numbers))}
        wide_updates, wide_state = tree.upcast((updates, state))
        new_updates, new_state = function(wide_updates, wide_state, params, **accepted)
        return tree.cast_like(new_updates, updates), tree.cast_like(new_state, state)

    def _step_beside(
        self, name: str, updates: Any, state: Any, params: Any, extra_args: dict[str, Any]
    ) -> tuple[Any, Any]:
        """Call `update` or `descend` where some leaves have no update (`None`): these stay as they are.

        The transform sees the other leaves, and their part of the state. One that cannot see them so sees the tree with
        `None` in it.
        """
        chosen, given, part = absent.chosen(params, updates), updates, state
        if chosen is not params:
            marked, of_marked = absent.marked(updates, params)
            if (fitting := absent.fitting(self.init, state, of_marked)) is not None:
                given, chosen, part = marked, of_marked, fitting
        try:
            try:
                after, new = self._run(name, given, part, chosen, _of_all(extra_args, chosen, params))
            except absent.ERRORS:
                plain = absent.chosen(params, updates)
                like = updates if params is None else plain
                other = absent.fitting(self.init, state, like) if absent.has_none(updates) else None
                is_the_same = given is updates and jax.tree.structure(other) == jax.tree.structure(state)
                if other is None or is_the_same:
                    raise
                after, new = self._run(name, updates, other, plain, _of_all(extra_args, plain, params))
                new = absent.refilled(state, new)
        except Exception as error:
            if (cause := diagnose.cause_of_update(error, self, given, part, chosen, extra_args)) is None:
                raise
            raise cause from error
        if chosen is params:
            return after, new
        after = absent.completed(after, params) if name == "descend" else absent.unmarked(after, updates)
        return after, absent.refilled(state, new)

    def _init_beside(self, init: Callable[..., Any], params: Any, others: set[int]) -> Any:
        """Return the state of a transform that may not use the parameters without a gradient, such as integers."""
        try:
            state = init(jax.tree.map(lambda x: absent.Untouched() if id(x) in others else x, params))
        except Exception as error:
            raise diagnose.inexact_error(self.factory.__name__, "params", params) from error
        uses_them = any(isinstance(x, absent.Untouched) for x in jax.tree.leaves(state))
        if self.factory.any_dtype is False or uses_them:
            raise diagnose.inexact_error(self.factory.__name__, "params", params)
        return state

    def _call_error(self, name: str, usage: str, given: list[Any], surplus: tuple[Any, ...]) -> TypeError:
        """Return the error for a call with an argument too few or too many."""
        parameters = [
            p for p in inspect.signature(getattr(self, name)).parameters.values() if p.kind is not p.VAR_KEYWORD
        ]
        if surplus:
            taken = ", ".join(p.name for p in parameters)
            fault = f"takes ({taken}), got {len(parameters) + len(surplus)} arguments by position"
        else:
            missing = [repr(p.name) for p, x in zip(parameters, given, strict=False) if x is _MISSING]
            several = "s" * (len(missing) > 1)
            fault = f"missing {len(missing)} required positional argument{several}: {' and '.join(missing)}"
        return TypeError(f"{self.factory.__name__}: {name}() {fault}; call tx.{name}{usage}.")

    @classmethod
    def _make(cls, iterable: Any) -> optax.GradientTransformationExtraArgs:  # pyright: ignore
        """Return a plain pair, where one of the functions of a value is replaced by hand."""
        return optax.GradientTransformationExtraArgs(*iterable)


def _declare(method: Any, *parameters: inspect.Parameter) -> None:
    """Give a method the signature that its callers see."""
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    method.__signature__ = inspect.Signature([own, *parameters])


_declare(GradientTransform.init, inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD))
_declare(
    GradientTransform.update,
    *(inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("updates", "state")),
    inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None),
    inspect.Parameter("extra_args", inspect.Parameter.VAR_KEYWORD),
)


def expand(tx: GradientTransform) -> GradientTransform:
    """Return the chain that a named optimizer stands for; any other transform stands for itself.

    >>> import gdjax as gd
    >>> print(gd.expand(gd.sgd(0.1)))
    chain(identity(), scale_by_learning_rate(learning_rate=0.1, flip_sign=True))
    """
    require_value("expand", tx)
    body = tx.body()
    return body if isinstance(body, GradientTransform) else tx


def require_value(who: str, tx: object) -> None:
    """Refuse what is no transform of this package."""
    if not isinstance(tx, GradientTransform):
        raise TypeError(f"{who}: tx must be a gdjax transform, got {brief(tx)}{uncalled(tx)}.")


def _of_all(extra_args: dict[str, Any], chosen: Any, params: Any) -> dict[str, Any]:
    """Return the extra arguments for an update that sees the chosen parameters alone."""
    if chosen is params:
        return extra_args
    return {key: absent.of_the_whole(x, chosen, params) for key, x in extra_args.items()}


def _accepted(update: Callable[..., Any], extra_args: dict[str, Any]) -> dict[str, Any]:
    """Return the extra arguments that an update function takes."""
    parameters = inspect.signature(update).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return extra_args
    return {name: x for name, x in extra_args.items() if name in parameters}
