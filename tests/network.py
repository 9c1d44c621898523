"""A small network with dropout, and data whose number of rows is no multiple of eight devices."""

import jax
import jax.numpy as jnp
import numpy as np


def network_data(hidden):
    """Return inputs, targets and initial parameters of a network with one hidden layer."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(42, 6)).astype(np.float32)
    start = {"w1": rng.normal(size=(6, hidden)).astype(np.float32), "w2": rng.normal(size=hidden).astype(np.float32)}
    return x, np.tanh(x.sum(1)), start


def loss(params, batch, key):
    """Mean squared error."""
    x, y = batch
    mask = jax.random.bernoulli(key, 0.9, x.shape)
    return jnp.mean((jnp.tanh((x * mask) @ params["w1"]) @ params["w2"] - y) ** 2)
