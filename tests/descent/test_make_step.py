"""One step equals the gradient step by hand, under every transformation of JAX."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

import gdjax as gd

X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(8, 3)
Y = np.sin(3 * X.sum(1))
PARAMS = {"w": jnp.array([0.5, -0.2, 0.1]), "b": jnp.array(0.3)}


def loss(params, batch):
    x, y = batch
    return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)


def by_hand(params, x, y, rate):
    """Return parameters, loss and gradient norm of one step of float64 gradient descent on mean squared error."""
    w, b = np.asarray(params["w"], float), float(params["b"])
    error = x.astype(float) @ w + b - y
    grad_w, grad_b = 2 * x.T @ error / len(y), 2 * error.mean()
    norm = np.sqrt((grad_w**2).sum() + grad_b**2)
    return {"w": w - rate * grad_w, "b": b - rate * grad_b}, (error**2).mean(), norm


assert_close = functools.partial(chex.assert_trees_all_close, rtol=2e-6, atol=1e-7)


def test_a_step_on_a_parabola_matches_the_step_by_hand():
    step = gd.make_step(lambda w, batch: (w - 2.0) ** 2, gd.sgd(0.1))
    state, metrics = step(gd.State.create(5.0, gd.sgd(0.1)), None)
    assert metrics["grad_norm"] == 6.0
    assert metrics["loss"] == 9.0
    np.testing.assert_allclose(state.params, 4.4, rtol=1e-7)
    assert state.count == 1


@pytest.mark.parametrize("accumulate", [1, 2, 8])
def test_accumulated_micro_batches_give_the_step_of_the_whole_batch(accumulate):
    tx = gd.sgd(0.1)
    step = jax.jit(gd.make_step(loss, tx, accumulate=accumulate))
    state, metrics = step(gd.State.create(PARAMS, tx), (X, Y))
    params, value, norm = by_hand(PARAMS, X, Y, 0.1)
    assert_close(state.params, params)
    assert_close((metrics["loss"], metrics["grad_norm"]), (value, norm))


def over_an_axis(kind, step, state, batch):
    """Take a step over an axis of 8 devices; check that they agree, and return the result of one."""
    shards = jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), batch)
    if kind == "vmap":
        state, metrics = jax.vmap(step, in_axes=(None, 0), axis_name="data")(state, shards)
    elif kind == "pmap":
        state, metrics = jax.pmap(step, in_axes=(None, 0), axis_name="data")(state, shards)
    else:
        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        specs = {"in_specs": (PartitionSpec(), PartitionSpec("data")), "out_specs": PartitionSpec()}
        return jax.shard_map(step, mesh=mesh, **specs, check_vma=kind == "checked")(state, batch)
    first, last = (jax.tree.map(lambda x, i=i: x[i], (state.params, metrics["loss"])) for i in (0, 7))
    chex.assert_trees_all_equal(first, last)
    return jax.tree.map(lambda x: x[0], (state, metrics))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", ["vmap", "pmap", "checked", "unchecked"])
def test_a_step_over_an_axis_equals_the_step_of_the_whole_batch(kind, accumulate):
    tx = gd.sgd(0.1)
    batch = (np.concatenate([X, -X]), np.concatenate([Y, Y]))
    step = gd.make_step(loss, tx, axis_name="data", accumulate=accumulate)
    state, metrics = over_an_axis(kind, step, gd.State.create(PARAMS, tx), batch)
    params, value, norm = by_hand(PARAMS, *batch, 0.1)
    assert_close(state.params, params)
    assert_close((metrics["loss"], metrics["grad_norm"]), (value, norm))


@pytest.mark.parametrize("kind", ["vmap", "pmap", "checked", "unchecked"])
def test_sam_over_an_axis_differentiates_the_loss_of_all_devices(kind):
    tx = gd.sam(gd.sgd(0.1), rho=0.05)
    on_one_device, _ = gd.make_step(loss, tx)(gd.State.create(PARAMS, tx), (X, Y))
    state, _ = over_an_axis(kind, gd.make_step(loss, tx, axis_name="data"), gd.State.create(PARAMS, tx), (X, Y))
    assert_close(state.params, on_one_device.params)


@pytest.mark.parametrize(
    "tx", [gd.lbfgs(), gd.polyak_sgd(0.1), gd.momo(0.1), gd.chain(gd.sgd(1.0), gd.scale_by_backtracking_linesearch(10))]
)
def test_optimizers_that_need_the_loss_descend(tx):
    step = jax.jit(gd.make_step(loss, tx))
    state = gd.State.create(PARAMS, tx)
    for _ in range(5):
        state, metrics = step(state, (X, Y))
    assert metrics["loss"] < 0.9 * loss(PARAMS, (X, Y))


def test_every_step_and_every_micro_batch_has_its_own_key():
    def noise(params, batch, key):
        return params * 0 + jax.random.uniform(key) + batch.mean()

    losses = []
    for accumulate in (1, 2):
        step = gd.make_step(noise, gd.sgd(0.1), accumulate=accumulate)
        state = gd.State.create(0.0, gd.sgd(0.1), key=3)
        for _ in range(3):
            state, metrics = step(state, jnp.zeros(2))
            losses.append(float(metrics["loss"]))
    assert len(set(losses)) == 6
    again, _ = gd.make_step(noise, gd.sgd(0.1))(gd.State.create(0.0, gd.sgd(0.1), key=3), jnp.zeros(2))
    assert again.count == 1


def test_extra_is_carried_between_steps_without_gradients():
    def running(params, batch, *, extra):
        return params * batch.mean(), {"mean": 0.9 * extra["mean"] + 0.1 * batch.mean()}

    step = jax.jit(gd.make_step(running, gd.sgd(1.0)))
    state = gd.State.create(1.0, gd.sgd(1.0), extra={"mean": jnp.zeros(())})
    for _ in range(2):
        state, _ = step(state, jnp.full(4, 2.0))
    np.testing.assert_allclose(state.extra["mean"], 0.9 * 0.2 + 0.2, rtol=1e-6)
    np.testing.assert_allclose(state.params, 1 - 2 * 2.0)


def test_extra_and_aux_can_be_combined():
    def both(params, batch, key, extra):
        return params**2, (extra + 1, {"drawn": jax.random.bits(key)})

    state = gd.State.create(1.0, gd.sgd(0.1), extra=jnp.zeros((), jnp.int32))
    state, metrics = gd.make_step(both, gd.sgd(0.1), has_aux=True)(state, None)
    assert state.extra == 1
    assert metrics["aux"]["drawn"].dtype == jnp.uint32


def test_complex_parameters_descend():
    tx = gd.sgd(0.1)
    step = gd.make_step(lambda z, batch: jnp.abs(z - (1 + 2j)) ** 2, tx)
    state = gd.State.create(jnp.array(0j), tx)
    for _ in range(50):
        state, _ = step(state, None)
    np.testing.assert_allclose(state.params, 1 + 2j, atol=1e-3)


def test_a_sweep_of_learning_rates_is_one_vmap():
    rates = [0.01, 0.05, 0.1]

    def descend(tx):
        step = gd.make_step(loss, tx)
        return jax.lax.scan(lambda s, _: step(s, (X, Y)), gd.State.create(PARAMS, tx), length=20)[0].params

    sweep = jax.jit(jax.vmap(descend))(gd.stack([gd.momo(r) for r in rates]))
    for i, rate in enumerate(rates):
        assert_close(jax.tree.map(lambda x, i=i: x[i], sweep), descend(gd.momo(rate)), rtol=1e-5)


def test_an_optax_optimizer_is_accepted():
    state, _ = gd.make_step(loss, optax.sgd(0.1))(gd.State.create(PARAMS, optax.sgd(0.1)), (X, Y))
    assert_close(state.params, by_hand(PARAMS, X, Y, 0.1)[0])


def test_the_carry_keeps_its_type():
    tx = gd.watch(gd.adamw(1e-3))
    step = gd.make_step(loss, tx)
    state = jax.eval_shape(functools.partial(gd.State.create, tx=tx), PARAMS)
    after, _ = jax.eval_shape(step, state, (X, Y))
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


def step_once(loss, params=1.0, batch=None, extra=None, **options):
    gd.make_step(loss, gd.sgd(0.1), **options)(gd.State.create(params, gd.sgd(0.1), extra=extra), batch)


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (
            lambda: step_once(lambda p, b: p * jnp.ones(3)),
            TypeError,
            r"real floating scalar, got float32\[3\]; take its mean",
        ),
        (lambda: step_once(lambda p, b: jnp.int32(3)), TypeError, r"real floating scalar, got int32\[\]"),
        (lambda: step_once(lambda p, b: (p, p)), TypeError, r"got a tuple; has_aux=True is for \(scalar, aux\)"),
        (lambda: step_once(lambda p, b: p, has_aux=True), TypeError, r"must return \(scalar, aux\), got float32\[\]"),
        (lambda: step_once(lambda p, b, extra: p), TypeError, r"must return \(scalar, extra\)"),
        (
            lambda: step_once(lambda p, b, extra: (p, extra), extra=1.0, has_aux=True),
            TypeError,
            r"must return \(scalar, \(extra, aux\)\), got float32\[\] beside",
        ),
        (
            lambda: step_once(lambda p, b, extra: (p, {"n": jnp.ones(2)}), extra={"n": jnp.ones(3)}),
            ValueError,
            r"`extra` of the same type as it received: at 'n': float32\[2\]",
        ),
        (lambda: step_once(lambda p, b, key, other: p), TypeError, r"must take \(params, batch\), then perhaps a key"),
        (lambda: step_once(lambda p: p), TypeError, r"must take \(params, batch\)"),
        (lambda: step_once(lambda p, b: p, params={"n": 3}), TypeError, "params at 'n' must be floating or complex"),
        (
            lambda: step_once(lambda p, b: p, accumulate=0),
            ValueError,
            "accumulate must be an integer of 1 at least, got 0",
        ),
        (lambda: step_once(lambda p, b: p, accumulate=2), ValueError, "needs a batch to split, got None"),
        (
            lambda: step_once(lambda p, b: p, batch={"x": jnp.ones((4, 2)), "y": jnp.ones(3)}, accumulate=2),
            ValueError,
            r"accumulate=2 equal parts along its first axis, got shape \(3,\) at 'y'",
        ),
    ],
)
def test_wrong_input_is_named(attempt, error, message):
    with pytest.raises(error, match=message):
        attempt()
