"""Norms over a named axis are those of global parameters, for every transform with a parameter `axis_name`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import gdjax as gd
from gdjax import axes, norms
from gdjax.value.traits import find_lacking, over
from tests.compiling import optimized
from tests.samples import loss, names, sample, signature_of, update

AXIS, MEMBERS, STEPS = "data", 4, 3
SHAPES = {"b": (8,), "c": (4, 8, 12), "v": (12, 8), "w": (8, 12)}
SAME = ("b", "c")
SPLIT = PartitionSpec(AXIS)


def has(name, parameter):
    found = gd.factories()[name].signature.parameters.get(parameter)
    return found is not None and found.default is not found.empty


WITH_AXIS = [
    name for name in names(gd.GradientTransform) if has(name, "axis_name") and not has(name, "views")
]  # matrix methods divide work, and have tests of their own
WITH_DIM = [name for name in WITH_AXIS if has(name, "dim")]
CASES = {name: sample(name) for name in WITH_AXIS} | {
    "adafactor": gd.adafactor(0.1, min_dim_size_to_factor=8, momentum=0.9, weight_decay_rate=0.1),
    "apply_if_finite": gd.apply_if_finite(gd.lamb(0.1), 2),
    "sam": gd.sam(gd.sgd(0.1), rho=1.0),
    "scale_by_came": gd.scale_by_came(min_dim_size_to_factor=8),
    "scale_by_dog": gd.scale_by_dog(("heuristic", 0.1)),
    "scale_by_factored_rms": gd.scale_by_factored_rms(min_dim_size_to_factor=8),
    "watch": gd.watch(gd.chain(gd.clip_by_global_norm(0.5), gd.sgd(0.1))),
}
AROUND = {
    text: gd.parse(text)
    for text in (
        "accumulate(lamb(0.1), every=2)",
        "adaptive_grad_clip(0.1, axis=-1)",
        "by_path({'w|v': lars(0.1, weight_decay=0.1, trust_coefficient=0.1), '.*': novograd(0.1)})",
        "dog(init_step=('learning_rate', 0.1), weight_decay=0.1)",
        "lookahead(chain(clip_by_global_norm(0.5), adam(0.1)), 2, 0.5, reset_state=True)",
        "masked(clip_by_global_norm(0.1), 'w|b')",
        "packed(chain(clip_by_global_norm(0.5), adamw(0.1)))",
        "packed(prodigy(estim_lr0=0.1, safeguard_warmup=True))",
        "params_ema(dowg())",
        "schedule_free(chain(normalize_by_update_norm(), sgd(0.1)), 0.1)",
    )
}
TRIED = [(name, 0) for name in CASES] + [(name, 1) for name in WITH_DIM]
OF_THEIR_OWN = [(name, dim) for name, dim in TRIED if gd.expand(CASES[name]) is CASES[name]]
"""Transforms that are not chains of others."""
AND_AROUND = TRIED + [(name, 0) for name in AROUND]


def tried(name):
    return (CASES | AROUND)[name]


def over_the_axis(name, dim=0):
    tx = over(tried(name), AXIS)
    return tx.replace(dim=dim) if name in WITH_DIM else tx


def given(name="", dtype="float32"):
    """Return parameters and the gradients of some steps, the last with a NaN for transforms that look for one."""
    rng = np.random.default_rng(7)
    params = {key: rng.normal(size=shape).astype("float32") for key, shape in SHAPES.items()}
    grads = {key: rng.normal(size=(STEPS, *shape)).astype("float32") for key, shape in SHAPES.items()}
    if name in ("apply_if_finite", "zero_nans"):
        grads["w"][-1, 0, 0] = np.nan
    return jax.tree.map(lambda x: x.astype(dtype), (params, grads))


def descended(tx, params, grads, value_fn=loss):
    """Return parameters and state after the steps, carried through `scan`, which holds their types fixed."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params, value=1.0, value_fn=value_fn)
        return (gd.apply_updates(params, updates), state), updates

    (params, state), updates = jax.lax.scan(step, (params, tx.init(params)), grads)
    return params, state, updates


@functools.cache
def alone(name, dim, dtype="float32"):
    """Run the descent of global parameters on one device."""
    with jax.enable_x64(dtype == "float64"):
        return jax.jit(functools.partial(descended, tried(name)))(*given(name, dtype))


def parts(x, dim, first=0):
    """Stack the shards of a leaf; its leading axes are not counted."""
    return np.stack(np.split(x, MEMBERS, axis=first + min(dim, x.ndim - 1 - first)))


def divided(name, dim, dtype="float32"):
    params, grads = given(name, dtype)
    return jax.tree.map(lambda x: parts(x, dim), params), jax.tree.map(lambda x: parts(x, dim, 1), grads)


def sharded(f, check_vma, in_specs=SPLIT, out_specs=SPLIT):
    mesh = jax.make_mesh((MEMBERS,), (AXIS,), devices=jax.devices()[:MEMBERS], axis_types=(jax.sharding.AxisType.Auto,))
    return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=check_vma))


def by_vmap(f):
    return jax.jit(jax.vmap(f, axis_name=AXIS))


def by_shard_map(f):
    def of_one(*parts):
        return jax.tree.map(lambda x: x[None], f(*jax.tree.map(lambda x: x[0], parts)))

    return sharded(of_one, check_vma=False)


def assert_of_the_whole(members, whole, rtol):
    """Check that the stacked leaves of devices are the shards of the global leaf, or each equal to it."""
    assert jax.tree.structure(members) == jax.tree.structure(whole)
    for ours, expected in zip(jax.tree.leaves(members), jax.tree.leaves(whole), strict=True):
        ours, expected = np.asarray(ours, np.float64), np.asarray(expected, np.float64)
        assert np.isfinite(expected).all()
        cut = [i for i, (a, b) in enumerate(zip(ours.shape[1:], expected.shape, strict=True)) if a != b]
        together = np.concatenate(ours, axis=cut[0]) if cut else ours
        whole_or_each = expected if cut else np.stack([expected] * MEMBERS)
        np.testing.assert_allclose(together, whole_or_each, rtol=rtol, atol=rtol * np.abs(expected).max(initial=0.0))


@pytest.mark.parametrize("how", [by_vmap, by_shard_map], ids=lambda how: how.__name__)
@pytest.mark.parametrize(("name", "dim"), OF_THEIR_OWN)
def test_steps_of_parts_are_parts_of_the_steps_of_the_whole(name, dim, how):
    dtype, rtol = ("float64", 1e-12) if how is by_vmap else ("float32", 1e-5)
    with jax.enable_x64(dtype == "float64"):
        ours = how(functools.partial(descended, over_the_axis(name, dim)))(*divided(name, dim, dtype))
    assert_of_the_whole(ours, alone(name, dim, dtype), rtol)


@pytest.mark.parametrize("name", AROUND)
def test_steps_of_parts_are_so_within_other_transforms(name):
    with jax.enable_x64(True):
        ours = by_vmap(functools.partial(descended, over_the_axis(name)))(*divided(name, 0, "float64"))
    assert_of_the_whole(ours[::2], alone(name, 0, "float64")[::2], rtol=1e-12)


@pytest.mark.parametrize("name", [name for name, tx in CASES.items() if gd.expand(tx) is tx])
def test_without_the_axis_they_are_not(name):
    dim = int(name in WITH_DIM)
    ours = by_vmap(functools.partial(descended, tried(name)))(*divided(name, dim))
    with pytest.raises(AssertionError):
        assert_of_the_whole(ours, alone(name, dim), rtol=1e-2)


def whole_loss(params):
    """Return the global loss: sharded leaves are summed over the axis, others count once."""
    of_leaves = [jnp.sum(jnp.square(leaf - 0.3)) for leaf in jax.tree.leaves(params)]
    return sum(axes.psum_scalars(of_leaves, of_leaves, AXIS))


def specs(dim, same=SAME):
    """Return parameters sharded along a dimension, some replicated, and the gradients of some steps."""
    cut = {key: [None] * min(dim, len(shape) - 1) + [AXIS] * (key not in same) for key, shape in SHAPES.items()}
    return [{key: PartitionSpec(*before, *of) for key, of in cut.items()} for before in ((), (None,))]


@pytest.mark.parametrize(("name", "dim"), AND_AROUND)
def test_leaves_that_are_the_same_on_all_by_their_types_count_once_and_stay_so(name, dim):
    tx = over_the_axis(name, dim)

    def moved(params, grads):
        params, _, updates = descended(tx, params, grads, whole_loss)
        return params, updates

    steps = sharded(moved, True, (*specs(dim),), (*specs(dim),))  # what is to be the same on all must be so by its type
    params, _, updates = alone(name, dim)
    for ours, expected in zip(*map(jax.tree.leaves, (steps(*given(name)), (params, updates))), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


COLLECTIVES = {
    "adaptive_grad_clip": 1,
    "apply_if_finite": 2,  # whether it is finite, and what is within it
    "cautious": 1,
    "centralize": 1,
    "clip_by_block_rms": 1,
    "clip_by_global_norm": 1,
    "lamb": 1,
    "lars": 1,
    "prodigy": 1,
    "scale_by_dog": 1,
    "scale_by_dowg": 1,
    "scale_by_factored_rms": 2,  # rows and columns, and then the mean of rows
    "scale_by_novograd": 1,
    "scale_by_param_block_rms": 1,
    "watch": 2,  # its norms, and what is within it
    "zero_nans": 1,
}


@pytest.mark.parametrize("name", COLLECTIVES)
def test_one_collective_serves_all_leaves(name):
    dim = int(name in WITH_DIM)
    tx = over_the_axis(name, dim)
    params = {f"{key}{i}": x for key, x in given()[0].items() for i in (1, 2)}

    def lowered(f):
        return sharded(lambda *parts: jax.tree.map(lambda x: x[None], f(*jax.tree.map(lambda x: x[0], parts))), True)

    parted = jax.tree.map(lambda x: parts(x, dim), params)
    state = lowered(tx.init)(parted)
    step = lowered(lambda g, s, p: update(tx, g, s, p)).lower(parted, state, parted)
    assert step.as_text().count("stablehlo.all_reduce") == COLLECTIVES[name]
    assert 0 < optimized(step).as_text().count(" all-reduce(") <= COLLECTIVES[name]  # XLA joins what does not wait


@pytest.mark.parametrize("name", CASES)
def test_an_axis_that_is_not_there_is_named(name):
    tx, (params, grads) = over_the_axis(name), given(name)
    with pytest.raises(ValueError, match=r"^\w+: the axis 'data' must be bound, got no axis of this name\."):
        descended(tx, params, grads)


def test_an_unbound_axis_is_the_cause_whatever_else_is_wrong():
    clip = gd.clip_by_global_norm(1.0, axis_name="x")
    for tx, state in ((clip, ()), (gd.chain(clip, gd.scale(-1.0)), ((), ()))):
        with pytest.raises(ValueError, match=r"^clip_by_global_norm: the axis 'x' must be bound"):
            tx.update(jnp.ones(3), state)
    with pytest.raises(ValueError, match=r"^global_norm: the axis 'x' must be bound"):
        gd.global_norm(jnp.ones(3), axis_name="x")
    with pytest.raises(ValueError, match=r"^scale_by_soap: the axis 'x' must be bound"):
        gd.scale_by_soap(axis_name="x").update(jnp.ones((3, 3)), ())


def test_init_needs_the_axis_where_whole_shapes_say_what_is_kept():
    with pytest.raises(ValueError, match=r"^scale_by_factored_rms: the axis 'data' must be bound"):
        gd.adafactor(0.1, axis_name=AXIS).init(given()[0])


@pytest.mark.parametrize("name", WITH_DIM)
def test_a_leaf_without_the_dimension_is_refused(name):
    tx = over_the_axis(name, 2)
    with pytest.raises(
        ValueError, match=r"^\w+: dim must be a dimension of every leaf .*, got 2 and a leaf of shape \(3, 8\)"
    ):
        jax.vmap(functools.partial(descended, tx), axis_name=AXIS)(*divided(name, 0))


@pytest.mark.parametrize("name", [*WITH_DIM, "cautious", "clip_by_block_rms"])
def test_a_leaf_may_have_more_elements_than_an_int32_holds(name):
    tx, large = over_the_axis(name), {"w": jax.ShapeDtypeStruct((MEMBERS, 2**16, 2**15), jnp.float32)}
    updates = jax.eval_shape(jax.vmap(lambda g: update(tx, g, tx.init(g), g)[0], axis_name=AXIS), large)
    assert updates == large


@pytest.mark.parametrize("last", [-1, 1])
def test_dimensions_are_counted_from_the_end_too(last):
    tx = gd.scale_by_came(min_dim_size_to_factor=8, axis_name=AXIS, dim=last)
    params = {"w": given()[0]["w"]}
    expected = gd.scale_by_came(min_dim_size_to_factor=8)
    expected = expected.update(params, expected.init(params))[0]
    ours = jax.vmap(lambda g: tx.update(g, tx.init(g))[0], axis_name=AXIS)({"w": parts(params["w"], 1)})
    assert_of_the_whole(ours, expected, rtol=1e-5)


def test_the_norm_over_an_axis_is_that_of_the_whole():
    params, _ = given()
    stacked = jax.tree.map(lambda x: parts(x, 0), params)
    over_all = jax.vmap(functools.partial(gd.global_norm, axis_name=AXIS), axis_name=AXIS)(stacked)
    np.testing.assert_allclose(over_all, [np.sqrt(sum(np.sum(x**2) for x in params.values()))] * MEMBERS, rtol=1e-6)


def test_several_names_are_one_axis_and_each_leaf_is_summed_over_those_it_differs_over():
    mesh = jax.make_mesh((2, 2), ("x", "y"), devices=jax.devices()[:4], axis_types=(jax.sharding.AxisType.Auto,) * 2)
    tree = {"both": jnp.arange(8.0), "one": jnp.arange(1.0, 5.0), "none": jnp.ones(3)}
    specs = {"both": PartitionSpec(("x", "y")), "one": PartitionSpec("y"), "none": PartitionSpec()}
    norm = jax.shard_map(
        lambda tree: norms.global_norm(tree, ("x", "y")), mesh=mesh, in_specs=(specs,), out_specs=PartitionSpec()
    )
    np.testing.assert_allclose(norm(tree), gd.global_norm(tree), rtol=1e-6)


FILLED = [
    name
    for name in names(gd.GradientTransform)
    if not gd.factories()[name].traits.takes_local_grads
    and find_lacking(sample(name), lambda tx: tx.factory.traits.shardable) is None
]


@pytest.mark.parametrize("name", FILLED)
def test_parts_filled_up_with_zeros_will_do_where_it_is_declared(name):
    rng = np.random.default_rng(3)
    shapes = {"b": (5,), "w": (6, 3)}
    params, grads = ({k: rng.normal(size=shape).astype("float32") for k, shape in shapes.items()} for _ in range(2))
    grads = jax.tree.map(lambda g: np.stack([g, -g / 2, g]), grads)
    tx = sample(name)
    expected, _, _ = descended(tx, params, grads)

    def filled(x, first=0):
        return np.pad(x, [(0, (8 - x.shape[first]) * (i == first)) for i in range(x.ndim)])

    stacked = (
        jax.tree.map(lambda x: parts(filled(x), 0), params),
        jax.tree.map(lambda x: parts(filled(x, 1), 0, 1), grads),
    )
    ours, _, _ = jax.vmap(functools.partial(descended, over(tx, AXIS)), axis_name=AXIS)(*stacked)
    for key, x in ours.items():
        together = np.concatenate(x)[: len(expected[key])]
        np.testing.assert_allclose(together, expected[key], rtol=1e-5, atol=1e-6)


def test_the_state_of_the_whole_has_the_type_it_has_over_no_axis():
    params, _ = given()
    for name in WITH_DIM:
        of_one = jax.vmap(over_the_axis(name).init, axis_name=AXIS)(jax.tree.map(lambda x: x[None], params))
        state = jax.tree.map(lambda x: x[0], of_one)
        assert signature_of(state) == signature_of(tried(name).init(params))
