"""Small programs in the style of libraries around Optax: the same numbers with `import gdjax as optax`."""

import re

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen, nnx
from flax.training.train_state import TrainState

import gdjax

BOTH = (optax, gdjax)


def assert_same(found, rtol=2e-5, atol=2e-6):
    """Compare what the program returned with Optax and with gdjax."""
    theirs, ours = found
    chex.assert_trees_all_close(ours, theirs, rtol=rtol, atol=atol)


class Policy(linen.Module):
    """Logits and a value."""

    @linen.compact
    def __call__(self, x):
        hidden = linen.tanh(linen.Dense(8)(x))
        return linen.Dense(3)(hidden), linen.Dense(1)(hidden)[..., 0]


def ppo(optax):
    """PureJaxRL: seeds by vmap, updates by scan, a linear schedule of the count of minibatches."""
    policy, updates, epochs = Policy(), 4, 2

    def anneal(count):
        return 2.5e-3 * (1.0 - (count // epochs) / updates)

    def train(key):
        tx = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(learning_rate=anneal, eps=1e-5))
        state = TrainState.create(apply_fn=policy.apply, params=policy.init(key, jnp.zeros(4)), tx=tx)

        def update(state, key):
            observations = jax.random.normal(key, (16, 4))
            actions = jax.random.randint(key, (16,), 0, 3)
            advantages = jnp.sin(observations.sum(1))
            old = jax.nn.log_softmax(policy.apply(state.params, observations)[0])[jnp.arange(16), actions]

            def loss(params):
                logits, values = policy.apply(params, observations)
                ratio = jnp.exp(jax.nn.log_softmax(logits)[jnp.arange(16), actions] - old)
                clipped = jnp.clip(ratio, 0.8, 1.2) * advantages
                entropy = optax.losses.safe_softmax_cross_entropy(logits, jax.nn.softmax(logits)).mean()
                return (-jnp.minimum(ratio * advantages, clipped) + (values - advantages) ** 2).mean() - 0.01 * entropy

            def epoch(state, _):
                return state.apply_gradients(grads=jax.grad(loss)(state.params)), loss(state.params)

            return jax.lax.scan(epoch, state, None, epochs)

        state, losses = jax.lax.scan(update, state, jax.random.split(key, updates))
        return state.params, losses

    return jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), 2))


def labelled_groups(optax):
    """NanoDO: an injected rate read back from the state, weight decay by label, sharded parameters."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    params = {"embed": jnp.ones((4, 3)), "layer": {"kernel": jnp.full((4, 4), 0.5), "bias": jnp.zeros(4)}}
    params = jax.tree.map(lambda x: jax.device_put(x, rows), params)
    labels = {"embed": "plain", "layer": {"kernel": "decayed", "bias": "plain"}}
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 2, 8, 1e-3)

    @optax.inject_hyperparams
    def optimizer(learning_rate, weight_decay):
        groups = {
            "decayed": optax.adamw(learning_rate, b2=0.98, weight_decay=weight_decay),
            "plain": optax.adam(learning_rate, b2=0.98),
        }
        return optax.chain(optax.clip_by_global_norm(1.0), optax.multi_transform(groups, labels))

    tx = optimizer(learning_rate=rate, weight_decay=0.1)

    def loss(params):
        return jnp.sum(
            jnp.square(params["embed"] @ jnp.ones((3, 4)) @ params["layer"]["kernel"] + params["layer"]["bias"])
        )

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state, rates = tx.init(params), []
    for _ in range(5):
        params, state = step(params, state)
        rates.append(state.hyperparams["learning_rate"])
    assert params["embed"].sharding.is_equivalent_to(rows, 2)
    return params, jnp.stack(rates)


def masked_by_pattern(optax):
    """BigVision: masks and schedules by regular expression, the count and the moments found by name."""
    params = {"head": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, "body": {"kernel": jnp.full((3, 3), 0.3)}}

    def mask(pattern):
        def matches(keys, _):
            return bool(re.fullmatch(pattern, "/".join(key.key for key in keys)))

        return jax.tree_util.tree_map_with_path(matches, params)

    schedules = {
        "head/.*": optax.join_schedules([optax.linear_schedule(0.0, 1.0, 2), optax.constant_schedule(1.0)], [2]),
        "body/.*": optax.cosine_decay_schedule(1.0, 6),
    }
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(b2=0.95, mu_dtype=jnp.float32),
        optax.masked(optax.add_decayed_weights(1e-2), mask(".*kernel")),
        *(optax.masked(optax.scale_by_schedule(rate), mask(pattern)) for pattern, rate in schedules.items()),
        optax.scale(-0.1),
    )
    state = tx.init(params)
    for i in range(4):
        grads = jax.tree.map(lambda x, i=i: jnp.sin(x * (i + 1.0)), params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    mu = optax.tree_utils.tree_get(state, "mu")
    count = [x for _, x in optax.tree_utils.tree_get_all_with_path(state, "count")]
    return params, mu, count, optax.tree_utils.tree_norm(mu)


def chosen_by_name(optax):
    """MaxText: an optimizer chosen by a name, its state sharded as the parameters, moments kept on the host's side."""
    config = {"b1": 0.9, "b2": 0.95, "eps": 1e-8, "eps_root": 0.0}
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 1, 6)
    makers = {
        "adamw": lambda: optax.adamw(rate, weight_decay=0.1, **config),
        "adam_pax": lambda: optax.chain(optax.scale_by_adam(**config), optax.scale_by_learning_rate(rate)),
        "sgd": lambda: optax.sgd(rate),
    }
    mesh = jax.make_mesh((4,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    whole, found = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()), {}
    for name, make in makers.items():
        tx, params = make(), {"w": jax.device_put(jnp.arange(8.0).reshape(4, 2), rows)}
        shapes = jax.eval_shape(tx.init, params)
        shardings = optax.tree_utils.tree_map_params(
            tx, lambda _, sharding: sharding, shapes, {"w": rows}, transform_non_params=lambda _: whole
        )
        state = jax.jit(tx.init, out_shardings=shardings)(params)
        for _ in range(3):
            updates, state = jax.jit(tx.update)(params, state, params)
            params = optax.apply_updates(params, updates)
        found[name] = params
    return found


class Statistics(nnx.Module):
    """A layer with statistics of batches."""

    def __init__(self, rngs):
        self.linear, self.norm = nnx.Linear(3, 4, use_bias=False, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
        self.out = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.norm(self.linear(x))))


def batch_norm(optax):
    """Flax NNX: an optimizer of the parameters alone, the model's statistics beside it, split and merged on the way."""
    model = Statistics(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adamw(optax.cosine_decay_schedule(1e-2, 10)), wrt=nnx.Param)
    x = jax.random.normal(jax.random.key(1), (16, 3))

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda model: jnp.mean((model(x) - x[:, :1]) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    losses = [step(model, optimizer) for _ in range(3)]
    optimizer = nnx.merge(*nnx.split(optimizer))
    losses += [step(model, optimizer) for _ in range(3)]
    return (
        jnp.stack(losses),
        nnx.to_pure_dict(nnx.state(model, nnx.Param)),
        nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)),
    )


def filtered(optax):
    """Equinox: gradients of a whole model, whose functions and numbers have none."""
    model = eqx.nn.MLP(3, 1, 8, 2, key=jax.random.key(0))
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(1e-2, 1e-3, 5)))
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))
    x = jax.random.normal(jax.random.key(1), (16, 3))

    @eqx.filter_jit
    def step(model, state):
        loss, grads = eqx.filter_value_and_grad(lambda model: jnp.mean((jax.vmap(model)(x) - x[:, :1]) ** 2))(model)
        updates, state = tx.update(grads, state, model)
        return eqx.apply_updates(model, updates), state, loss

    losses = []
    for _ in range(4):
        model, state, loss = step(model, state)
        losses.append(loss)
    params, _ = eqx.partition(model, eqx.is_array)
    return jnp.stack(losses), jax.tree.leaves(params)


PROGRAMS = [ppo, labelled_groups, masked_by_pattern, chosen_by_name, batch_norm, filtered]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_program_has_the_same_numbers_with_gdjax_as_with_optax(program):
    assert_same([program(library) for library in BOTH])


def test_an_nnx_optimizer_goes_on_from_a_checkpoint(tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    found = []
    for library in BOTH:
        model = Statistics(nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, library.adamw(1e-2), wrt=nnx.Param)
        x = jnp.ones((4, 3))

        def step(model, optimizer, x=x):
            optimizer.update(model, nnx.grad(lambda model: jnp.mean((model(x) - 1.0) ** 2))(model))

        step(model, optimizer)
        with ocp.StandardCheckpointer() as checkpointer:
            where = tmp_path / library.__name__
            checkpointer.save(where, nnx.to_pure_dict(nnx.state((model, optimizer))))
            checkpointer.wait_until_finished()
            other = Statistics(nnx.Rngs(7))
            again = nnx.Optimizer(other, library.adamw(1e-2), wrt=nnx.Param)
            state = nnx.state((other, again))
            nnx.replace_by_pure_dict(state, checkpointer.restore(where, nnx.to_pure_dict(state)))
        nnx.update((other, again), state)
        step(other, again)
        found.append(nnx.to_pure_dict(nnx.state(other, nnx.Param)))
    assert_same(found)
