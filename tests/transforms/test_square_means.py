"""Means of squares of rows and columns: plain sums where these are finite, clipped ones elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from gdjax.squares import largest_squarable
from gdjax.transforms.square_means import mean_squares_along

X = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
BOUND = largest_squarable(np.float32)


def rows_and_columns(x):
    return mean_squares_along([x, x], [(1,), (0,)], [(), ()])


def exact(x):
    square = np.square(np.clip(x, -BOUND, BOUND).astype(np.float64))
    return square.mean(1), square.mean(0)


@pytest.mark.parametrize("scale", [0.0, 1e-15, 1.0, 1e15, 1e19, 3e37])
@pytest.mark.parametrize(
    "transformed", [lambda f: f, jax.jit, lambda f: lambda x: [y[0] for y in jax.vmap(f)(x[None])]]
)
def test_they_are_those_of_exact_arithmetic(scale, transformed):
    x = (X * scale).astype(np.float32)
    for ours, theirs in zip(transformed(rows_and_columns)(jnp.asarray(x)), exact(x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
def test_those_of_the_row_and_column_of_a_number_that_is_not_finite_are_nan(number):
    x = X.copy()
    x[2, 3] = number
    rows, columns = map(np.isnan, rows_and_columns(jnp.asarray(x)))
    assert rows.tolist() == [i == 2 for i in range(6)]
    assert columns.tolist() == [i == 3 for i in range(8)]


def test_one_branch_serves_a_batch():
    batch = jnp.stack([X, X * 1e30])
    assert "conditional(" in jax.jit(jax.vmap(rows_and_columns)).lower(batch).compile().as_text()
    for ours, *theirs in zip(jax.vmap(rows_and_columns)(batch), *map(exact, np.asarray(batch)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_they_are_differentiated_both_ways():
    with jax.enable_x64(True):
        check_grads(rows_and_columns, (jnp.asarray(X, jnp.float64),), order=2, modes=["fwd", "rev"])


def test_complex_numbers_have_the_squares_of_both_parts():
    rows, columns = rows_and_columns(jnp.asarray(X + 2j * X))
    np.testing.assert_allclose(rows, 5 * exact(X)[0], rtol=1e-6)
    np.testing.assert_allclose(columns, 5 * exact(X)[1], rtol=1e-6)
