"""Transforms made of transforms: chains, masks, labels by path, and their descriptions and metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax as gd
from tests.samples import assert_close, names, run, sample, tree, update

MODEL = {
    "encoder": {"layers": [{"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)} for _ in range(2)]},
    "head": {"kernel": jnp.ones((2, 1)), "none": None},
}


def test_a_chain_of_nothing_is_the_identity():
    assert gd.chain().update(1.0, gd.chain().init(0.0)) == (1.0, ())


def test_any_object_with_init_and_update_can_be_chained():
    tx = gd.chain(gd.clip(0.5), optax.MultiSteps(gd.sgd(0.1), every_k_schedule=2))
    updates, state = jax.jit(tx.update)(tree(), tx.init(tree()), tree())
    assert not updates["w"].any()
    updates, _ = tx.update(tree(), state, tree())
    np.testing.assert_allclose(updates["w"], -0.1 * jnp.clip(tree()["w"], -0.5, 0.5), rtol=1e-6)


def test_nested_chains_equal_flat_chains():
    parts = gd.clip(0.5), gd.trace(0.9), gd.scale(-0.1)
    assert_close(run(gd.chain(*parts), tree())[0], run(gd.chain(parts[0], gd.chain(*parts[1:])), tree())[0], rtol=0)


def test_a_named_chain_finds_its_states_by_name():
    tx = gd.named_chain(("z", gd.trace(0.9)), ("a", gd.scale(2.0)))
    state = tx.init(1.0)
    assert list(state) == ["z", "a"]
    updates, state = jax.jit(tx.update)(1.0, state)
    assert updates == 2.0
    assert state["z"].trace == 1.0
    with pytest.raises(ValueError, match=r"names must all be different, got \['a', 'a'\]"):
        gd.named_chain(("a", gd.clip(1.0)), ("a", gd.clip(1.0)))


@pytest.mark.parametrize(
    "mask", [{"encoder": True, "head": False}, {"encoder": 1, "head": 0}, {"encoder": np.int8(1), "head": 0.0}]
)
@pytest.mark.parametrize("called", [False, True])
def test_leaves_outside_the_mask_are_unchanged(mask, called):
    tx = gd.masked(gd.scale(0.0), (lambda _: mask) if called else mask)
    updates, _ = tx.update(MODEL, tx.init(MODEL))
    assert not jax.tree.leaves(updates["encoder"])[0].any()
    assert updates["head"]["kernel"].all()


def test_frozen_leaves_stay_whatever_their_dtype():
    params = {"w": jnp.ones(2), "step": jnp.arange(3), "flag": jnp.array(True)}
    tx = gd.by_path({"w": gd.sgd(0.1), ".*": gd.frozen()})
    grads = jax.grad(lambda p: jnp.sum(p["w"] ** 2), allow_int=True)(params)
    updates, _ = tx.update(grads, tx.init(params), params)
    new_params = gd.apply_updates(params, updates)
    np.testing.assert_allclose(new_params["w"], 0.8)
    assert new_params["step"].tolist() == [0, 1, 2]
    assert new_params["flag"].dtype == bool


def test_the_first_pattern_that_matches_a_whole_path_wins():
    tx = gd.by_path({".*/bias": gd.frozen(), "encoder/layers/0/.*": gd.scale(2.0), ".*": gd.scale(3.0)})
    updates, state = tx.update(MODEL, tx.init(MODEL))
    first, second = updates["encoder"]["layers"]
    assert [leaf.ravel()[0] for leaf in (first["bias"], first["kernel"], second["kernel"])] == [0, 2, 3]
    assert updates["head"]["kernel"].ravel()[0] == 3
    assert list(state.inner_states) == [".*/bias", "encoder/layers/0/.*", ".*"]


def test_the_order_of_patterns_survives_flattening():
    tx = gd.by_path({"w.*": gd.scale(2.0), ".*": gd.scale(3.0)})  # sorted, ".*" would come first
    params = {"w": jnp.ones(2), "b": jnp.ones(2)}
    updates = jax.jit(lambda tx: tx.update(params, tx.init(params))[0])(tx)
    assert (updates["w"][0], updates["b"][0]) == (2.0, 3.0)
    leaves, treedef = jax.tree.flatten(tx)
    assert treedef.unflatten(leaves) == tx


def test_by_path_nests_and_accepts_abstract_params():
    inner = gd.by_path({".*/bias": gd.frozen(), ".*": gd.adam(0.1)})
    tx = gd.by_path({"encoder/.*": inner, ".*": gd.sgd(0.1, momentum=0.9)})
    abstract = jax.eval_shape(lambda: MODEL)
    assert jax.eval_shape(tx.init, abstract) == jax.eval_shape(lambda: tx.init(MODEL))
    assert jax.tree.structure(tx.init(abstract)) == jax.tree.structure(tx.init(MODEL))
    updates, _ = tx.update(MODEL, tx.init(MODEL), MODEL)
    assert jax.tree.structure(updates) == jax.tree.structure(MODEL)


def test_by_path_refuses_unmatched_paths_and_unused_patterns():
    with pytest.raises(ValueError, match=r"no pattern matches 'head/kernel'; the patterns are 'encoder/\.\*'"):
        gd.by_path({"encoder/.*": gd.sgd(0.1)}).init(MODEL)
    with pytest.raises(
        ValueError, match=r"nothing is left for the patterns 'tail/\.\*'; the paths are 'encoder/layers/0/b"
    ):
        gd.by_path({"tail/.*": gd.sgd(0.1), ".*": gd.sgd(0.1)}).init(MODEL)
    with pytest.raises(ValueError, match=r"'\(' is not a regular expression"):
        gd.by_path({"(": gd.sgd(0.1)})
    with pytest.raises(ValueError, match="and 5 more"):
        gd.by_path({"x": gd.sgd(0.1)}).init({str(i): jnp.ones(()) for i in range(25)})
    assert gd.by_path({"w": gd.sgd(0.1)}).update({}, gd.by_path({"w": gd.sgd(0.1)}).init({}))[0] == {}


def test_updates_are_added_in_the_dtype_of_params():
    new_params = gd.apply_updates(
        {"w": jnp.ones(2, jnp.bfloat16), "n": None, "x": 1.0}, {"w": jnp.ones(2), "n": None, "x": None}
    )
    assert new_params["w"].dtype == jnp.bfloat16
    assert (new_params["n"], new_params["x"]) == (None, 1.0)


def test_describe_shows_the_transforms_of_every_leaf():
    tx = gd.chain(
        gd.clip_by_global_norm(1.0),
        gd.by_path({".*/bias": gd.frozen(), "encoder/.*": gd.adamw(1e-3), ".*": gd.sgd(0.1, momentum=0.9)}),
        gd.masked(gd.watch(gd.ema(0.9)), {"encoder": False, "head": True}),
    )
    description = gd.describe(tx, jax.eval_shape(lambda: MODEL))
    assert [(row.path, row.state_bytes, row.transform) for row in description.rows] == [
        ("encoder/layers/0/bias", 0, "clip_by_global_norm + frozen"),
        ("encoder/layers/0/kernel", 32, "clip_by_global_norm + adamw"),
        ("encoder/layers/1/bias", 0, "clip_by_global_norm + frozen"),
        ("encoder/layers/1/kernel", 32, "clip_by_global_norm + adamw"),
        ("head/kernel", 16, "clip_by_global_norm + sgd + ema"),
    ]
    state = tx.init(MODEL)
    assert description.state_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert description.parameters == 14
    assert str(description).splitlines()[-1] == "5 leaves, 14 parameters, 100 bytes of state, 20 of them shared"
    assert "<td>head/kernel</td><td>[2, 1]</td><td>float32</td><td>16</td>" in description._repr_html_()


def test_describe_follows_nested_by_path():
    inner = gd.by_path({".*/bias": gd.frozen(), ".*": gd.adam(0.1)})
    tx = gd.by_path({"encoder/.*": inner, ".*": gd.sgd(0.1)})
    rows = gd.describe(tx, MODEL).rows
    assert [row.transform for row in rows] == ["frozen", "adam", "frozen", "adam", "sgd"]
    nested = {"mu": {"w": jnp.ones(3)}, "w": jnp.ones(2), "count": jnp.ones(())}
    assert {row.path: row.state_bytes for row in gd.describe(gd.adam(0.1), nested).rows} == {
        "count": 8,
        "mu/w": 24,
        "w": 16,
    }


def test_describe_counts_factored_and_lifted_states():
    params = {"w": jnp.ones((256, 128)), "b": jnp.ones(128)}
    description = gd.describe(gd.adafactor(0.1), params)
    assert description.state_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(gd.adafactor(0.1).init(params)))
    assert {row.path: row.state_bytes for row in description.rows}["w"] == 4 * (256 + 128 + 1)
    assert "<empty>" not in str(gd.describe(gd.sgd(0.1), {}))


def test_watch_records_norms_in_a_state_of_fixed_type():
    tx = gd.chain(gd.clip(0.5), gd.watch(gd.sgd(0.1, momentum=0.9)))

    def step(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (gd.apply_updates(params, updates), state), gd.metrics(state)

    params = tree()
    grads = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[tree(seed=seed) for seed in range(4)])
    _, seen = jax.lax.scan(step, (params, tx.init(params)), grads)
    assert sorted(seen) == ["grad_norm", "param_norm", "update_norm"]
    assert seen["grad_norm"].shape == (4,)
    np.testing.assert_allclose(seen["param_norm"][0], optax.tree.norm(params), rtol=1e-6)
    clipped = jax.tree.map(lambda leaf: jnp.clip(leaf, -0.5, 0.5), tree(seed=0))
    np.testing.assert_allclose(seen["grad_norm"][0], optax.tree.norm(clipped), rtol=1e-6)
    np.testing.assert_allclose(seen["update_norm"][0], 0.1 * seen["grad_norm"][0], rtol=1e-6)
    assert gd.metrics(tx.init(params)) == dict.fromkeys(sorted(seen), 0.0)


def test_watches_are_distinguished_by_name():
    tx = gd.watch(gd.by_path({"w": gd.watch(gd.sgd(0.1), "w"), ".*": gd.watch(gd.sgd(0.1), "rest")}))
    _, state = run(tx, tree())
    seen = gd.metrics(state)
    assert len(seen) == 9
    np.testing.assert_allclose(seen["grad_norm"], jnp.hypot(seen["w/grad_norm"], seen["rest/grad_norm"]), rtol=1e-6)
    twice = gd.watch(gd.watch(gd.sgd(0.1)))
    with pytest.raises(ValueError, match=r"more than once: \['grad_norm', 'param_norm', 'update_norm'\]"):
        gd.metrics(twice.init(tree()))


def test_low_precision_norms_are_watched_in_float32():
    params = {"w": jnp.ones((3000,), jnp.bfloat16), "b": jnp.ones(3, jnp.bfloat16)}
    tx = gd.watch(gd.sgd(0.1))
    _, state = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(gd.metrics(state)["grad_norm"], np.sqrt(3003), rtol=1e-6)


RATE = gd.warmup_cosine(0.1, 2, 10)
TRANSFORMS = {name: sample(name) for name in names(gd.GradientTransform)} | {
    "a chain of them": gd.chain(gd.clip(0.5), gd.scale_by_rms(), gd.add_decayed_weights(RATE), gd.sgd(RATE)),
    "a corrected one": gd.chain(gd.scale_by_rms(bias_correction=True), gd.adamw(RATE, nesterov=True)),
}


def with_recomputed(tx, steps=3):
    """Return the last updates, and the updates recomputed from the state."""
    params, state = tree(), tx.init(tree())
    for seed in range(1, 1 + steps):
        grads = tree(seed=seed)
        updates, state = update(tx, grads, state, params)
    return updates, tx.again(grads, state, params)


@pytest.mark.parametrize("tx", [pytest.param(tx, id=name) for name, tx in TRANSFORMS.items()])
def test_recomputed_updates_equal_the_updates(tx):
    updates, again = with_recomputed(tx)
    assert_close(updates if again is None else again, updates, rtol=0)


def test_only_some_transforms_can_recompute_updates():
    can = {name for name, tx in TRANSFORMS.items() if with_recomputed(tx, 1)[1] is not None}
    assert can >= {"adamw", "rmsprop", "sgd", "scale_by_adam", "scale_by_schedule", "a chain of them"}
    assert not can & {"lamb", "lion", "novograd", "scale_by_adan", "schedule_free", "masked", "by_path"} - {"lamb"}
    assert with_recomputed(gd.chain(gd.clip(0.5), gd.scale_by_lion()))[1] is None
    assert with_recomputed(gd.chain(gd.clip(0.5), optax.scale(0.1)))[1] is None
    assert with_recomputed(gd.adam(0.1, mu_dtype=jnp.bfloat16))[1] is None


def test_making_a_chain_of_chains_runs_every_factory_once():
    runs = []

    @gd.transform
    def counted():
        runs.append(None)
        return gd.scale(1.0)

    tx = counted()
    for _ in range(6):
        tx = gd.chain(tx)
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("head", "able"),
    [
        (gd.maximize(gd.scale_by_lion()), False),
        (gd.maximize(gd.scale_by_adam()), True),
        (gd.named_chain(("adam", gd.scale_by_adam(mu_dtype=jnp.bfloat16))), False),
        (gd.named_chain(("adam", gd.scale_by_adam())), True),
    ],
)
def test_updates_are_recomputed_only_if_every_inner_transform_can(head, able):
    params = {"w": jnp.array([[3.0, 4.0]])}
    tx = gd.chain(head, gd.scale_by_trust_ratio())
    updates, _ = tx.update(params, tx.init(params), params)
    assert head.recomputes is able
    assert jnp.allclose(gd.global_norm(updates), 5.0, rtol=1e-5)
