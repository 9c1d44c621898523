"""gdjax as a drop-in replacement for Optax: the same arguments and uses, with the same numbers."""

import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import gdjax as gd
from tests.samples import assert_close, tree

LENGTHS = [-3, 0, 1, 2, 7]
VALUES = [0.0, 0.3, 1.0]
COUNTS = [-2, -1, 0, 1, 2, 3, 5, 8, 20, 10**6, 2**31 - 1]
SCHEDULES = {
    "linear_schedule": (VALUES, VALUES, LENGTHS, LENGTHS),
    "polynomial_schedule": (VALUES, VALUES, [0.5, 1.0, 2.0], LENGTHS, LENGTHS),
    "exponential_decay": (VALUES, LENGTHS, [0.0, 0.5, 1.0, 1.5], LENGTHS, [False, True], [None, 0.2]),
    "cosine_decay_schedule": (VALUES, LENGTHS, VALUES, [0.5, 1.0, 2.0]),
    "warmup_constant_schedule": (VALUES, VALUES, LENGTHS),
    "warmup_cosine_decay_schedule": (VALUES, VALUES, [0, 1, 2, 7], LENGTHS, VALUES, [0.5, 1.0]),
    "warmup_exponential_decay_schedule": (VALUES, VALUES, [0, 1, 7], LENGTHS, [0.0, 0.5], LENGTHS, [False, True]),
    "piecewise_constant_schedule": (VALUES, [None, {}, {0: 0.5}, {2: 0.5, 5: 0.0}, {np.int64(3): 2.0}]),
    "piecewise_interpolate_schedule": (["linear", "cosine"], VALUES, [None, {0: 0.5}, {2: 0.5, 5: 0.0}]),
    "linear_onecycle_schedule": ([-1, 0, 20], VALUES, [0.3, 0.5], [0.6, 0.85]),
    "cosine_onecycle_schedule": ([-1, 0, 20], VALUES, [0.3, 0.5]),
}
"""Optax's schedules, and the values tried for each argument."""


def value_or_error(make, count):
    """Return the value at a count, or the kind of error."""
    try:
        return np.asarray(make()(count), np.float64)
    except ValueError:
        return ValueError


@pytest.mark.parametrize("name", SCHEDULES)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_a_schedule_matches_the_value_or_error_of_optax(name, data):
    arguments = [data.draw(st.sampled_from(choices)) for choices in SCHEDULES[name]]
    count = data.draw(st.sampled_from(COUNTS))
    kind = data.draw(st.sampled_from([int, float, np.int32, jnp.int32]))
    expected = value_or_error(lambda: getattr(optax, name)(*arguments), kind(count))
    found = value_or_error(lambda: getattr(gd, name)(*arguments), kind(count))
    if expected is ValueError or found is ValueError:
        assert found is expected, (arguments, count)
    else:
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6, err_msg=f"{arguments} at {count!r}")


@pytest.mark.parametrize("steps", [-1, 0])
def test_a_linear_schedule_of_no_steps_keeps_its_initial_value(steps):
    line = gd.linear_schedule(1.0, 0.0, steps)
    joined = gd.join_schedules([gd.constant(0.5), line], [3])
    for at in (lambda rate, count: rate(count), jax.jit(lambda rate, count: rate(count))):
        assert (at(line, 0), at(line, 5), at(joined, 2), at(joined, 3), at(joined, 9)) == (1.0, 1.0, 0.5, 1.0, 1.0)
    tx = gd.sgd(gd.warmup_constant_schedule(0.1, 1.0, 0))
    np.testing.assert_allclose(tx.update(1.0, tx.init(1.0))[0], -0.1, rtol=1e-6)


def test_integer_counts_stay_exact_beyond_float32():
    start = 2**30
    ours, theirs = gd.linear_schedule(1.0, 0.0, 10, start), optax.linear_schedule(1.0, 0.0, 10, start)
    counts = [start + i for i in range(12)]
    for count in (*counts, *map(jnp.int32, counts), 2**31 - 1, 3 * 10**9):
        np.testing.assert_allclose(ours(count), theirs(jnp.int32(min(int(count), 2**31 - 1))), rtol=1e-6, atol=1e-7)
    table = jnp.arange(12.0)
    joined = gd.join_schedules([lambda _: 0.0, lambda count: table[count]], [start])
    np.testing.assert_array_equal([joined(jnp.int32(count)) for count in counts], table)
    with jax.enable_x64(True):
        assert ours(start + 5) == 0.5


def test_only_functions_of_the_step_are_schedules():
    class Custom:
        def __call__(self, count):
            return 0.1

    for schedule in (lambda count: 0.1, Custom(), gd.constant(0.1), optax.constant_schedule(0.1), jax.jit(jnp.sqrt)):
        assert isinstance(schedule, gd.Schedule)
    for other in (0.1, None, gd.sgd(0.1), optax.sgd(0.1), gd.constant, gd.sgd, Custom, jnp.ones(())):
        assert not isinstance(other, gd.Schedule)


WITH_A_NUMBER = [
    gd.sgd,
    gd.adamw,
    gd.lion,
    gd.scale,
    gd.add_decayed_weights,
    gd.clip_by_global_norm,
    gd.adafactor,
    gd.lamb,
]


@pytest.mark.parametrize("make", WITH_A_NUMBER, ids=lambda make: make.__name__)
def test_an_array_of_one_number_counts_as_that_number(make):
    params = {**tree(), "number": jnp.float32(0.5)}
    plain = make(0.1)
    for number in (jnp.array([0.1]), np.array([0.1], np.float32), jnp.array([[0.1]])):
        tx = make(number)
        ours, theirs = (each.update(params, each.init(params), params)[0] for each in (tx, plain))
        assert_close(ours, theirs)
        assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, params)
    if make is gd.sgd:
        tx = make(lambda count: jnp.array([0.1]))
        assert_close(tx.update(params, tx.init(params), params)[0], plain.update(params, plain.init(params))[0])


WRAPPERS = {
    "inject_hyperparams": lambda o: o.inject_hyperparams(o.adamw)(learning_rate=o.linear_schedule(0.1, 0.0, 4)),
    "inject_stateful_hyperparams": lambda o: o.inject_stateful_hyperparams(o.adamw)(learning_rate=0.1),
    "static arguments": lambda o: o.inject_hyperparams(o.lion, static_args=("b1", "b2"))(0.1, 0.9, b2=0.99),
    "MultiSteps": lambda o: o.MultiSteps(o.adamw(0.1), 2).gradient_transformation(),
    "apply_if_finite": lambda o: o.apply_if_finite(o.rmsprop(0.1), 2),
    "masked": lambda o: o.masked(o.adamw(0.1), {"w": True, "b": False}),
    "partition": lambda o: o.partition({"w": o.adamw(0.1), "b": o.set_to_zero()}, {"w": "w", "b": "b"}),
}


@pytest.mark.filterwarnings("ignore:inject_stateful_hyperparams is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_give_the_parameters_of_optax(name):
    found = []
    for library in (gd, optax):
        tx, params = WRAPPERS[name](library), tree()
        state = tx.init(params)
        for step in range(3):
            updates, state = tx.update(tree(seed=step), state, params)
            params = optax.apply_updates(params, updates)
        found.append(params)
    assert_close(*found, rtol=1e-4, atol=1e-5)  # the first steps of Adam are exact in gdjax, to 1e-5 in Optax


def test_transforms_without_state_per_parameter_accept_any_leaf():
    model = {"w": jnp.ones(2), "activation": jax.nn.relu, "number": 3, "name": "mlp"}
    grads = {"w": jnp.ones(2), "activation": None, "number": None, "name": None}
    stateless = [
        gd.sgd(0.1),
        gd.clip(1.0),
        gd.sgd(gd.constant(0.1)),
        gd.chain(gd.clip_by_global_norm(9.0), gd.sgd(0.1)),
    ]
    for tx in stateless:
        updates, state = tx.update(grads, tx.init(model), model)
        np.testing.assert_allclose(updates["w"], -0.1 * np.ones(2) if "sgd" in repr(tx) else np.ones(2), rtol=1e-6)
        assert jax.tree.structure(updates) == jax.tree.structure(grads)
        assert jax.tree.structure(state) == jax.tree.structure(tx.init(model))
    for tx in (gd.adamw(0.1), gd.sgd(0.1, momentum=0.9), gd.chain(gd.clip(1.0), gd.lion(0.1))):
        with pytest.raises(TypeError, match="params at 'activation' must be floating or complex, got <relu>"):
            tx.init(model)


@pytest.mark.parametrize("name", ["adamw", "lion", "rmsprop", "radam", "lamb", "adafactor", "nadamw", "novograd"])
def test_a_leaf_with_a_none_gradient_is_handled_as_in_optax(name):
    params, grads = tree(), {"w": tree(seed=1)["w"], "b": None}
    ours, theirs = getattr(gd, name)(0.1), getattr(optax, name)(0.1)
    updates, state = ours.update(grads, ours.init(params), params)
    only_w = {"w": params["w"], "b": None}
    expected, _ = theirs.update(grads, theirs.init(only_w), only_w)
    assert_close(updates, expected, rtol=2e-5, atol=1e-6)
    again, _ = ours.update(tree(), state, params)  # a later gradient for the leaf is accepted
    assert jax.tree.structure(again) == jax.tree.structure(params)
    np.testing.assert_array_equal(gd.apply_updates(params, updates)["b"], params["b"])


def test_value_fn_receives_the_model_with_its_functions():
    model = {"w": jnp.array([2.0, -1.0]), "activation": jnp.square}

    def loss(model):
        return model["activation"](model["w"]).sum()

    tx = gd.sam(gd.sgd(0.1), rho=0.5)
    grads = {"w": 2 * model["w"], "activation": None}
    updates, _ = tx.update(grads, tx.init(grads), model, value_fn=loss)
    ascended = model["w"] + 0.5 * model["w"] / np.linalg.norm(model["w"])
    np.testing.assert_allclose(updates["w"], -0.2 * ascended, rtol=1e-6)
    assert updates["activation"] is None


class Net(nnx.Module):
    """One layer."""

    def __init__(self):
        self.linear = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.linear(x)


X = jax.random.normal(jax.random.key(0), (8, 3))


def squares(model):
    return jnp.mean((model(X) - 1.0) ** 2)


def train_net(tx, step, steps=3):
    model = Net()
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    for _ in range(steps):
        step(model, optimizer)
    return nnx.to_pure_dict(nnx.state(model, nnx.Param)), optimizer


def counted_step(transform=nnx.jit):
    traces = []

    @transform
    def step(model, optimizer):
        traces.append(None)
        optimizer.update(model, nnx.grad(squares)(model))

    return step, traces


WITH_ARRAYS = {
    "a rate": lambda rate: gd.adamw(rate),
    "a schedule": lambda rate: gd.sgd(gd.linear_schedule(rate, 0.0, 10)),
    "in a chain": lambda rate: gd.chain(gd.clip_by_global_norm(1.0), gd.lion(rate)),
    "by path": lambda rate: gd.by_path({".*bias": gd.frozen(), ".*": gd.adam(rate)}),
}


@pytest.mark.parametrize("name", WITH_ARRAYS)
def test_an_nnx_optimizer_compiles_once_for_all_rates_given_as_arrays(name):
    step, traces = counted_step()
    for rate in (0.1, 0.05):
        params_after, optimizer = train_net(WITH_ARRAYS[name](jnp.float32(rate)), step)
        expected, _ = train_net(WITH_ARRAYS[name](rate), counted_step()[0])
        assert_close(params_after, expected, rtol=1e-5, atol=1e-6)
        assert isinstance(optimizer.tx, gd.GradientTransform)
        graph, state = nnx.split(optimizer)
        assert nnx.merge(graph, state).tx == optimizer.tx
    assert len(traces) == 1


def test_the_rate_of_an_nnx_optimizer_can_be_differentiated_and_vmapped():
    def after(rate):
        model = Net()
        optimizer = nnx.Optimizer(model, gd.sgd(rate), wrt=nnx.Param)
        optimizer.update(model, nnx.grad(squares)(model))
        return squares(model)

    rates = jnp.array([0.01, 0.1])
    slope = jax.grad(after)(rates[0])
    np.testing.assert_allclose(slope, (after(0.01 + 1e-3) - after(0.01 - 1e-3)) / 2e-3, rtol=1e-2)
    np.testing.assert_allclose(jax.vmap(after)(rates), [after(0.01), after(0.1)], rtol=1e-5)


def test_importing_gdjax_and_making_optimizers_imports_no_flax():
    code = "import sys, gdjax as gd, jax.numpy as jnp; gd.adamw(jnp.float32(0.1)); print('flax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["False"]


def test_every_public_name_of_optax_exists_in_gdjax():
    places = itertools.chain([""], (f".{name}" for name in dir(optax) if type(getattr(optax, name)) is type(optax)))
    for place in filter(lambda place: not place.startswith("._"), places):
        theirs, ours = optax, gd
        for part in filter(None, place.split(".")):
            theirs, ours = getattr(theirs, part), getattr(ours, part)
        missing = [name for name in dir(theirs) if not name.startswith("_") and not hasattr(ours, name)]
        assert not missing, f"gdjax{place} lacks {missing}"
