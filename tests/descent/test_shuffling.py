"""Any slice of a random order can be computed alone, and the orders are uniform."""

import itertools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdjax.descent.data.shuffling import shuffled


def order(number, seed=0):
    return np.asarray(shuffled(jax.random.key(seed), jnp.arange(number), number))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 3_000), st.integers(0, 2**31))
def test_every_order_is_a_permutation(number, seed):
    assert sorted(order(number, seed).tolist()) == list(range(number))


def test_a_slice_computed_alone_equals_the_slice_of_the_full_order():
    full_order = order(1437)
    slice_of_order = shuffled(jax.random.key(0), jnp.arange(500, 564).reshape(8, 8), 1437)
    np.testing.assert_array_equal(slice_of_order.reshape(-1), full_order[500:564])


@pytest.mark.parametrize("number", [3, 4, 5])
def test_all_orders_of_a_few_examples_are_equally_likely(number):
    orders, keys = math.factorial(number), jax.random.split(jax.random.key(7), 24_000)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: shuffled(key, jnp.arange(number), number)))(keys))
    counts = Counter(map(tuple, drawn.tolist()))
    expected = len(keys) / orders
    chi_squared = sum((counts[some] - expected) ** 2 / expected for some in itertools.permutations(range(number)))
    degrees_of_freedom = orders - 1
    assert abs(chi_squared - degrees_of_freedom) < 4 * math.sqrt(2 * degrees_of_freedom)


def test_places_and_neighbours_of_many_examples_are_uniform():
    number, keys = 1437, jax.random.split(jax.random.key(3), 100_000)
    first = np.asarray(jax.jit(jax.vmap(lambda key: shuffled(key, jnp.arange(2), number)))(keys))
    for counts, kinds in ((first[:, 0], number), ((first[:, 1] - first[:, 0]) % number - 1, number - 1)):
        expected = len(keys) / kinds
        chi_squared = ((np.bincount(counts, minlength=kinds) - expected) ** 2 / expected).sum()
        assert abs(chi_squared - kinds + 1) < 4 * math.sqrt(2 * kinds)


def test_accelerators_run_no_loop():
    order = jax.jit(lambda key: shuffled(key, jnp.arange(64), 1437))
    key = jax.eval_shape(lambda: jax.random.key(0))
    loops = {
        platform: jax.export.export(order, platforms=[platform])(key).mlir_module().count("stablehlo.while")
        for platform in ("cpu", "cuda", "tpu")
    }
    drawing = jax.export.export(jax.jit(lambda key: jax.random.bits(key, (2, 1))), platforms=["cuda"])(key)
    assert loops["cuda"] == loops["tpu"] == drawing.mlir_module().count("stablehlo.while")
    assert loops["cpu"] > loops["cuda"]
