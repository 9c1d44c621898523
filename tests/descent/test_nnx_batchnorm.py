"""An NNX model with BatchNorm, in the code that users write first: its statistics are carried between steps."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import gdjax as gd

X = jax.random.normal(jax.random.key(0), (8, 3)) + 2.0
Y = X.sum(1, keepdims=True)
STEPS = 3


class Net(nnx.Module):
    """One normalized layer."""

    def __init__(self):
        self.norm = nnx.BatchNorm(3, momentum=0.5, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(3, 1, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.out(self.norm(x))


def error(model, batch):
    x, y = batch
    return jnp.mean((model(x) - y) ** 2)


def by_hand():
    """Return the model after some steps of NNX's own optimizer."""
    model = Net()
    optimizer = nnx.Optimizer(model, optax.adamw(0.1), wrt=nnx.Param)
    for _ in range(STEPS):
        grads = nnx.grad(error)(model, (X, Y))
        optimizer.update(model, grads)
    return model


GRAPH, PARAMS, REST = nnx.split(Net(), nnx.Param, ...)


def loss(params, batch, *, extra):
    model = nnx.merge(GRAPH, params, extra)
    value = error(model, batch)
    return value, nnx.state(model, nnx.Not(nnx.Param))


@pytest.mark.parametrize("stepping", ["fit", "make_step"])
def test_parameters_and_statistics_match_nnx(stepping):
    tx = gd.adamw(0.1)
    state = gd.State.create(PARAMS, tx, extra=REST)
    if stepping == "fit":
        state = gd.fit(loss, state, tx, (X, Y), steps=STEPS, progress=False).state
    else:
        step = jax.jit(gd.make_step(loss, tx), donate_argnums=0)
        for _ in range(STEPS):
            state, _ = step(state, (X, Y))
    model, trained = by_hand(), nnx.merge(GRAPH, state.params, state.extra)
    ours, theirs = (jax.tree.leaves(nnx.state(net)) for net in (trained, model))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert abs(trained.norm.mean[...] - X.mean(0)).max() < 0.5


def test_statistics_among_parameters_are_refused_with_a_fix():
    with pytest.raises(TypeError, match=r"fit: params at 'norm/mean' is a BatchStat.*nnx.split\(model, nnx.Param"):
        gd.fit(error, Net(), gd.adamw(0.1), (X, Y), steps=1, progress=False)


def test_closing_over_statistics_raises_the_error_of_flax_with_a_fix():
    def closing_over_statistics(params, batch):
        return error(nnx.merge(GRAPH, params, REST), batch)

    with pytest.raises(Exception, match="Cannot mutate BatchStat") as caught:
        gd.fit(closing_over_statistics, PARAMS, gd.adamw(0.1), (X, Y), steps=1, progress=False)
    assert "return (scalar, extra) from loss(params, batch, *, extra)" in "".join(caught.value.__notes__)


def test_an_nnx_optimizer_prints_the_repr_of_its_transform():
    printed = repr(nnx.Optimizer(Net(), gd.chain(gd.clip(1.0), gd.adamw(0.1)), wrt=nnx.Param))
    assert "<function" not in printed
    assert "tx=(chain(clip(max_delta=1.0), adamw(learning_rate=0.1, b1=0.9" in printed
