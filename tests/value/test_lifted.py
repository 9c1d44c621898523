"""Lifted transforms have the names, signatures and numbers of Optax, and are values."""

import functools
import importlib
import inspect
import pkgutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax as gd
from tests.compiling import compilations, counted
from tests.samples import assert_close, tree

OWN_WARNINGS = 'Specifying a key|"seed" is deprecated|`optimistic_adam` is deprecated'
pytestmark = pytest.mark.filterwarnings(f"ignore:({OWN_WARNINGS})")

LIFTED = {f.__name__: f for _, f in sorted(gd.factories().items()) if not f.function.__module__.startswith("gdjax")}
STATIC = [(name, parameter) for name, f in LIFTED.items() for parameter in sorted(f.static)]
PACKAGES = [m.name for m in pkgutil.iter_modules(optax.__path__) if m.ispkg and not m.name.startswith("_")]

HELPERS = {"inject_hyperparams", "inject_stateful_hyperparams", "schedule_free_eval_params", "with_extra_args_support"}
"""Annotated as factories in Optax, but called with a factory, a transform or a state."""
UNANNOTATED = {"dog", "dowg", "hutchinson_estimator_diag_hessian", "monitor", "scale_by_factored_rms", "sgdr_schedule"}
"""Factories in Optax without a return annotation."""
DIFFERENT_SIGNATURE = {
    "sam",  # Optax's stores the parameters in its state, and takes two optimizers
    "scale_by_ademamix",  # alpha is 6 in Optax, 5 in ademamix and in the paper
    "muon",  # a table of coefficients, a function for the scale, views for dimension numbers
    "scale_by_muon",
}
"""Factories whose signature differs from Optax's."""
OF_FUNCTIONS = {"conditionally_mask", "conditionally_transform", "measure_with_ema", "monitor"}
OF_FUNCTIONS |= {"snapshot", "stateless", "stateless_with_tree_map"}
"""Factories that need a Python function, which cannot be parsed."""

REQUIRED = {
    **dict.fromkeys(("adv_optimizer", "base_optimizer", "fast_optimizer", "inner", "optimizer"), gd.sgd(0.1)),
    **dict.fromkeys(("max_backtracking_steps", "max_linesearch_steps"), 5),
    **dict.fromkeys(("max_consecutive_errors", "sync_period"), 2),
    **dict.fromkeys(("clipping", "learning_rate", "noise_multiplier"), 0.1),
    **dict.fromkeys(("eta", "gamma", "slow_step_size", "threshold"), 0.5),
    "decay": 0.9,
    "l2_norm_clip": 1.0,
    "f": lambda updates, params: jax.tree.map(jnp.negative, updates),
    "freeze_mask": {"b": False, "w": True},
    "mask": {"b": False, "w": True},
    "measure": optax.tree.norm,
    "measure_name": "norm",
    "measures": {"norm": optax.tree.norm},
    "param_labels": {"b": "slow", "w": "fast"},
    "seed": 0,
    "should_transform_fn": lambda step: step < 2,
    "transforms": {"fast": gd.sgd(0.1, momentum=0.9), "slow": gd.sgd(0.01)},
}
"""An argument for every parameter that has no default."""
OPTIONAL = {
    **dict.fromkeys(("b2", "momentum"), 0.9),  # with 0.999, 1 - b2**count has only four digits in Optax
    **dict.fromkeys(("learning_rate", "optimism"), 0.1),
    **dict.fromkeys(("max_learning_rate", "weight_decay", "weight_decay_rate"), 0.2),
    "base_optimizer": gd.adam(0.1),
    "key": 1,
    "linesearch": gd.scale_by_backtracking_linesearch(5),
    "random_seed": jax.random.PRNGKey(1),
}
"""Arguments for parameters whose default is None or skips a branch."""


def arguments(factory, optional):
    required = {p.name for p in factory.signature.parameters.values() if p.default is p.empty}
    given = {name: OPTIONAL[name] for name in factory.slots if optional and name in OPTIONAL}
    return given | {name: REQUIRED[name] for name in required}


def run(name, made):
    """Return three updates and the last state of a transform, with the arguments that it needs."""
    tx = optax.with_extra_args_support(made)
    state = tx.init(in_pairs_for_lookahead(name, tree()))
    seen = []
    for seed in range(3):
        params = in_pairs_for_lookahead(name, tree(seed=seed))
        value, grads = jax.value_and_grad(loss)(getattr(params, "fast", params))
        extra = {} if name == "sam" else {"value": value, "grad": grads, "value_fn": loss}
        if name in ("hutchinson_estimator_diag_hessian", "sophia"):
            extra["obj_fn"] = loss
        if name in ("differentially_private_aggregate", "dpsgd"):
            grads = jax.tree.map(lambda g: jnp.stack([g, -0.5 * g]), grads)
        updates, state = tx.update(grads, state, params, **extra)
        seen.append(updates)
    return jax.tree.map(as_numbers, (seen, state))


def in_pairs_for_lookahead(name, params):
    return optax.LookaheadParams(fast=params, slow=params) if name == "lookahead" else params


def loss(params):
    return sum(jnp.sum(jnp.square(leaf - 0.3)) for leaf in jax.tree.leaves(params))


def as_numbers(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def names(package):
    """Return the public names of a package of Optax, with their values in Optax and in gdjax."""
    path = [package] if package else []
    theirs = importlib.import_module(".".join(["optax", *path]))
    ours = functools.reduce(getattr, path, gd)
    return {name: (getattr(theirs, name), getattr(ours, name, None)) for name in dir(theirs) if name[0] != "_"}


def returns_transform_or_schedule(name, x):
    if not isinstance(x, (types.FunctionType, functools.partial)) or name in HELPERS:
        return False
    made = inspect.signature(x, eval_str=True).return_annotation
    of_transforms = inspect.isclass(made) and issubclass(made, optax.GradientTransformation)
    return of_transforms or made == optax.Schedule or name in UNANNOTATED


def parameters(function):
    """Return names, kinds and defaults of parameters; the name of a `*` parameter does not matter."""
    kept = inspect.signature(function).parameters.values()
    return [("*" if p.kind is p.VAR_POSITIONAL else p.name, p.kind, default(p)) for p in kept]


def default(parameter):
    """Return a default; all functions count as equal, and are compared in the tests of parity."""
    is_function = isinstance(parameter.default, types.FunctionType)
    return types.FunctionType if is_function else parameter.default


@pytest.mark.parametrize("package", ["", *PACKAGES])
def test_every_name_of_optax_exists_and_every_factory_makes_values(package):
    known = names(package)
    assert [name for name, (theirs, ours) in known.items() if ours is None and theirs is not None] == []
    factories = {name: pair for name, pair in known.items() if returns_transform_or_schedule(name, pair[0])}
    assert [name for name, (_, ours) in factories.items() if not isinstance(ours, gd.Factory)] == []
    for name, (theirs, ours) in factories.items():
        if name not in DIFFERENT_SIGNATURE:
            shared, added = parameters(ours)[: len(parameters(theirs))], parameters(ours)[len(parameters(theirs)) :]
            assert shared == parameters(theirs)
            assert {parameter for parameter, *_ in added} <= {"axis_name", "dim"}, name


@pytest.mark.parametrize("name", LIFTED)
def test_a_lifted_value_round_trips_through_parse(name):
    value = LIFTED[name](**arguments(LIFTED[name], optional=False))
    if name in OF_FUNCTIONS:
        with pytest.raises(gd.ParseError):
            gd.parse(repr(value))
    else:
        assert gd.parse(repr(value)) == value
        assert hash(gd.parse(repr(value))) == hash(value)


@pytest.mark.parametrize("name", LIFTED)
def test_updates_and_states_match_optax(name):
    given = arguments(LIFTED[name], optional=False)
    assert_close(run(name, LIFTED[name](**given)), run(name, LIFTED[name].function(**given)))


@pytest.mark.parametrize("name", LIFTED)
def test_one_compilation_serves_all_hyperparameters(name):
    given = arguments(LIFTED[name], optional=True)
    value = LIFTED[name](**given)
    compiled = counted(functools.partial(run, name))
    theirs = jax.jit(lambda: run(name, LIFTED[name].function(**given)))
    assert_close(compiled(value), theirs(), rtol=1e-5, atol=1e-6)
    compiled(jax.tree.map(lambda leaf: leaf / 2 if isinstance(leaf, float) else leaf + 1, value))
    assert compilations(compiled) == 1


@pytest.mark.parametrize("name", LIFTED)
def test_hyperparameters_can_be_traced(name):
    jax.eval_shape(functools.partial(run, name), LIFTED[name](**arguments(LIFTED[name], optional=False)))


@pytest.mark.parametrize(("name", "parameter"), STATIC)
def test_static_parameters_cannot_be_traced(name, parameter):
    factory = gd.lift(LIFTED[name].function, static=LIFTED[name].static - {parameter})
    value = factory(**arguments(factory, optional=True))
    with pytest.raises(TypeError, match=f"^{name} needs the number that {parameter}"):
        jax.eval_shape(functools.partial(run, name), value)


@pytest.mark.parametrize(
    ("lifted", "given"),
    [
        (gd.lift(optax.linear_schedule), (0.5, 0.1, 50)),
        (gd.lift(optax.exponential_decay, static=["decay_rate"]), (0.5, 50, 0.9)),
        (gd.lift(optax.join_schedules), ([gd.constant(1.0), optax.constant_schedule(0.5)], [5])),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_lifted_schedule_is_a_tree_and_a_function_of_the_step(lifted, given):
    schedule, theirs = lifted(*given), lifted.function(*given)
    assert isinstance(schedule, gd.Schedule)
    assert all(isinstance(leaf, float) for leaf in jax.tree.leaves(schedule))
    at = jax.jit(lambda schedule, count: schedule(count))
    for count in (0, 1, 7, 100):
        assert schedule(count).shape == ()
        np.testing.assert_allclose(schedule(count), theirs(count), rtol=1e-6)
        np.testing.assert_allclose(at(schedule, count), theirs(count), rtol=1e-6)


def test_a_lifted_schedule_names_what_must_be_static():
    schedule = gd.lift(optax.exponential_decay)(0.5, 50, 0.9)
    with pytest.raises(TypeError, match=r"^exponential_decay needs the number that decay_rate stands for"):
        jax.jit(lambda schedule: schedule(0))(schedule)


def branches_in_the_factory(threshold: float, rate: float = 0.5):
    return optax.scale(rate if threshold > 0 else -rate)


def branches_in_update(threshold: float, rate: float = 0.5):
    def update(updates, state, params=None):
        return jax.tree.map(lambda u: rate * u if threshold > 0 else u, updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)


@pytest.mark.parametrize("function", [branches_in_the_factory, branches_in_update])
def test_a_branch_on_a_traced_number_is_named_with_a_fix(function):
    step = jax.jit(lambda tx: tx.update(1.0, tx.init(1.0))[0])
    name = function.__name__
    message = rf"^{name} needs the number that threshold stands for .* lift\({name}, static=\['threshold'\]\)"
    with pytest.raises(TypeError, match=message):
        step(gd.lift(function)(1.0))
    assert step(gd.lift(function, static=["threshold"])(1.0)) == 0.5
