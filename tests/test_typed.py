"""Type checkers see the lazy names with their signatures: pyright reads this file, and it runs."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

import dataclasses
from typing import assert_type

import jax
import jax.numpy as jnp
import optax
import pytest

import gdjax as gd
import gdjax.losses
from gdjax import adamw
from gdjax.problems import parabola


def test_an_optimizer_has_its_type_and_its_parameters():
    tx = gd.adamw(1e-3, weight_decay=0.1)
    assert_type(tx, gd.GradientTransform)
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    assert adamw(1e-3, weight_decay=0.1) == tx
    with pytest.raises(TypeError, match="wd"):
        gd.adamw(1e-3, wd=0.1)  # pyright: ignore[reportCallIssue]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Line:
    """Parameters of a class of one's own, as in Equinox."""

    slope: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.slope * x


def test_a_loop_over_any_tree_of_parameters_needs_no_cast():
    tx, params = gd.adam(0.1), Line(jnp.ones(()))
    state = tx.init(params)
    updates, state = tx.update(Line(jnp.ones(())), state, params)
    assert state[0].mu.slope.shape == gd.apply_updates(params, updates)(jnp.ones(())).shape
    params, state = gd.descend(tx, Line(jnp.ones(())), state, params)
    assert int(state[0].count) == 2
    assert params.slope < 1


def test_a_name_that_does_not_exist_is_an_error():
    with pytest.raises(AttributeError, match="no attribute 'adamww'"):
        gd.adamww  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018


def test_submodules_and_names_of_optax_are_known():
    assert gd.losses.l2_loss is gdjax.losses.l2_loss
    assert float(gd.l2_loss(jnp.ones(()))) == 0.5
    assert gd.problems.parabola is parabola
    assert gd.EmptyState is optax.EmptyState
