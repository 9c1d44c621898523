"""Norms are accurate over the whole range of a dtype: at each threshold, over named axes and under vmap."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import gdjax as gd
from gdjax import norms, squares

THRESHOLDS = squares._Thresholds.of(jnp.float32)
POWERS = sorted({-126, -100, -84, -63, -51, -33, -32, -31, -30, -29, 0, 44, 45, 46, 52, 61, 62, 63, 64, 84, 100, 124})
NUMBERS = np.random.default_rng(0).uniform(0.5, 1.0, (37, 3)).astype("float32")


def exact(x):
    return np.linalg.norm(np.abs(np.asarray(x, np.complex128)).ravel())


def assert_norm(found, x, rtol=1e-6):
    np.testing.assert_allclose(np.asarray(found, np.float64), exact(x), rtol=rtol)


@pytest.fixture(scope="module")
def compiled():
    return jax.jit(gd.global_norm)


@pytest.mark.parametrize("power", POWERS)
def test_a_norm_is_accurate_at_every_scale(compiled, power):
    x = NUMBERS * np.float32(2.0**power)
    x = np.where(x < np.finfo("float32").tiny, 0, x)
    assert_norm(compiled(x), x)


@pytest.mark.parametrize("threshold", [THRESHOLDS.small, THRESHOLDS.large, *np.sqrt(THRESHOLDS.safe)])
@pytest.mark.parametrize("by", [0.999, 1.0, 1.001])
def test_a_norm_is_accurate_on_both_sides_of_each_threshold(compiled, threshold, by):
    x = np.float32(NUMBERS / exact(NUMBERS) * threshold * by)
    assert_norm(compiled(x), x)


@pytest.mark.parametrize("other", [-110, -60, 0, 40, 90, 120])
@pytest.mark.parametrize("power", [-110, -60, 0, 40, 90, 120])
def test_numbers_of_two_scales_add_up(compiled, power, other):
    x = NUMBERS * np.float32(2.0**power)
    x[0] = np.float32(2.0**other)
    assert_norm(compiled(x), x)


def test_many_small_numbers_beside_one_at_the_edge_of_underflow():
    assert_norm(gd.global_norm(np.array([1e-20] * 1000 + [1.1e-19], "float32")), [1e-20] * 1000 + [1.1e-19])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
@pytest.mark.parametrize("x", [[300.0, 400.0], [0.0, 0.0], [6e4, 0.0], [6e-5, 6e-5]])
def test_16_bit_and_complex_numbers(dtype, x):
    x = jnp.asarray(x, dtype)
    assert_norm(gd.global_norm(x), x)
    assert gd.global_norm(x).dtype == jnp.float32


def test_complex_numbers_out_of_range_of_their_squares():
    x = jnp.array([3e30 + 4e30j, 0], jnp.complex64)
    np.testing.assert_allclose(gd.global_norm(x), exact(x), rtol=1e-6)


@pytest.mark.parametrize("power", [-1000, -530, -480, -260, -250, 0, 400, 495, 500, 510, 512, 530, 1000])
def test_float64_has_edges_of_its_own(power):
    with jax.enable_x64(True):
        x = NUMBERS.astype("float64") * 2.0 ** (power - 500) * 2.0**500
        np.testing.assert_allclose(
            gd.global_norm(x), np.linalg.norm(NUMBERS.astype("float64")) * 2.0 ** (power - 500) * 2.0**500, rtol=1e-14
        )


@pytest.mark.parametrize("number", [3e38, 1e30, 1e-30])
def test_a_norm_of_constants_is_folded_accurately(number):
    found = jax.jit(lambda: norms.global_scaled_norm(jnp.full(4, number, jnp.float32)))()
    np.testing.assert_allclose(float(found.root) / float(found.scale), 2 * np.float64(np.float32(number)), rtol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e17, 1e30])
def test_the_single_pass_of_accelerators_is_as_accurate(scale):
    x = [jnp.asarray(NUMBERS * np.float32(scale)), jnp.asarray([2j * scale], jnp.complex64)]
    plan = squares._Plan(((0, 1), (0,)), ((), ()), (0, 0), keepdims=False)
    (sums,) = jax.jit(functools.partial(squares._squares_at_all_scales, plan))(x)
    np.testing.assert_allclose(squares._norm_in_range(sums).norm(), np.hypot(exact(x[0]), exact(x[1])), rtol=1e-6)


def test_infinite_and_nan_stay_what_they_are():
    assert gd.global_norm(jnp.array([jnp.inf, 1.0])) == jnp.inf
    assert jnp.isnan(gd.global_norm(jnp.array([jnp.nan, 1.0])))
    assert jnp.isnan(gd.global_norm({"a": jnp.array([1e30]), "b": jnp.array(jnp.nan)}))
    assert gd.global_norm(jnp.full(4, 3e38)) == jnp.inf, "the norm is out of range"
    assert jnp.isfinite(norms.global_scaled_norm(jnp.full(4, 3e38)).root), "its root is not"


def test_no_leaves_and_no_elements_have_norm_0():
    assert gd.global_norm({}) == 0
    assert gd.global_norm({"a": jnp.zeros((0, 3)), "b": None}) == 0
    assert norms.leaf_rms(jnp.zeros((0, 3))) == 0


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_derivatives_are_unit_vectors_at_every_scale(scale):
    x = jnp.asarray(NUMBERS * np.float32(scale))
    np.testing.assert_allclose(jax.grad(gd.global_norm)(x), NUMBERS / exact(NUMBERS), rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(gd.global_norm, (x,), (x,))[1], exact(x), rtol=1e-6)


def test_the_derivative_at_0_is_0_and_the_second_one_is_that_of_the_norm():
    assert not jax.grad(gd.global_norm)(jnp.zeros(3)).any()
    hessian = jax.hessian(gd.global_norm)(jnp.array([3.0, 4.0]))
    np.testing.assert_allclose(hessian, np.array([[16, -12], [-12, 9]]) / 125, rtol=1e-5)


SCALES = np.float32([1e-30, 1e-10, 1.0, 1e10, 1e30])


def test_vmap_is_a_loop_and_decides_once():
    many = SCALES[:, None, None] * NUMBERS
    mapped = jax.jit(jax.vmap(gd.global_norm))
    np.testing.assert_allclose(mapped(many), [exact(x) for x in many], rtol=1e-6)
    twice = jax.vmap(jax.vmap(gd.global_norm))(np.stack([many, many * np.float32(0.5)]))
    np.testing.assert_allclose(twice[1], [0.5 * exact(x) for x in many], rtol=1e-6)
    assert "select" not in mapped.lower(many).as_text().split("case")[0], "a branch for all, not both branches"


def test_vmap_over_one_leaf_of_two():
    many = SCALES[:, None, None] * NUMBERS
    found = jax.vmap(lambda x: gd.global_norm([x, NUMBERS]))(many)
    np.testing.assert_allclose(found, [np.hypot(exact(x), exact(NUMBERS)) for x in many], rtol=1e-6)


def test_leaves_of_different_scales_each_have_a_norm():
    tree = {str(scale): jnp.asarray(scale * NUMBERS) for scale in SCALES} | {"zero": jnp.zeros(3)}
    for path, found in norms.leaf_norms(tree).items():
        assert_norm(found, tree[path])
    for path, found in jax.jit(norms.leaf_rms)(tree).items():
        assert_norm(found, np.asarray(tree[path], np.float64) / np.sqrt(tree[path].size))


def test_norms_along_a_dimension_keep_it():
    x = SCALES[:, None] * NUMBERS[:5]
    (rows,) = norms.scaled_norms_along([jnp.asarray(x)], [(-1,)])
    np.testing.assert_allclose(rows.norm()[:, 0], np.linalg.norm(x.astype("float64"), axis=1), rtol=1e-6)
    (columns,) = norms.scaled_norms_along([jnp.asarray(x)], [(0,)])
    np.testing.assert_allclose(columns.norm()[0], np.linalg.norm(x.astype("float64"), axis=0), rtol=1e-6)


MEMBERS = {"small": [1e-30] * 4, "large": [1e30] * 4, "mixed": [1e-30, 1.0, 1e10, 1e30], "near": [1.0, 1.0, 1e-10, 0.0]}


@pytest.mark.parametrize("scales", MEMBERS.values(), ids=MEMBERS)
@pytest.mark.parametrize("check_vma", [True, False])
def test_over_an_axis_it_is_the_norm_of_all_shards(scales, check_vma):
    parts = np.float32(scales)[:, None, None] * NUMBERS
    of_all = functools.partial(gd.global_norm, axis_name="d")
    mesh = jax.make_mesh((4,), ("d",), devices=jax.devices()[:4], axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("d")
    mapped = jax.shard_map(of_all, mesh=mesh, in_specs=spec, out_specs=PartitionSpec(), check_vma=check_vma)
    assert_norm(jax.jit(mapped)(parts), parts)
    assert_norm(jax.vmap(of_all, axis_name="d")(parts)[0], parts)


def test_over_an_axis_it_is_one_collective():
    def lowered(x):
        mesh = jax.make_mesh((4,), ("d",), devices=jax.devices()[:4], axis_types=(jax.sharding.AxisType.Auto,))
        spec = PartitionSpec("d")
        of_all = functools.partial(gd.global_norm, axis_name="d")
        return jax.jit(jax.shard_map(of_all, mesh=mesh, in_specs=spec, out_specs=PartitionSpec())).lower(x)

    tree = {"a": jax.ShapeDtypeStruct((8, 3), jnp.float32), "b": jax.ShapeDtypeStruct((4,), jnp.float32)}
    assert lowered(tree).as_text().count("stablehlo.all_reduce") == 1


def test_rms_over_axis_is_accurate_at_every_scale():
    found = jax.vmap(lambda x: norms.rms_over_axis(x, "d"), axis_name="d")(jnp.array([3e30, 4e30]))
    np.testing.assert_allclose(found, np.sqrt(12.5) * 1e30, rtol=1e-6)
