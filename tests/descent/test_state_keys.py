"""Keys of the arrays of states: unique, and unchanged by wrappers without arrays."""

import functools
import re
from typing import NamedTuple

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gdjax as gd
from gdjax.descent.checkpoints.optimizer_diff import optimizer_difference
from gdjax.descent.checkpoints.state_keys import restore_state, state_arrays
from tests.samples import VARIANTS, names, sample, tree


def identity(x):
    return x


def always(step):
    return step >= 0


def lifted():
    """Yield Optax's transforms, with functions, labels or keys where they need them."""
    factories, key, inner = gd.factories(), jax.random.key(0), gd.sgd(0.1, momentum=0.9)
    arguments = {
        "add_noise": (0.1, 0.5, key),
        "conditionally_mask": (inner, always),
        "conditionally_transform": (inner, always),
        "differentially_private_aggregate": (1.0, 0.1, key),
        "measure_with_ema": (gd.global_norm, 0.9),
        "monitor": ({"norm": gd.global_norm},),
        "multi_transform": ({"a": inner, "b": gd.adam(0.1)}, {"w": "a", "b": "b"}),
        "noisy_sgd": (0.1, 0.01, 0.55, key),
        "partition": ({"a": inner, "b": gd.adam(0.1)}, {"w": "a", "b": "b"}),
        "scale_by_backtracking_linesearch": (3,),
        "scale_by_zoom_linesearch": (3,),
        "snapshot": ("norm", gd.global_norm),
        "stateless": (identity,),
        "stateless_with_tree_map": (identity,),
    }
    yield "selective_transform", gd.selective_transform(inner, freeze_mask={"w": True, "b": False})
    for name, factory in factories.items():
        if name in ("dpsgd", "optimistic_adam", "selective_transform"):  # the first two warn, the last is above
            continue
        if factory.traits.takes_local_grads:  # they need an axis
            continue
        if factory.kind is gd.GradientTransform and name not in names(gd.GradientTransform):
            yield name, factory(*arguments[name]) if name in arguments else sample(name)


TRANSFORMS = (
    {name: sample(name) for name in names(gd.GradientTransform)}
    | {text: gd.parse(text) for text in VARIANTS}
    | dict(lifted())
)
for_each_transform = pytest.mark.parametrize("tx", [pytest.param(tx, id=name) for name, tx in TRANSFORMS.items()])


def with_distinct_numbers(state):
    """Return the state as NumPy arrays of distinct numbers; typed keys become zeros."""
    leaves, treedef = jax.tree.flatten(state)
    sizes = np.cumsum([0, *(leaf.size for leaf in leaves)])

    def distinct(leaf, start):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.zeros(leaf.shape, leaf.dtype)
        return (np.arange(leaf.size) + start).reshape(leaf.shape).astype(leaf.dtype)

    return treedef.unflatten([distinct(leaf, start) for leaf, start in zip(leaves, sizes, strict=False)])


assert_same = functools.partial(chex.assert_trees_all_equal, strict=True)


@for_each_transform
def test_a_state_is_restored_from_its_keyed_arrays(tx):
    like = jax.eval_shape(tx.init, tree())
    state = with_distinct_numbers(like)
    arrays = state_arrays(state)
    assert len(arrays) == len(jax.tree.leaves(state))
    assert not any(jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in arrays.values())
    assert {key: (x.shape, x.dtype) for key, x in state_arrays(like).items()} == {
        key: (x.shape, x.dtype) for key, x in arrays.items()
    }
    assert_same(restore_state(arrays, like), state)
    assert_same(restore_state({key: np.asarray(x) for key, x in reversed(arrays.items())}, state), state)


WRAPPERS = [
    lambda tx: gd.watch(tx),
    lambda tx: gd.chain(tx),
    lambda tx: gd.chain(gd.clip(1.0), tx),
    lambda tx: gd.chain(gd.clip_by_global_norm(1.0), gd.watch(gd.chain(gd.watch(tx, "inner"), gd.scale(2.0)))),
]


@for_each_transform
@pytest.mark.parametrize("around", WRAPPERS, ids=["watch", "chain", "clip", "all"])
def test_wrappers_without_arrays_change_no_key(tx, around):
    state, wrapped = (jax.eval_shape(of.init, tree()) for of in (tx, around(tx)))
    assert [key for key in state_arrays(wrapped) if "watch:" not in key or key in state_arrays(state)] == list(
        state_arrays(state)
    )
    before = state_arrays(with_distinct_numbers(state))
    restored = restore_state(before, wrapped)
    assert_same({key: x for key, x in state_arrays(restored).items() if key in before}, before)
    assert_same(restore_state(state_arrays(restored), state), with_distinct_numbers(state))


def test_keys_are_stable_and_readable():
    by_path = gd.by_path({"w": gd.adamw(gd.constant(0.1)), ".*": gd.watch(gd.sgd(0.1, momentum=0.9), "rest")})
    tx = gd.chain(gd.clip(1.0), gd.named_chain(("first", gd.watch(by_path)), ("then", gd.params_ema(gd.identity()))))
    assert list(state_arrays(tx.init(tree()))) == [
        "first/Partition/inner_states/.*/Masked/inner_state/Trace/trace/b",
        "first/Partition/inner_states/.*/Masked/inner_state/watch:rest/grad_norm",
        "first/Partition/inner_states/.*/Masked/inner_state/watch:rest/param_norm",
        "first/Partition/inner_states/.*/Masked/inner_state/watch:rest/update_norm",
        "first/Partition/inner_states/w/Masked/inner_state/ScaleByAdam/count",
        "first/Partition/inner_states/w/Masked/inner_state/ScaleByAdam/mu/w",
        "first/Partition/inner_states/w/Masked/inner_state/ScaleByAdam/nu/w",
        "first/Partition/inner_states/w/Masked/inner_state/ScaleBySchedule/count",
        "first/watch:grad_norm",
        "first/watch:param_norm",
        "first/watch:update_norm",
        "then/ParamsEma/count",
        "then/ParamsEma/decay",
        "then/ParamsEma/ema/b",
        "then/ParamsEma/ema/w",
    ]


def test_repeated_keys_are_numbered():
    state = gd.chain(gd.trace(0.9), gd.trace(0.5), gd.trace(0.1)).init({"w": jnp.zeros(2)})
    assert list(state_arrays(state)) == ["Trace/trace/w", "Trace/trace/w#2", "Trace/trace/w#3"]
    assert_same(restore_state(state_arrays(with_distinct_numbers(state)), state), with_distinct_numbers(state))


def test_states_of_optax_have_the_keys_of_gdjax():
    params = tree()
    ours = gd.chain(gd.clip(1.0), gd.adamw(gd.constant(0.1)))
    theirs = optax.chain(optax.clip(1.0), optax.adamw(optax.constant_schedule(0.1)))
    assert list(state_arrays(ours.init(params))) == list(state_arrays(theirs.init(params)))


class Layer(NamedTuple):
    kernel: jax.Array
    bias: jax.Array


def module(make):
    return nnx.split(make, nnx.Param)[1]


PARAMS = {
    "scalar": lambda: jnp.float32(5.0),
    "tuple": lambda: ((jnp.zeros(2), jnp.zeros(3)), (jnp.zeros(2), jnp.zeros(3))),
    "list": lambda: [jnp.zeros(2), {"w": jnp.zeros(3), "none": None}],
    "named": lambda: {"first": Layer(jnp.zeros(2), jnp.zeros(3)), "rest": (Layer(jnp.zeros(2), jnp.zeros(1)),)},
    "slashes": lambda: {"a/b": jnp.zeros(2), "a": {"b": jnp.zeros(2)}, "": jnp.zeros(1)},
    "nnx": lambda: module(nnx.Linear(2, 3, rngs=nnx.Rngs(0))),
    "equinox": lambda: eqx.filter(eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0)), eqx.is_array),
    "empty": dict,
}
TRANSFORMS_OF_TREES = [
    gd.adamw(0.1),
    gd.chain(gd.watch(gd.adam(0.1)), gd.accumulate(gd.sgd(0.1, 0.9), 2)),
    gd.masked(gd.adam(0.1), ".*"),
]


@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("tx", TRANSFORMS_OF_TREES, ids=lambda tx: tx.factory.__name__)
def test_parameters_of_every_kind_are_restored_by_key(params, tx):
    params = PARAMS[params]()
    for of in (params, tx.init(params)):
        arrays = state_arrays(with_distinct_numbers(of))
        assert len(arrays) == len(jax.tree.leaves(of))
        assert_same(restore_state(arrays, of), with_distinct_numbers(of))


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("tuple", ["0/0", "0/1", "1/0", "1/1"]),
        ("list", ["0", "1/w"]),
        ("nnx", ["bias", "kernel"]),
        ("equinox", ["layers/0/weight", "layers/0/bias", "layers/1/weight", "layers/1/bias"]),
    ],
)
def test_keys_of_parameters_are_their_paths(params, expected):
    params = PARAMS[params]()
    assert list(state_arrays(params)) == expected
    assert list(state_arrays(gd.trace(0.9).init(params))) == [f"Trace/trace/{path}" for path in expected]


def test_masked_and_none_leaves_have_no_key():
    params = {"w": jnp.zeros(2), "b": None, "frozen": jnp.zeros(3)}
    assert list(state_arrays(gd.masked(gd.trace(0.9), "w").init(params))) == ["Masked/inner_state/Trace/trace/w"]


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_typed_keys_are_saved_as_data_and_restored_as_keys(impl):
    state = {"key": jax.random.key(3, impl=impl), "keys": jax.random.split(jax.random.key(4, impl=impl), 5)}
    arrays = state_arrays(state)
    assert all(x.dtype == jnp.uint32 for x in arrays.values())
    for like in (state, jax.eval_shape(lambda: state)):
        restored = restore_state(jax.tree.map(np.asarray, arrays), like)
        assert_same(restored, state)
        assert jax.random.key_impl(restored["key"]) == impl


def test_norms_missing_from_a_checkpoint_keep_their_initial_values():
    tx, params = gd.sgd(0.1, momentum=0.9), tree()
    like = gd.watch(tx).init(params)
    like = like._replace(seen={name: jnp.float32(3.0) for name in like.seen})
    restored = restore_state(state_arrays(tx.init(params)), like)
    assert {float(x) for x in gd.metrics(restored).values()} == {3.0}
    restored = restore_state(state_arrays(tx.init(params)), jax.eval_shape(lambda: like))
    assert {float(x) for x in gd.metrics(restored).values()} == {0.0}


def adam_arrays(**changes):
    arrays = state_arrays(gd.adam(0.1).init({"w": jnp.zeros((3, 2))}))
    arrays |= {key.replace("_", "/"): x for key, x in changes.items()}
    return {key: x for key, x in arrays.items() if x is not None}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (adam_arrays(ScaleByAdam_mu_w=None), "'ScaleByAdam/mu/w' must be float32[3,2], got nothing"),
        (
            adam_arrays(ScaleByAdam_mu_w=np.zeros((2, 3), np.float32)),
            "'ScaleByAdam/mu/w' must be float32[3,2], got float32[2,3]",
        ),
        (adam_arrays(ScaleByAdam_count=np.zeros((), np.float32)), "'ScaleByAdam/count' must be int32[], got float32[]"),
        (adam_arrays(Trace_w=np.zeros(2)), "'Trace/w' has no place in it"),
    ],
)
@pytest.mark.parametrize("around", [lambda tx: tx, gd.watch])
def test_missing_and_different_arrays_are_named(arrays, message, around):
    like = around(gd.adam(0.1)).init({"w": jnp.zeros((3, 2))})
    with pytest.raises(ValueError, match=re.escape(message)):
        restore_state(arrays, like)


def test_the_first_of_many_missing_arrays_is_named():
    with pytest.raises(ValueError, match=r"'ScaleByAdam/count' must be .* and 16 more\. Restore"):
        restore_state({}, gd.adam(0.1).init({f"w{i}": jnp.zeros(1) for i in range(10)}))


# Differences between the saved optimizer and the given one


def matrices(params):
    return jax.tree.map(lambda p: p.ndim == 2, params)


EQUAL = {
    "itself": (gd.adamw(0.1), gd.adamw(0.1)),
    "a watch": (gd.adamw(0.1), gd.watch(gd.adamw(0.1), "all")),
    "a watch within": (
        gd.chain(gd.clip(1.0), gd.watch(gd.adam(0.1), "a"), gd.scale(2.0)),
        gd.watch(gd.chain(gd.clip(1.0), gd.adam(0.1), gd.watch(gd.scale(2.0), "b"))),
    ),
    "a watch by path": (gd.by_path({r"<w>|'b'": gd.watch(gd.sgd(0.1))}), gd.by_path({r"<w>|'b'": gd.sgd(0.1)})),
    "a chain of one": (gd.chain(gd.watch(gd.chain(gd.sgd(0.1)))), gd.sgd(0.1)),
    "a function": (gd.watch(gd.adamw(0.1, mask=matrices)), gd.adamw(0.1, mask=matrices)),
    "a lambda": (gd.watch(gd.masked(gd.sgd(0.1), lambda p: p)), gd.masked(gd.sgd(0.1), lambda p: p)),
    "of Optax": (optax.adam(0.1), optax.adam(0.2)),
}


@pytest.mark.parametrize("case", EQUAL)
def test_equal_optimizers_have_no_difference(case):
    for then, now in (EQUAL[case], EQUAL[case][::-1]):
        assert optimizer_difference(saved_text(then), now) is None


def saved_text(tx):
    return repr(tx) if isinstance(tx, gd.GradientTransform) else "<GradientTransformationExtraArgs>"


@for_each_transform
def test_every_optimizer_equals_its_saved_text(tx):
    assert optimizer_difference(repr(tx), tx) is None
    assert optimizer_difference(repr(gd.watch(tx)), gd.chain(tx)) is None


@gd.transform
def half(by: gd.Scalar = 2.0):
    return gd.scale(1 / by)


DIFFERENT = {
    "a number": (gd.adam(1e-3), gd.watch(gd.adam(2e-3)), "learning_rate: 0.001 then, 0.002 now"),
    "a number within": (
        gd.chain(gd.clip(1.0), gd.watch(gd.adam(gd.warmup_cosine(0.1, 2, 10)))),
        gd.chain(gd.clip(1.0), gd.adam(gd.warmup_cosine(0.1, 3, 10))),
        "transforms/1/learning_rate/warmup_steps: 2.0 then, 3.0 now",
    ),
    "two numbers": (
        gd.sgd(0.1, momentum=0.9),
        gd.sgd(0.2, momentum=0.5),
        "learning_rate: 0.1 then, 0.2 now; momentum: 0.9 then, 0.5 now",
    ),
    "many numbers": (
        gd.adamw(0.1, 0.1, 0.2, 0.3),
        gd.adamw(0.2, 0.2, 0.3, 0.4),
        "learning_rate: 0.1 then, 0.2 now; b1: 0.1 then, 0.2 now; b2: 0.2 then, 0.3 now; and more",
    ),
    "a schedule": (
        gd.sgd(0.1),
        gd.sgd(gd.warmup_cosine(0.1, 2, 10)),
        "learning_rate: 0.1 then, warmup_cosine(...) now",
    ),
    "an optimizer": (gd.watch(gd.adamw(0.1)), gd.sgd(0.1), "adamw(...) then, sgd(...) now"),
    "a part": (
        gd.chain(gd.clip(1.0), gd.adam(0.1)),
        gd.chain(gd.clip_by_global_norm(1.0), gd.adam(0.1)),
        "transforms/0: clip(...) then, clip_by_global_norm(...) now",
    ),
    "a part more": (
        gd.adam(0.1),
        gd.chain(gd.clip(1.0), gd.watch(gd.adam(0.1))),
        "adam(...) then, chain(clip(...), adam(...)) now",
    ),
    "a pattern": (
        gd.by_path({"w": gd.sgd(0.1), ".*": gd.adam(0.1)}),
        gd.by_path({"w": gd.sgd(0.3), ".*": gd.adam(0.1)}),
        "transforms/w/learning_rate: 0.1 then, 0.3 now",
    ),
    "a dtype": (gd.adam(0.1), gd.adam(0.1, mu_dtype=jnp.bfloat16), "mu_dtype: None then, bfloat16 now"),
    "an array": (
        gd.sgd(jnp.float32(0.1)),
        gd.sgd(jnp.float32(0.2)),
        "learning_rate: array(0.1, float32) then, array(0.2, float32) now",
    ),
    "a function": (gd.adamw(0.1, mask=matrices), gd.adamw(0.1), "mask: <matrices> then, None now"),
    "one's own": (
        gd.chain(half(3.0), gd.clip(1.0)),
        gd.chain(half(4.0), gd.clip(1.0)),
        "transforms/0/by: 3.0 then, 4.0 now",
    ),
    "of Optax": (optax.adam(0.1), gd.adam(0.1), "<GradientTransformationExtraArgs> then, adam(...) now"),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_differences_are_named(case):
    then, now, message = DIFFERENT[case]
    assert optimizer_difference(saved_text(then), now) == message


@pytest.mark.parametrize(
    "text", ["", "adam(", "<>", "\x00", "(" * 1_000, "adam(0.1))", "1" * 5_000, "()" + "()" * 100_000]
)
def test_an_invalid_text_counts_as_different(text):
    assert "now" in optimizer_difference(text, gd.adam(0.1))
