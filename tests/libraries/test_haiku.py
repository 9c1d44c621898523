"""Values of gdjax on the parameters of Haiku: dicts whose keys are paths themselves (`mlp/~/linear_0`)."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax as gd
from gdjax import tree

X = jax.random.normal(jax.random.key(0), (8, 3))
Y = X @ jnp.array([[1.0], [-2.0], [0.5]])


def forward(x):
    return hk.nets.MLP([4, 1])(x) + hk.Linear(1, name="skip")(x)


NET = hk.without_apply_rng(hk.transform(forward))
PARAMS = NET.init(jax.random.key(1), X)


def train(tx):
    """The losses of ten steps and the last parameters."""

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(lambda p: jnp.mean((NET.apply(p, X) - Y) ** 2))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    params, state, losses = PARAMS, tx.init(PARAMS), []
    for _ in range(10):
        params, state, loss = step(params, state)
        losses.append(loss)
    return np.array(losses), params


def modules(params):
    return hk.data_structures.map(lambda module, name, _: "b" if name == "b" else module, params)


def weights(params):
    return hk.data_structures.map(lambda module, name, _: name == "w", params)


PAIRS = {
    "adamw": (gd.adamw(0.1, b2=0.9, mask=weights), optax.adamw(0.1, b2=0.9, mask=weights)),
    "watch": (gd.watch(gd.sgd(0.05, momentum=0.9)), optax.sgd(0.05, momentum=0.9)),
    "masked": (gd.masked(gd.rmsprop(0.05), weights), optax.masked(optax.rmsprop(0.05), weights)),
    "by_path": (
        gd.by_path(
            {
                "mlp/~/linear_[0-9]+/w": gd.adam(0.1, b2=0.9),
                "skip/w": gd.sgd(0.1),
                ".*/b": gd.frozen(),
            }
        ),
        optax.partition(
            {
                "mlp/~/linear_0": optax.adam(0.1, b2=0.9),
                "mlp/~/linear_1": optax.adam(0.1, b2=0.9),
                "skip": optax.sgd(0.1),
                "b": optax.set_to_zero(),
            },
            modules,
        ),
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_the_parameters_of_haiku_descend_as_with_optax(pair):
    ours, theirs = map(train, PAIRS[pair])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


def test_the_paths_of_haiku_are_its_modules_with_the_names_of_parameters():
    paths = [path for path, _ in tree.leaves_with_paths(PARAMS)]
    assert paths == [f"{module}/{name}" for module, name, _ in hk.data_structures.traverse(PARAMS)]


def test_what_a_pattern_freezes_stays_and_the_rest_descends():
    losses, params = train(gd.by_path({"mlp/~/linear_0/.*": gd.frozen(), ".*": gd.sgd(0.05)}))
    moved = jax.tree.map(lambda new, old: bool((new != old).any()), params, PARAMS)
    assert moved == {
        "mlp/~/linear_0": {"w": False, "b": False},
        "mlp/~/linear_1": {"w": True, "b": True},
        "skip": {"w": True, "b": True},
    }
    assert losses[-1] < losses[0]


def test_a_module_that_no_pattern_matches_is_named():
    with pytest.raises(ValueError, match="no pattern matches 'skip/b', 'skip/w'"):
        gd.by_path({"mlp/.*": gd.sgd(0.1)}).init(PARAMS)
