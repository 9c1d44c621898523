"""Every lifted factory on unusual leaves: the right numbers, or an error that names the leaf."""

import functools
import pickle

import chex
import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax as gd
from tests.samples import signature_of
from tests.value.test_lifted import LIFTED, OF_FUNCTIONS, OWN_WARNINGS, arguments

pytestmark = pytest.mark.filterwarnings(f"ignore:({OWN_WARNINGS})")

OF_EXAMPLES = {"differentially_private_aggregate", "dpsgd"}
MEASURES = {"measure_with_ema"}
"""Factories whose updates are measurements instead of steps."""
PASSING = {name for name, factory in LIFTED.items() if factory.traits.passes}
OUT_OF_RANGE = {
    "scale_by_zoom_linesearch",  # tested in lbfgs, and expensive to compile
    "hutchinson_estimator_diag_hessian",  # ignores gradients
}
STATE_OF_FUNCTIONS = {"snapshot"}
"""Factories whose state is the result of a user's function."""


def params():
    rng = np.random.default_rng(0)
    return {"b": jnp.asarray(rng.normal(size=3), jnp.float32), "w": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)}


def loss(at):
    return sum((jnp.sum(jnp.square(jnp.abs(leaf - 0.3))) for leaf in jax.tree.leaves(at)), start=jnp.zeros(()))


@functools.cache
def transform_of(name):
    return LIFTED[name](**arguments(LIFTED[name], optional=False))


def after_steps(name, tx, grads, at, steps=2):
    """Return the updates and the state after some steps with one gradient."""
    tx = optax.with_extra_args_support(tx)
    state = tx.init(at)
    extra = {"value": jnp.asarray(1.5), "grad": grads, "value_fn": loss}
    if name in ("hutchinson_estimator_diag_hessian", "sophia"):
        extra["obj_fn"] = loss
    grads_or_examples = jax.tree.map(lambda g: jnp.stack([g, g]), grads) if name in OF_EXAMPLES else grads
    for _ in range(steps):
        updates, state = tx.update(grads_or_examples, state, at, **extra)
    return updates, state


def cast(values, dtype):
    return jax.tree.map(lambda x: x.astype(dtype), values)


@pytest.mark.parametrize("name", sorted(LIFTED.keys() - MEASURES))
def test_updates_have_the_dtypes_of_gradients_and_the_state_is_float32_at_least(name):
    dtypes = {"b": jnp.bfloat16, "w": jnp.float16}
    at = {key: leaf.astype(dtypes[key]) for key, leaf in params().items()}
    updates, after = jax.eval_shape(functools.partial(after_steps, name, transform_of(name)), at, at)
    assert {key: leaf.dtype for key, leaf in updates.items()} == dtypes
    before = jax.eval_shape(transform_of(name).init, at)
    assert signature_of(after) == signature_of(before)
    if name not in STATE_OF_FUNCTIONS:
        narrow = [x for x in jax.tree.leaves(after) if jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4]
        assert not narrow


@pytest.mark.parametrize("name", ["acprop", "cocob", "galore", "madgrad", "momo", "noisy_sgd"])
def test_float16_is_float32_rounded_once(name):
    at = cast(params(), jnp.float16)
    narrow, wide = (
        jax.jit(functools.partial(after_steps, name, transform_of(name)))(x, x)[0] for x in (at, cast(at, jnp.float32))
    )
    chex.assert_tree_all_finite(narrow)
    chex.assert_trees_all_equal(narrow, cast(wide, jnp.float16))


@pytest.mark.parametrize("name", sorted(LIFTED.keys() - MEASURES - PASSING - OF_EXAMPLES - OUT_OF_RANGE))
def test_gradients_of_any_size_give_finite_updates(name):
    def at_size(size):
        grads = jax.tree.map(lambda p: size * jnp.sign(p), params())
        return after_steps(name, transform_of(name), grads, params(), steps=3)[0]

    updates = jax.jit(jax.vmap(at_size))(jnp.asarray([0.0, 1e-30, 1e19, 1e30]))
    chex.assert_tree_all_finite(updates)


@pytest.mark.parametrize("name", sorted(LIFTED.keys() - MEASURES))
def test_leaves_of_any_shape_are_accepted_or_refused_by_path(name):
    for at in (
        {"b": jnp.asarray(2.0), "w": jnp.asarray(-1.0)},
        {"b": jnp.zeros(0), "w": jnp.zeros((0, 3))},
        {**params(), "none": None},
        {},
    ):
        try:
            updates, _ = jax.eval_shape(functools.partial(after_steps, name, transform_of(name)), at, at)
        except gd.value.diagnose.InexactError as error:
            assert "'none'" in str(error) or not at  # noqa: PT017
        else:
            assert jax.tree.structure(updates) == jax.tree.structure(at)
            assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, at)


@pytest.mark.parametrize("name", sorted(LIFTED))
def test_complex_leaves_are_accepted_or_refused_by_path(name):
    at = cast(params(), jnp.complex64)
    if LIFTED[name].traits.real:
        with pytest.raises(TypeError, match=rf"^{name}: params at 'b' must be real, got complex64\[3\]"):
            transform_of(name).init(at)
    else:
        updates, _ = jax.eval_shape(functools.partial(after_steps, name, transform_of(name)), at, at)
        assert name in MEASURES or {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype("complex64")}


@pytest.mark.parametrize("name", sorted(LIFTED))
def test_init_from_shapes_gives_the_state_or_is_refused_by_path(name):
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params())
    expected = jax.eval_shape(transform_of(name).init, shapes)
    try:
        state = transform_of(name).init(shapes)
    except TypeError as error:
        assert f"{name}: params at 'b' must be an array" in str(error)  # noqa: PT017
    else:
        assert jax.tree.structure(state) == jax.tree.structure(expected)


def share_no_buffers(tree, other):
    ids = [id(x) for x in jax.tree.leaves(tree)]
    return len(set(ids)) == len(ids) and not set(ids) & {id(x) for x in jax.tree.leaves(other)}


@pytest.mark.parametrize("name", sorted(LIFTED.keys() - MEASURES))
def test_an_initial_state_can_be_donated(name):
    at = params()
    assert share_no_buffers(transform_of(name).init(at), at)


@pytest.mark.parametrize("name", ["cocob", "madgrad", "scale_by_lbfgs"])
def test_a_state_after_a_step_can_be_donated(name):
    at, grads = params(), params()
    _, state = after_steps(name, transform_of(name), grads, at, steps=1)
    assert share_no_buffers(state, (at, grads))


@pytest.mark.parametrize("name", sorted(LIFTED.keys() - OF_FUNCTIONS))
def test_transforms_without_functions_are_pickled(name):
    assert pickle.loads(pickle.dumps(transform_of(name))) == transform_of(name)


@pytest.mark.parametrize("name", sorted(OF_FUNCTIONS & LIFTED.keys()))
def test_transforms_with_functions_are_cloudpickled(name):
    again = cloudpickle.loads(cloudpickle.dumps(transform_of(name)))
    assert again.factory == transform_of(name).factory
    assert again.arguments.keys() == transform_of(name).arguments.keys()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_line_search_descends_in_16_bits_and_the_loss_receives_that_dtype(dtype):
    seen = set()

    def bowl(at):
        seen.add(at.dtype)
        return jnp.sum(jnp.square(at - 1.0))

    for tx in (gd.lbfgs(), gd.chain(gd.sgd(1.0), gd.scale_by_backtracking_linesearch(10))):
        at = jnp.zeros(4, dtype)
        state = tx.init(at)
        for _ in range(3):
            value, grad = jax.value_and_grad(bowl)(at)
            updates, state = tx.update(grad, state, at, value=value, grad=grad, value_fn=bowl)
            at = gd.apply_updates(at, updates)
        assert bowl(at) <= 1.0  # of 4
    assert seen == {jnp.dtype(dtype)}


def test_acprop_of_zero_is_zero():
    at, tx = jnp.ones((4, 4), jnp.float16), gd.acprop(1e-3)
    state = tx.init(at)
    for _ in range(5):
        updates, state = tx.update(jnp.zeros_like(at), state, at)
        np.testing.assert_array_equal(updates, 0)
