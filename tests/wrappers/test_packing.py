"""Packed leaves: the same numbers, in fewer buffers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax as gd
from tests.compiling import optimized
from tests.samples import assert_close, sample, update

FLAT = sorted(
    name
    for name, factory in gd.factories().items()
    if (factory.traits.packable and not factory.traits.takes_local_grads)
    or factory.__name__ in ("adam", "adamw", "lion", "sgd", "adan", "rmsprop")
)


def model(dtype=jnp.float32, seed=0):
    """Return small, large and empty leaves of one dtype."""
    shapes = {"a": (3,), "b": (), "c": (5, 4), "d": (2, 2, 2), "e": (0, 3), "f": (40, 3)}
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in shapes.items()}


def descend(tx, params):
    @jax.jit
    def step(params, state, grads):
        updates, state = update(tx, grads, state, params)
        return gd.apply_updates(params, updates), state

    state = tx.init(params)
    for seed in (1, 2):
        params, state = step(params, state, model(jnp.float64, seed))
    return params


@pytest.mark.parametrize("name", FLAT)
def test_every_packable_transform_takes_the_same_steps_packed(name):
    with jax.enable_x64(True):
        params = model(jnp.float64)
        assert_close(descend(gd.packed(sample(name), 30), params), descend(sample(name), params), rtol=1e-12)


@pytest.mark.parametrize("below", [1, 2, 1000])
def test_steps_are_equal_when_no_or_all_leaves_are_packed(below):
    with jax.enable_x64(True):
        params, tx = model(jnp.float64), gd.chain(gd.clip_by_global_norm(0.1), gd.adamw(0.1))
        assert_close(descend(gd.packed(tx, below), params), descend(tx, params), rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("lamb(0.1)", "scale_by_trust_ratio"),
        ("adafactor(0.1)", "scale_by_factored_rms"),
        ("chain(clip(1.0), chain(novograd(0.1)))", "scale_by_novograd"),
        ("adamw(0.1, mask='.*kernel')", "add_decayed_weights treats them differently by its mask"),
        ("masked(sgd(0.1), True)", "masked"),
        ("by_path({'.*': sgd(0.1)})", "by_path"),
        ("muon(0.1)", "hidden_matrices"),
    ],
)
def test_transforms_that_treat_leaves_differently_are_refused_by_name(text, part):
    with pytest.raises(gd.ParseError, match=f"packed: inner must treat all leaves as one vector, and {part}"):
        gd.parse(f"packed({text})")


def test_plain_transformations_and_empty_bounds_are_refused():
    with pytest.raises(TypeError, match="packed"):
        gd.packed(gd.transform(lambda inner: inner))
    with pytest.raises(ValueError, match="below must be at least 1, got 0"):
        gd.packed(gd.sgd(0.1), below=0)


def test_there_is_one_buffer_per_accumulator_dtype():
    params = {"half": jnp.ones(3, jnp.bfloat16), "single": jnp.ones(4), "complex": jnp.ones(2, jnp.complex64)}
    tx = gd.packed(gd.adam(0.1))
    state = tx.init(params)
    shapes = {dtype: buffer.shape for dtype, buffer in state[0].mu["packed"].items()}
    assert shapes == {"float32": (7,), "complex64": (2,)}
    updates, _ = tx.update(params, state, params)
    assert jax.tree.map(lambda x: x.dtype, updates) == jax.tree.map(lambda x: x.dtype, params)
    assert_close(updates, gd.adam(0.1).update(params, gd.adam(0.1).init(params), params)[0], rtol=1e-2)


def test_an_update_without_params_uses_the_same_layout():
    grads = model()
    tx = gd.packed(gd.adam(0.1))
    assert_close(tx.update(grads, tx.init(grads))[0], tx.update(grads, tx.init(grads), grads)[0])


def test_vmap_and_derivatives_are_unchanged_by_packing():
    with jax.enable_x64(True):
        compare_vmapped_and_differentiated(model(jnp.float64), model(jnp.float64, 1))


def compare_vmapped_and_differentiated(params, grads):
    stacked = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), grads)

    def first_update(tx):
        return jax.vmap(lambda grads: tx.update(grads, tx.init(params), params)[0])(stacked)

    def sum_of_squares(tx):
        return sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(first_update(tx)))

    plain, packed = gd.adam(0.1), gd.packed(gd.adam(0.1))
    assert_close(first_update(packed), first_update(plain), rtol=1e-12)
    assert_close(jax.grad(sum_of_squares)(packed).inner, jax.grad(sum_of_squares)(plain), rtol=1e-9, atol=1e-9)


def test_hundreds_of_small_leaves_take_few_buffers_and_one_loop():
    params = {f"layer{i}": {"bias": jnp.zeros(64), "kernel": jnp.zeros((64, 8))} for i in range(60)}

    def compiled(tx):
        state = jax.eval_shape(tx.init, params)
        step = jax.jit(lambda params, state, grads: tx.update(grads, state, params), donate_argnums=1)
        return len(jax.tree.leaves(state)), optimized(step.lower(params, state, params)).as_text()

    (packed_leaves, text), (plain_leaves, plain) = compiled(gd.packed(gd.adam(0.1))), compiled(gd.adam(0.1))
    assert (packed_leaves, plain_leaves) == (3, 241)
    assert count_roots(text) < count_roots(plain)


def count_roots(text):
    return len(re.findall(r" = f32\[\d+[,\d]*\]\S* sqrt\(", text))


def test_describe_shows_the_state_of_every_leaf():
    packed, plain = (gd.describe(gd.chain(gd.clip(1.0), tx), model()) for tx in (gd.packed(gd.adam(0.1)), gd.adam(0.1)))
    assert [row.state_bytes for row in packed.rows] == [row.state_bytes for row in plain.rows]
    assert {row.transform for row in packed.rows} == {"clip + packed(adam)"}


def test_gradients_of_other_shapes_are_an_error_that_names_the_path():
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    tx = gd.packed(gd.sgd(0.1))
    with pytest.raises(ValueError, match=r"packed: updates and params differ at 'a': float32\[2\] in updates"):
        tx.update({"a": jnp.ones(2), "b": jnp.ones(3)}, tx.init(params), params)


def test_sixteen_bits_are_rounded_once():
    params, grads = model(jnp.bfloat16), model(jnp.bfloat16, 1)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (params, grads))
    tx = gd.packed(gd.adamw(0.1, weight_decay=0.1))
    updates, exact = tx.update(grads, tx.init(params), params)[0], tx.update(wide[1], tx.init(wide[0]), wide[0])[0]
    assert_close(updates, jax.tree.map(lambda x: x.astype(jnp.bfloat16), exact), rtol=2**-8)
