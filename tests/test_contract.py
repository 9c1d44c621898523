"""The contract of every transform: a new one is tested as soon as it is registered.

The specimen is a fixture of the module, so pytest runs all tests of one transform in a row.
They share what is expensive: the eager steps and the compiled one.
"""

import functools

import chex
import jax
import jax.numpy as jnp
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
    sample,
    signature_of,
    tree,
    update,
)

INITIAL_PARAMS = {"init_params", "params0"}
"""Fields of states that hold the initial parameters in their own dtype."""

TRANSFORMS = (
    {name: sample(name) for name in names(gd.GradientTransform)}
    | {text: gd.parse(text) for text in VARIANTS}
    | {text: one_member(gd.parse(text)) for text in OVER_AN_AXIS}
)


class Specimen:
    """A transform, its arguments, and the runs that several tests read."""

    def __init__(self, tx):
        self.tx, self.params, self.grads = tx, tree(), tree(seed=1)
        self.state = tx.init(self.params)

    @functools.cached_property
    def steps(self):
        """Updates, state and parameters after each of three eager steps."""
        steps, state, params = [], self.state, self.params
        for _ in range(3):
            updates, state = update(self.tx, self.grads, state, params)
            params = gd.apply_updates(params, updates)
            steps.append((updates, state, params))
        return steps

    @functools.cached_property
    def compiled_step(self):
        """Return `update` within `while_loop`, `scan` and `cond`, compiled; it donates state and parameters."""

        def step(tx, grads, state, params):
            def one(carry):
                return update(tx, grads, carry[1], params)

            def body(carry, _):
                number, step = carry
                return (number + 1, jax.lax.cond(number < 1, one, lambda step: step, step)), None

            def loop(carry):
                return jax.lax.scan(body, carry, length=1)[0]

            return jax.lax.while_loop(lambda carry: carry[0] < 1, loop, (0, (grads, state)))[1]

        return counted(step, donate_argnums=(2, 3))


@pytest.fixture(scope="module", params=TRANSFORMS)
def specimen(request):
    return Specimen(TRANSFORMS[request.param])


@pytest.fixture
def tx(specimen):
    return specimen.tx


def abstract_step(tx, params, grads):
    """Return the updates, the new and the initial state as shapes, dtypes and weak types: traced, not compiled."""

    def step():
        state = tx.init(params)
        return *update(tx, grads, state, params), state

    return jax.eval_shape(step)


def dtypes(tree):
    """Return the dtypes of the leaves."""
    return {leaf.dtype for leaf in jax.tree.leaves(tree)}


def test_the_state_holds_arrays_alone_and_its_type_is_fixed(specimen):
    state = specimen.state
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert signature_of(specimen.steps[-1][1]) == signature_of(state)
    assert jax.eval_shape(specimen.tx.init, specimen.params) == jax.eval_shape(lambda: state)


def test_one_compile_serves_every_step_and_every_number(specimen):
    step, state, params = specimen.compiled_step, specimen.tx.init(specimen.params), tree()
    for expected_updates, expected_state, expected_params in specimen.steps[:2]:
        updates, state = step(specimen.tx, specimen.grads, state, params)
        assert_close((updates, state), (expected_updates, expected_state), rtol=1e-5, atol=1e-7)
        params = jax.tree.map(jnp.copy, expected_params)
    step(jax.tree.map(lambda leaf: leaf * 0.5, specimen.tx), specimen.grads, state, params)
    assert compilations(step) == 1


def test_it_is_carried_through_scan_and_while_loop_and_cond(specimen):
    params = tree()
    step = specimen.compiled_step(specimen.tx, specimen.grads, specimen.tx.init(params), params)
    assert_close(step, specimen.steps[0][:2], rtol=1e-5, atol=1e-7)


def test_it_is_differentiated_through(specimen):
    def after(tx, params):
        moved, state = params, tx.init(params)
        for _ in range(2):
            updates, state = update(tx, specimen.grads, state, moved)
            moved = gd.apply_updates(moved, updates)
        return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(moved))

    chex.assert_tree_all_finite(jax.grad(after, (0, 1))(specimen.tx, specimen.params))


def test_zero_gradients_give_finite_derivatives(specimen):
    params = specimen.params
    zeros = jax.tree.map(jnp.zeros_like, params)

    def after(tx):
        updates, _ = update(tx, zeros, tx.init(params), params)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(updates))

    chex.assert_tree_all_finite(jax.value_and_grad(after)(specimen.tx))


def test_vmap_is_a_loop(specimen):
    tx, several = specimen.tx, [(tree(seed=seed), tree(seed=seed + 1)) for seed in range(3)]

    def first_updates(params, grads):
        return update(tx, grads, tx.init(params), params)[0]

    mapped = jax.vmap(first_updates)(*jax.tree.map(lambda *leaves: jnp.stack(leaves), *several))
    looped = [specimen.steps[0][0], *(first_updates(*trees) for trees in several[1:])]
    assert_close(mapped, jax.tree.map(lambda *leaves: jnp.stack(leaves), *looped), rtol=1e-5, atol=1e-7)


def test_pmap_is_one_device_eight_times(specimen):
    tx, trees = specimen.tx, (specimen.params, specimen.grads)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf] * 8), trees)
    updates = jax.pmap(lambda params, grads: update(tx, grads, tx.init(params), params)[0])(*several)
    assert_close(jax.tree.map(lambda leaf: leaf[7], updates), specimen.steps[0][0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_sharded_leaves_give_sharded_updates(specimen, axis_type):
    tx = specimen.tx
    if tx.factory is one_member and axis_type is AxisType.Explicit:
        pytest.skip("vmap maps over no axis that the type shards, and the leaves of each member are replicated")
    mesh = jax.make_mesh((4,), ("data",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec("data"))
        place = {"b": NamedSharding(mesh, PartitionSpec()), "w": rows}
        params, grads = jax.device_put((specimen.params, specimen.grads), (place, place))
        state = tx.init(params)
        updates, new_state = jax.jit(lambda *trees: update(tx, *trees))(grads, state, params)
    if axis_type is AxisType.Explicit:
        assert updates["w"].sharding.is_equivalent_to(rows, 2)
        for new, old in zip(jax.tree.leaves(new_state), jax.tree.leaves(state), strict=True):
            assert new.sharding.is_equivalent_to(old.sharding, new.ndim)
    updates_of_one_device, state_of_one_device, _ = specimen.steps[0]
    assert_close(updates, updates_of_one_device, rtol=1e-5, atol=1e-7)
    if tx.factory is not gd.packed:  # it does not pack sharded leaves
        assert_close(new_state, state_of_one_device, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_updates_have_the_dtype_of_gradients_and_sums_float32_at_least(tx, dtype):
    updates, new_state, state = abstract_step(tx, tree(dtype), tree(dtype, 1))
    assert dtypes(updates) == {jnp.dtype(dtype)}
    paths = gd.tree.leaves_with_paths(new_state)
    sums = [leaf for path, leaf in paths if leaf.dtype != bool and not INITIAL_PARAMS & {*path.split("/")}]
    assert all(leaf.dtype.itemsize >= 4 for leaf in sums)
    assert signature_of(new_state) == signature_of(state)


def test_float64_stays_float64(tx):
    with jax.enable_x64(True):
        params = tree(jnp.float64)
        updates, new_state, state = abstract_step(tx, params, params)
        float32 = tree(jnp.float32)
        array_tx = jax.tree.map(lambda leaf: leaf[0], gd.stack([tx, tx]))  # float64 arrays as hyperparameters
        float32_updates, float32_new_state, float32_state = abstract_step(array_tx, float32, float32)
        assert dtypes(updates) == {jnp.dtype("float64")}
        assert dtypes(float32_updates) == {jnp.dtype("float32")}
        assert signature_of(float32_new_state) == signature_of(float32_state)
        assert signature_of(new_state) == signature_of(state)


def test_it_obeys_strict_promotion(tx):
    params = tree(jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"):
        updates, _, _ = abstract_step(tx, params, params)
    assert updates["w"].dtype == jnp.bfloat16


@pytest.mark.parametrize("shape", [(), (0, 3), (1,)], ids=["scalar", "zero-size", "one"])
def test_leaves_of_any_shape_work(tx, shape):
    params = {"b": jnp.ones(shape), "w": jnp.ones(shape)}
    updates, _ = update(tx, params, tx.init(params), params)
    assert jax.tree.map(jnp.shape, updates) == {"b": shape, "w": shape}


def test_none_leaves_stay_none(tx):
    params = {**tree(), "none": None, "within": {"none": None}}
    updates, new_state, state = abstract_step(tx, params, params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)


def test_updates_that_are_none_beside_arrays_and_functions_stay_none(tx):
    params, grads = tree(), tree(seed=1)
    model = {**params, "activation": jax.nn.relu, "number": 3, "within": {"frozen": jnp.ones(2)}}
    absent = {"activation": None, "number": None, "within": {"frozen": None}}
    state = tx.init({**params, **absent})
    after = jax.eval_shape(lambda: update(tx, {**grads, **absent}, state, model))
    assert after == jax.eval_shape(lambda: update(tx, {**grads, **absent}, state, {**params, **absent}))


def test_a_leaf_without_an_update_keeps_its_state(specimen):
    grads, state = {"w": specimen.grads["w"], "b": None}, specimen.state
    updates, new_state = jax.eval_shape(lambda: update(specimen.tx, grads, state, specimen.params))
    assert jax.tree.structure(updates) == jax.tree.structure(grads)
    assert new_state == jax.eval_shape(lambda: state)


def test_the_state_never_holds_the_callers_buffers(specimen):
    params = tree()
    updates, _ = specimen.compiled_step(specimen.tx, specimen.grads, specimen.tx.init(params), params)
    chex.assert_tree_all_finite(updates)


def test_the_state_shares_no_buffer_with_params_gradients_or_hyperparameters(tx):
    params, grads, tx = tree(), tree(seed=1), jax.tree.map(jnp.float32, tx)
    state = tx.init(params)
    _, new_state = update(tx, grads, state, params)
    given = {id(leaf) for leaf in jax.tree.leaves((params, grads, tx))}
    assert not given & {id(leaf) for leaf in jax.tree.leaves((state, new_state))}
    assert len(set(map(id, jax.tree.leaves(new_state)))) == len(jax.tree.leaves(new_state))


def test_unknown_extra_arguments_are_ignored(specimen):
    step = update(specimen.tx, specimen.grads, specimen.state, specimen.params, loss=1.0, obj_fn=abs)
    assert_close(step, specimen.steps[0][:2], rtol=0)


def test_it_prints_what_it_is(tx):
    again = gd.parse(repr(tx), one_member)
    assert again == tx
    assert hash(again) == hash(tx)
    assert repr(again) == repr(tx)
    leaves, treedef = jax.tree.flatten(tx)
    assert treedef.unflatten(leaves) == tx
