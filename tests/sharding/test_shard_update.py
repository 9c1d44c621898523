"""A sharded update is the same update, and each device keeps its shard of the state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

import gdjax as gd
from benchmarks.hlo import collectives, counts
from tests.compiling import optimized
from tests.samples import assert_close

MEMBERS = 8
SHAPES = {"even": (16, 3), "second": (3, 8), "filled": (5, 3), "short": (2,), "scalar": (), "empty": (0, 3)}


def normal(seed, *first):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=(*first, *shape)), jnp.float32) for name, shape in SHAPES.items()}


def steps(tx, params, grads, number=3):
    """Return parameters and state after some steps with the same gradients."""
    state = tx.init(params)
    for _ in range(number):
        updates, state = tx.update(grads, state, params)
        params = gd.apply_updates(params, updates)
    return params, state


SHARDABLE = [
    "adamw(0.1, mask='(even|filled)')",
    "chain(clip_by_global_norm(0.5), adam(0.1))",
    "lamb(0.1, weight_decay=0.1)",
    "lars(0.1, weight_decay=0.1)",
    "novograd(0.1)",
    "dog()",
    "prodigy()",
    "watch(adan(0.1))",
    "by_path({'even': lion(0.1), '.*': normalize_by_update_norm()})",
    "accumulate(ademamix(0.1), 2)",
    "schedule_free_adamw(0.1)",
    "params_ema(nadamw(0.1))",
]


@pytest.mark.parametrize("text", SHARDABLE)
def test_sharded_updates_equal_those_of_one_device(text):
    tx, params, grads = gd.parse(text), normal(0), normal(1, MEMBERS)
    sharded = gd.shard_update(tx, "data")
    ours, _ = jax.vmap(lambda g: steps(sharded, params, g), axis_name="data")(grads)
    theirs, _ = steps(tx, params, jax.tree.map(lambda g: g.mean(0), grads))
    assert_close(jax.tree.map(lambda x: x[5], ours), theirs, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("check_vma", [True, False])
def test_the_state_is_sharded_and_keeps_its_type(check_vma):
    tx, mesh = gd.shard_update(gd.adam(0.1), "data"), Mesh(np.array(jax.devices()), ("data",))

    def descended(params, grads):
        grads = jax.tree.map(lambda g: g[0], grads)

        def step(carry, _):
            updates, state = tx.update(grads, carry[1], carry[0])
            return (gd.apply_updates(carry[0], updates), state), None

        start = params, tx.init(params)
        (params, state), _ = jax.lax.scan(step, start, length=3)
        assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, start[1])
        return params, jax.tree.map(lambda x: x[None], state[0].mu)

    specs = {
        "in_specs": (PartitionSpec(), PartitionSpec("data")),
        "out_specs": (PartitionSpec(), PartitionSpec("data")),
    }
    run = jax.jit(jax.shard_map(descended, mesh=mesh, check_vma=check_vma, **specs))
    params, grads = normal(0), normal(1, MEMBERS)
    ours, mu = run(params, grads)
    assert_close(ours, steps(gd.adam(0.1), params, jax.tree.map(lambda g: g.mean(0), grads))[0], rtol=1e-5, atol=1e-6)
    shapes = {name: x.shape[1:] for name, x in mu.items()}
    assert shapes == {
        "even": (2, 3),
        "second": (3, 1),
        "filled": (1, 3),
        "short": (1,),
        "scalar": (1,),
        "empty": (0, 3),
    }


@pytest.mark.parametrize("chained", [False, True])
def test_each_leaf_is_scattered_once_and_gathered_once_into_place(chained):
    inner, mesh = gd.adamw(1e-3), Mesh(np.array(jax.devices()), ("data",))
    tx = gd.shard_update(inner, "data")
    tx = gd.chain(gd.identity(), tx) if chained else tx
    params = {"a": jnp.zeros((256, 512)), "b": jnp.zeros((512, 256))}
    rows = PartitionSpec("data")
    state_specs = jax.tree.map(lambda x: rows if x.ndim else PartitionSpec(), inner.init(params))
    state_specs = (gd.identity().init(params), state_specs) if chained else state_specs
    init = jax.shard_map(tx.init, mesh=mesh, in_specs=PartitionSpec(), out_specs=state_specs)

    def step(params, state, grads):
        return gd.descend(tx, jax.tree.map(lambda g: g[0], grads), state, params)

    specs = {"in_specs": (PartitionSpec(), state_specs, rows), "out_specs": (PartitionSpec(), state_specs)}
    run = jax.jit(jax.shard_map(step, mesh=mesh, **specs), donate_argnums=(0, 1))
    grads = jax.tree.map(lambda p: jnp.zeros((MEMBERS, *p.shape)), params)
    compiled = optimized(run.lower(params, jax.jit(init)(params), grads))
    found = collectives(compiled)
    assert counts(found) == {"all-gather": 2, "reduce-scatter": 2}
    size = sum(x.nbytes for x in params.values())
    assert sum(one.wire_bytes for one in found) == 2 * size * (MEMBERS - 1) / MEMBERS
    assert (
        compiled.memory_analysis().temp_size_in_bytes <= 1.01 * size / MEMBERS
    )  # the mean gradients of the local shards


@pytest.mark.parametrize(
    ("inner", "part"),
    [
        (gd.adafactor(0.1), "scale_by_factored_rms"),
        (gd.chain(gd.clip(1.0), gd.clip_by_block_rms(1.0)), "clip_by_block_rms"),
        (gd.adaptive_grad_clip(0.1), "adaptive_grad_clip"),
        (gd.centralize(), "centralize"),
        (gd.contrib.muon(0.1), "scale_by_muon"),
        (gd.yogi(0.1), "scale_by_yogi"),
        (optax.adam(0.1), "a plain Optax transformation"),
    ],
)
def test_transforms_that_need_complete_leaves_are_refused_by_name(inner, part):
    with pytest.raises(ValueError, match=f"shard_update: .* {part} needs complete ones"):
        gd.shard_update(inner, "data")


def test_norms_inside_a_custom_factory_are_over_the_axis():
    @gd.transform
    def mine(rate: gd.Scalar):
        return gd.chain(gd.clip_by_global_norm(1.0), gd.sgd(rate))

    tx, grads = gd.shard_update(mine(1.0), "data"), jnp.ones((4, 16))
    updates = jax.vmap(lambda g: tx.update(g, tx.init(g), g)[0], axis_name="data")(grads)
    np.testing.assert_allclose(jnp.linalg.norm(updates[0]), 1.0, rtol=1e-6)


def test_mask_functions_see_complete_parameters():
    def large(params):
        return jax.tree.map(lambda p: p.size >= 8 or p.ndim == 0, params)

    params, grads = normal(0), normal(1, MEMBERS)
    ours, theirs = (gd.adamw(0.1, weight_decay=0.5, mask=mask) for mask in (large, large(params)))
    run = [
        jax.vmap(lambda g, tx=tx: steps(gd.shard_update(tx, "data"), params, g)[0], axis_name="data")(grads)
        for tx in (ours, theirs)
    ]
    assert_close(*run)
    on_one_device, _ = steps(ours, params, jax.tree.map(lambda g: g.mean(0), grads))
    assert_close(jax.tree.map(lambda x: x[0], run[0]), on_one_device, rtol=2e-5, atol=1e-6)


def test_eval_params_refuses_a_sharded_average():
    tx, w = gd.shard_update(gd.params_ema(gd.sgd(0.1)), "data"), jnp.ones(8)
    with pytest.raises(ValueError, match=r"eval_params: .* Put it around shard_update"):
        jax.vmap(lambda g: gd.eval_params(tx, tx.init(w), w), axis_name="data")(jnp.ones((4, 8)))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="shard_update: axis_name must be"):
        gd.shard_update(gd.sgd(0.1), None)
    with pytest.raises(TypeError, match="shard_update: inner must be a transform"):
        gd.shard_update(gd.parse, "data")
    with pytest.raises(ValueError, match="shard_update: the axis 'data' must be bound"):
        gd.shard_update(gd.sgd(0.1), "data").init(jnp.ones(2))


def test_hyperparameters_are_leaves_and_the_repr_is_parsed():
    tx = gd.shard_update(gd.adam(gd.warmup_cosine(0.1, 2, 10)), "data")
    assert gd.parse(repr(tx)) == tx
    assert tx.replace(peak=0.2).peak == 0.2
