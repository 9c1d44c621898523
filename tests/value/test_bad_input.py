"""Bad input: errors that name the function, what must hold, what came, and the fix."""

from typing import Annotated, Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax as gd
from tests.samples import tree


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gd.adam(0.1, b2=1.5), r"adam: b2 must lie in \[0, 1\), got 1.5"),
        (lambda: gd.adamw(0.1, b1=-0.1), r"adamw: b1 must lie in \[0, 1\), got -0.1"),
        (lambda: gd.scale_by_adam(eps=-1), r"scale_by_adam: eps must lie in \[0, inf\), got -1.0"),
        (lambda: gd.rmsprop(0.1, decay=1), r"rmsprop: decay must lie in \[0, 1\), got 1.0"),
        (lambda: gd.sgd(0.1, momentum=1.1), r"sgd: momentum must lie in \[0, 1\], got 1.1"),
        (lambda: gd.sgd(float("nan")), "sgd: learning_rate must be a number, got nan"),
        (lambda: gd.sgd(float("inf")), r"sgd: learning_rate must lie in \[0, inf\), got inf"),
        (lambda: gd.sgd(np.float32("nan")), "sgd: learning_rate must be a number, got nan"),
        (lambda: gd.adamw(0.1, weight_decay=-0.1), r"weight_decay must lie in \[0, inf\), got -0.1"),
        (lambda: gd.scale(1j), "scale: step_size must be real, got 1j"),
        (lambda: gd.sgd(10**400), "sgd: learning_rate is too large for a float"),
        (lambda: gd.clip(0), r"clip: max_delta must lie in \(0, inf\], got 0.0"),
        (lambda: gd.clip_by_global_norm(-1.0), r"clip_by_global_norm: max_norm must lie in \(0, inf\], got -1.0"),
        (
            lambda: gd.warmup_cosine(1.0, 20, 10),
            r"warmup_cosine: warmup_steps must be at most total_steps \(10.0\), got 20.0",
        ),
        (
            lambda: gd.warmup_cosine(0.0, 1e-3, 100, 1000),
            r"warmup_cosine: floor must be at most peak \(0.0\), got 1000",
        ),
        (lambda: gd.warmup_cosine(1.0, -1, 10), r"warmup_steps must lie in \[0, inf\), got -1.0"),
    ],
)
def test_numbers_out_of_range_are_refused_at_construction(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: gd.adam(),
            r"adam: missing a required argument: 'learning_rate'; its signature is adam\(learning_rate,",
        ),
        (lambda: gd.adam(0.1, beta1=0.9), "adam: no parameter 'beta1', did you mean 'b1'; its signature is adam"),
        (lambda: gd.adam("fast"), "adam: learning_rate must be a number or a schedule, got 'fast'"),
        (lambda: gd.clip(lambda count: 1.0), "clip: max_delta must be a number, got <"),
        (lambda: gd.chain(gd.clip), "chain: transforms must be a transform, got <clip>"),
        (lambda: gd.chain(0.1), "chain: transforms must be a transform, got 0.1"),
        (lambda: gd.adam(gd.sgd(0.1)), r"adam: learning_rate must be a number or a schedule, got sgd\("),
        (lambda: gd.adam(0.1, nesterov="no"), "adam: nesterov must be True or False, got 'no'"),
        (lambda: gd.adam([0.1, 0.2]), r"adam: learning_rate must be a number or a schedule, got \[0.1, 0.2\]"),
        (lambda: gd.adam(gd.constant), r"got <constant>; call it: constant\(...\)"),
        (lambda: gd.chain([gd.clip(1.0)]), r"chain: transforms must be a transform, got \[clip\("),
        (lambda: gd.named_chain(gd.clip(1.0)), r"named_chain: its arguments are pairs \(name, transform\), got clip"),
        (lambda: gd.by_path({}), "by_path: transforms must be a dict of at least one"),
        (lambda: gd.by_path({"a": 0.1}), "by_path: transforms must be a transform, got 0.1"),
        (lambda: gd.stack(gd.clip(1.0)), r"stack: give a list of values, got clip\("),
        (lambda: gd.expand(gd.clip), r"expand: tx must be a gdjax transform, got <clip>; call it: clip\(...\)"),
        (
            lambda: gd.describe(optax.clip(1.0), {}),
            "describe: tx must be a gdjax transform, got <Gradient",
        ),
        (lambda: gd.adam(0.1, lr=0.2), "adam: no parameter 'lr'"),
        (lambda: gd.adam(learning_rat=0.2), "no parameter 'learning_rat', did you mean 'learning_rate'"),
        (lambda: gd.chain(gd.constant(0.1)), r"chain: transforms must be a transform, got constant\("),
        (lambda: gd.masked(gd.clip(1.0), {1, 2}), "masked: mask cannot be kept: set is neither hashable nor a tree"),
        (lambda: gd.adam(None), "adam: learning_rate must be a number or a schedule, got None"),
        (
            lambda: jax.jit(lambda x: gd.sgd(0.1, nesterov=x))(True),
            "sgd: nesterov shapes the program and cannot be traced",
        ),
    ],
)
def test_arguments_of_a_wrong_kind_are_refused(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="module 'gdjax' has no attribute 'adamv'"):
        _ = gd.adamv
    with pytest.raises(AttributeError, match="no attribute 'adamv'"):
        _ = gd.contrib.adamv


OPTIMIZERS = [gd.sgd(0.1, momentum=0.9), gd.adamw(0.1), gd.rmsprop(0.1), gd.yogi(0.1), gd.params_ema(gd.clip(1.0))]


@pytest.mark.parametrize("tx", OPTIMIZERS, ids=lambda tx: tx.factory.__name__)
def test_leaves_without_a_gradient_are_named(tx):
    with pytest.raises(TypeError, match=r"params at 'a/b' must be floating or complex, got int32\[3\].*frozen\(\)"):
        tx.init({"a": {"b": jnp.arange(3), "c": jnp.ones(3)}})
    with pytest.raises(TypeError, match="params at 'a' must be floating or complex, got 'relu'"):
        tx.init({"a": "relu"})
    with pytest.raises(TypeError, match="params at 'a' must be floating or complex, got <relu>"):
        tx.init({"a": jax.nn.relu, "b": jnp.ones(2)})


@pytest.mark.parametrize("tx", OPTIMIZERS[:-1], ids=lambda tx: tx.factory.__name__)
def test_trees_that_do_not_match_are_named_by_path(tx):
    params = tree()
    state = tx.init(params)
    with pytest.raises(
        ValueError, match=r"updates and params differ at 'w': float32\[3,4\] in updates, float32\[4,3\] in params"
    ):
        tx.update({"b": params["b"], "w": params["w"].T}, state, params)
    with pytest.raises(ValueError, match=r"differ at 'extra': float32\[\] in updates, nothing in params"):
        tx.update({**params, "extra": jnp.ones(())}, state, params)
    with pytest.raises(ValueError, match=r"differ at 'b': nothing in updates, float32\[3\] in params"):
        tx.update({"w": params["w"]}, state, params)


def test_a_state_from_another_transform_is_named():
    params = tree()
    adam, sgd = gd.scale_by_adam(), gd.trace(0.9)
    with pytest.raises(ValueError, match=r"scale_by_adam: the state does not belong to these params.*'trace/b'"):
        adam.update(params, sgd.init(params), params)
    with pytest.raises(ValueError, match="trace: the state does not belong to these params"):
        sgd.update(params, adam.init(params))
    with pytest.raises(
        ValueError, match=r"chain: the state is that of another transform: one of 2 parts.*got tuple of 3"
    ):
        gd.expand(gd.sgd(0.1)).update(params, gd.adamw(0.1).init(params))
    with pytest.raises(ValueError, match="named_chain: the state is that of another transform"):
        gd.named_chain(("a", sgd)).update(params, (sgd.init(params),))
    with pytest.raises(ValueError, match="yogi: the state does not belong to these params"):
        gd.yogi(0.1).update(params, gd.sgd(0.1).init(params))


def test_integer_gradients_are_named():
    for tx in (gd.sgd(0.1), gd.adam(0.1)):
        with pytest.raises(TypeError, match=r"updates at 'w' must be floating or complex, got int32\[2\]"):
            tx.update({"w": jnp.array([3, 4])}, tx.init({"w": jnp.ones(2)}))


def test_wrappers_and_stateless_transforms_refuse_a_foreign_state():
    params = tree()
    state = gd.adam(0.1).init(params)
    parts = gd.by_path({"w": gd.sgd(0.1), ".*": gd.frozen()})
    for tx in (gd.sgd(0.1), gd.clip(1.0), gd.clip_by_global_norm(1.0), parts, gd.watch(gd.sgd(0.1)), gd.frozen()):
        with pytest.raises(ValueError, match=r"the state does not belong to these params.*Make it with init"):
            tx.update(params, state, params)


def test_a_vector_of_learning_rates_is_refused_outside_vmap():
    with pytest.raises(ValueError, match=r"must be a scalar here, got shape \(3,\); a stacked value is for jax.vmap"):
        gd.sgd(jnp.ones(3)).update(tree(), gd.sgd(0.1).init(tree()))


def test_an_integer_dtype_of_an_accumulator_is_refused():
    with pytest.raises(ValueError, match="adam: mu_dtype must be a floating or complex dtype, got int8"):
        gd.adam(0.1, mu_dtype="int8")


ACCUMULATORS = {"accumulator_dtype", "dtype_momentum", "mu_dtype", "nu_dtype", "param_dtype", "state_dtype"}


def test_every_dtype_of_an_accumulator_is_declared():
    found = [slot for factory in gd.factories().values() for slot in factory.slots.values()]
    assert {slot.accumulator for slot in found if slot.name in ACCUMULATORS} == {True}


@gd.transform
def free(
    order: Literal[1, 2] = 1,
    n: Annotated[int, gd.Interval("[1, inf)")] = 3,
    state_dtype: Any = None,
    keep_dtype: bool = True,
    products: Any = 2,
    mask: Any = None,
    lower_bound: gd.Scalar = 0.0,
    kept: gd.AccumulatorDType = None,
):
    return gd.identity()


def test_a_custom_factory_may_use_common_parameter_names_differently():
    tx = free(order=2, state_dtype=jnp.int8, keep_dtype=False, products=5)
    assert tx.arguments["products"] == 5
    assert gd.maximize(tx).init(0.0) == gd.maximize(gd.identity()).init(0.0)
    for arguments, error in (
        ({"n": 0}, ValueError),
        ({"n": 2.5}, TypeError),
        ({"n": True}, TypeError),
        ({"kept": "int8"}, ValueError),
    ):
        with pytest.raises(error, match=f"free: {next(iter(arguments))} must"):
            free(**arguments)


def test_a_lifted_custom_factory_receives_its_mask_unchanged():
    def scaled(mask: Any = None) -> optax.GradientTransformation:
        return optax.scale(mask["by"])

    tx = gd.lift(scaled)(mask={"by": 2})
    assert tx.update(3.0, tx.init(0.0))[0] == 6


def test_a_list_of_axes_equals_a_tuple():
    assert gd.mean_over(["data", "model"]) == gd.mean_over(("data", "model"))


@pytest.mark.parametrize("make", [np.array, jnp.array, lambda rows: [*map(np.array, rows)]])
def test_a_table_of_coefficients_may_be_an_array(make):
    tx, given = gd.scale_by_muon(), gd.scale_by_muon(ns_coeffs=make(gd.linalg.JORDAN))
    np.testing.assert_array_equal(given.init(tree()).ns_coeffs, tx.init(tree()).ns_coeffs)


def test_transforms_that_need_the_params_say_so():
    with pytest.raises(
        ValueError, match=r"add_decayed_weights needs the parameters: call update\(updates, state, params\)"
    ):
        gd.adamw(0.1).update(tree(), gd.adamw(0.1).init(tree()))
    with pytest.raises(ValueError, match=r"watch needs the parameters: call update\(updates, state, params\)"):
        gd.watch(gd.sgd(0.1)).update(tree(), gd.watch(gd.sgd(0.1)).init(tree()))


def test_schedules_that_return_no_scalar_are_named():
    tx = gd.sgd(lambda count: jnp.ones(2) * count)
    with pytest.raises(ValueError, match=r"a schedule must return a scalar, got shape \(2,\)"):
        tx.update(tree(), tx.init(tree()))
    with pytest.raises(ValueError, match=r"constant: a schedule must return a scalar, got shape \(3,\)"):
        gd.constant(jnp.ones(3))(0)


def test_updates_of_other_shapes_are_not_added():
    with pytest.raises(
        ValueError,
        match=r"apply_updates: params and updates differ at 'b': float32\[3\] in params, float32\[1\] in updates",
    ):
        gd.apply_updates(tree(), {**tree(), "b": jnp.ones(1)})
    with pytest.raises(ValueError, match="apply_updates: params and updates differ at 'b'"):
        gd.apply_updates(tree(), {"w": tree()["w"]})


def test_invalid_declarations_are_refused():
    def with_init(init: float):
        return gd.scale(init)

    @gd.transform
    def returns_nothing(rate: float):
        gd.scale(rate)

    def with_keywords(rate: float, **others: float):
        return gd.scale(rate)

    with pytest.raises(TypeError, match="untyped: annotate rate, float for a leaf or Any for what is static"):

        @gd.transform
        def untyped(rate=0.1):
            return gd.scale(rate)

    with pytest.raises(TypeError, match=r"returns_nothing must return \(init, update\) or a transform, got None"):
        returns_nothing(0.1)
    with pytest.raises(ValueError, match=r"with_init: no parameter may be named \['init'\]"):
        gd.transform(with_init)(0.1)
    with pytest.raises(ValueError, match=r"with_keywords: name every parameter; a \*\*others cannot be declared"):
        gd.transform(with_keywords)(0.1)
    with pytest.raises(ValueError, match=r"no parameter \['typo'\] to be static"):
        gd.lift(gd.clip.function, static=["typo"])(1.0)


@pytest.mark.parametrize("empty", [{}, [], {"w": jnp.zeros((0, 3))}], ids=str)
@pytest.mark.parametrize("tx", [*OPTIMIZERS, gd.watch(gd.adamw(0.1))], ids=lambda tx: tx.factory.__name__)
def test_empty_trees_and_leaves_work(tx, empty):
    updates, _ = tx.update(empty, tx.init(empty), empty)
    assert jax.tree.structure(updates) == jax.tree.structure(empty)


WRAPPERS = [
    "accumulate(sgd(0.1), 2)",
    "cautious(scale_by_adam())",
    "lookahead(sgd(0.1), 5, 0.5)",
    "mars(scale_by_adam())",
]
WRAPPERS += ["packed(sgd(0.1))", "params_ema(sgd(0.1))", "sam(sgd(0.1))", "schedule_free(sgd(0.1), 0.1)"]


@pytest.mark.parametrize("text", WRAPPERS)
def test_a_wrapper_that_computes_with_every_leaf_names_an_integer(text):
    tx, name = gd.parse(text), text.split("(")[0]
    with pytest.raises(TypeError, match=rf"^{name}: params at 'n' must be floating or complex, got int32\[3\]"):
        tx.init({"n": jnp.arange(3), "w": jnp.ones(2)})
    parts = gd.by_path({"w": tx, "n": gd.frozen()})
    assert parts.init({"n": jnp.arange(3), "w": jnp.ones(2)})


def test_sam_inside_a_selection_of_parameters_is_refused():
    tx, params = gd.by_path({"w": gd.sam(gd.sgd(0.1)), ".*": gd.sgd(0.1)}), {"b": 1.0, "w": 1.0}
    with pytest.raises(ValueError, match=r"sam must go around what selects parameters, sam\(by_path\(...\)\)"):
        tx.update(params, tx.init(params), params, value_fn=lambda p: p["w"] ** 2 + p["b"] ** 2)


def test_two_means_of_one_parameter_are_refused():
    tx = gd.chain(gd.params_ema(gd.identity()), gd.params_ema(gd.sgd(0.1)))
    with pytest.raises(ValueError, match="two means of one parameter side by side"):
        gd.eval_params(tx, tx.init(1.0), 1.0)


def test_means_of_disjoint_masks_are_all_evaluated():
    params = {"dec": {"x": jnp.ones(1), "y": jnp.ones(1)}, "enc": {"a": jnp.ones(1), "b": jnp.ones(1)}}
    part = gd.params_ema(gd.sgd(0.1), decay=0.5)
    tx = gd.chain(*(gd.masked(part, {"dec": here, "enc": not here}) for here in (True, False)))
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(params, state, params)
        before, params = params, gd.apply_updates(params, updates)
    expected = jax.tree.map(lambda old, new: (old + 2 * new) / 3, before, params)
    found = gd.eval_params(tx, state, params)
    chex.assert_trees_all_close(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ademamix_b3(0.0)", r"b1 must lie in \(0, 1\), got 0.0"),
        ("dowg(eps=0.0)", "init_estim_sq_dist or eps must be above 0, got neither"),
        ("adam(True)", "learning_rate must be a number, got True"),
        ("accumulate(sgd(0.1), 2.5)", "every must be a whole number of gradients, got 2.5"),
        ("adamw(0.1, mask=['.*kernel'])", "mask must be a pattern, or a tree or a function of booleans, got"),
        ("masked(sgd(0.1), 3)", "mask must be a pattern, or a tree or a function of booleans, got 3"),
        ("prodigy(betas=0.9)", "prodigy: betas must be a pair of numbers, got 0.9"),
    ],
)
def test_useless_numbers_are_refused(text, message):
    with pytest.raises(gd.ParseError, match=message):
        gd.parse(text)


def test_a_state_that_cannot_be_assigned_to_leaves_counts_as_shared():
    params = {"w": jnp.ones((3, 2))}
    state = jax.eval_shape(gd.lbfgs().init, params)
    described = gd.describe(gd.lbfgs(), params)
    assert described.state_bytes == described.shared_bytes > 0
    assert described.state_bytes == sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
