"""Views of leaves as matrices, stacks of one shape, and their even assignment to devices."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gdjax as gd
from gdjax.matrices import refresh_due, view
from gdjax.matrices.assignment import Assignment, assign_matrices, local_batches
from gdjax.matrices.stacking import LeafMatrices, LeafSlice, StackPlan, make_stack, plan_stacks, split_stacks
from tests.samples import sample, tree

VIEWS = {
    ("o i -> i o", (3, 5)): ((1, 5, 3), lambda x: x.T[None]),
    ("d (heads=2 w) -> heads d w", (4, 6)): ((2, 4, 3), lambda x: np.stack([x[:, :3], x[:, 3:]])),
    ("d (w heads=2) -> heads d w", (4, 6)): ((2, 4, 3), lambda x: np.stack([x[:, ::2], x[:, 1::2]])),
    ("d h w -> h d w", (4, 2, 3)): ((2, 4, 3), lambda x: x.transpose(1, 0, 2)),
    ("h w d -> (h w) d", (2, 3, 4)): ((1, 6, 4), lambda x: x.reshape(1, 6, 4)),
    ("l m (qkv=3 n) -> l qkv m n", (2, 4, 6)): (
        (6, 4, 2),
        lambda x: x.reshape(2, 4, 3, 2).transpose(0, 2, 1, 3).reshape(6, 4, 2),
    ),
    ("... o -> (...) o", (3, 3, 2, 4)): ((1, 18, 4), lambda x: x.reshape(1, 18, 4)),
    ("... o -> (...) o", (4,)): ((1, 1, 4), lambda x: x.reshape(1, 1, 4)),
    (None, (5, 2, 3)): ((5, 2, 3), lambda x: x),
    (None, (3,)): ((1, 3, 1), lambda x: x.reshape(1, 3, 1)),
    (None, ()): ((1, 1, 1), lambda x: x.reshape(1, 1, 1)),
}


@pytest.mark.parametrize("case", VIEWS, ids=str)
def test_a_view_follows_its_pattern_and_is_inverted(case):
    sizes, stack = VIEWS[case]
    x = np.arange(math.prod(case[1]), dtype=np.float32).reshape(case[1])
    matrix_view = view(*case)
    assert matrix_view.sizes() == sizes
    np.testing.assert_array_equal(matrix_view.matrices(jnp.asarray(x)), stack(x))
    np.testing.assert_array_equal(matrix_view.leaf(matrix_view.matrices(jnp.asarray(x))), x)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a b -> a c", "both sides must have the same axes"),
        ("a b c -> a b c", "must name every dimension"),
        ("a a -> a a", "an axis is named once"),
        ("a (b=4 c) -> b a c", r"must make up a dimension of 6, got \(b=4 c\)"),
        ("a (b c) -> b a c", "must make up a dimension of 6"),
        ("a (b=2 c=2) -> b a c", "must make up a dimension of 6"),
    ],
)
def test_a_view_that_does_not_fit_is_refused_by_path(pattern, message):
    tx = gd.scale_by_muon(views={"w": pattern})
    params = {"w": jnp.ones((5, 6)), "v": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match=f"^scale_by_muon: views at 'w' must fit the leaf: .*{message}"):
        tx.init(params)


@settings(deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(1, 4), min_size=0, max_size=4),
    number=st.integers(1, 4),
    data=st.data(),
)
def test_shards_of_a_leaf_hold_all_of_its_matrices(shape, number, data):
    if not shape:
        return
    dim = data.draw(st.integers(0, len(shape) - 1))
    shape[dim] *= number
    matrix_view = view(None, tuple(shape))
    part, which = matrix_view.shard(dim, number)
    x = jnp.arange(math.prod(shape)).reshape(shape)
    halves = [part.matrices(half) for half in jnp.split(x, number, axis=dim)]
    together = jnp.concatenate(halves, axis=which)  # the order of matrices may differ
    np.testing.assert_array_equal(jnp.sort(together, axis=which), jnp.sort(matrix_view.matrices(x), axis=which))


def leaf_matrices(shapes, members=1, alone=False):
    leaves = [jnp.arange(math.prod(s), dtype=jnp.float32).reshape(s) + 100 * i for i, s in enumerate(shapes)]
    views = [view(None, s) for s in shapes]
    firsts = np.cumsum([0, *(v.sizes()[0] for v in views)])
    return leaves, {
        i: LeafMatrices(v, v.sizes()[1:], None, alone or members == 1, int(firsts[i])) for i, v in enumerate(views)
    }


@settings(deadline=None, max_examples=40)
@given(
    shapes=st.lists(st.lists(st.integers(1, 3), min_size=2, max_size=3).map(tuple), min_size=1, max_size=6),
    max_bytes=st.integers(1, 200),
    oriented=st.booleans(),
)
def test_stacks_hold_every_matrix_once_within_max_bytes(shapes, max_bytes, oriented):
    leaves, by_leaf = leaf_matrices(shapes)
    plans = plan_stacks(by_leaf, leaves, 1, oriented, max_bytes)
    stacks = [make_stack(group, by_leaf, leaves) for group in plans]
    for group, stack in zip(plans, stacks, strict=True):
        m, n = group.shape
        assert m <= n
        assert stack.shape == (group.matrix_count, m, n)
        assert group.matrix_count == 1 or stack.nbytes <= max_bytes
    for leaf, again in zip(leaves, split_stacks(plans, by_leaf, stacks, leaves), strict=True):
        np.testing.assert_array_equal(leaf, again)


def test_transposed_shapes_share_a_stack_unless_oriented():
    leaves, by_leaf = leaf_matrices([(2, 3), (3, 2), (3, 3)])
    assert [group.matrix_count for group in plan_stacks(by_leaf, leaves, 1, oriented=False)] == [2, 1]
    oriented_plans = plan_stacks(by_leaf, leaves, 1, oriented=True)
    assert [(group.matrix_count, group.transposed) for group in oriented_plans] == [(1, False), (1, True), (1, False)]


def test_max_bytes_keeps_stacks_divisible_by_the_number_of_devices():
    leaves, by_leaf = leaf_matrices([(2, 2)] * 10, members=4)
    assert [group.matrix_count for group in plan_stacks(by_leaf, leaves, 4, oriented=False, max_bytes=16 * 9)] == [8, 2]
    assert [group.matrix_count for group in plan_stacks(by_leaf, leaves, 4, oriented=False, max_bytes=16)] == [4, 4, 2]


@settings(deadline=None, max_examples=100)
@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    sizes=st.lists(st.integers(1, 6), min_size=5, max_size=5),
    members=st.integers(1, 8),
)
def test_the_assignment_of_matrices_meets_the_bounds_of_list_scheduling(counts, sizes, members):
    plans = [
        StackPlan((m, m + 1), np.dtype("float32"), None, False, False, (LeafSlice(0, 0, count),))
        for m, count in zip(sizes, counts, strict=False)
    ]
    assignment = assign_matrices(plans, members)
    loads, costs = np.zeros(members), []
    for group, share in zip(plans, assignment, strict=True):
        cost = group.shape[0] ** 2 * sum(group.shape)
        loads += cost * share.per_device
        for owner in share.owners:
            loads[owner] += cost
        assert share.per_device * members + len(share.owners) == group.matrix_count
        assert len(set(share.owners)) == len(share.owners)
        costs += [cost] * group.matrix_count
    assert loads.sum() == sum(costs)
    assert loads.max() <= sum(costs) / members + max(costs)  # Graham's bound for a list
    assert loads.max() - loads.min() <= max(costs)


@pytest.mark.parametrize("every", [1, 3, 10])
def test_every_matrix_is_refreshed_once_in_evenly_spread_turns(every):
    shapes = [(4, 2, 2), (3, 3), (5, 2, 2), (2, 3, 3)]
    leaves, by_leaf = leaf_matrices(shapes)
    plans = plan_stacks(by_leaf, leaves, 1, oriented=False)
    batches = local_batches(plans, [Assignment(group.matrix_count, ()) for group in plans], by_leaf, None)
    turns = [np.zeros(batch.count, int) for batch in batches]
    refreshed_per_step = []
    for step in range(every):
        refreshed = 0
        for i, batch in enumerate(batches):
            zeros = jnp.zeros((batch.count, 1))
            stored, failures = refresh_due(
                lambda read, stored: stored + 1, zeros, zeros, jnp.zeros(batch.count, int), step, every, batch
            )
            turns[i] += np.asarray(stored[:, 0], int)
            refreshed += int(stored.sum())
            assert not failures.any()
        refreshed_per_step.append(refreshed)
    assert all((turn == 1).all() for turn in turns)
    assert max(refreshed_per_step) == -(-12 // every)


def test_nonfinite_refreshes_are_dropped_and_counted():
    leaves, by_leaf = leaf_matrices([(3, 2, 2)])
    plans = plan_stacks(by_leaf, leaves, 1, oriented=False)
    (batch,) = local_batches(plans, [Assignment(3, ())], by_leaf, None)
    read = jnp.array([1.0, jnp.nan, 2.0])
    stored, failures = refresh_due(lambda read, stored: read, read, jnp.full(3, 7.0), jnp.array([0, 4, 0]), 0, 1, batch)
    np.testing.assert_array_equal(stored, [1, 7, 2])
    np.testing.assert_array_equal(failures, [0, 5, 0])


MODEL = {
    "wte": (9, 4),
    "pos_embed": (8, 4),
    "blocks": {
        "attention": {"query": (2, 4, 4)},
        "mlp": {"kernel": (2, 4, 8), "bias": (2, 8)},
        "norm": {"scale": (2, 4)},
    },
    "output": {"kernel": (4, 9)},
    "lm_head": (4, 9),
    "ln_f": (4,),
}


def model():
    return jax.tree.map(lambda shape: jnp.ones(shape), MODEL, is_leaf=lambda x: isinstance(x, tuple))


def assigned(tx, params):
    return {row.path: row.transform for row in gd.describe(tx, params).rows}


@pytest.mark.parametrize("name", ["muon", "normuon", "soap", "shampoo", "psgd_kron"])
def test_hidden_matrices_are_selected_by_shape_and_path(name):
    hidden = {"blocks/attention/query", "blocks/mlp/kernel"}
    transforms = assigned(getattr(gd, name)(0.1), model())
    assert {path for path, used in transforms.items() if used == name} == hidden
    assert {path for path, used in transforms.items() if used == "adamw"} == transforms.keys() - hidden


def test_a_pattern_overrides_the_selection():
    transforms = assigned(gd.muon(0.1, which="blocks/mlp/kernel|lm_head"), model())
    assert {path for path, used in transforms.items() if used == "muon"} == {"blocks/mlp/kernel", "lm_head"}
    with pytest.raises(ValueError, match="hidden_matrices: which must match one path at least, got the pattern"):
        gd.muon(0.1, which="nothing").init(model())
    with pytest.raises(ValueError, match="must be a regular expression"):
        gd.muon(0.1, which="(")


def test_other_parameters_use_their_own_learning_rate():
    params = model()
    tx = gd.chain(gd.muon(0.5, 0.01))
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["wte"], -0.01, rtol=1e-5)
    assert np.linalg.norm(updates["blocks"]["attention"]["query"][0]) == pytest.approx(0.5 * 0.7, rel=0.1)


@pytest.mark.parametrize("name", ["scale_by_soap", "scale_by_shampoo", "scale_by_psgd_kron"])
def test_steps_without_jit_compile_once(name, caplog):
    tx, params = sample(name), tree()
    state = tx.init(params)
    for _ in range(2):
        _, state = tx.update(params, state, params)
    with jax.log_compiles():
        tx.update(params, state, params)
    assert not caplog.records


def length(tx, grads):
    return jnp.linalg.norm(tx.update(grads, tx.init(grads))[0]["w"])


def test_scales_match_their_sources_and_are_values():
    assert gd.jordan_scale()(4, 16) == 2
    assert gd.jordan_scale()(16, 4) == 1
    assert gd.moonlight_scale()(4, 16) == pytest.approx(0.8)
    tx = gd.muon(0.1, scale=gd.moonlight_scale(0.3))
    assert (tx.factor, tx.replace(factor=0.4).factor) == (0.3, 0.4)
    assert gd.parse(repr(tx)) == tx
    grads = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(4, 16)), jnp.float32)}
    tx = gd.scale_by_muon(scale=gd.moonlight_scale())
    lengths = jax.vmap(lambda factor: length(tx.replace(factor=factor), grads))(jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(lengths, [length(tx, grads) / 2, length(tx, grads)], rtol=1e-6)
    by_function = gd.scale_by_muon(scale=lambda inputs, outputs: inputs * outputs)
    plain = gd.scale_by_muon(scale=lambda inputs, outputs: 1)
    ours, theirs = (tx.update(grads, tx.init(grads))[0]["w"] for tx in (by_function, plain))
    np.testing.assert_allclose(ours, 64 * theirs, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scale_by_muon(views={'(': 'm n -> n m'})", "views has '.': 'm n -> n m', which cannot be read"),
        ("scale_by_muon(views={'w': 'm n'})", "views has 'w': 'm n', which cannot be read: a view must be written"),
        ("scale_by_muon(views={'w': 'a b -> b'})", "a view must end in rows and columns"),
        ("scale_by_muon(views={'w': 'a [b] -> a b'})", "a view has names, sizes"),
        ("scale_by_muon(views='m n -> n m')", "views must be a dict of views by patterns of paths"),
        ("scale_by_muon(dim=0)", "dim must be the dimension along which leaves are sharded over the axis axis_name"),
        ("scale_by_muon(scale=2.0)", "scale must be a function of inputs and outputs"),
        ("scale_by_muon(products=int8)", "products must be a floating dtype"),
        ("scale_by_shampoo(exponent=2.0)", "exponent must be a Python number in"),
        ("scale_by_shampoo(start=3)", "start must be at least 10, when all blocks have roots, got 3"),
        ("scale_by_shampoo(exponent=0.3, root='newton')", "exponent must be 1 / p for an integer p, got 0.3"),
        ("scale_by_shampoo(root='eig')", "root must be one of eigh, newton, got 'eig'"),
        ("scale_by_psgd_kron(seed=-1)", "seed must be an integer in"),
    ],
)
def test_invalid_arguments_are_refused_at_construction(text, message):
    with pytest.raises(gd.ParseError, match=message):
        gd.parse(text)


def test_roots_are_values_and_their_old_names_are_parsed():
    text = "scale_by_shampoo(root={})"
    for name, root in {"eigh": gd.eigh_root(), "newton": gd.newton_root()}.items():
        tx = gd.scale_by_shampoo(root=root)
        assert tx == gd.parse(text.format(repr(name))) == gd.parse(text.format(repr(root))) == gd.parse(repr(tx))
        assert f"root={name}_root()" in repr(tx)
    assert gd.shampoo(0.1) == gd.shampoo(0.1, root="eigh")
    g = jnp.array([[3.0, 0.0], [0.0, 4.0]])
    by_function, by_name = (
        tx.update(g, tx.init(g))[0]
        for tx in (gd.scale_by_shampoo(every=1, root=root) for root in (gd.linalg.inverse_root, "eigh"))
    )
    np.testing.assert_array_equal(by_function, by_name)


def test_a_pattern_of_views_that_matches_no_path_is_refused():
    with pytest.raises(ValueError, match="scale_by_soap: no path matches 'qvk' of views; the paths are 'qkv'"):
        gd.scale_by_soap(views={"qvk": "m (q=3 n) -> q m n"}).init({"qkv": jnp.ones((4, 12))})


def test_devices_keep_their_share_when_stacks_must_be_small():
    params = {f"w{i}": jax.ShapeDtypeStruct((2**13, 2**13), jnp.float32) for i in range(16)}
    init = jax.vmap(lambda params, _: gd.scale_by_muon(axis_name="data").init(params), (None, 0), axis_name="data")
    assert jax.eval_shape(init, params, jnp.arange(8)).mu["w0"].shape == (8, 2**13, 2**13)
    init = jax.vmap(lambda params, _: gd.scale_by_soap(axis_name="data").init(params), (None, 0), axis_name="data")
    stored = jax.eval_shape(init, params, jnp.arange(8)).stacks
    assert sum(stack.mu.shape[1] for stack in stored) == 2
