"""`monitor` measures updates and keeps the type of its state."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax as gd
from tests.samples import signature_of


def monitored(lib):
    return lib.monitor({"norm": optax.tree.norm, "mean": lib.ema(0.5)})


def test_the_type_of_the_state_is_fixed_and_scan_carries_it():
    tx, g = monitored(gd), {"w": jnp.asarray([300.0, 400.0], jnp.float16)}
    state = tx.init(g)
    updates, after = tx.update(g, state)
    assert signature_of(after) == signature_of(state)
    assert after.measurements["norm"] == 500
    np.testing.assert_array_equal(updates["w"], g["w"])
    scanned, _ = jax.lax.scan(lambda state, _: (tx.update(g, state)[1], None), state, length=3)
    np.testing.assert_allclose(scanned.measurements["mean"]["w"], [300.0, 400.0])


def test_measurements_match_optax():
    g = jnp.arange(3.0)
    ours, theirs = (monitored(lib).update(g, monitored(lib).init(g))[1] for lib in (gd, optax))
    assert ours.measurements.keys() == theirs.measurements.keys()
    chex.assert_trees_all_close(jax.tree.leaves(ours), jax.tree.leaves(theirs), rtol=1e-6)


def test_measures_must_be_a_dict():
    with pytest.raises(TypeError, match=r"^monitor: measures must be a dict"):
        gd.monitor(optax.tree.norm)
