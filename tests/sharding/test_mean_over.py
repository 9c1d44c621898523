"""The mean of per-device gradients is the gradient of the mean loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import gdjax as gd

mapped = functools.partial(jax.vmap, axis_name="data")


def mesh():
    return jax.sharding.Mesh(np.array(jax.devices()), ("data",))


def test_the_mean_is_summed_in_float32_and_rounded_to_the_dtype_of_gradients():
    grads = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5)), jnp.bfloat16)
    tx = gd.mean_over("data")
    means = mapped(lambda g: tx.update(g, tx.init(g))[0])(grads)
    exact = np.asarray(grads, np.float32).mean(0)
    assert means.dtype == jnp.bfloat16
    np.testing.assert_array_equal(means[3], jnp.asarray(exact, jnp.bfloat16))


@pytest.mark.parametrize(("dtype", "sent"), [(None, "f32"), (jnp.bfloat16, "bf16")])
def test_gradients_are_sent_in_the_given_dtype(dtype, sent):
    tx = gd.mean_over("data", dtype)
    specs = {"in_specs": PartitionSpec("data"), "out_specs": PartitionSpec()}
    mean = jax.shard_map(lambda g: tx.update(g, tx.init(g))[0], mesh=mesh(), **specs)
    text = jax.jit(mean).lower(jnp.ones((8, 5), jnp.bfloat16)).as_text()
    assert f"tensor<1x5x{sent}>" in next(line for line in text.splitlines() if "}) : (tensor<1x5x" in line)


def test_weights_correct_for_uneven_batches():
    sizes, tx = jnp.array([4.0, 1.0, 0.0]), gd.mean_over("data")
    grads = jnp.array([[1.0, 2.0], [6.0, -3.0], [jnp.nan, jnp.inf]])  # the mean over zero examples
    means = mapped(lambda g, w: tx.update(g, tx.init(g), weight=w)[0])(grads, sizes)
    np.testing.assert_allclose(means, [[2.0, 1.0]] * 3, rtol=1e-6)


def test_the_mean_is_zero_when_all_weights_are_zero():
    tx = gd.mean_over("data")
    means = mapped(lambda g: tx.update(g, tx.init(g), weight=0.0)[0])(jnp.ones((3, 2)))
    np.testing.assert_array_equal(means, np.zeros((3, 2)))


def test_a_mean_over_two_axes():
    tx, grads = gd.mean_over(("a", "b")), jnp.arange(6.0).reshape(2, 3)
    means = jax.vmap(jax.vmap(lambda g: tx.update(g, tx.init(g))[0], axis_name="b"), axis_name="a")(grads)
    np.testing.assert_array_equal(means, np.full((2, 3), 2.5))


def test_a_gradient_already_summed_over_the_axis_is_refused():
    tx = gd.mean_over("data")

    def step(w, x):
        return tx.update(jax.grad(lambda w: w["a"] @ x[0])(w), tx.init(w))[0]

    specs = {"in_specs": (PartitionSpec(), PartitionSpec("data")), "out_specs": PartitionSpec()}
    w, x = {"a": jnp.ones(3)}, jnp.ones((8, 3))
    with pytest.raises(ValueError, match=r"mean_over: updates at 'a' must be per-device.*8 times too large"):
        jax.shard_map(step, mesh=mesh(), **specs)(w, x)
    np.testing.assert_array_equal(jax.shard_map(step, mesh=mesh(), check_vma=False, **specs)(w, x)["a"], np.ones(3))


@pytest.mark.parametrize("axis_name", [None, (), ("a", "a")])
def test_axis_name_is_validated(axis_name):
    with pytest.raises(ValueError, match="mean_over: axis_name must be"):
        gd.mean_over(axis_name)


def test_an_unbound_axis_is_named():
    tx = gd.mean_over("data")
    with pytest.raises(ValueError, match="mean_over: the axis 'data' must be bound"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


def test_integer_dtypes_are_refused_and_complex_numbers_keep_both_parts():
    with pytest.raises(ValueError, match="mean_over: dtype must be floating or complex, got int8"):
        gd.mean_over("data", jnp.int8)
    tx = gd.mean_over("data", jnp.bfloat16)
    means = mapped(lambda g: tx.update(g, tx.init(g))[0])(jnp.array([1 + 2j, 3 + 4j]))
    np.testing.assert_array_equal(means, [2 + 3j] * 2)


def test_weights_do_not_round_gradients_of_16_bits():
    tx, grads = gd.mean_over("data"), jnp.array([3, 3, 3, -9], jnp.bfloat16)
    means = mapped(lambda g, w: tx.update(g, tx.init(g), weight=w)[0])(grads, jnp.array([100.0, 101.0, 103.0, 97.0]))
    np.testing.assert_allclose(means.astype(float), [39 / 401] * 4, rtol=2**-8)


def test_a_nan_weight_gives_nan_and_a_weight_that_is_no_scalar_is_refused():
    tx = gd.mean_over("data")
    means = mapped(lambda g, w: tx.update(g, tx.init(g), weight=w)[0])(jnp.ones(2), jnp.array([1.0, jnp.nan]))
    assert jnp.isnan(means).all()
    with pytest.raises(ValueError, match=r"mean_over: weight must be a scalar, got shape \(1,\)"):
        mapped(lambda g: tx.update(g, tx.init(g), weight=jnp.ones(1))[0])(jnp.ones(2))


def test_make_step_finds_mean_over_inside_a_custom_factory():
    @gd.transform
    def mine(rate: gd.Scalar):
        return gd.chain(gd.mean_over("data"), gd.sgd(rate))

    with pytest.raises(ValueError, match="axis_name must be 'data'"):
        gd.make_step(weighted_loss, mine(0.1))


@pytest.mark.parametrize("around", [gd.cautious, gd.sam, gd.mars])
def test_wrappers_that_need_mean_gradients_refuse_mean_over_inside(around):
    inner = gd.chain(gd.mean_over("data"), gd.scale_by_adam())
    with pytest.raises(ValueError, match=rf"{around.__name__}: inner must be given the mean of gradients.*\('data',\)"):
        around(inner)


def test_a_line_search_uses_the_mean_gradient():
    def descended(tx, axis_name, batch):
        step = gd.make_step(lambda w, x: jnp.sum((w - x) ** 4), tx, axis_name=axis_name)
        state = gd.State.create(jnp.zeros(2), tx)
        for _ in range(3):
            state, _ = step(state, batch)
        return state.params

    batch = jnp.array([[1.0, 2.0], [3.0, -1.0]])
    averaged, plain = gd.chain(gd.mean_over("data"), gd.lbfgs()), gd.lbfgs()
    ours, theirs = (mapped(lambda x, tx=tx: descended(tx, "data", x))(batch) for tx in (averaged, plain))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def weighted_loss(w, batch):
    x, counts = batch
    return jnp.sum(jnp.square(w - x) * counts) / jnp.maximum(jnp.sum(counts), 1)


@pytest.mark.parametrize("tx", [gd.adam(0.1), gd.chain(gd.mean_over("data"), gd.adam(0.1))], ids=["plain", "own"])
def test_a_step_weights_devices_by_their_number_of_examples(tx):
    """Compare 5 examples on 3 devices, two padded and one without examples, with all 5 at once."""
    x = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 0.0, 0.0]).reshape(4, 2)
    counts = jnp.array([1.0, 1, 1, 1, 1, 0, 0, 0]).reshape(4, 2)
    step = gd.make_step(weighted_loss, tx, axis_name="data", weight=lambda batch: batch[1].sum())
    state, metrics = mapped(lambda batch: step(gd.State.create(0.5, tx), batch))((x, counts))
    on_one_device, expected_metrics = gd.make_step(weighted_loss, gd.adam(0.1))(
        gd.State.create(0.5, gd.adam(0.1)), (x, counts)
    )
    np.testing.assert_allclose(state.params, [on_one_device.params] * 4, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], [expected_metrics["loss"]] * 4, rtol=1e-6)


def test_a_step_gives_mean_over_per_device_gradients():
    tx = gd.chain(gd.mean_over("data"), gd.sgd(1.0))
    step = gd.make_step(lambda w, x: w * x, tx, axis_name="data")
    _, metrics = mapped(lambda x: step(gd.State.create(0.0, tx), x))(jnp.array([3.0, 4.0]))
    np.testing.assert_allclose(metrics["grad_norm"], [12.5**0.5] * 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tx": gd.chain(gd.mean_over("data"), gd.sgd(0.1))}, "axis_name must be 'data'.* got None"),
        ({"tx": gd.chain(gd.mean_over("a"), gd.sgd(0.1)), "axis_name": ("a", "b")}, "axis_name must be 'a'.* got"),
        ({"tx": gd.sgd(0.1), "weight": len}, "weight has no effect on a single batch"),
        (
            {"tx": gd.local_steps(gd.sgd(0.1), gd.sgd(1.0), 2, "data"), "weight": len, "axis_name": "data"},
            "weight has no effect under local_steps",
        ),
    ],
)
def test_make_step_refuses_inconsistent_options(options, message):
    with pytest.raises(ValueError, match=message):
        gd.make_step(weighted_loss, **options)


def test_a_step_names_an_unbound_axis():
    step = gd.make_step(weighted_loss, gd.sgd(0.1), axis_name="dta")
    with pytest.raises(ValueError, match="make_step: the axis 'dta' must be bound"):
        mapped(lambda batch: step(gd.State.create(0.0, gd.sgd(0.1)), batch))((jnp.ones((2, 3)), jnp.ones((2, 3))))
