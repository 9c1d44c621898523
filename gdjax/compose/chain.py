"""Apply transforms in order."""

import itertools
from collections import OrderedDict

import optax

from gdjax import xla
from gdjax.compose.apply_updates import apply_updates, descend
from gdjax.value import GradientTransform, transform
from gdjax.value.diagnose import MismatchError
from gdjax.value.printing import brief
from gdjax.value.traits import find_trait, route_weight


@transform(packable=True, shardable=True)
def chain(*transforms: optax.GradientTransformation):
    """Apply transforms in order, the first to the gradients.

    State: the tuple of their states, as in Optax.

    Args:
      *transforms: values, or plain Optax transformations.

    Raises:
      ValueError: if `update` gets the state of another transform.

    >>> import gdjax as gd
    >>> gd.chain(gd.clip(1.0), gd.scale(-0.1))
    chain(clip(max_delta=1.0), scale(step_size=-0.1))
    """
    for tx, after in itertools.pairwise(transforms):
        factory = tx.factory  # pyright: ignore[reportAttributeAccessIssue]
        if factory.traits.takes_local_grads and (part := find_trait(after, "examples")) is not None:
            raise ValueError(
                f"chain: {factory.__name__} takes the mean of gradients, and {part.factory.__name__} after it clips "
                f"the gradient of every example: put {part.factory.__name__} first."
            )

    def init(params):
        return tuple(tx.init(params) for tx in transforms)

    def update(updates, state, params=None, **extra_args):
        return through(updates, state, params, route_weight(transforms, extra_args))

    def through(updates, state, params, extras):
        if not isinstance(state, tuple) or len(state) != len(transforms):
            raise MismatchError("chain", _wrong_state(transforms, state))
        new, grads = [], updates
        for tx, old, extra in zip(transforms, state, extras, strict=False):
            if new and tx.factory.traits.rereads_updates:  # pyright: ignore[reportAttributeAccessIssue]
                extra = {**extra, "recompute": _recomputing(transforms, grads, tuple(new), params)}
            updates, new_state = tx.update(updates, old, params, **extra)
            new.append(new_state)
        return updates, tuple(new)

    def step(updates, state, params, **extra_args):
        if not transforms:
            return apply_updates(params, updates), state
        *extras, extra = route_weight(transforms, extra_args)
        updates, before = through(updates, state, params, extras)
        params, last = descend(transforms[-1], updates, state[-1], params, **extra)
        return params, (*before, last)

    def again(updates, state, params=None):
        return _updates_again(transforms, updates, state, params)

    return init, update, again, step


def _recomputing(transforms, grads, new, params):
    """Return a function that computes the updates after the first transforms again, or `None` if one cannot."""

    def recompute(numbers=None):
        states = new if numbers is None else xla.mark(new, numbers)
        return _updates_again(transforms, grads, states, params)

    return recompute if all(tx.recomputes for tx in transforms[: len(new)]) else None


def _updates_again(transforms, updates, states, params):
    """Compute the updates after as many transforms as there are states; `None` if one of them cannot."""
    for tx, state in zip(transforms, states, strict=False):
        updates = None if updates is None else tx.again(updates, state, params)
    return updates


@transform(packable=True, shardable=True)
def named_chain(*transforms: tuple[str, optax.GradientTransformation]):
    """Apply transforms in order, each with a name for its state.

    State: an `OrderedDict` of their states by name.

    Args:
      *transforms: pairs `(name, transform)` with distinct names.

    Raises:
      ValueError: if two transforms have the same name, or if `update` gets the state of another transform.

    >>> import gdjax as gd
    >>> tx = gd.named_chain(("clip", gd.clip(1.0)), ("step", gd.sgd(0.1, momentum=0.9)))
    >>> list(tx.init(0.0))
    ['clip', 'step']
    """
    for part in transforms:
        if not (type(part) is tuple and len(part) == 2 and isinstance(part[0], str) and not isinstance(part[1], str)):
            hint = _named_chain_hint(part)
            raise TypeError(f"named_chain: its arguments are pairs (name, transform), got {brief(part)}{hint}.")
    names = [str(name) for name, _ in transforms]
    if len(set(names)) < len(names):
        raise ValueError(f"named_chain: the names must all be different, got {names}.")

    inner = chain(*(tx for _, tx in transforms))

    def init(params):
        return named(inner.init(params))

    def update(updates, state, params=None, **extra_args):
        updates, states = inner.update(updates, unnamed(state), params, **extra_args)
        return updates, named(states)

    def step(updates, state, params, **extra_args):
        params, states = inner.descend(updates, unnamed(state), params, **extra_args)
        return params, named(states)

    def again(updates, state, params=None):
        return inner.again(updates, unnamed(state), params)

    def named(states):
        return OrderedDict(zip(names, states, strict=True))

    def unnamed(state):
        if not isinstance(state, dict) or set(state) != set(names):
            raise MismatchError("named_chain", _wrong_state(transforms, state))
        return tuple(state[name] for name in names)

    return init, update, again, step


def _named_chain_hint(part: object) -> str:
    """Suggest what to write instead of an argument that is not a pair."""
    if isinstance(part, (dict, list)):
        pairs = "items.items()" if isinstance(part, dict) else "pairs"
        return f"; give them one by one: named_chain(*{pairs})"
    if type(part) is tuple and len(part) == 2 and isinstance(part[1], str):
        return "; the name comes first"
    return f'; write ("name", {part.factory.__name__}(...))' if isinstance(part, GradientTransform) else ""


def _wrong_state(transforms: tuple, state: object) -> str:
    """Describe a state that belongs to another transform."""
    parts = f"{type(state).__name__} of {len(state)}" if isinstance(state, (tuple, dict)) else type(state).__name__
    names = f" ({', '.join(type(part).__name__ for part in state)})" if isinstance(state, tuple) and state else ""
    return (
        f"the state is that of another transform: one of {len(transforms)} parts was expected, "
        f"got {parts}{names}. Make it with init"
    )
