"""A small network with dropout and its data, whose rows eight devices do not divide."""

import jax
import jax.numpy as jnp
import numpy as np


def given(hidden):
    """Rows and what they are to give, and where to begin, with so many units between."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(42, 6)).astype(np.float32)
    start = {"w1": rng.normal(size=(6, hidden)).astype(np.float32), "w2": rng.normal(size=hidden).astype(np.float32)}
    return x, np.tanh(x.sum(1)), start


def loss(params, batch, key):
    """Mean squared error."""
    x, y = batch
    kept = jax.random.bernoulli(key, 0.9, x.shape)
    return jnp.mean((jnp.tanh((x * kept) @ params["w1"]) @ params["w2"] - y) ** 2)
