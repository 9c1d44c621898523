"""A leaf with a None update keeps its slice of a buffer that holds several leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax as gd

PSGD = gd.scale_by_psgd_kron(preconditioner_update_probability=1.0)
LAYOUTS = [gd.scale_by_soap(every=1), gd.scale_by_shampoo(gd.identity(), every=1, block=2), PSGD]


def _trees(number, shape=(4, 6)):
    keys = jax.random.split(jax.random.key(number), 2)
    return {name: jax.random.normal(key, shape) for name, key in zip("vw", keys, strict=True)}


def _stacks(state):
    """Return the arrays of a state that hold both matrices."""
    return [
        x.reshape(2, -1)
        for x in jax.tree.leaves(state)
        if jnp.isdtype(x.dtype, "real floating") and x.shape not in {(), (4, 6)}
    ]


@pytest.mark.parametrize("tx", [*LAYOUTS, gd.scale_by_normuon()], ids=lambda tx: tx.factory.__name__)
def test_matrices_without_an_update_keep_their_slice_of_a_stack(tx):
    tx, params = gd.chain(gd.identity(), tx, gd.scale(-0.1)), _trees(0)
    _, state = tx.update(_trees(1), tx.init(params), params)
    grads = _trees(2)
    updates, new = tx.update(grads | {"v": None}, state, params)
    both, state_of_both = tx.update(grads, state, params)
    assert updates["v"] is None
    np.testing.assert_allclose(updates["w"], both["w"], rtol=1e-5)
    assert _stacks(state)
    for before, after, expected in zip(*map(_stacks, (state, new, state_of_both)), strict=True):
        assert (after[0] == before[0]).all()
        np.testing.assert_allclose(after[1], expected[1], rtol=1e-4, atol=1e-6)
        assert not (after[1] == before[1]).all()


def test_a_leaf_without_an_update_needs_params_for_its_shape():
    tx, params = gd.scale_by_soap(), _trees(0)
    with pytest.raises(ValueError, match=r"updates at 'v' is None, .* Pass all params to update, give zeros there, or"):
        tx.update(params | {"v": None}, tx.init(params))


@gd.transform
def negated(fault: bool = False):
    def update(updates, state, params=None):
        if fault:
            jnp.zeros(3) + jnp.zeros(4)
        return {name: None if g is None else -g for name, g in updates.items()}, state

    return (lambda params: jax.tree.map(jnp.zeros_like, params)), update


@pytest.mark.parametrize("tx", [negated(), gd.chain(negated(), gd.identity())], ids=["alone", "in a chain"])
def test_a_transform_that_handles_none_receives_it(tx):
    params = _trees(0)
    for given in (params, None):
        updates, state = tx.update(params | {"v": None}, tx.init(params), given)
        assert updates["v"] is None
        np.testing.assert_array_equal(updates["w"], -params["w"])
        assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))


def test_other_failures_are_not_blamed_on_the_leaf_without_an_update():
    tx, params = negated(fault=True), _trees(0)
    for given in (params, None):
        with pytest.raises(TypeError, match=r"^add got incompatible shapes"):
            tx.update(params | {"v": None}, tx.init(params), given)


def test_devices_of_an_axis_keep_matrices_without_an_update():
    tx, params = gd.scale_by_soap(every=1, axis_name="data"), _trees(0)

    def run(first, second):
        def on_one_device(_):
            _, state = tx.update(first, tx.init(params), params)
            return state, tx.update(second, state, params)[1]

        return jax.vmap(on_one_device, axis_name="data")(jnp.arange(2))

    state, new = run(_trees(1), _trees(2) | {"v": None})
    for before, after in zip(jax.tree.leaves(state.stacks), jax.tree.leaves(new.stacks), strict=True):
        unchanged = [bool((old == fresh).all()) for old, fresh in zip(before, after, strict=True)]
        assert after.dtype == jnp.int32 or unchanged == [True, False]


def test_packed_leaves_without_an_update_keep_their_slice_of_a_buffer():
    tx, params = gd.packed(gd.adam(0.1), below=30), _trees(0) | {"u": jnp.ones(2), "large": jnp.ones(99)}
    _, state = tx.update(params, tx.init(params), params)
    updates, new = tx.update({**_trees(2), "v": None, "u": None, "large": None}, state, params)
    assert {name for name, x in updates.items() if x is None} == {"u", "v", "large"}
    plain, _ = gd.adam(0.1).update(_trees(2), gd.adam(0.1).update(_trees(0), gd.adam(0.1).init(_trees(0)))[1])
    np.testing.assert_allclose(updates["w"], plain["w"], rtol=1e-5)
    before, after = (s[0].mu["packed"]["float32"] for s in (state, new))
    np.testing.assert_array_equal(np.asarray(before == after), [True] * 26 + [False] * 24)
    np.testing.assert_array_equal(new[0].mu["apart"][0], state[0].mu["apart"][0])


def test_an_8_bit_mean_keeps_the_errors_of_leaves_without_an_update():
    tx, params = gd.compressed_mean("data", bits=8), _trees(0, (256,))

    def run(first, second):
        _, state = tx.update(first, tx.init(params), params)
        return state, *tx.update(second, state, params)

    gradients = [
        jax.tree.map(lambda *x: jnp.stack(x), *map(lambda n: _trees(n, (256,)), of)) for of in ((1, 2), (3, 4))
    ]
    state, updates, new = jax.vmap(run, axis_name="data")(gradients[0], gradients[1] | {"v": None})
    assert updates["v"] is None
    assert (new.error["v"] == state.error["v"]).all()
    assert not (new.error["w"] == state.error["w"]).all()
    (before,), (after,) = state.mean_error, new.mean_error
    assert [bool((x == y).all()) for x, y in zip(before, after, strict=True)] == [True, False]
    np.testing.assert_allclose(updates["w"][0], gradients[1]["w"].mean(0), atol=0.1)
