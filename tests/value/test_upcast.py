"""`transform(upcast=True)`: functions see float32 or wider, and results are rounded to the dtypes of the caller."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax as gd


def recording_dtypes(seen):
    """Return a sum of updates that records the dtypes of the arguments of its functions."""

    @gd.transform(upcast=True)
    def scale_by_sum():
        def update(updates, state, params=None):
            count, total = state
            seen.append([x.dtype for x in (updates, total, params)])
            total = total + updates
            return again(updates, (count + 1, total)), (count + 1, total)

        def again(updates, state, params=None):
            seen.append([updates.dtype, state[1].dtype])
            return state[1] / state[0]

        return lambda params: (jnp.zeros((), jnp.int32), jnp.zeros_like(params)), update, again

    return scale_by_sum()


@pytest.mark.parametrize("dtype", ["float8_e5m2", "float16", "bfloat16"])
def test_functions_receive_float32_and_results_have_the_dtypes_of_the_caller(dtype):
    tx, one = recording_dtypes(seen := []), jnp.ones(3, dtype)
    updates, state = tx.update(one, tx.init(one), one)
    chex.assert_trees_all_equal_shapes_and_dtypes((updates, state), (one, tx.init(one)))
    again = tx.again(one, state)
    assert again.dtype == dtype
    assert seen == [["float32", "float32", dtype], ["float32"] * 2, ["float32"] * 2]


def test_float64_and_integers_are_not_cast():
    with jax.enable_x64(True):
        one = jnp.ones(3, jnp.float64)
        tx = recording_dtypes(seen := [])
        _, (count, _) = tx.update(one, tx.init(one), one)
    assert seen[0] == ["float64"] * 3
    assert count.dtype == jnp.int32


def test_the_sum_is_rounded_once_a_step():
    tx, state, exact = recording_dtypes([]), (jnp.asarray(0, jnp.int32), jnp.asarray(0, jnp.bfloat16)), 0.0
    for g in (1.0, 0.003, 0.003):
        g = jnp.asarray(g, jnp.bfloat16)
        _, state = tx.update(g, state, g)
        exact = np.asarray(exact + np.float32(g)).astype(jnp.bfloat16).astype(np.float32)
    assert float(state[1]) == float(exact)


def test_numpy_arrays_and_python_numbers_are_upcast():
    tx = recording_dtypes(seen := [])
    tx.update(np.ones(3, "float16"), (0, np.ones(3, "float16")), jnp.ones(3))
    assert seen[0] == ["float32"] * 3


def test_recomputed_updates_are_upcast_too():
    seen = []

    @gd.transform(rereads_updates=True, upcast=True)
    def reread():
        def update(updates, state, params=None, recompute=None):
            seen.append(recompute().dtype)
            return updates, state

        return lambda params: (), update

    tx, one = gd.chain(gd.scale(2.0), reread()), jnp.ones(3, jnp.bfloat16)
    updates, _ = tx.update(one, tx.init(one))
    assert seen == ["float32"]
    assert updates.dtype == jnp.bfloat16


def test_a_transform_made_of_others_refuses_upcast():
    @gd.transform(upcast=True)
    def descent():
        return gd.sgd(0.1)

    with pytest.raises(TypeError, match=r"descent: upcast=True has no effect on a transform made of others, got sgd"):
        descent()
