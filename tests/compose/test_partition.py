"""Labels and masks as callable trees: a module counts as a tree, not as a function."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax as gd


class Model(eqx.Module):
    """A tree that can be called."""

    x: Any
    y: Any

    def __call__(self):
        raise AssertionError("a tree of labels must not be called")


def update_of_model(tx):
    params = Model(jnp.ones(2), jnp.ones(2))
    updates, _ = tx.update(params, tx.init(params), params)
    return np.asarray([updates.x[0], updates.y[0]])


MASK = Model(True, False)


@pytest.mark.parametrize(
    ("tx", "expected"),
    [
        (gd.partition({"x": gd.sgd(1.0), "y": gd.sgd(0.1)}, Model("x", "y")), (-1.0, -0.1)),
        (gd.multi_transform({"x": gd.sgd(1.0), "y": gd.sgd(0.1)}, Model("x", "y")), (-1.0, -0.1)),
        (gd.partition({"x": gd.sgd(1.0), "y": gd.sgd(0.1)}, lambda params: Model("x", "y")), (-1.0, -0.1)),
        (gd.masked(gd.sgd(0.5), MASK), (-0.5, 1.0)),
        (gd.freeze(MASK), (0.0, 1.0)),
        (gd.freeze(lambda params: MASK), (0.0, 1.0)),
        (gd.freeze("x"), (0.0, 1.0)),
        (gd.selective_transform(gd.sgd(0.5), freeze_mask=MASK), (0.0, -0.5)),
        (gd.selective_transform(gd.sgd(0.5), freeze_mask=lambda params: MASK), (0.0, -0.5)),
        (gd.add_decayed_weights(1.0, MASK), (2.0, 1.0)),
        (gd.chain(gd.sgd(1.0), gd.add_decayed_weights(0.5, MASK)), (-0.5, -1.0)),
    ],
    ids=["labels", "multi", "function", "masked", "freeze", "f", "pattern", "selective", "g", "decay", "chain"],
)
def test_a_callable_tree_of_labels_or_masks_is_not_called(tx, expected):
    np.testing.assert_allclose(update_of_model(tx), expected)


def test_describe_accepts_a_callable_mask():
    rows = gd.describe(gd.masked(gd.sgd(0.5), MASK), Model(jnp.ones(2), jnp.ones(2))).rows
    assert len(rows) == 2


PER_EXAMPLE = gd.chain(gd.differentially_private_aggregate(1.0, 0.1, 0), gd.sgd(0.1))


@pytest.mark.parametrize(
    ("make", "who"),
    [
        (lambda: gd.accumulate(PER_EXAMPLE, 2), "accumulate: inner"),
        (lambda: gd.accumulate(gd.chain(PER_EXAMPLE, gd.adam(0.1)), 2), "accumulate: inner"),
        (lambda: gd.MultiSteps(PER_EXAMPLE, 2), "MultiSteps: opt"),
        (
            lambda: gd.MultiSteps(gd.masked(gd.differentially_private_aggregate(1.0, 0.1, 0), True), 2),
            "MultiSteps: opt",
        ),
        (lambda: gd.sam(PER_EXAMPLE), "sam: inner"),
        (lambda: gd.mars(PER_EXAMPLE), "mars: inner"),
        (lambda: gd.chain(gd.mean_over("data"), PER_EXAMPLE), "chain: mean_over"),
        (lambda: gd.chain(gd.compressed_mean("data", bits=8), gd.chain(PER_EXAMPLE)), "chain: quantized_mean"),
        (lambda: gd.local_steps(gd.sgd(0.1), PER_EXAMPLE, 2, "data"), "local_steps: outer"),
        (lambda: gd.make_step(lambda w, b: w, PER_EXAMPLE), "make_step: tx"),
    ],
    ids=range(10),
)
@pytest.mark.filterwarnings('ignore:"seed" is deprecated')
def test_wrappers_that_average_refuse_transforms_that_clip_examples(make, who):
    with pytest.raises(ValueError, match=rf"^{who} .*(clips the gradient of every example)"):
        make()


def test_multi_steps_match_optax():
    tx, params = gd.MultiSteps(gd.sgd(1.0), 2), jnp.ones(2)
    state = tx.init(params)
    for expected in (0.0, -2.0):
        updates, state = tx.update(jnp.full(2, 2.0), state, params)
        np.testing.assert_allclose(updates, expected)
    assert isinstance(tx, optax.MultiSteps)
    assert isinstance(state, optax.MultiStepsState)
