"""Norms over a named axis equal those of global parameters, for every transform with a parameter `axis_name`."""

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
REPLICATED = ("b", "c")
SHARDED = PartitionSpec(AXIS)


def has_optional_parameter(name, parameter):
    found = gd.factories()[name].signature.parameters.get(parameter)
    return found is not None and found.default is not found.empty


WITH_AXIS = [
    name
    for name in names(gd.GradientTransform)
    if has_optional_parameter(name, "axis_name") and not has_optional_parameter(name, "views")
]  # matrix methods share work between devices: test_divided.py
WITH_DIM = [name for name in WITH_AXIS if has_optional_parameter(name, "dim")]
CASES = {name: sample(name) for name in WITH_AXIS} | {
    "adafactor": gd.adafactor(0.1, min_dim_size_to_factor=8, momentum=0.9, weight_decay_rate=0.1),
    "apply_if_finite": gd.apply_if_finite(gd.lamb(0.1), 2),
    "sam": gd.sam(gd.sgd(0.1), rho=1.0),
    "scale_by_came": gd.scale_by_came(min_dim_size_to_factor=8),
    "scale_by_dog": gd.scale_by_dog(("heuristic", 0.1)),
    "scale_by_factored_rms": gd.scale_by_factored_rms(min_dim_size_to_factor=8),
    "watch": gd.watch(gd.chain(gd.clip_by_global_norm(0.5), gd.sgd(0.1))),
}
COMPOSITES = {
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
NAMES_AND_DIMS = [(name, 0) for name in CASES] + [(name, 1) for name in WITH_DIM]
NOT_CHAINS = [(name, dim) for name, dim in NAMES_AND_DIMS if gd.expand(CASES[name]) is CASES[name]]
"""Transforms that are not chains of others."""
WITH_COMPOSITES = NAMES_AND_DIMS + [(name, 0) for name in COMPOSITES]


def transform_of(name):
    return (CASES | COMPOSITES)[name]


def over_the_axis(name, dim=0):
    tx = over(transform_of(name), AXIS)
    return tx.replace(dim=dim) if name in WITH_DIM else tx


def params_and_grads(name="", dtype="float32"):
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
def on_one_device(name, dim, dtype="float32"):
    """Run the descent of global parameters on one device."""
    with jax.enable_x64(dtype == "float64"):
        return jax.jit(functools.partial(descended, transform_of(name)))(*params_and_grads(name, dtype))


def stack_shards(x, dim, first=0):
    """Stack the shards of a leaf; `first` leading axes are not counted."""
    return np.stack(np.split(x, MEMBERS, axis=first + min(dim, x.ndim - 1 - first)))


def sharded_inputs(name, dim, dtype="float32"):
    params, grads = params_and_grads(name, dtype)
    return jax.tree.map(lambda x: stack_shards(x, dim), params), jax.tree.map(lambda x: stack_shards(x, dim, 1), grads)


def shard_mapped(f, check_vma, in_specs=SHARDED, out_specs=SHARDED):
    mesh = jax.make_mesh((MEMBERS,), (AXIS,), devices=jax.devices()[:MEMBERS], axis_types=(jax.sharding.AxisType.Auto,))
    return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=check_vma))


def by_vmap(f):
    return jax.jit(jax.vmap(f, axis_name=AXIS))


def by_shard_map(f):
    def of_one(*shards):
        return jax.tree.map(lambda x: x[None], f(*jax.tree.map(lambda x: x[0], shards)))

    return shard_mapped(of_one, check_vma=False)


def assert_shards_equal_global(per_device, global_tree, rtol):
    """Check that the stacked leaves of devices are the shards of the global leaf, or each equal to it."""
    assert jax.tree.structure(per_device) == jax.tree.structure(global_tree)
    for ours, expected in zip(jax.tree.leaves(per_device), jax.tree.leaves(global_tree), strict=True):
        ours, expected = np.asarray(ours, np.float64), np.asarray(expected, np.float64)
        assert np.isfinite(expected).all()
        cut = [i for i, (a, b) in enumerate(zip(ours.shape[1:], expected.shape, strict=True)) if a != b]
        together = np.concatenate(ours, axis=cut[0]) if cut else ours
        desired = expected if cut else np.stack([expected] * MEMBERS)
        np.testing.assert_allclose(together, desired, rtol=rtol, atol=rtol * np.abs(expected).max(initial=0.0))


@pytest.mark.parametrize("how", [by_vmap, by_shard_map], ids=lambda how: how.__name__)
@pytest.mark.parametrize(("name", "dim"), NOT_CHAINS)
def test_sharded_steps_equal_shards_of_the_global_steps(name, dim, how):
    dtype, rtol = ("float64", 1e-12) if how is by_vmap else ("float32", 1e-5)
    with jax.enable_x64(dtype == "float64"):
        ours = how(functools.partial(descended, over_the_axis(name, dim)))(*sharded_inputs(name, dim, dtype))
    assert_shards_equal_global(ours, on_one_device(name, dim, dtype), rtol)


@pytest.mark.parametrize("name", COMPOSITES)
def test_sharded_steps_equal_the_global_steps_within_other_transforms(name):
    with jax.enable_x64(True):
        ours = by_vmap(functools.partial(descended, over_the_axis(name)))(*sharded_inputs(name, 0, "float64"))
    assert_shards_equal_global(ours[::2], on_one_device(name, 0, "float64")[::2], rtol=1e-12)


@pytest.mark.parametrize("name", [name for name, tx in CASES.items() if gd.expand(tx) is tx])
def test_sharded_steps_differ_without_the_axis(name):
    dim = int(name in WITH_DIM)
    ours = by_vmap(functools.partial(descended, transform_of(name)))(*sharded_inputs(name, dim))
    with pytest.raises(AssertionError):
        assert_shards_equal_global(ours, on_one_device(name, dim), rtol=1e-2)


def global_loss(params):
    """Return the global loss: sharded leaves are summed over the axis, others count once."""
    of_leaves = [jnp.sum(jnp.square(leaf - 0.3)) for leaf in jax.tree.leaves(params)]
    return sum(axes.psum_scalars(of_leaves, of_leaves, AXIS))


def specs(dim, replicated=REPLICATED):
    """Return parameters sharded along a dimension, some replicated, and the gradients of some steps."""
    cut = {key: [None] * min(dim, len(shape) - 1) + [AXIS] * (key not in replicated) for key, shape in SHAPES.items()}
    return [{key: PartitionSpec(*before, *of) for key, of in cut.items()} for before in ((), (None,))]


@pytest.mark.parametrize(("name", "dim"), WITH_COMPOSITES)
def test_replicated_leaves_count_once_and_stay_replicated(name, dim):
    tx = over_the_axis(name, dim)

    def moved(params, grads):
        params, _, updates = descended(tx, params, grads, global_loss)
        return params, updates

    # out_specs accept replicated leaves only with invariant types
    steps = shard_mapped(moved, True, (*specs(dim),), (*specs(dim),))
    params, _, updates = on_one_device(name, dim)
    for ours, expected in zip(*map(jax.tree.leaves, (steps(*params_and_grads(name)), (params, updates))), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


COLLECTIVES = {
    "adaptive_grad_clip": 1,
    "apply_if_finite": 2,  # the finiteness check, and the inner transform
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
    "watch": 2,  # its norms, and the inner transform
    "zero_nans": 1,
}


@pytest.mark.parametrize("name", COLLECTIVES)
def test_one_collective_serves_all_leaves(name):
    dim = int(name in WITH_DIM)
    tx = over_the_axis(name, dim)
    params = {f"{key}{i}": x for key, x in params_and_grads()[0].items() for i in (1, 2)}

    def lowered(f):
        return shard_mapped(
            lambda *shards: jax.tree.map(lambda x: x[None], f(*jax.tree.map(lambda x: x[0], shards))), True
        )

    stacked = jax.tree.map(lambda x: stack_shards(x, dim), params)
    state = lowered(tx.init)(stacked)
    step = lowered(lambda g, s, p: update(tx, g, s, p)).lower(stacked, state, stacked)
    assert step.as_text().count("stablehlo.all_reduce") == COLLECTIVES[name]
    assert 0 < optimized(step).as_text().count(" all-reduce(") <= COLLECTIVES[name]  # XLA merges independent ones


@pytest.mark.parametrize("name", CASES)
def test_an_unbound_axis_is_named(name):
    tx, (params, grads) = over_the_axis(name), params_and_grads(name)
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


def test_init_needs_the_axis_where_the_state_depends_on_global_shapes():
    with pytest.raises(ValueError, match=r"^scale_by_factored_rms: the axis 'data' must be bound"):
        gd.adafactor(0.1, axis_name=AXIS).init(params_and_grads()[0])


@pytest.mark.parametrize("name", WITH_DIM)
def test_a_leaf_without_the_dimension_is_refused(name):
    tx = over_the_axis(name, 2)
    with pytest.raises(
        ValueError, match=r"^\w+: dim must be a dimension of every leaf .*, got 2 and a leaf of shape \(3, 8\)"
    ):
        jax.vmap(functools.partial(descended, tx), axis_name=AXIS)(*sharded_inputs(name, 0))


@pytest.mark.parametrize("name", [*WITH_DIM, "cautious", "clip_by_block_rms"])
def test_a_leaf_may_have_more_elements_than_an_int32_holds(name):
    tx, large = over_the_axis(name), {"w": jax.ShapeDtypeStruct((MEMBERS, 2**16, 2**15), jnp.float32)}
    updates = jax.eval_shape(jax.vmap(lambda g: update(tx, g, tx.init(g), g)[0], axis_name=AXIS), large)
    assert updates == large


@pytest.mark.parametrize("last", [-1, 1])
def test_dimensions_are_counted_from_the_end_too(last):
    tx = gd.scale_by_came(min_dim_size_to_factor=8, axis_name=AXIS, dim=last)
    params = {"w": params_and_grads()[0]["w"]}
    expected = gd.scale_by_came(min_dim_size_to_factor=8)
    expected = expected.update(params, expected.init(params))[0]
    ours = jax.vmap(lambda g: tx.update(g, tx.init(g))[0], axis_name=AXIS)({"w": stack_shards(params["w"], 1)})
    assert_shards_equal_global(ours, expected, rtol=1e-5)


def test_norm_over_an_axis_equals_the_global_norm():
    params, _ = params_and_grads()
    stacked = jax.tree.map(lambda x: stack_shards(x, 0), params)
    over_all = jax.vmap(functools.partial(gd.global_norm, axis_name=AXIS), axis_name=AXIS)(stacked)
    np.testing.assert_allclose(over_all, [np.sqrt(sum(np.sum(x**2) for x in params.values()))] * MEMBERS, rtol=1e-6)


def test_a_leaf_is_summed_over_the_named_axes_that_it_varies_over():
    mesh = jax.make_mesh((2, 2), ("x", "y"), devices=jax.devices()[:4], axis_types=(jax.sharding.AxisType.Auto,) * 2)
    tree = {"both": jnp.arange(8.0), "one": jnp.arange(1.0, 5.0), "none": jnp.ones(3)}
    specs = {"both": PartitionSpec(("x", "y")), "one": PartitionSpec("y"), "none": PartitionSpec()}
    norm = jax.shard_map(
        lambda tree: norms.global_norm(tree, ("x", "y")), mesh=mesh, in_specs=(specs,), out_specs=PartitionSpec()
    )
    np.testing.assert_allclose(norm(tree), gd.global_norm(tree), rtol=1e-6)


SHARDABLE = [
    name
    for name in names(gd.GradientTransform)
    if not gd.factories()[name].traits.takes_local_grads
    and find_lacking(sample(name), lambda tx: tx.factory.traits.shardable) is None
]


@pytest.mark.parametrize("name", SHARDABLE)
def test_zero_padded_shards_suffice_for_shardable_transforms(name):
    rng = np.random.default_rng(3)
    shapes = {"b": (5,), "w": (6, 3)}
    params, grads = ({k: rng.normal(size=shape).astype("float32") for k, shape in shapes.items()} for _ in range(2))
    grads = jax.tree.map(lambda g: np.stack([g, -g / 2, g]), grads)
    tx = sample(name)
    expected, _, _ = descended(tx, params, grads)

    def padded(x, first=0):
        return np.pad(x, [(0, (8 - x.shape[first]) * (i == first)) for i in range(x.ndim)])

    stacked = (
        jax.tree.map(lambda x: stack_shards(padded(x), 0), params),
        jax.tree.map(lambda x: stack_shards(padded(x, 1), 0, 1), grads),
    )
    ours, _, _ = jax.vmap(functools.partial(descended, over(tx, AXIS)), axis_name=AXIS)(*stacked)
    for key, x in ours.items():
        together = np.concatenate(x)[: len(expected[key])]
        np.testing.assert_allclose(together, expected[key], rtol=1e-5, atol=1e-6)


def test_a_state_over_an_axis_of_one_has_the_type_of_a_state_without_axis():
    params, _ = params_and_grads()
    for name in WITH_DIM:
        of_one = jax.vmap(over_the_axis(name).init, axis_name=AXIS)(jax.tree.map(lambda x: x[None], params))
        state = jax.tree.map(lambda x: x[0], of_one)
        assert signature_of(state) == signature_of(transform_of(name).init(params))
