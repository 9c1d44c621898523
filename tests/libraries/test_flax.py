"""Values of gdjax as the `tx` of Flax: the train state of Linen, the optimizer of NNX."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx, struct
from flax.training.train_state import TrainState

import gdjax as gd
from gdjax import tree
from tests.compiling import compilations, counted

X = jax.random.normal(jax.random.key(0), (8, 3))
Y = X @ jnp.array([[1.0], [-2.0], [0.5]])
MODEL = linen.Sequential([linen.Dense(4), linen.relu, linen.Dense(1)])
PARAMS = MODEL.init(jax.random.key(1), X)["params"]
RATE = gd.warmup_cosine(0.1, 2, 20)


class Net(nnx.Module):
    """Two layers in NNX."""

    def __init__(self):
        self.linear = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(4, 1, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.out(nnx.relu(self.linear(x)))


def parts(params):
    """The label of each leaf, found in another way than by_path finds it."""
    where = jax.tree_util.tree_map_with_path(lambda keys, _: jax.tree_util.keystr(keys), params)
    return jax.tree.map(lambda path: "bias" if "bias" in path else "first" if "'linear'" in path else "rest", where)


BY_PATH = {".*/bias": gd.frozen(), "linear/kernel": gd.adamw(0.1, b2=0.9), ".*": gd.sgd(0.05)}
PARTS = {"bias": optax.set_to_zero(), "first": optax.adamw(0.1, b2=0.9), "rest": optax.sgd(0.05)}
PAIRS = {
    "adamw": (gd.adamw(0.1, b2=0.9), optax.adamw(0.1, b2=0.9)),
    "sgd": (gd.sgd(RATE, momentum=0.9), optax.sgd(RATE, momentum=0.9)),
    "watch": (gd.watch(gd.rmsprop(0.05)), optax.rmsprop(0.05)),
    "chain": (gd.chain(gd.clip(0.1), gd.lion(0.02)), optax.chain(optax.clip(0.1), optax.lion(0.02))),
}


def linen_step():
    @counted
    def step(state):
        def loss(params):
            return jnp.mean((state.apply_fn({"params": params}, X) - Y) ** 2)

        number, grads = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=grads), number

    return step


def nnx_step():
    @nnx.jit
    def step(model, optimizer):
        step.traces += 1
        loss, grads = nnx.value_and_grad(lambda model: jnp.mean((model(X) - Y) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    step.traces = 0
    return step


def train_linen(tx):
    """The losses of ten steps and the last parameters."""
    state, step, losses = TrainState.create(apply_fn=MODEL.apply, params=PARAMS, tx=tx), linen_step(), []
    for _ in range(10):
        state, loss = step(state)
        losses.append(loss)
    return np.array(losses), state.params


def train_nnx(tx, kind=nnx.Optimizer, step=None):
    """The losses of ten steps, the last parameters, and the optimizer."""
    model, step = Net(), step or nnx_step()
    optimizer = kind(model, tx, wrt=nnx.Param)
    losses = np.array([step(model, optimizer) for _ in range(10)])
    return losses, nnx.to_pure_dict(nnx.state(model, nnx.Param)), optimizer


assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_train_state_descends_as_with_optax(pair):
    ours, theirs = map(train_linen, PAIRS[pair])
    assert_close(ours, theirs)
    assert ours[0][-1] < ours[0][0]


def test_a_hundred_train_states_of_equal_optimizers_share_one_program():
    step = linen_step()
    for _ in range(100):
        tx = gd.chain(gd.clip_by_global_norm(1.0), gd.adamw(gd.warmup_cosine(0.1, 2, 20)))
        step(TrainState.create(apply_fn=MODEL.apply, params=PARAMS, tx=tx))
    assert compilations(step) == 1


def test_train_states_that_declare_tx_a_node_share_one_program_among_all_rates():
    class Swept(TrainState):
        tx: gd.GradientTransform = struct.field(pytree_node=True)

    step, moved = linen_step(), []
    for rate in (0.1, 0.2, 0.4):
        state, _ = step(Swept.create(apply_fn=MODEL.apply, params=PARAMS, tx=gd.sgd(rate)))
        moved.append(optax.tree.norm(optax.tree.sub(state.params, PARAMS)))
    assert compilations(step) == 1
    np.testing.assert_allclose(moved, moved[0] * np.array([1.0, 2.0, 4.0]), rtol=1e-5)


@pytest.mark.parametrize("pair", [*PAIRS, "by_path"])
def test_an_nnx_optimizer_descends_as_with_optax(pair):
    pairs = {**PAIRS, "by_path": (gd.by_path(BY_PATH), optax.partition(PARTS, parts))}
    (losses, params, _), (expected_losses, expected, _) = map(train_nnx, pairs[pair])
    assert_close((losses, params), (expected_losses, expected))
    assert losses[-1] < losses[0]


def test_the_paths_of_an_nnx_model_are_the_same_at_init_and_at_update():
    seen = []

    @gd.transform
    def spy():
        def init(params):
            seen.append([path for path, _ in tree.leaves_with_paths(params)])
            return ()

        def update(updates, state, params=None):
            seen.append([path for path, _ in tree.leaves_with_paths(updates)])
            return updates, state

        return init, update

    train_nnx(spy())
    assert seen == 2 * [["linear/bias", "linear/kernel", "out/bias", "out/kernel"]]


def test_a_box_of_linen_is_no_part_of_a_path():
    params = {"dense": {"kernel": linen.Partitioned(jnp.ones((2, 2)), names=("in", "out")), "bias": jnp.ones(2)}}
    assert [path for path, _ in tree.leaves_with_paths(params)] == ["dense/bias", "dense/kernel"]
    state = gd.by_path({".*/kernel": gd.adam(0.1), ".*/bias": gd.frozen()}).init(params)
    assert optax.tree.get(state, "mu")["dense"]["kernel"].names == ("in", "out")


def test_an_nnx_optimizer_shows_its_moments_and_norms():
    _, params, optimizer = train_nnx(gd.watch(gd.adamw(0.1)))
    mu, count = (optax.tree.get(optimizer.opt_state, name) for name in ("mu", "count"))
    assert jax.tree.map(jnp.shape, nnx.to_pure_dict(mu)) == jax.tree.map(jnp.shape, params)
    assert count[...] == 10
    assert all(norm[...] > 0 for norm in gd.metrics(optimizer.opt_state).values())


def test_nnx_optimizers_made_anew_of_equal_values_share_one_program():
    step = nnx_step()
    for _ in range(5):
        train_nnx(gd.adamw(gd.warmup_cosine(0.1, 2, 20)), step=step)
    assert step.traces == 1


def test_nnx_optimizers_that_declare_tx_data_share_one_program_among_all_rates():
    class Swept(nnx.Optimizer):
        tx: gd.GradientTransform = nnx.data()

    step = nnx_step()
    for rate in (0.05, 0.1):
        assert_close(train_nnx(gd.adamw(jnp.float32(rate)), Swept, step)[0], train_nnx(gd.adamw(rate))[0])
    assert step.traces == 1
