"""The plainest descent: one `lax.scan` per epoch, each in a new order."""

from functools import partial

import jax
import jax.numpy as jnp

import gdjax as gd


def descended(loss, tx, params, train, keys, *, size):
    """Return evaluation parameters after one epoch per key; a last batch of fewer than `size` rows is dropped."""

    def step(carry, rows):
        params, state = carry
        of_params = partial(loss, batch=jax.tree.map(lambda x: x[rows], train))
        value, grads = jax.value_and_grad(of_params)(params)
        updates, state = tx.update(grads, state, params, value=value, grad=grads, value_fn=of_params)
        return (gd.apply_updates(params, updates), state), None

    def epoch(carry, key):
        rows = len(jax.tree.leaves(train)[0]) if train is not None else size
        batches = jax.random.permutation(key, rows)[: rows // size * size].reshape(-1, size)
        return jax.lax.scan(step, carry, batches)

    (params, state), _ = jax.lax.scan(epoch, (params, tx.init(params)), keys)
    return gd.eval_params(tx, state, params)


def by_default(problem, seed=0):
    """Return the metrics of a problem after its default run."""
    train, held_out = jax.tree.map(jnp.asarray, (problem.train, problem.held_out))
    rows = len(jax.tree.leaves(train)[0]) if train is not None else 1
    size = rows if problem.batch_size == "full" else problem.batch_size
    epochs = problem.epochs or problem.steps // (rows // size)
    tx = gd.parse(problem.optimizer)
    measured = _by_default(problem, tx, jax.random.key(seed), train, held_out, size=size, epochs=epochs)
    return {name: float(x) for name, x in measured.items()}


@partial(jax.jit, static_argnames=("size", "epochs"))
def _by_default(problem, tx, key, train, held_out, *, size, epochs):
    start, order = jax.random.split(key)
    keys = jax.random.split(order, epochs)
    params = descended(problem.loss, tx, problem.init(start), train, keys, size=size)
    return {name: metric(params, held_out) for name, metric in problem.metrics.items()}
