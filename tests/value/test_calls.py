"""A call enters few Python frames before its arithmetic."""

import sys

import jax
import jax.numpy as jnp
import pytest

import gdjax as gd

PARAMS = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}


def calls_in_gdjax(function):
    """Return the number of Python frames of gdjax that a call enters."""
    count = 0

    def profile(frame, event, arg):
        nonlocal count
        count += event == "call" and str(frame.f_globals.get("__name__")).partition(".")[0] == "gdjax"

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def test_making_adamw_takes_few_calls():
    gd.adamw(1e-3)
    assert calls_in_gdjax(lambda: gd.adamw(1e-3)) <= 55


@pytest.mark.parametrize(("make", "most"), [(gd.adamw, 149), (gd.muon, 414)])
def test_an_update_takes_few_calls(make, most):
    tx, grads = make(1e-3), jax.tree.map(jnp.ones_like, PARAMS)
    _, state = tx.update(grads, tx.init(PARAMS), PARAMS)
    assert calls_in_gdjax(lambda: tx.update(grads, state, PARAMS)) <= most
