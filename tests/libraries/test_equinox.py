"""Values of gdjax beside Equinox modules, and called as Levanter, which is made of such, calls its optimizers."""

import functools
from collections.abc import Callable

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax as gd
from gdjax import tree


class Net(eqx.Module):
    """Two layers, and fields that are no parameters."""

    layers: list
    steps: int = 3
    activation: Callable = jax.nn.relu

    def __call__(self, x):
        return self.layers[1](self.activation(self.layers[0](x)))


def net():
    first, second = jax.random.split(jax.random.key(0))
    return Net([eqx.nn.Linear(3, 4, key=first), eqx.nn.Linear(4, 1, use_bias=False, key=second)])


X = jax.random.normal(jax.random.key(1), (8, 3))
Y = X @ jnp.array([1.0, -2.0, 0.5])


def trainable(model):
    return eqx.filter(model, eqx.is_inexact_array)


def loss(model):
    return jnp.mean((jax.vmap(model)(X)[:, 0] - Y) ** 2)


def one_step(tx, model, state):
    number, grads = eqx.filter_value_and_grad(loss)(model)
    updates, state = tx.update(grads, state, trainable(model))
    return eqx.apply_updates(model, updates), state, number


def train(tx, step=one_step):
    """The losses of ten steps and the last parameters, `tx` an argument of the compiled step."""
    step, model, losses = eqx.filter_jit(step), net(), []
    state = tx.init(trainable(model))
    for _ in range(10):
        model, state, number = step(tx, model, state)
        losses.append(number)
    return np.array(losses), trainable(model)


def labels(model):
    return jax.tree_util.tree_map_with_path(
        lambda keys, _: "bias" if keys[-1].name == "bias" else str(keys[-2].idx), model
    )


PAIRS = {
    "adamw": (gd.adamw(0.1, b2=0.9), optax.adamw(0.1, b2=0.9)),
    "sgd": (gd.sgd(gd.constant(0.1), momentum=0.9), optax.sgd(0.1, momentum=0.9)),
    "watch": (gd.watch(gd.rmsprop(0.05)), optax.rmsprop(0.05)),
    "masked": (
        gd.masked(gd.scale(-0.1), lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 0, tree)),
        optax.sgd(0.1),
    ),
    "by_path": (
        gd.by_path({".*/bias": gd.frozen(), "layers/0/weight": gd.adam(0.1, b2=0.9), ".*": gd.sgd(0.1)}),
        optax.partition({"bias": optax.set_to_zero(), "0": optax.adam(0.1, b2=0.9), "1": optax.sgd(0.1)}, labels),
    ),
}


assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_filtered_module_descends_as_with_optax(pair):
    ours, theirs = map(train, PAIRS[pair])
    assert_close(ours, theirs)
    assert ours[0][-1] < ours[0][0]


def test_filter_jit_traces_the_arrays_of_a_value_and_holds_its_floats_fixed():
    traces = []

    @eqx.filter_jit
    def step(tx, model, state):
        traces.append(tx)
        return one_step(tx, model, state)[0]

    def moved(tx):
        model = net()
        after = step(tx, model, tx.init(trainable(model)))
        return optax.tree.norm(optax.tree.sub(trainable(after), trainable(model)))

    arrays = [moved(jax.tree.map(jnp.asarray, gd.sgd(rate))) for rate in (0.1, 0.2, 0.4)]
    assert len(traces) == 1
    floats = [moved(gd.sgd(rate)) for rate in (0.1, 0.2, 0.1, 0.2)]
    assert len(traces) == 3
    np.testing.assert_allclose(arrays, arrays[0] * np.array([1.0, 2.0, 4.0]), rtol=1e-5)
    np.testing.assert_allclose(floats, [*arrays[:2], *arrays[:2]], rtol=1e-5)


def test_a_module_holds_its_optimizer_as_a_field():
    class Trainer(eqx.Module):
        tx: gd.GradientTransform
        model: Net
        state: optax.OptState

        def __call__(self):
            model, state, _ = one_step(self.tx, self.model, self.state)
            return Trainer(self.tx, model, state)

    tx = gd.adamw(jnp.float32(0.1), b2=0.9)
    trainer = Trainer(tx, net(), tx.init(trainable(net())))
    step = eqx.filter_jit(lambda trainer: trainer())
    for _ in range(10):
        trainer = step(trainer)
    assert_close(trainable(trainer.model), train(optax.adamw(0.1, b2=0.9))[1])
    assert trainer.tx == tx
    assert eqx.tree_at(lambda t: t.tx.learning_rate, trainer, 0.2).tx == tx.replace(learning_rate=0.2)


class Attention(eqx.Module):
    """An attention's three arrays."""

    query: jax.Array
    key: jax.Array
    value: jax.Array


def test_a_field_named_value_keeps_its_name_in_the_path():
    model = [Attention(*jnp.ones((3, 2)))]
    assert [path for path, _ in tree.leaves_with_paths(model)] == ["0/query", "0/key", "0/value"]
    tx = gd.by_path({".*/value": gd.frozen(), ".*": gd.sgd(0.5)})
    updates, _ = tx.update(model, tx.init(model))
    assert_close(updates, [Attention(-0.5 * jnp.ones(2), -0.5 * jnp.ones(2), jnp.zeros(2))])


PARAMS = {"w": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "b": jnp.array([0.5, -0.5])}
ONLY_W = {"w": True, "b": False}
CALLED = {
    "adamw": (gd.adamw(0.1, b2=0.9), optax.adamw(0.1, b2=0.9)),
    "sgd": (gd.sgd(0.1), optax.sgd(0.1)),
    "rmsprop": (gd.rmsprop(0.1), optax.rmsprop(0.1)),
    "lion": (gd.lion(0.1), optax.lion(0.1)),
    "prodigy": (gd.lift(optax.contrib.prodigy)(0.1), optax.contrib.prodigy(0.1)),
    "polyak_sgd": (gd.polyak_sgd(), optax.polyak_sgd()),
    "chain": (gd.chain(gd.clip(9.0), gd.polyak_sgd()), optax.polyak_sgd()),
    "named_chain": (gd.named_chain(("clip", gd.clip(9.0)), ("step", gd.polyak_sgd())), optax.polyak_sgd()),
    "watch": (gd.watch(gd.polyak_sgd()), optax.polyak_sgd()),
    "masked": (gd.masked(gd.polyak_sgd(), ONLY_W), optax.masked(optax.polyak_sgd(), ONLY_W)),
    "by_path": (
        gd.by_path({"w": gd.polyak_sgd(), "b": gd.sgd(0.1)}),
        optax.partition({"w": optax.polyak_sgd(), "b": optax.sgd(0.1)}, {"w": "w", "b": "b"}),
    ),
}


@pytest.mark.parametrize("pair", CALLED)
def test_what_levanter_passes_by_keyword_reaches_whom_it_concerns(pair):
    def run(tx):
        params, state = PARAMS, tx.init(PARAMS)
        for _ in range(3):
            value, grads = jax.value_and_grad(optax.tree.norm, argnums=0)(params, squared=True)
            updates, state = tx.update(
                grads, state, params=params, obj_fn=optax.tree.norm, loss=value, value=value, key=jax.random.key(0)
            )
            params = optax.apply_updates(params, updates)
        return params

    assert_close(*map(run, CALLED[pair]))
