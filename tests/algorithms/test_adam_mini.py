"""Adam-mini: one second moment per block, and the block of each kind of leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gdjax as gd
from gdjax.algorithms.adam_mini import scale_by_adam_mini
from tests.samples import assert_close

B1, B2, EPS, STEPS = 0.8, 0.95, 1e-3, 3


def adam_mini(gs, blocks):
    """Yield updates by algorithm 1 of the paper, block by block; `blocks` gives the block number of each element."""
    m, v = np.zeros(blocks.shape), np.zeros(blocks.max() + 1)
    for t, g in enumerate(gs, 1):
        m = B1 * m + (1 - B1) * g
        m_hat = m / (1 - B1**t)
        u = np.zeros(blocks.shape)
        for b in range(len(v)):
            in_block = blocks == b
            v[b] = B2 * v[b] + (1 - B2) * np.mean(g[in_block] ** 2)
            v_hat = v[b] / (1 - B2**t)
            u[in_block] = m_hat[in_block] / (np.sqrt(v_hat) + EPS)
        yield u


def element_numbers(*shape):
    return np.arange(np.prod(shape, dtype=int)).reshape(shape)


CASES = {
    "a scalar": (None, np.zeros((), int)),
    "a vector": (None, np.zeros(5, int)),
    "an output": (None, np.broadcast_to(np.arange(3), (4, 3))),
    "an output of each of a stack": (None, np.broadcast_to(element_numbers(2, 1, 3), (2, 4, 3))),
    "a token": ("tokens d -> d tokens", np.broadcast_to(np.arange(4)[:, None], (4, 3))),
    "a head": ("d (heads=2 w) -> (d w) heads", np.broadcast_to(np.repeat(np.arange(2), 3), (4, 6))),
    "a leaf": ("m (n one=1) -> (m n) one", np.zeros((4, 3), int)),
    "a filter": ("... outputs -> (...) outputs", np.broadcast_to(np.arange(3), (2, 2, 4, 3))),
    "a number": ("(m one=1) n -> one (m n)", element_numbers(4, 3)),
}


@pytest.mark.parametrize(("view", "blocks"), CASES.values(), ids=CASES)
def test_updates_match_algorithm_1_of_the_paper(view, blocks):
    rng = np.random.default_rng(0)
    gs = rng.normal(size=(STEPS, *blocks.shape))
    with jax.enable_x64(True):
        tx = scale_by_adam_mini(B1, B2, EPS, views=view and {"w": view})
        state = tx.init({"w": jnp.zeros(blocks.shape)})
        assert state.nu["w"].size == blocks.max() + 1
        for g, expected in zip(gs, adam_mini(gs, blocks), strict=True):
            updates, state = tx.update({"w": jnp.asarray(g)}, state)
            np.testing.assert_allclose(updates["w"], expected, rtol=1e-10)


def test_one_block_per_element_gives_adam():
    mini = scale_by_adam_mini(B1, B2, EPS, views={"w": CASES["a number"][0]})
    adam, params = gd.scale_by_adam(B1, B2, EPS), {"w": jnp.zeros((4, 3))}
    states = mini.init(params), adam.init(params)
    for seed in range(3):
        g = {"w": jax.random.normal(jax.random.key(seed), (4, 3))}
        (ours, mine), (theirs, others) = (tx.update(g, of) for tx, of in zip((mini, adam), states, strict=True))
        states = mine, others
        assert_close(ours, theirs)


def test_second_moments_use_absolute_values_of_complex_gradients():
    tx, g = scale_by_adam_mini(0.0, 0.0, 0.0), jnp.array([[3.0 + 4.0j], [0.0 + 0.0j]])
    updates, state = tx.update(g, tx.init(g))
    assert state.nu.dtype == jnp.float32
    np.testing.assert_allclose(updates, g / np.sqrt(12.5), rtol=1e-6)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("name", ["an output", "a head"])
def test_views_may_split_sharded_dimensions(name, axis_type):
    view, blocks = CASES[name]
    tx = scale_by_adam_mini(views=view and {"w": view})
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=blocks.shape), jnp.float32)}
    mesh = jax.make_mesh((4,), ("data",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, NamedSharding(mesh, PartitionSpec("data")))
        updates, state = jax.jit(tx.update)(placed, tx.init(placed))
    if axis_type is AxisType.Explicit:
        assert updates["w"].sharding.is_equivalent_to(placed["w"].sharding, 2)
    assert_close((updates, state), tx.update(params, tx.init(params)), rtol=1e-5)


def test_a_view_that_does_not_fit_is_refused():
    tx = scale_by_adam_mini(views={"w": "d (heads=4 w) -> (d w) heads"})
    with pytest.raises(ValueError, match="scale_by_adam_mini: views at 'w' must fit the leaf"):
        tx.init({"w": jnp.zeros((4, 6))})


@pytest.mark.parametrize("wrong", [{"b1": 1.0}, {"b2": -0.1}, {"eps": -1.0}], ids=str)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"scale_by_adam_mini: {next(iter(wrong))} must lie in"):
        scale_by_adam_mini(**wrong)
