"""Polar factors by products, inverse roots and eigenbases are what NumPy finds in float64, whatever the matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from gdjax import linalg
from gdjax.linalg.newton_schulz import iterate_directly, iterate_gram, normalize_matrices

TABLES = {
    "jordan": (linalg.JORDAN, 0.68, 1.14),
    "quintic": (linalg.QUINTIC, 0.93, 1.15),
    "polar express": (linalg.POLAR_EXPRESS, 0.84, 1.15),
    "polar express, 8 steps": (linalg.POLAR_EXPRESS_8, 0.999, 1.001),
    "converging": (linalg.CONVERGING, 0.999, 1.001),
}
"""Each with where it leads singular values that are at least a hundredth of the norm."""


def matrix(m, n, condition=10.0, seed=0):
    """A matrix of singular values from 1 down to one over its condition."""
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.normal(size=(size, min(m, n))))[0] for size in (m, n))
    return u * np.geomspace(1, 1 / condition, min(m, n)) @ v.T


def polar(x):
    u, _, v = np.linalg.svd(x, full_matrices=False)
    return u @ v


@pytest.mark.parametrize("name", TABLES)
def test_a_table_leads_singular_values_near_1(name):
    table, low, high = TABLES[name]
    values = np.geomspace(1e-2, 1, 1000)
    for a, b, c in table:
        values = a * values + b * values**3 + c * values**5
    assert low < values.min()
    assert values.max() < high
    with jax.enable_x64(True):
        x = matrix(5, 7)
        x_values = np.linalg.svd(x / np.linalg.norm(x), compute_uv=False)
        for a, b, c in table:
            x_values = a * x_values + b * x_values**3 + c * x_values**5
        found = np.linalg.svd(linalg.orthogonalize(jnp.asarray(x), table), compute_uv=False)
    np.testing.assert_allclose(np.sort(found), np.sort(x_values), rtol=1e-9)


@pytest.mark.parametrize("shape", [(4, 4), (4, 9), (9, 4), (1, 6), (6, 1), (1, 1)])
def test_a_table_that_converges_finds_the_polar_factor(shape):
    with jax.enable_x64(True):
        x = matrix(*shape)
        np.testing.assert_allclose(linalg.orthogonalize(jnp.asarray(x), linalg.CONVERGING), polar(x), atol=2e-3)
        repeated = (*linalg.POLAR_EXPRESS_8, *linalg.POLAR_EXPRESS_8[-1:] * 4)
        np.testing.assert_allclose(linalg.orthogonalize(jnp.asarray(x), repeated), polar(x), atol=1e-12)


@pytest.mark.parametrize("name", TABLES)
def test_the_gram_side_is_the_direct_iteration(name):
    x = normalize_matrices(jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 64)), jnp.float32))
    table, *_ = TABLES[name]
    np.testing.assert_allclose(iterate_gram(x, table), iterate_directly(x, table), atol=1e-5)


def test_wide_and_tall_matrices_go_by_the_gram_side_and_square_or_narrow_ones_do_not():
    def products(shape, dtype=None):
        text = str(jax.make_jaxpr(lambda x: linalg.orthogonalize(x, linalg.JORDAN, dtype))(jnp.ones(shape)))
        return text.count("dot_general")

    assert products((8, 16)) == products((16, 8)) == 19  # one, four times four, two
    assert products((8, 8)) == products((8, 11)) == products((8, 16), jnp.bfloat16) == 15


@pytest.mark.parametrize("table", [linalg.JORDAN, linalg.POLAR_EXPRESS_8, linalg.CONVERGING], ids=["5", "8", "10"])
@pytest.mark.parametrize("products", [None, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(24, 24), (24, 48)])
def test_no_matrix_is_too_singular_too_small_or_too_large(shape, products, table):
    normal = np.random.default_rng(0).normal(size=shape)
    cases = {
        "zero": np.zeros(shape),
        "rank 1": np.outer(normal[:, 0], normal[0]),
        "half of the rank": matrix(*shape) @ np.diag(np.arange(shape[1]) % 2.0),
        "condition 1e12": matrix(*shape, condition=1e12),
        "tiny": 1e-30 * normal,
        "huge": 1e30 * normal,
    }
    rough = 0.05 if products else 5e-3
    for name, x in cases.items():
        x = x.astype(np.float32)
        found = np.asarray(linalg.orthogonalize(jnp.asarray(x), table, products), np.float64)
        values = np.linalg.svd(found, compute_uv=False)
        assert np.isfinite(found).all(), name
        assert values.max() < 1.3, name
        largest = np.linalg.svd(x.astype(np.float64) / (np.abs(x).max() or 1))
        sure = 0.02 * np.linalg.norm(largest.S) < largest.S
        along = np.einsum("ij,ik,kj->j", largest.U[:, : len(largest.S)], found, largest.Vh[: len(largest.S)].T)
        assert (along[sure] > 0.6 - rough).all(), name
    np.testing.assert_allclose(
        *(linalg.orthogonalize(jnp.float32(cases[k]), table, products) for k in ("tiny", "huge")), atol=rough
    )
    assert not np.asarray(linalg.orthogonalize(jnp.zeros(shape), table, products)).any()


def test_narrow_products_have_narrow_factors_and_wide_sums():
    text = str(jax.make_jaxpr(lambda x: linalg.orthogonalize(x, linalg.JORDAN, jnp.bfloat16))(jnp.ones((4, 4))))
    assert text.count("preferred_element_type=float32") == text.count("dot_general") == 15
    assert text.count("new_dtype=bfloat16") == 30


def test_a_batch_is_one_after_the_other_and_complex_matrices_have_their_own_polar_factor():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(3, 4, 8)) + 1j * rng.normal(size=(3, 4, 8))
        table = (*linalg.POLAR_EXPRESS_8, *linalg.POLAR_EXPRESS_8[-1:] * 4)
        found = linalg.orthogonalize(jnp.asarray(x), table)
        for one, own in zip(x, found, strict=True):
            np.testing.assert_allclose(own, polar(one), atol=1e-12)


@pytest.mark.parametrize("exponent", [0.25, 0.5, 1.0])
def test_inverse_roots_are_those_of_eigenvalues(exponent):
    with jax.enable_x64(True):
        a = matrix(6, 9, condition=30)
        a = a @ a.T
        values, vectors = np.linalg.eigh(a)
        expected = vectors * (values + 1e-6) ** -exponent @ vectors.T
        np.testing.assert_allclose(linalg.inverse_root(jnp.asarray(a), exponent, 1e-6), expected, rtol=1e-9)
        by_newton = linalg.inverse_root_by_newton(jnp.asarray(a), exponent, 1e-6)
        np.testing.assert_allclose(by_newton, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("of", [linalg.inverse_root, linalg.inverse_root_by_newton])
def test_roots_of_a_batch_of_the_worst_are_finite(of):
    rng = np.random.default_rng(0)
    one = rng.normal(size=(8, 1))
    wide = matrix(8, 8, condition=1e6)
    batch = [np.zeros((8, 8)), 1e-30 * np.eye(8), one @ one.T, wide @ wide.T, 1e20 * np.eye(8)]
    roots = np.asarray(of(jnp.asarray(np.stack(batch), jnp.float32), 0.25, 1e-6))
    assert np.isfinite(roots).all()
    np.testing.assert_allclose(roots[0], 1e-6**-0.25 * np.eye(8), rtol=1e-4)
    np.testing.assert_allclose(roots[4], 1e-5 * np.eye(8), rtol=1e-4)
    np.testing.assert_allclose(of(jnp.asarray([[4.0]]), 0.5), [[0.5]], rtol=1e-6)
    np.testing.assert_array_equal(of(jnp.asarray(batch[1], jnp.float32), 0.25, 1e-6), roots[1])


def test_the_derivative_of_a_root_is_exact_and_finite_where_eigenvalues_are_equal():
    with jax.enable_x64(True):
        a = matrix(5, 5) @ matrix(5, 5).T + np.eye(5)
        check_grads(lambda a: linalg.inverse_root(a + a.T, 0.25, 0.1), (jnp.asarray(a),), order=1, rtol=1e-6)
        check_grads(lambda eps: linalg.inverse_root(jnp.asarray(a), 0.25, eps), (0.1,), order=1, rtol=1e-6)
        slope = jax.jvp(lambda a: linalg.inverse_root(a, 0.25, 0.5), (jnp.eye(3) / 2,), (jnp.ones((3, 3)),))[1]
        np.testing.assert_allclose(slope, -0.25 * np.ones((3, 3)), rtol=1e-12)


def test_a_root_that_newton_cannot_find_is_refused():
    with pytest.raises(ValueError, match=r"exponent must be 1 / p for an integer p, got 0\.3"):
        linalg.inverse_root_by_newton(jnp.eye(2), 0.3)


def test_an_eigenbasis_is_orthonormal_largest_first_and_refreshing_leads_to_it():
    with jax.enable_x64(True):
        b = matrix(6, 6, condition=30, seed=1)
        a = jnp.asarray(b @ b.T)
        basis = linalg.eigenbasis(a)
        values = np.diag(basis.T @ a @ basis)
        np.testing.assert_allclose(basis.T @ basis, np.eye(6), atol=1e-12)
        np.testing.assert_allclose(values, np.linalg.eigvalsh(a)[::-1], rtol=1e-9)
        near, order = linalg.refresh_eigenbasis(jnp.eye(6), a)
        np.testing.assert_array_equal(order, np.argsort(-np.diag(a), kind="stable"))
        expected = np.linalg.qr(np.asarray(a)[:, np.asarray(order)])[0]
        np.testing.assert_allclose(np.abs(near), np.abs(expected), atol=1e-12)
        for _ in range(60):
            near, _ = linalg.refresh_eigenbasis(near, a)
        np.testing.assert_allclose(np.abs(near.T @ basis), np.eye(6), atol=1e-6)
