"""Explain errors inside a transform in the terms of its user."""

import contextlib
import dis
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import DTypeLike

from gdjax import axes, tree
from gdjax.calls import Call
from gdjax.tree import Tree
from gdjax.value import absent, misplaced
from gdjax.value.printing import brief, text, uncalled

BRANCHED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


_LEFT_OUT = "Leave such leaves out with masked, or give them frozen() in by_path."


def require_inexact(who: str, what: str, params: Tree, way: str = _LEFT_OUT) -> None:
    """Refuse leaves that are not floating, by path."""
    if not_inexact(params):
        raise inexact_error(who, what, params, way)


def not_inexact(params: Tree) -> set[int]:
    """Return the identities of the leaves that are not floating."""
    return {id(leaf) for leaf in jax.tree.leaves(params) if not _inexact(leaf)}


def inexact_error(who: str, what: str, params: Tree, way: str = _LEFT_OUT) -> "InexactError":
    """Return the error for a leaf that is not floating, by path."""
    path, leaf = next((path, leaf) for path, leaf in tree.leaves_with_paths(params) if not _inexact(leaf))
    where = f"{what} at {path!r}" if path else what
    return InexactError(f"{who}: {where} must be floating or complex, got {tree.short(leaf)}. {way}")


def require_real(who: str, what: str, params: Tree) -> None:
    """Refuse complex leaves, by path."""
    for path, leaf in tree.leaves_with_paths(params):
        if jnp.iscomplexobj(leaf):
            where = f"{what} at {path!r}" if path else what
            way = f"Give it their parts: split_real_and_imaginary({who}(...))."
            raise InexactError(f"{who}: {where} must be real, got {tree.short(leaf)}. {way}")


def require_arrays(who: str, params: Tree, error: Exception) -> None:
    """Explain an error by a leaf that is not an array, or by a lack of leaves; return if neither is so."""
    if _missing(error) or re.match(r"\w+ needs ", str(error)):  # told already
        return
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda x: x is None)
    for keys, leaf in leaves:
        if leaf is None or isinstance(leaf, jax.ShapeDtypeStruct):
            of_shapes = f"For the shapes of the state, call jax.eval_shape({who}(...).init, params)."
            way = "Leave such leaves out with masked." if leaf is None else of_shapes
            where = f"params at {tree.path(keys)!r}" if keys else "params"
            raise InexactError(f"{who}: {where} must be an array, got {leaf}. {way}") from error
    if not leaves:
        raise InexactError(f"{who}: params must have a leaf at least, got {params}.") from error


MAX_COUNT = 2**31 - 1
"""Largest count: counters are int32."""


def require_count(who: str, name: str, number: object) -> None:
    """Refuse anything but an integer from 1 to the largest of a counter."""
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"{who}: {name} must be an integer of 1 at least, got {_shown(number)}.")
    if number > MAX_COUNT:
        raise ValueError(f"{who}: {name} must be at most {MAX_COUNT:,}, for counts are int32, got {text(number)}.")


def _shown(number: Any) -> str:
    return text(number) if type(number) is int else repr(number)[:80]  # text hides that an integer is NumPy's


def require_params(who: str, params: Tree) -> None:
    """Refuse an update that was not given the parameters it needs."""
    if params is None:
        raise MissingParamsError(who)


def require_optimizer(who: str, tx: object, name: str = "tx") -> None:
    """Refuse anything but an optimizer."""
    if isinstance(tx, type) or not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
        way = "; gd.parse reads a text" if isinstance(tx, str) else uncalled(tx) or "; call it" * callable(tx)
        raise TypeError(f"{who}: {name} must be an optimizer, a value or one of Optax, got {brief(tx)}{way}.")


def cause_of_init(error: Exception, tx: Call) -> Exception | None:
    """Return the error that explains a failed `init`; `None` if the error is to be raised as it is."""
    if isinstance(error, BRANCHED) and (traced := traced_error(tx)) is not None:
        return traced
    return _axis_error(error, tx.factory.__name__)


def cause_of_update(
    error: Exception, tx: Any, updates: Tree, state: Tree, params: Tree, extra_args: dict[str, Any]
) -> Exception | None:
    """Return the error that explains a failed `update`; `None` if the error is to be raised as it is.

    An error of the user's own code, and one that names its cause already, passes.
    """
    who = tx.factory.__name__
    if isinstance(error, BRANCHED) and (traced := traced_error(tx)) is not None:
        return traced
    if of_axis := _axis_error(error, who):
        return of_axis
    if not isinstance(error, (TypeError, ValueError, AttributeError, KeyError, IndexError)):
        return None
    if isinstance(error, (ExplainedError, axes.NamedAxisError)) or is_raised_by_user(error):
        return None
    if (names := _missing(error)) == ["params"]:
        return _needed(tx, updates, state, extra_args) or MissingParamsError(who)
    if names and who != "opaque_transform":  # the transform around it has a name
        call = "".join(f", {name}=..." for name in names)
        return MissingError(f"{who} needs {', '.join(names)}: call tx.update(grads, state, params{call}).")
    if what := misplaced.of_update(tx, updates, state, params):
        return MismatchError(who, what)
    if isinstance(error, MismatchError):
        # the user wrote the name of the optimizer, not that of its chain
        return MismatchError(who, error.what) if error.who == _stands_for(tx) else None
    if isinstance(error, InexactError):
        return None
    if params is not None and (where := tree.difference(updates, params, "updates", "params")):
        return MismatchError(who, f"updates and params differ {where}")
    like = updates if params is None else params
    path, expected = _path_of_none(updates), _expected_state(tx, like, state)
    where = tree.difference(state, expected, "the state given", "the one that init makes")
    if where and (path is None or absent.fitting(tx.init, state, like) is None):
        if path is not None:
            return MismatchError(
                who,
                f"updates at {path!r} is None, and the state keeps several leaves in one buffer, where the shape "
                "of each must be known. Pass all params to update, give zeros there, or leave the leaf out with "
                "masked or partition",
            )
        return MismatchError(
            who,
            f"the state does not belong to these params: {where}. "
            "Make it with init, or restore the state of this very transform",
        )
    return _needed(tx, updates, state, extra_args) if params is None else None


def _axis_error(error: BaseException, who: str) -> ValueError | None:
    """Return the error that says who needs an axis that is not bound."""
    return axes.NamedAxisError(f"{who}: {error}") if isinstance(error, axes.AxisError) else None


def _needed(tx: Any, updates: Any, state: Any, extra_args: dict[str, Any]) -> Exception | None:
    """Return the error for a lack of parameters, if an update with some in their place goes further."""
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves((updates, state))):
        return None  # these alone may be what it fails for
    try:
        jax.eval_shape(lambda updates, state: tx.update(updates, state, updates, **extra_args), updates, state)
    except (MissingError, InexactError) as told:
        return told
    except Exception:  # it fails for another reason
        return None
    return MissingParamsError(tx.factory.__name__)


def _path_of_none(updates: Any) -> str | None:
    """Return the path of the first leaf without an update."""
    leaves = jax.tree_util.tree_leaves_with_path(updates, is_leaf=lambda x: x is None)
    return next((tree.path(keys) for keys, leaf in leaves if leaf is None), None)


class MismatchError(ValueError):
    """An error whose cause is known: the transform that found it, and the cause in words."""

    def __init__(self, who: str, what: str):
        super().__init__(f"{who}: {what}.")
        self.who, self.what = who, what

    def __reduce__(self) -> Any:
        return type(self), (self.who, self.what)


class ExplainedError(Exception):
    """A mixin for errors that name their cause. Outer transforms pass them on unchanged."""


class MissingParamsError(ExplainedError, ValueError):
    """Error of an update that was not given the parameters."""

    def __init__(self, who: str):
        super().__init__(f"{who} needs the parameters: call update(updates, state, params).")
        self.who = who

    def __reduce__(self) -> Any:
        return type(self), (self.who,)


class MissingError(ExplainedError, TypeError):
    """Error of an update that was not given an extra argument it needs."""


def _missing(error: BaseException) -> list[str]:
    """Return the arguments that an update function of Optax was not given."""
    if found := re.fullmatch(r"(\w+) must be provided to [\w']+ update function\.", str(error)):
        return [found[1]]
    found = re.search(r"update_fn\(\) missing \d+ required keyword-only arguments?: (.*)", str(error))
    return re.findall(r"'(\w+)'", found[1]) if found and isinstance(error, TypeError) else []


class InexactError(TypeError):
    """Error for leaves that are not floating."""


def _stands_for(tx: Any) -> str | None:
    """Return the name of the transform that a named optimizer stands for."""
    body = tx.body()
    return body.factory.__name__ if isinstance(body, Call) else None


def is_raised_by_user(error: BaseException) -> bool:
    """Return whether a `raise` outside of the libraries raised an error."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    if at is None or str(at.tb_frame.f_globals.get("__name__")).split(".")[0] in _LIBRARIES:
        return False
    return at.tb_frame.f_code.co_code[at.tb_lasti] == dis.opmap["RAISE_VARARGS"]


_LIBRARIES = {"chex", "equinox", "flax", "gdjax", "jax", "jaxlib", "numpy", "optax"}


class TracedError(ExplainedError, TypeError):
    """Error of a factory that needs a number but was given a tracer."""


@contextlib.contextmanager
def branches(value: Call) -> Iterator[None]:
    """Explain a factory that needs the number of a hyperparameter that is traced."""
    try:
        yield
    except BRANCHED as error:
        if (cause := traced_error(value)) is None:
            raise
        raise cause from error


def traced_error(value: Call) -> TracedError | None:
    """Return the error for a factory that needs the number of a traced hyperparameter.

    `None` if no hyperparameter is traced: JAX's own error shows the line.
    """
    if not (names := _culprits(value)):
        return None
    who = value.factory.__name__
    parameters = list(dict.fromkeys(name.split("/")[0] for name in names))
    return TracedError(
        f"{who} needs the number that {' or '.join(names)} stands for while it builds the program, but it is "
        f"traced. Close over the value instead of passing it through jit, vmap or grad, or make the argument "
        f"static: annotate it Any, or lift({who}, static={parameters!r})."
    )


def _expected_state(tx: Any, params: Any, otherwise: Any) -> Any:
    try:
        return jax.eval_shape(tx.init, params)
    except axes.NamedAxisError:
        raise
    except Exception:
        return otherwise


def _culprits(value: Any) -> list[str]:
    """Return the traced hyperparameters each of which makes the body fail while the others are plain numbers."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(value)
    plain = [0.5 if isinstance(leaf, Tracer) else leaf for _, leaf in leaves]
    if _fails(treedef.unflatten(plain)):
        return []
    return [
        tree.path(keys)
        for i, (keys, leaf) in enumerate(leaves)
        if isinstance(leaf, Tracer) and _fails(treedef.unflatten([*plain[:i], leaf, *plain[i + 1 :]]))
    ]


def _fails(value: Any) -> bool:
    body: Callable[..., Any] = value.body
    params = {"w": jnp.ones((2, 2))}
    try:
        if callable(value):
            body()(0)
        else:
            init, update = body()
            update(params, init(params), params)
    except BRANCHED:
        return True
    except Exception:
        return False
    return False


def _inexact(leaf: Any) -> bool:
    try:
        return is_inexact(leaf.dtype if isinstance(leaf, jax.Array) else jnp.result_type(leaf))
    except TypeError:
        return False


@functools.cache
def is_inexact(dtype: DTypeLike) -> bool:
    """Return whether a dtype is floating or complex."""
    return jnp.issubdtype(dtype, jnp.inexact)
