"""Traits of factories are found through wrappers, containers and named optimizers."""

import inspect

import optax
import pytest

import gdjax as gd
from gdjax.value.traits import find_lacking, over
from tests.samples import names, sample


def is_shardable(tx):
    return tx.factory.traits.shardable


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("lamb(0.1)", "lamb(0.1, axis_name='data')"),
        ("scale(2.0)", "scale(2.0)"),
        ("clip_by_global_norm(1.0, axis_name='model')", "clip_by_global_norm(1.0, axis_name='model')"),
        ("chain(scale(2.0), lars(0.1))", "chain(scale(2.0), lars(0.1, axis_name='data'))"),
        ("named_chain(('a', dog()))", "named_chain(('a', dog(axis_name='data')))"),
        ("by_path({'w': dowg(), '.*': adam(0.1)})", "by_path({'w': dowg(axis_name='data'), '.*': adam(0.1)})"),
        ("accumulate(packed(prodigy()), 2)", "accumulate(packed(prodigy(axis_name='data')), 2)"),
        ("watch(apply_if_finite(sgd(0.1), 2))", "watch(apply_if_finite(sgd(0.1), 2, 'data'), axis_name='data')"),
        ("mars(masked(novograd(0.1), 'w'))", "mars(masked(novograd(0.1, axis_name='data'), 'w'), axis_name='data')"),
    ],
)
def test_over_gives_the_axis_to_all_norms(given, expected):
    assert over(gd.parse(given), "data") == gd.parse(expected)


@pytest.mark.parametrize("name", names(gd.GradientTransform))
def test_over_prints_the_axis_and_gives_it_to_all_inner_transforms(name):
    tx = over(sample(name), "data")
    assert gd.parse(repr(tx)) == tx
    if "axis_name" in tx.arguments:
        assert tx.arguments["axis_name"] == "data"
        assert "axis_name='data'" in repr(gd.expand(tx))
        assert over(gd.expand(tx), "other") == gd.expand(tx)  # every inner transform has an axis already


@pytest.mark.parametrize("name", names(gd.GradientTransform))
def test_axis_name_and_dim_are_the_last_parameters_and_no_leaves(name):
    factory = gd.factories()[name]
    found = list(factory.signature.parameters)
    ours = [parameter for parameter in found if parameter in ("axis_name", "dim")]
    assert found[len(found) - len(ours) :] == ours
    assert not any(factory.slots[parameter].leaf for parameter in ours)
    assert ours != ["dim"]
    assert all(factory.signature.parameters[p].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in ours)


@pytest.mark.parametrize(
    "text",
    [
        "accumulate(lookahead(schedule_free_sgd(0.1), 2, 0.5), 2)",
        "by_path({'w': masked(lars(0.1), 'w'), '.*': frozen()})",
        "chain(clip_by_global_norm(1.0), normalize_by_update_norm(), lamb(0.1), scale_by_param_block_norm())",
        "named_chain(('zeros', zero_nans()), ('step', apply_if_finite(novograd(0.1), 2)))",
        "packed(chain(prodigy(), dadapt_adamw()))",
        "params_ema(watch(fromage(0.1)))",
        "schedule_free(mars_adamw(0.1), 0.1)",
    ],
)
def test_compositions_of_shardable_transforms_are_shardable(text):
    assert find_lacking(gd.parse(text), is_shardable) is None


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("adafactor(0.1)", "scale_by_factored_rms"),
        ("accumulate(chain(sgd(0.1), clip_by_block_rms(1.0)), 2)", "clip_by_block_rms"),
        ("by_path({'w': adam(0.1), '.*': came(0.1)})", "scale_by_came"),
        ("cautious_adamw(0.1)", "cautious"),
        ("centralize()", "centralize"),
        ("masked(adaptive_grad_clip(0.1), 'w')", "adaptive_grad_clip"),
        ("sam(sgd(0.1))", "sam"),
        ("watch(scale_by_param_block_rms())", "scale_by_param_block_rms"),
    ],
)
def test_transforms_that_need_complete_leaves_are_found(text, part):
    assert find_lacking(gd.parse(text), is_shardable).factory.__name__ == part


def test_a_plain_optax_transformation_has_no_traits():
    tx = gd.chain(gd.adam(0.1), optax.scale_by_adam())
    assert find_lacking(tx, is_shardable) == tx.transforms[1]
    assert over(tx, "data") == tx
