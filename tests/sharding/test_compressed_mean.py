"""Compressed means over an axis: their numbers, the sums they preserve, and their bytes on the wire."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gdjax as gd
from benchmarks.hlo import collectives, counts
from gdjax.collectives.low_rank_mean import is_compressed
from gdjax.collectives.quantized_mean import quantize, to_blocks
from tests.compiling import compilations, counted
from tests.samples import signature_of

N = 8
EACH_COMPRESSION = pytest.mark.parametrize("how", [{"bits": 8}, {"rank": 2}], ids=str)


def gradients(steps=None, seed=0, members=N, shapes=None):
    """Return gradients of every device, for one step or several: a common matrix plus noise."""
    rng = np.random.default_rng(seed)
    shapes = shapes or {"b": (7,), "s": (), "t": (12, 5, 6), "w": (40, 30)}
    common = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    lead = (members,) if steps is None else (members, steps)
    return {
        name: (common[name] + rng.normal(size=(*lead, *shape))).astype(np.float32) for name, shape in shapes.items()
    }


def simulated(tx, gs, state=None, **extra_args):
    """Return the updates and states of all devices, with one step for each gradient along the second axis of leaves."""

    def run(gs, state):
        def step(state, g):
            return tx.update(g, state, **extra_args)[::-1]

        return jax.lax.scan(step, state, gs)[::-1]

    if state is None:
        state = jax.vmap(lambda gs: tx.init(jax.tree.map(lambda g: g[0], gs)), axis_name="data")(gs)
    return jax.vmap(run, axis_name="data")(gs, state)


def once(tx, g):
    """Return the updates of all devices after one step."""
    return jax.vmap(lambda g: tx.update(g, tx.init(g))[0], axis_name="data")(g)


def sharded(f, check=True):
    """Map a function over a mesh of 8 devices: its first result is replicated, its second is per-device."""
    mesh = jax.make_mesh((N,), ("data",))

    def per_device(*args):
        shared, mine = f(*jax.tree.map(lambda x: x[0], args))
        return shared, jax.tree.map(lambda x: x[None], mine)

    data, replicated = PartitionSpec("data"), PartitionSpec()
    mapped = counted(jax.shard_map(per_device, mesh=mesh, in_specs=data, out_specs=(replicated, data), check_vma=check))
    return mapped, lambda tree: jax.device_put(tree, NamedSharding(mesh, data))


def rounded(v):
    """Return the 8-bit integers of blocks, and the numbers that they represent (Q of the docstring)."""
    scale = np.abs(v).max(-1, keepdims=True).astype(np.float32) * np.float32(1 / 127)
    codes = np.rint(v / np.where(scale > 0, scale, 1).astype(np.float64))
    return codes, codes * scale


def in_blocks(leaves, members):
    rows = [np.pad(x.ravel(), (0, -x.size % 256)).reshape(-1, 256) for x in leaves]
    rows = np.concatenate(rows)
    return np.pad(rows, [(0, -len(rows) % members), (0, 0)]).reshape(members, -1, 256)


def by_double_squeeze(gs):
    """Return updates in blocks by Tang et al. 2019, algorithm 1, where each device is the server of one block."""
    members, steps = gs["s"].shape
    e, e_bar, updates = 0.0, 0.0, []
    for t in range(steps):
        g = np.stack([in_blocks([gs[k][i, t].astype(np.float64) for k in sorted(gs)], members) for i in range(members)])
        v = g + e
        q = rounded(v)[1]
        e = v - q
        v_bar = q.mean(0) + e_bar
        q_bar = rounded(v_bar)[1]
        e_bar = v_bar - q_bar
        updates.append(q_bar)
    return np.stack(updates), e, e_bar


def test_8_bits_match_double_squeeze():
    gs = gradients(steps=5)
    updates, state = simulated(gd.compressed_mean("data", bits=8), gs)
    reference, e, e_bar = by_double_squeeze(gs)
    ours = np.stack([in_blocks([np.asarray(updates[k])[0, t] for k in sorted(gs)], N) for t in range(5)])
    np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-5)  # an error of one integer would be 1e-2
    np.testing.assert_allclose(np.stack([in_blocks(_member(state.error, i), N) for i in range(N)]), e, atol=1e-5)
    np.testing.assert_allclose(state.mean_error[0], e_bar, atol=1e-5)


def _member(tree, i):
    return [np.asarray(leaf)[i] for leaf in jax.tree.leaves(tree)]


def test_quantize_rounds_symmetrically_to_nearest_with_ties_to_even():
    x = np.zeros((2, 256), np.float32)
    x[0, :6] = [127.0, -127.0, 0.5, 1.5, -2.5, 0.49]
    x[1, :3] = [-1e-3, 1e-3, 4e-6]
    codes, scales = jax.jit(quantize)(x)
    assert codes.dtype == jnp.int8
    assert codes[0, :6].tolist() == [127, -127, 0, 2, -2, 0]
    assert codes[1, :3].tolist() == [-127, 127, 1]
    np.testing.assert_array_equal(codes, rounded(x.astype(np.float64))[0])
    np.testing.assert_allclose(scales, [1.0, 1e-3 / 127], rtol=1e-6)


def by_power_sgd(gs, q, of_mean=False):
    """Return updates of a matrix by Vogels et al. 2019, algorithms 1 and 2; `of_mean` takes the error of the mean."""
    e, updates = 0.0, []
    for t in range(gs.shape[1]):
        m = gs[:, t] + e
        p_hat = np.linalg.qr((m @ q).mean(0))[0]
        local_q = m.transpose(0, 2, 1) @ p_hat
        q = local_q.mean(0)
        e = m - p_hat @ (q.T if of_mean else local_q.transpose(0, 2, 1))
        updates.append(p_hat @ q.T)
    return np.stack(updates), e


def test_rank_r_matches_power_sgd():
    gs, tx = gradients(steps=5), gd.compressed_mean("data", rank=3)
    start = jax.vmap(tx.init, axis_name="data")(jax.tree.map(lambda g: g[:, 0], gs))
    updates, state = simulated(tx, gs)
    for name, sides in {"t": (12, 30), "w": (40, 30)}.items():
        wide = gs[name].astype(np.float64).reshape(N, 5, *sides)
        reference, error = by_power_sgd(wide, np.asarray(start.q[name][0], np.float64))
        np.testing.assert_allclose(updates[name][0].reshape(5, *sides), reference, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(state.error[name].reshape(N, *sides), error, rtol=1e-3, atol=1e-4)
    for name in "bs":
        assert state.error[name] is None
        np.testing.assert_allclose(updates[name][0], gs[name].astype(np.float64).mean(0), rtol=1e-5, atol=1e-6)


def test_errors_by_local_q_give_the_same_updates_as_by_the_mean_q_and_stay_smaller():
    gs, q = gradients(steps=400, shapes={"w": (20, 16)})["w"].astype(np.float64), np.eye(16)[:, :3]
    ours, theirs = by_power_sgd(gs, q), by_power_sgd(gs, q, of_mean=True)
    np.testing.assert_allclose(ours[0][:40], theirs[0][:40], atol=1e-6)  # later, rounding separates them
    error_at_100, error_at_400 = (np.linalg.norm(by_power_sgd(gs[:, :n], q, of_mean=True)[1]) for n in (100, 400))
    assert error_at_400 > 1.5 * error_at_100
    assert np.linalg.norm(ours[1]) < 0.5 * error_at_400


def test_initial_q_depends_on_the_seed_and_is_equal_on_all_devices():
    g = gradients()

    def start(seed):
        return jax.vmap(gd.compressed_mean("data", rank=2, seed=seed).init, axis_name="data")(g).q

    first, again, other = start(0), start(0), start(1)
    assert (first["w"] == first["w"][0]).all()
    assert (first["w"] == again["w"]).all()
    assert not (first["w"] == other["w"]).any()
    assert not (first["w"][0, :30] == first["t"][0]).any()
    assert abs(float(first["w"][0].std()) - 1) < 0.2


def test_one_8_bit_step_errs_by_at_most_half_a_scale_per_rounding():
    gs = gradients(steps=1)
    updates, _ = simulated(gd.compressed_mean("data", bits=8), gs)
    for name, g in gs.items():
        local_max = np.abs(in_blocks([g[0, 0]], 1)).max() if g[0, 0].size <= 256 else np.abs(g).max()
        greatest = max(local_max, np.abs(g).max())
        off = np.abs(np.asarray(updates[name][0, 0], np.float64) - g[:, 0].astype(np.float64).mean(0)).max()
        assert off <= greatest / 127 * (1 + 1e-5), name
        assert off < 0.01 * greatest, name


@EACH_COMPRESSION
def test_updates_and_the_error_in_the_state_sum_to_the_means(how):
    gs = gradients(steps=20)
    updates, state = simulated(gd.compressed_mean("data", **how), gs)
    for name, g in gs.items():
        missing = g.astype(np.float64).mean(0).sum(0) - np.asarray(updates[name][0], np.float64).sum(0)
        stored_error = 0.0 if state.error[name] is None else np.asarray(state.error[name]).mean(0)
        if "bits" in how:
            like = [jnp.asarray(gs[k][0, 0]) for k in sorted(gs)]
            stored_error = stored_error + np.asarray(to_blocks(like, N)[1](state.mean_error[0])[sorted(gs).index(name)])
        np.testing.assert_allclose(stored_error, missing, atol=2e-4)


@pytest.mark.parametrize(("how", "bound"), [({"bits": 8}, 0.1), ({"rank": 2}, 60.0)], ids=str)
def test_the_accumulated_error_is_bounded_with_feedback_and_grows_without(how, bound):
    gs, tx = gradients(steps=200, shapes={"w": (24, 20)}), gd.compressed_mean("data", **how)
    updates, _ = simulated(tx, gs)

    def forgetting(gs):
        return jax.lax.map(lambda g: tx.update(g, tx.init(g))[0], gs)

    without = jax.vmap(forgetting, axis_name="data")(gs)
    means = gs["w"].astype(np.float64).mean(0)

    def missing(us):
        sums = np.cumsum(means - np.asarray(us["w"][0], np.float64), 0)
        return [np.abs(sums[:100]).max(), np.abs(sums).max()]

    early, late = missing(updates)
    assert late < bound
    assert late < 1.5 * early
    lost_early, lost_late = missing(without)
    assert lost_late > 1.3 * lost_early
    assert lost_late > 3 * late


def test_the_final_loss_matches_that_of_the_exact_mean():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(10, 64)) * 0.5
    labels = rng.integers(0, 10, size=(N, 64))
    x = jnp.asarray(centers[labels] + rng.normal(size=(N, 64, 64)), jnp.float32)

    def loss(params, x, y):
        scores = x @ params["w"] + params["b"]
        return gd.softmax_cross_entropy_with_integer_labels(scores, y).mean() + 1e-3 * jnp.sum(params["w"] ** 2)

    def final_loss(mean):
        tx = gd.chain(*mean, gd.sgd(0.3, momentum=0.9))

        def descent(x, y):
            def step(carry, _):
                params, state = carry
                g = jax.grad(loss)(params, x, y)
                updates, state = tx.update(g if mean else jax.lax.pmean(g, "data"), state, params)
                return (gd.apply_updates(params, updates), state), None

            start = {"b": jnp.zeros(10), "w": jnp.zeros((64, 10))}
            params, _ = jax.lax.scan(step, (start, tx.init(start)), length=300)[0]
            return jax.lax.pmean(loss(params, x, y), "data")

        return float(jax.jit(jax.vmap(descent, axis_name="data"))(x, jnp.asarray(labels))[0])

    exact = final_loss([])
    assert exact < 0.3  # 2.3 at the start
    assert abs(final_loss([gd.compressed_mean("data", bits=8)]) / exact - 1) < 1e-3
    assert abs(final_loss([gd.compressed_mean("data", rank=2)]) / exact - 1) < 1e-2


@EACH_COMPRESSION
def test_all_kinds_of_axes_agree_and_devices_have_bitwise_equal_updates(how):
    tx, gs = gd.compressed_mean("data", **how), gradients(steps=3)
    updates, state = simulated(tx, gs)

    def run(gs):
        state = tx.init(jax.tree.map(lambda g: g[0], gs))
        return jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], state, gs)[::-1]

    places = {"pmap": jax.pmap(run, axis_name="data")(gs)}
    for check in (True, False):
        mapped, placed = sharded(run, check)
        replicated, new_state = mapped(placed(gs))  # with the check, its type says that the update is replicated
        places[f"shard_map {check}"] = jax.tree.map(lambda u: jnp.stack([u] * N), replicated), new_state
    for leaf in jax.tree.leaves((updates, places["pmap"][0])):
        assert (leaf == leaf[0]).all()
    for place in places.values():
        chex.assert_trees_all_close(place, (updates, state), rtol=1e-3, atol=1e-4)


@EACH_COMPRESSION
def test_the_state_keeps_its_type_and_one_compile_serves_all_steps(how):
    tx, g = gd.compressed_mean("data", **how), gradients()
    start, placed = sharded(lambda g: ((), tx.init(g)))
    step, _ = sharded(lambda g, state: tx.update(g, state))
    g = placed(g)
    _, state = start(g)
    first = signature_of(state)
    for _ in range(3):
        _, state = step(g, state)
        assert signature_of(state) == first
    assert compilations(step) == 1


def on_the_wire(tx, g):
    """Return the collectives of a step on 8 devices."""
    start, placed = sharded(lambda g: ((), tx.init(g)))
    step, _ = sharded(lambda g, state: tx.update(g, state))
    g = placed(g)
    return collectives(step.lower(g, start(g)[1]).compile())


LAYERS = {f"w{i}": (96, 128) for i in range(6)} | {f"b{i}": (128,) for i in range(6)}


def test_8_bits_take_one_all_to_all_and_one_all_gather_of_a_quarter_of_the_bytes():
    found = on_the_wire(gd.compressed_mean("data", bits=8), gradients(shapes=LAYERS))
    assert counts(found) == {"all-gather": 1, "all-to-all": 1}
    rows = 6 * (96 * 128 // 256 + 1)
    share = -(-rows // N) * 260  # 256 integers and a scale
    assert {c.kind: c.operand_bytes for c in found} == {"all-gather": share, "all-to-all": N * share}
    exact, placed = sharded(
        lambda g: (jax.lax.pmean(jnp.concatenate([x.ravel() for x in jax.tree.leaves(g)]), "data"), ())
    )
    uncompressed = collectives(exact.lower(placed(gradients(shapes=LAYERS))).compile())
    assert counts(uncompressed) == {"all-reduce": 1}
    ratio = sum(c.wire_bytes for c in found) / sum(c.wire_bytes for c in uncompressed)
    assert 65 / 256 <= ratio < 65 / 256 * 1.03


@pytest.mark.parametrize("rank", [1, 4])
def test_rank_r_takes_one_all_reduce_of_p_and_uncompressed_leaves_and_one_of_q(rank):
    found = on_the_wire(gd.compressed_mean("data", rank=rank), gradients(shapes=LAYERS))
    assert counts(found) == {"all-reduce": 2}
    assert sorted(c.operand_bytes for c in found) == sorted([4 * 6 * (96 * rank + 128), 4 * 6 * 128 * rank])
    assert {c.members for c in found} == {N}


def test_trees_without_a_matrix_take_one_all_reduce():
    found = on_the_wire(gd.compressed_mean("data", rank=1), gradients(shapes={"a": (5,), "b": (2, 2)}))
    assert counts(found) == {"all-reduce": 1}


def test_control_flow_around_collectives_is_found():
    def program(x):
        summed = jax.lax.scan(lambda s, _: (jax.lax.psum(s, "data") / N, None), x, length=5)[0]
        many = jax.lax.pmax(x.sum(), "data") > 0
        return jax.lax.cond(many, lambda: jax.lax.all_gather(summed, "data").sum(0), lambda: summed), ()

    mapped, placed = sharded(program, check=False)
    found = collectives(mapped.lower(placed(jnp.ones((N, 6)))).compile())
    assert [(c.kind, c.operand_bytes, c.within) for c in sorted(found, key=lambda c: (c.kind, c.operand_bytes))] == [
        ("all-gather", 24, ("conditional",)),
        ("all-reduce", 4, ()),
        ("all-reduce", 24, ("while",)),
    ]


@pytest.mark.parametrize("sizes", [(1,), (255,), (256,), (257, 3), (2048, 1), (0, 5), (2049,)], ids=str)
@pytest.mark.parametrize("members", [1, 3, 8])
def test_leaves_of_any_size_round_trip_through_blocks(sizes, members):
    leaves = [jnp.arange(1.0, size + 1) for size in sizes]
    cut, uncut = to_blocks(leaves, members)
    assert cut.shape[0] == members
    np.testing.assert_array_equal(cut, in_blocks([np.asarray(x) for x in leaves], members))
    for ours, theirs in zip(uncut(cut), leaves, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@EACH_COMPRESSION
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_updates_have_the_dtype_of_gradients_and_errors_float32_at_least(how, dtype):
    tx, gs = gd.compressed_mean("data", **how), gradients(steps=3)
    other = gradients(steps=3, seed=1)
    gs = {k: jnp.asarray(g + 1j * other[k] if dtype == jnp.complex64 else g, dtype) for k, g in gs.items()}
    with jax.numpy_dtype_promotion("strict"):
        updates, state = simulated(tx, gs)
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    allowed = {np.dtype("float32"), np.dtype("complex64") if dtype == jnp.complex64 else np.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(state)} <= allowed
    wide = gs["b"].astype(complex if dtype == jnp.complex64 else float)
    np.testing.assert_allclose(updates["b"][0], wide.mean(0), atol=0.05)


def test_a_complex_leaf_is_compressed_like_two_real_ones():
    gs = {"z": np.stack([gradients(steps=2)["w"], gradients(steps=2, seed=1)["w"]], -1)}
    as_complex = {"z": jnp.asarray(gs["z"][..., 0] + 1j * gs["z"][..., 1], jnp.complex64)}
    for how in ({"bits": 8}, {"rank": 2}):
        tx = gd.compressed_mean("data", **how)
        ours, theirs = simulated(tx, as_complex)[0]["z"], simulated(tx, gs)[0]["z"]
        np.testing.assert_allclose(jnp.stack([ours.real, ours.imag], -1), theirs, rtol=1e-4, atol=1e-5)


@EACH_COMPRESSION
def test_float64_stays_float64(how):
    with jax.enable_x64(True):
        g = jax.tree.map(lambda g: jnp.asarray(g, jnp.float64), gradients(steps=2))
        updates, state = simulated(gd.compressed_mean("data", **how), g)
        assert {x.dtype for x in jax.tree.leaves((updates, state))} == {jnp.dtype("float64")}


@EACH_COMPRESSION
def test_scalars_empty_leaves_and_none_are_accepted(how):
    g = {"e": np.ones((N, 0, 3), np.float32), "n": None, "s": np.arange(8, dtype=np.float32), "within": {"n": None}}
    updates = once(gd.compressed_mean("data", **how), g)
    assert jax.tree.structure(updates) == jax.tree.structure(g)
    assert updates["e"].shape == (N, 0, 3)
    np.testing.assert_allclose(updates["s"], 3.5, atol=0.06)
    tx = gd.compressed_mean("data", **how)
    none = jax.vmap(lambda _: (tx.update({}, tx.init({}))[0], 0.0)[1], axis_name="data")(np.arange(8))
    assert none.shape == (N,)


@EACH_COMPRESSION
def test_on_one_device_the_update_is_the_compressed_gradient(how):
    g = gradients(members=1)
    u = np.asarray(once(gd.compressed_mean("data", **how), g)["w"][0], np.float64)
    off = np.abs(u - g["w"][0])
    if "bits" in how:
        assert 0 < off.max() < 0.01 * np.abs(g["w"]).max()
    else:
        sizes = np.linalg.svd(u)[1]
        assert sizes[2] < 1e-5 * sizes[0]
        orthogonal = (g["w"][0] - u).T @ u  # what is lost is orthogonal to what is kept
        assert np.abs(orthogonal).max() < 1e-3


@EACH_COMPRESSION
def test_a_nonfinite_gradient_gives_a_nonfinite_update_and_keeps_the_state(how):
    tx, gs = gd.compressed_mean("data", **how), gradients(steps=2)
    _, state = simulated(tx, gs)
    for number in (np.nan, np.inf, -np.inf):
        bad = {k: g[:, :1].copy() for k, g in gs.items()}
        bad["w"][3, 0, 1, 2] = number
        updates, after = simulated(tx, bad, state)
        assert not np.isfinite(updates["w"][:, 0, 1, 2]).any()
        chex.assert_trees_all_equal(after, state)
    later, _ = simulated(tx, gs, after)
    chex.assert_tree_all_finite(later)


def test_gradients_that_underflow_accumulate_until_their_sum_does_not():
    g = {"w": np.full((N, 40, 4), 3e-37, np.float32)}  # the scale would be 2e-39, no normal number
    updates, _ = simulated(gd.compressed_mean("data", bits=8), g)
    sums = np.asarray(updates["w"][0], np.float64).sum(0)
    assert (np.asarray(updates["w"][0, 0]) == 0).all()
    np.testing.assert_allclose(sums, 40 * 3e-37, rtol=0.2)


def test_a_mean_of_low_rank_is_exact():
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=(40, 2)), rng.normal(size=(2, 30))
    noise = rng.normal(size=(N, 40, 30))
    g = (u @ v + noise - noise.mean(0)).astype(np.float32)
    updates = once(gd.compressed_mean("data", rank=2), {"w": g})
    np.testing.assert_allclose(updates["w"][0], g.astype(np.float64).mean(0), atol=1e-4)
    over = once(gd.compressed_mean("data", rank=4), {"w": g})  # the rank of P is only 2
    np.testing.assert_allclose(over["w"][0], g.astype(np.float64).mean(0), atol=1e-4)


@pytest.mark.parametrize("rank", [5, 9])
def test_a_rank_too_large_for_a_matrix_leaves_it_uncompressed(rank):
    g = gradients(shapes={"w": (5, 40)})
    updates = once(gd.compressed_mean("data", rank=rank), g)
    assert not is_compressed(g["w"][0], rank)
    np.testing.assert_array_equal(updates["w"], once(gd.mean_over("data"), g)["w"])


def test_only_leaves_that_are_larger_than_their_approximation_are_compressed():
    shapes = {(100,): False, (): False, (4, 4): True, (2, 2): False, (3, 1): False, (0, 9): False, (6, 5, 4): True}
    assert {shape: is_compressed(np.zeros(shape), 1) for shape in shapes} == shapes


def test_zero_gradients_give_zero_and_later_steps_work():
    tx, gs = gd.compressed_mean("data", rank=2), gradients(steps=12, shapes={"w": (20, 18)})
    gs["w"][:, :3] = 0
    updates, _ = simulated(tx, gs)
    assert (updates["w"][:, :3] == 0).all()
    total, mean = np.asarray(updates["w"][0], np.float64).sum(0), gs["w"].astype(np.float64).mean(0).sum(0)
    assert np.linalg.norm(total - mean) < 0.7 * np.linalg.norm(mean)


@EACH_COMPRESSION
def test_weights_act_as_in_mean_over(how):
    weights = jnp.asarray([1.0, 2, 0, 1, 3, 1, 1, 1])
    g = gradients()
    g["w"][2] = np.nan  # this device has weight 0

    def update(tx):
        return jax.vmap(lambda g, w: tx.update(g, tx.init(g), weight=w)[0], axis_name="data")(g, weights)

    ours, exact = update(gd.compressed_mean("data", **how)), update(gd.mean_over("data"))
    np.testing.assert_allclose(ours["b"], exact["b"], atol=0.02 * np.abs(g["b"]).max())
    assert np.isfinite(ours["w"]).all()


@EACH_COMPRESSION
def test_leaves_that_vary_over_another_axis_keep_their_types(how):
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    tx = gd.compressed_mean("data", **how)
    g = {"b": np.ones((4, 20, 9), np.float32), "w": np.arange(4.0 * 24 * 16, dtype=np.float32).reshape(4, 24, 16)}
    specs = {"b": PartitionSpec("data"), "w": PartitionSpec("data", None, "model")}
    out = {"b": PartitionSpec(), "w": PartitionSpec(None, "model")}

    def step(g):
        g = jax.tree.map(lambda x: x[0], g)

        def both(carry, _):
            updates, state = tx.update(g, carry[1])
            return (updates, state), None

        zeros = jax.tree.map(lambda x: jax.lax.psum(x, "data") * 0, g)
        return jax.lax.scan(both, (zeros, tx.init(g)), length=2)[0][0]

    placed = {k: jax.device_put(g[k], NamedSharding(mesh, specs[k])) for k in g}
    updates = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(specs,), out_specs=out))(placed)
    np.testing.assert_allclose(updates["b"], 1.0, rtol=1e-5)
    assert updates["w"].shape == (24, 16)


@EACH_COMPRESSION
def test_leaves_sharded_over_explicit_axes_are_refused_and_over_auto_axes_accepted(how):
    tx, g = gd.compressed_mean("data", **how), np.ones((4, 24, 16), np.float32)

    def updated(kind):
        mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto, kind))
        placed = jax.device_put(g, NamedSharding(mesh, PartitionSpec("data", None, "model")))
        data = PartitionSpec("data")

        def step(g):
            return tx.update({"w": g[0]}, tx.init({"w": g[0]}))[0]["w"][None]

        with jax.set_mesh(mesh):
            return jax.jit(jax.shard_map(step, in_specs=data, out_specs=data, axis_names={"data"}))(placed)

    np.testing.assert_allclose(updated(AxisType.Auto), 1.0, rtol=1e-5)
    with pytest.raises(ValueError, match=r"'w' must not be sharded by its type, got .*'model'.*shard_map\(axis_names"):
        updated(AxisType.Explicit)


def test_two_axis_names_act_as_one_axis():
    mesh = jax.make_mesh((4, 2), ("host", "device"))
    both = PartitionSpec(("host", "device"))
    g = gradients()
    for how in ({"bits": 8}, {"rank": 2}):
        tx = gd.compressed_mean(("host", "device"), **how)

        def step(g, tx=tx):
            g = jax.tree.map(lambda x: x[0], g)
            return tx.update(g, tx.init(g))[0]

        placed = jax.device_put(g, NamedSharding(mesh, both))
        ours = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=both, out_specs=PartitionSpec()))(placed)
        theirs = once(gd.compressed_mean("data", **how), g)
        chex.assert_trees_all_close(ours, jax.tree.map(lambda x: x[0], theirs), rtol=1e-3, atol=1e-4)


@EACH_COMPRESSION
def test_a_summed_gradient_is_refused_and_the_suggested_fix_works(how):
    tx, w = gd.compressed_mean("data", **how), jnp.ones((6, 4))
    x, placed = np.arange(N * 6, dtype=np.float32).reshape(N, 6), None

    def step(x, cast):
        params = {"w": jax.lax.pcast(w, "data", to="varying") if cast else w}
        g = jax.grad(lambda p: jnp.sum(x @ p["w"]))(params)
        updates, _ = tx.update(g, tx.init(params))
        return updates, ()

    refused, placed = sharded(functools.partial(step, cast=False))
    with pytest.raises(ValueError, match=r"'w' must be per-device .* 8 times too large.*pcast\(params, 'data'"):
        refused(placed(x))
    mapped, _ = sharded(functools.partial(step, cast=True))
    exact = np.repeat(x.mean(0)[:, None], 4, 1)
    np.testing.assert_allclose(mapped(placed(x))[0]["w"], exact, atol=0.01 * x.max())
    unchecked, _ = sharded(functools.partial(step, cast=False), check=False)
    np.testing.assert_allclose(unchecked(placed(x))[0]["w"], exact, atol=0.01 * x.max())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "compressed_mean: give one of bits and rank, got bits=None, rank=None"),
        ({"bits": 8, "rank": 2}, "compressed_mean: give one of bits and rank, got bits=8, rank=2"),
        ({"bits": 4}, "compressed_mean: bits must be 8, got 4"),
        ({"bits": True}, "compressed_mean: bits must be 8, got True"),
        ({"bits": 8, "seed": 1}, "compressed_mean: seed has no effect with bits"),
        ({"rank": 0}, "low_rank_mean: rank must be an integer of 1 at least, got 0"),
        ({"rank": 1.5}, "low_rank_mean: rank must be an integer, got 1.5"),
        ({"rank": 1, "seed": 0.5}, "low_rank_mean: seed must be an integer, got 0.5"),
        ({"axis_name": None, "bits": 8}, "quantized_mean: axis_name must be the name of an axis"),
        ({"axis_name": (), "bits": 8}, "quantized_mean: axis_name must be the name of an axis"),
        ({"axis_name": None, "rank": 1}, "low_rank_mean: axis_name must be the name of an axis"),
        ({"bytes": 8}, "compressed_mean: no parameter 'bytes'"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(arguments, says):
    with pytest.raises((TypeError, ValueError), match=f"^{says}"):
        gd.compressed_mean(**({"axis_name": "data"} | arguments))


@EACH_COMPRESSION
def test_an_unbound_axis_is_named_with_a_fix(how):
    tx = gd.compressed_mean("data", **how)
    with pytest.raises(ValueError, match=r"^\w+_mean: the axis 'data' must be bound.* vmap\(.*axis_name='data'"):
        tx.init(jnp.ones(3))
    state = jax.vmap(tx.init, axis_name="data")(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="the axis 'data' must be bound"):
        tx.update(jnp.ones(3), state)


@EACH_COMPRESSION
def test_compressed_mean_returns_and_prints_the_specific_transform(how):
    tx = gd.compressed_mean("data", **how)
    named = {"bits": gd.quantized_mean("data"), "rank": gd.low_rank_mean("data", 2)}
    assert tx == named[next(iter(how))]
    assert gd.parse(repr(tx)) == tx
    assert tx.factory.traits.takes_local_grads
    assert not jax.tree.leaves(tx)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("compressed_mean(axis_name='data', bits=8, rank=None, seed=0)", "quantized_mean(axis_name='data')"),
        (
            "compressed_mean(axis_name=('a', 'b'), bits=None, rank=2, seed=3)",
            "low_rank_mean(axis_name=('a', 'b'), rank=2, seed=3)",
        ),
        ("chain(compressed_mean('data', rank=1), scale(2.0))", None),
    ],
)
def test_text_of_earlier_versions_is_parsed(text, printed):
    tx = gd.parse(text)
    assert gd.parse(repr(tx)) == tx
    assert repr(tx) == printed or printed is None
