"""Gradients and losses over an axis: per-device ones are averaged, and those already reduced are left alone.

The expected values come from one float64 NumPy computation on the whole batch.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax as gd
from gdjax.descent.checkpoints.state_keys import restore_state, state_arrays

N = 4
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, 4, 3)), RNG.normal(size=(N, 4))
W, Z, K = np.array([0.5, -1.0, 2.0]), 0.3 - 0.2j, 1 + 2j
PARAMS = {"w": jnp.asarray(W, jnp.float32), "z": jnp.asarray(Z, jnp.complex64)}


def residual(params, batch):
    x, y = batch
    return x @ params["w"] + jnp.real(params["z"] * K) - y


LOSSES = {
    "local": lambda axis, params, batch: jnp.mean(residual(params, batch) ** 2),
    "pmean": lambda axis, params, batch: jax.lax.pmean(jnp.mean(residual(params, batch) ** 2), axis),
    "psum": lambda axis, params, batch: jax.lax.psum(jnp.mean(residual(params, batch) ** 2), axis),
    "partial": lambda axis, params, batch: jax.lax.pmean(jnp.mean(residual(params, batch) ** 2), axis[0]),
    "centred": lambda axis, params, batch: jnp.mean(
        (residual(params, batch) - jax.lax.pmean(residual(params, batch).mean(), axis)) ** 2
    ),
}
FUNCTIONS = {
    "make_step": lambda axis: gd.sgd(1.0),
    "mean_over": lambda axis: gd.chain(gd.mean_over(axis), gd.sgd(1.0)),
    "shard_update": lambda axis: gd.shard_update(gd.sgd(1.0), axis),
    "compressed_mean": lambda axis: gd.chain(gd.compressed_mean(axis, rank=1), gd.sgd(1.0)),
    "local_steps": lambda axis: gd.local_steps(gd.sgd(1.0), gd.sgd(1.0), every=1, axis_name=axis),
}
KINDS = ["vmap", "pmap", "unchecked", "checked", "invariant", "auto", "tuple", "nested"]


def expected_step(loss):
    """Return the gradient of the mean of the devices' losses, in float64, and that mean."""
    x, y = X.reshape(-1, 3), Y.ravel()
    error = x @ W + (Z * K).real - y
    if loss == "centred":
        error, x, slope = error - error.mean(), x - x.mean(0), 0.0
    else:
        slope = 2 * error.mean()
    times = N if loss == "psum" else 1
    grads = {"w": times * 2 * x.T @ error / len(y), "z": times * slope * np.conj(K)}
    return grads, times * (error**2).mean()


def axis_of(kind):
    return ("a", "b") if kind in ("tuple", "nested") else "d"


def on_every_device(kind, f):
    """Call `f(params, batch)` on every device of an axis; the results are stacked along a new first axis."""
    batch = (jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32))
    if kind == "vmap":
        return jax.jit(jax.vmap(f, in_axes=(None, 0), axis_name="d"))(PARAMS, batch)
    if kind == "pmap":
        return jax.pmap(f, in_axes=(None, 0), axis_name="d", devices=jax.devices()[:N])(PARAMS, batch)
    devices, auto = np.array(jax.devices()), (AxisType.Auto,) * 2
    options: dict = {"in_specs": (P(), P("d")), "out_specs": P("d"), "check_vma": kind not in ("unchecked", "nested")}
    mesh = Mesh(devices[:N], ("d",))
    if kind == "auto":
        mesh = Mesh(devices.reshape(N, 2), ("d", "m"), axis_types=auto)
        options["axis_names"] = {"d"}
    if kind == "tuple":
        mesh = Mesh(devices[:N].reshape(2, 2), ("a", "b"))
        options |= {"in_specs": (P(), P(("a", "b"))), "out_specs": P(("a", "b"))}
    if kind == "nested":
        mesh = Mesh(devices[:2], ("b",))
        options |= {"in_specs": (P(), P(None, "b")), "out_specs": P(None, "b")}
        batch = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), batch)

    def member(params, batch):
        if kind != "invariant" and options["check_vma"]:
            params = jax.lax.pcast(params, axis_of(kind), to="varying")
        if kind == "nested":
            one = jax.vmap(lambda batch: f(params, jax.tree.map(lambda x: x[0], batch)), axis_name="a")
            return jax.tree.map(lambda x: x[:, None], one(batch))
        return jax.tree.map(lambda x: x[None], f(params, jax.tree.map(lambda x: x[0], batch)))

    found = jax.jit(jax.shard_map(member, mesh=mesh, **options))(PARAMS, batch)
    return jax.tree.map(lambda x: x.reshape(N, *x.shape[2:]), found) if kind == "nested" else found


def is_possible(kind, function, loss):
    """Return whether JAX supports a case: it cannot gather over nested `vmap`, and `partial` needs two axes."""
    whole = kind != "nested" or function not in ("shard_update", "compressed_mean")
    return whole and (loss != "partial" or kind in ("tuple", "nested"))


@functools.cache
def steps_and_losses(kind):
    """Return the steps and losses of every function and loss, computed in one program."""
    axis = axis_of(kind)
    pairs = [(f, loss) for f in FUNCTIONS for loss in LOSSES if is_possible(kind, f, loss)]

    def steps(params, batch):
        found = {}
        for function, loss in pairs:
            tx = FUNCTIONS[function](axis)
            step = gd.make_step(functools.partial(LOSSES[loss], axis), tx, axis_name=axis)
            state, metrics = step(gd.State.create(params, tx), batch)
            found[f"{function} {loss}"] = (jax.tree.map(jnp.subtract, params, state.params), metrics["loss"])
        return found

    return jax.tree.map(np.asarray, on_every_device(kind, steps))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_step_follows_the_gradient_of_the_mean_of_device_losses(kind, function, loss):
    if not is_possible(kind, function, loss):
        return
    decrease, value = steps_and_losses(kind)[f"{function} {loss}"]
    grads, mean = expected_step(loss)
    for name in grads:
        np.testing.assert_allclose(
            decrease[name], np.broadcast_to(grads[name], decrease[name].shape), rtol=2e-5, atol=2e-6
        )
    np.testing.assert_allclose(value.mean(), mean, rtol=1e-5)


COUNTS = np.array([[4, 1, 0, 3], [2, 0, 0, 0], [0, 0, 0, 0], [1, 4, 4, 4]])
"""Real examples of every micro-batch of every device; the others are NaN."""
X4, Y4 = RNG.normal(size=(4, 4, 4, 3)), RNG.normal(size=(4, 4, 4))
MASK = np.arange(4) < COUNTS[..., None]


def masked_loss(params, batch):
    """Return the mean over real examples; without any, value and gradient are 0 / 0."""
    x, y, mask = batch
    error = jnp.where(mask, residual(params, (jnp.where(mask[..., None], x, 0), y)), 0)
    return jnp.sum(error**2) / jnp.sum(mask) + params["w"].sum() * (0 / jnp.sum(mask))


def weighted_expected(members):
    """Return the gradient and the mean over all real examples of some devices, in float64."""
    mask = MASK[members]
    x, y = X4[members][mask], Y4[members][mask]
    error = x @ W + (Z * K).real - y
    return {"w": 2 * x.T @ error / len(y), "z": 2 * error.mean() * np.conj(K)}, (error**2).mean()


def weighted_batch(members):
    """Return batches of shape (devices, 16, ...), which make_step splits into the micro-batches of COUNTS."""
    x, y, mask = np.where(MASK[..., None], X4, np.nan)[members], Y4[members], MASK[members]
    x, y, mask = x.swapaxes(1, 2), y.swapaxes(1, 2), mask.swapaxes(1, 2)  # a micro-batch is every fourth example
    n = len(y)
    parts = x.reshape(n, 16, 3), y.reshape(n, 16), mask.reshape(n, 16)
    return tuple(jnp.asarray(part, bool if part.dtype == bool else jnp.float32) for part in parts)


def count(batch):
    return batch[2].sum()


def weighted_step(tx, **options):
    """Return a function that takes one step from a fresh state and returns the decrease of parameters and the loss."""
    step = gd.make_step(masked_loss, tx, accumulate=4, weight=count, **options)

    def stepped(params, batch):
        state, metrics = step(gd.State.create(params, tx), batch)
        return jax.tree.map(jnp.subtract, params, state.params), metrics["loss"]

    return stepped


def assert_matches_expected(found, members):
    grads, value = weighted_expected(members)
    for name in grads:
        expected = np.broadcast_to(grads[name], np.shape(found[0][name]))
        np.testing.assert_allclose(found[0][name], expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(found[1], np.broadcast_to(value, np.shape(found[1])), rtol=1e-5)


def test_weights_of_micro_batches_and_devices_form_one_weighted_mean():
    averaged = gd.chain(gd.mean_over("d"), gd.sgd(1.0))
    steps = [weighted_step(tx, axis_name="d") for tx in (gd.sgd(1.0), averaged)]
    both = jax.vmap(lambda batch: [step(PARAMS, batch) for step in steps], axis_name="d")
    for found in jax.jit(both)(weighted_batch(slice(None))):
        assert_matches_expected(found, slice(None))


def test_weights_form_one_weighted_mean_under_check_vma():
    mesh, step = Mesh(np.array(jax.devices()[:4]), ("d",)), weighted_step(gd.sgd(1.0), axis_name="d")
    batch = jax.tree.map(lambda x: x.reshape(64, *x.shape[2:]), weighted_batch(slice(None)))
    mapped = jax.shard_map(step, mesh=mesh, in_specs=(P(), P("d")), out_specs=P())
    assert_matches_expected(jax.jit(mapped)(PARAMS, batch), slice(None))


def test_weights_of_micro_batches_need_no_axis():
    batch = jax.tree.map(lambda x: x[0], weighted_batch([0]))
    assert_matches_expected(jax.jit(weighted_step(gd.sgd(1.0)))(PARAMS, batch), [0])
    plain = gd.make_step(masked_loss, gd.sgd(1.0), accumulate=4)
    state, _ = plain(gd.State.create(PARAMS, gd.sgd(1.0)), batch)
    assert np.isnan(state.params["w"]).all()  # one micro-batch without examples makes the mean of means NaN


def test_weights_of_micro_batches_work_on_a_sharded_batch():
    mesh = Mesh(np.array(jax.devices()[:4]), ("d",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, P("d"))
    batch = jax.tree.map(lambda x: jax.device_put(x.reshape(64, *x.shape[2:]), sharding), weighted_batch(slice(None)))
    assert_matches_expected(jax.jit(weighted_step(gd.sgd(1.0), batch_sharding=sharding))(PARAMS, batch), slice(None))


def test_under_local_steps_weights_apply_only_within_a_device():
    tx = gd.local_steps(gd.sgd(1.0), gd.sgd(1.0), every=2, axis_name="d")
    found = jax.jit(jax.vmap(functools.partial(weighted_step(tx, axis_name="d"), PARAMS), axis_name="d"))(
        weighted_batch([0, 1])
    )
    for i in range(2):
        assert_matches_expected(jax.tree.map(lambda x, i=i: x[i], found), [i])


@pytest.mark.parametrize("options", [{}, {"axis_name": "d"}], ids=["one device", "axis"])
def test_the_gradient_is_zero_when_all_weights_are_zero(options):
    step = jax.vmap(functools.partial(weighted_step(gd.sgd(1.0), **options), PARAMS), axis_name="d")
    decrease, value = step(weighted_batch([2, 2]))
    assert not any(np.any(x) for x in jax.tree.leaves((decrease, value)))


def test_weights_apply_to_aux_extra_and_the_loss_given_to_the_optimizer():
    def loss(w, batch, extra):
        seen = batch[:, 0].mean()
        return w * seen, (jnp.where(batch[0, 1] > 0, seen, jnp.nan), {"seen": seen})

    step = gd.make_step(loss, gd.polyak_sgd(10.0), accumulate=3, weight=lambda b: b[:, 1].sum(), has_aux=True)
    state = gd.State.create(2.0, gd.polyak_sgd(10.0), extra=jnp.zeros(()))
    state, metrics = step(state, jnp.array([[1.0, 1.0], [4.0, 3.0], [jnp.nan, 0.0]]))
    np.testing.assert_allclose([metrics["loss"], metrics["aux"]["seen"]], [6.5, 3.25])
    np.testing.assert_allclose(state.params, 2 - 6.5 / 3.25, atol=1e-6)  # Polyak's step: value / |grad|^2 * grad
    assert state.extra == 4.0


def squares(w, batch):
    return jnp.mean((w * batch) ** 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": len}, "weight has no effect on a single batch"),
        ({"weight": 2.0}, "weight must be a function of the batch, got 2.0"),
        ({"batch_sharding": NamedSharding(Mesh(np.array(jax.devices()), ("d",)), P("d"))}, "no effect without acc"),
        ({"tx": gd.local_steps(gd.sgd(1.0), gd.sgd(1.0), 2, "d"), "axis_name": "d", "weight": len}, "no effect under"),
    ],
)
def test_an_argument_of_make_step_without_effect_is_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=f"make_step: .*{message}"):
        gd.make_step(squares, **{"tx": gd.sgd(1.0), **options})


def test_weights_of_an_invariant_loss_are_refused_or_cancel_without_types():
    step = gd.make_step(
        functools.partial(LOSSES["pmean"], "d"), gd.sgd(1.0), axis_name="d", weight=lambda b: b[1][0] ** 2
    )

    def stepped(params, batch):
        return step(gd.State.create(params, gd.sgd(1.0)), batch)[0].params

    with pytest.raises(ValueError, match="make_step: weight has no effect on a loss that is invariant over the axis"):
        on_every_device("checked", stepped)
    grads, _ = expected_step("pmean")
    np.testing.assert_allclose(PARAMS["w"] - on_every_device("vmap", stepped)["w"], [grads["w"]] * N, rtol=2e-5)


def weighted(tx, grads, weights, axis=True):
    """Return the updates after two steps with the gradients and weights of each device."""

    def updated(grads, weights):
        state = tx.init(jnp.zeros(2))
        for g, w in zip(grads, weights, strict=True):
            updates, state = tx.update(g, state, jnp.zeros(2), weight=w)
        return updates

    return jax.vmap(updated, axis_name="d")(grads, weights) if axis else updated(grads, weights)


GRADS = np.array([[[1.0, -2.0], [4.0, 3.0]], [[np.nan, np.inf], [7.0, 5.0]], [[2.0, 8.0], [6.0, -6.0]]])
WEIGHTS = np.array([[1.0, 3.0], [0.0, 2.0], [5.0, 0.5]])
COUNTED = np.where(WEIGHTS[..., None] > 0, GRADS, 0) * WEIGHTS[..., None]


@pytest.mark.parametrize(
    "tx",
    [
        gd.accumulate(gd.chain(gd.mean_over("d"), gd.sgd(1.0)), 2),
        gd.chain(gd.mean_over("d"), gd.accumulate(gd.sgd(1.0), 2)),
        gd.accumulate(gd.shard_update(gd.sgd(1.0), "d"), 2),
        gd.shard_update(gd.accumulate(gd.sgd(1.0), 2), "d"),
        gd.accumulate(gd.chain(gd.compressed_mean("d", rank=1), gd.sgd(1.0)), 2),
        gd.chain(gd.mean_over("d"), gd.by_path({".*": gd.accumulate(gd.sgd(1.0), 2)})),
    ],
    ids=lambda tx: repr(tx)[:40],
)
def test_weights_of_accumulated_steps_and_devices_form_one_weighted_mean(tx):
    expected = -COUNTED.sum((0, 1)) / WEIGHTS.sum()
    np.testing.assert_allclose(weighted(tx, GRADS, WEIGHTS), [expected] * 3, rtol=1e-5)


@pytest.mark.parametrize("tx", [gd.mean_over("d"), gd.shard_update(gd.scale(1.0), "d")], ids=["mean", "shard"])
def test_the_mean_over_devices_is_weighted(tx):
    expected = COUNTED[:, 1].sum(0) / WEIGHTS[:, 1].sum()
    np.testing.assert_allclose(weighted(tx, GRADS, WEIGHTS), [expected] * 3, rtol=1e-5)


def test_accumulated_gradients_are_weighted():
    tx = gd.accumulate(gd.sgd(1.0), 2)
    np.testing.assert_allclose(weighted(tx, GRADS[0], WEIGHTS[0], False), -COUNTED[0].sum(0) / 4, rtol=1e-6)
    np.testing.assert_allclose(weighted(tx, GRADS[1], WEIGHTS[1], False), [-7.0, -5.0], rtol=1e-6)  # NaN of weight 0
    np.testing.assert_array_equal(weighted(tx, GRADS[0], [0.0, 0.0], False), [0.0, 0.0])
    np.testing.assert_allclose(weighted(tx, GRADS[0], [1.0, 3.0], False), weighted(tx, GRADS[0], [2.0, 6.0], False))
    with pytest.raises(ValueError, match="weight must be a scalar"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), weight=jnp.ones(2))


def test_checkpoints_without_weights_count_each_gradient_as_one():
    tx = gd.accumulate(gd.sgd(1.0), 3)
    _, state = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    older = {key: x for key, x in state_arrays(state).items() if key != "Accumulate/weight"}
    assert restore_state(older, tx.init(jnp.ones(2))).weight == 1.0


def test_checkpoints_with_unscaled_sums_are_resumed():
    params = {"a": jnp.zeros(2), "b": jnp.zeros(3)}
    tx = gd.chain(*(gd.masked(gd.accumulate(gd.sgd(1.0), 3), name) for name in params))
    state, within = tx.init(params), "Masked/inner_state/Accumulate"
    older = {
        f"{within}/{name}": jnp.int32(2) for name in ("mini_step", "gradient_step", "mini_step#2", "gradient_step#2")
    }
    older |= {f"{within}/weight": jnp.array(5.0), f"{within}/weight#2": jnp.array(2.0)}
    older |= {f"{within}/acc_grads/a": jnp.full(2, 7.0), f"{within}/acc_grads/b": jnp.full(3, 8.0)}
    update, _ = tx.update(jax.tree.map(jnp.ones_like, params), restore_state(older, state), params)
    np.testing.assert_allclose(update["a"], [-(7 + 1) / (5 + 1)] * 2, rtol=1e-6)
    np.testing.assert_allclose(update["b"], [-(8 + 1) / (2 + 1)] * 3, rtol=1e-6)


@pytest.mark.parametrize(
    "tx",
    [
        gd.adamw(0.1),
        gd.chain(gd.clip(1.0), gd.sgd(0.1)),
        gd.masked(gd.sgd(0.1), True),
        gd.sam(gd.sgd(0.1)),
        gd.lookahead(gd.sgd(0.1), 5, 0.5),
        gd.schedule_free(gd.sgd(0.1), 0.1),
        gd.by_path({".*": gd.sgd(0.1)}),
        gd.packed(gd.adam(0.1)),
        gd.params_ema(gd.sgd(0.1)),
        gd.apply_if_finite(gd.sgd(0.1), 2),
        gd.cocob(),
    ],
    ids=lambda tx: tx.factory.__name__,
)
def test_an_unused_weight_is_refused_and_other_extra_arguments_are_ignored(tx):
    p = jnp.ones(2)
    state = tx.init(p)
    extra_args = {"value": 1.0, "grad": p, "value_fn": lambda p: jnp.sum(p**2), "others": 3}
    jax.eval_shape(lambda p: tx.update(p, state, p, weight=None, **extra_args), p)
    with pytest.raises(TypeError, match=f"{tx.factory.__name__}: weight has no effect"):
        tx.update(p, state, p, weight=2.0, **extra_args)


def test_a_plain_optax_transformation_receives_weights_if_it_accepts_them():
    with pytest.raises(TypeError, match="descend: weight has no effect"):
        gd.descend(optax.scale(1.0), 1.0, optax.scale(1.0).init(1.0), 1.0, weight=2.0)

    def update(updates, state, params=None, *, weight):
        return jax.tree.map(lambda u: weight * u, updates), state

    plain = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    tx = gd.chain(plain, gd.sgd(1.0))
    assert tx.update(1.0, tx.init(1.0), weight=2.0)[0] == -2.0


def test_without_a_weight_inner_transforms_receive_none():
    tx = gd.accumulate(optax.chain(gd.adam(0.1)), 1)
    tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2))


def test_make_step_passes_weights_to_an_accumulating_optimizer():
    tx = gd.accumulate(gd.sgd(1.0), 2)
    step = gd.make_step(lambda w, b: (w * b).mean(), tx, weight=jnp.sum)
    state = gd.State.create(0.0, tx)
    for batch in ([1.0, 1.0], [4.0, 4.0]):
        state, _ = step(state, jnp.array(batch))
    np.testing.assert_allclose(state.params, -(2 * 1 + 8 * 4) / 10, rtol=1e-6)


def a_schedule(value: float) -> optax.Schedule:
    return optax.constant_schedule(value)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: gd.adafactor(0.1, dim=1), "adafactor: dim has no effect without axis_name"),
        (lambda: gd.centralize(dim=1), "centralize: dim has no effect"),
        (lambda: gd.muon(0.1, dim=1), "muon: dim must"),
        (lambda: gd.compressed_mean("d", bits=8, seed=3), "compressed_mean: seed has no effect with bits"),
        (lambda: gd.Checkpoints("x", keep_best=0, best="accuracy"), "Checkpoints: best has no effect"),
        (lambda: gd.lift(a_schedule, explicit=True), "lift: explicit and any_dtype have no effect"),
        (
            lambda: gd.fit(lambda w, b: w**2, 1.0, gd.sgd(0.1), steps=1, drop_remainder=False, progress=False),
            "fit: drop_remainder=False has no effect",
        ),
        (
            lambda: gd.make_step(lambda w, b: w**2, gd.sgd(0.1))(gd.State.create(1.0, gd.sgd(0.1), extra=1.0), None),
            "make_step: the state has `extra`, and the loss takes none",
        ),
    ],
)
def test_an_argument_without_effect_is_refused(attempt, message):
    with pytest.raises((TypeError, ValueError), match=message):
        attempt()
