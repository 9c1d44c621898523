"""What every transform keeps, over all that are written here: a new one is under test by existing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gdjax as gd
from tests.compiling import compilations, counted
from tests.samples import (
    OVER_AN_AXIS,
    VARIANTS,
    assert_close,
    names,
    one_member,
    run,
    sample,
    signature_of,
    tree,
    update,
)

COPIES = {"init_params", "params0"}
"""Fields of states that hold the first parameters as they were, and so in their own dtype."""

TRIED = (
    {name: sample(name) for name in names(gd.GradientTransform)}
    | {text: gd.parse(text) for text in VARIANTS}
    | {text: one_member(gd.parse(text)) for text in OVER_AN_AXIS}
)
pytestmark = pytest.mark.parametrize("tx", [pytest.param(tx, id=name) for name, tx in TRIED.items()])


def test_the_state_holds_arrays_alone_and_its_type_is_fixed(tx):
    params = tree()
    state = tx.init(params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert signature_of(run(tx, params)[1]) == signature_of(state)
    assert jax.eval_shape(tx.init, params) == jax.eval_shape(lambda: state)


def test_one_compile_serves_every_step_and_every_number(tx):
    params, grads = tree(), tree(seed=1)
    step = counted(update)
    state = tx.init(params)
    for _ in range(2):
        updates, state = step(tx, grads, state, params)
    assert_close((updates, state), _eagerly(jax.tree.map(jnp.asarray, tx), grads, params, 2), rtol=1e-5, atol=1e-7)
    step(jax.tree.map(lambda leaf: leaf * 0.5, tx), grads, state, params)
    assert compilations(step) == 1


def _eagerly(tx, grads, params, steps):
    state = tx.init(params)
    for _ in range(steps):
        updates, state = update(tx, grads, state, params)
    return updates, state


def test_it_is_carried_through_scan_and_while_loop_and_cond(tx):
    params, grads = tree(), tree(seed=1)

    def step(carry):
        updates, state = update(tx, grads, carry[1], carry[0])
        return gd.apply_updates(carry[0], updates), state

    start = params, tx.init(params)
    scanned, _ = jax.lax.scan(lambda carry, _: (step(carry), None), start, length=2)
    looped = jax.lax.fori_loop(0, 2, lambda _, carry: jax.lax.cond(True, step, lambda carry: carry, carry), start)
    assert_close(scanned, looped, rtol=1e-5, atol=1e-7)


def test_it_is_differentiated_through(tx):
    params, grads = tree(), tree(seed=1)

    def after(tx, params):
        moved = params
        state = tx.init(params)
        for _ in range(2):
            updates, state = update(tx, grads, state, moved)
            moved = gd.apply_updates(moved, updates)
        return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(moved))

    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(after, (0, 1))(tx, params)))


def test_zero_gradients_give_finite_derivatives(tx):
    params = tree()
    zeros = jax.tree.map(jnp.zeros_like, params)

    def after(tx):
        updates, _ = update(tx, zeros, tx.init(params), params)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(updates))

    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((after(tx), jax.grad(after)(tx))))


def test_vmap_is_a_loop(tx):
    several = [tree(seed=seed) for seed in range(3)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)
    mapped = jax.vmap(lambda params: update(tx, params, tx.init(params), params)[0])(batch)
    looped = [update(tx, params, tx.init(params), params)[0] for params in several]
    assert_close(mapped, jax.tree.map(lambda *leaves: jnp.stack(leaves), *looped), rtol=1e-5, atol=1e-7)


def test_pmap_is_one_device_eight_times(tx):
    params = tree()
    several = jax.tree.map(lambda leaf: jnp.stack([leaf] * 8), params)
    updates = jax.pmap(lambda params: update(tx, params, tx.init(params), params)[0])(several)
    alone = update(tx, params, tx.init(params), params)[0]
    assert_close(jax.tree.map(lambda leaf: leaf[7], updates), alone, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_sharded_leaves_give_sharded_updates(tx, axis_type):
    if tx.factory is one_member and axis_type is AxisType.Explicit:
        pytest.skip("each member of an axis has whole leaves: vmap maps over none that its type divides")
    mesh = jax.make_mesh((4,), ("data",), axis_types=(axis_type,))
    params, grads = tree(), tree(seed=1)
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec("data"))
        whole = NamedSharding(mesh, PartitionSpec())
        place = {"b": whole, "w": rows}
        sharded, sharded_grads = jax.device_put(params, place), jax.device_put(grads, place)
        state = tx.init(sharded)
        updates, new_state = jax.jit(lambda *trees: update(tx, *trees))(sharded_grads, state, sharded)
    if axis_type is AxisType.Explicit:
        assert updates["w"].sharding.is_equivalent_to(rows, 2)
        for new, old in zip(jax.tree.leaves(new_state), jax.tree.leaves(state), strict=True):
            assert new.sharding.is_equivalent_to(old.sharding, new.ndim)
    alone, state_alone = update(tx, grads, tx.init(params), params)
    assert_close(updates, alone, rtol=1e-5, atol=1e-7)
    if tx.factory is not gd.packed:  # it leaves sharded leaves apart
        assert_close(new_state, state_alone, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_updates_have_the_dtype_of_gradients_and_sums_float32_at_least(tx, dtype):
    params = tree(dtype)
    state = tx.init(params)
    updates, new_state = update(tx, tree(dtype, 1), state, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    paths = gd.tree.leaves_with_paths(new_state)
    sums = [leaf for path, leaf in paths if leaf.dtype != bool and not COPIES & {*path.split("/")}]
    assert all(leaf.dtype.itemsize >= 4 for leaf in sums)
    assert signature_of(new_state) == signature_of(state)


def test_float64_stays_float64(tx):
    with jax.enable_x64(True):
        params = tree(jnp.float64)
        updates, state = update(tx, params, tx.init(params), params)
        float32 = tree(jnp.float32)
        stacked = jax.tree.map(lambda leaf: leaf[0], gd.stack([tx, tx]))  # float64 arrays as hyperparameters
        narrow, narrow_state = update(stacked, float32, stacked.init(float32), float32)
        assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype("float64")}
        assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {jnp.dtype("float32")}
        assert signature_of(narrow_state) == signature_of(stacked.init(float32))
        assert signature_of(state) == signature_of(tx.init(params))


def test_it_obeys_strict_promotion(tx):
    params = tree(jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"):
        updates, _ = update(tx, params, tx.init(params), params)
    assert updates["w"].dtype == jnp.bfloat16


@pytest.mark.parametrize("shape", [(), (0, 3), (1,)], ids=["scalar", "zero-size", "one"])
def test_leaves_of_any_shape_work(tx, shape):
    params = {"b": jnp.ones(shape), "w": jnp.ones(shape)}
    updates, _ = update(tx, params, tx.init(params), params)
    assert jax.tree.map(jnp.shape, updates) == {"b": shape, "w": shape}


def test_none_leaves_stay_none(tx):
    params = {**tree(), "none": None, "within": {"none": None}}
    updates, state = update(tx, params, tx.init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))


def test_updates_that_are_none_beside_arrays_and_functions_stay_none(tx):
    params, grads = tree(), tree(seed=1)
    model = {**params, "activation": jax.nn.relu, "number": 3, "within": {"frozen": jnp.ones(2)}}
    absent = {"activation": None, "number": None, "within": {"frozen": None}}
    state = tx.init({**params, **absent})
    after = jax.eval_shape(lambda: update(tx, {**grads, **absent}, state, model))
    assert after == jax.eval_shape(lambda: update(tx, {**grads, **absent}, state, {**params, **absent}))


def test_a_leaf_without_an_update_keeps_its_state(tx):
    params, grads = tree(), {"w": tree(seed=1)["w"], "b": None}
    state = tx.init(params)
    updates, new_state = jax.eval_shape(lambda: update(tx, grads, state, params))
    assert jax.tree.structure(updates) == jax.tree.structure(grads)
    assert new_state == jax.eval_shape(lambda: state)


def test_the_state_never_holds_the_callers_buffers(tx):
    params = tree()
    state = tx.init(params)
    step = jax.jit(lambda params, state, grads: update(tx, grads, state, params), donate_argnums=(0, 1))
    updates, _ = step(params, state, tree(seed=1))
    assert np.isfinite(updates["w"]).all()


def test_the_state_shares_no_buffer_with_params_gradients_or_hyperparameters(tx):
    params, grads, tx = tree(), tree(seed=1), jax.tree.map(jnp.float32, tx)
    state = tx.init(params)
    _, new_state = update(tx, grads, state, params)
    given = {id(leaf) for leaf in jax.tree.leaves((params, grads, tx))}
    assert not given & {id(leaf) for leaf in jax.tree.leaves((state, new_state))}
    assert len(set(map(id, jax.tree.leaves(new_state)))) == len(jax.tree.leaves(new_state))


def test_unknown_extra_arguments_are_ignored(tx):
    params = tree()
    plain = update(tx, params, tx.init(params), params)
    assert_close(update(tx, params, tx.init(params), params, loss=1.0, obj_fn=abs), plain, rtol=0)


def test_it_prints_what_it_is(tx):
    again = gd.parse(repr(tx), one_member)
    assert again == tx
    assert hash(again) == hash(tx)
    assert repr(again) == repr(tx)
    leaves, treedef = jax.tree.flatten(tx)
    assert treedef.unflatten(leaves) == tx
