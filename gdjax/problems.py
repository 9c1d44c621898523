"""What there is to descend on: scikit-learn's handwritten digits."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax.compose import apply_updates

Params = dict[str, jax.Array]


class Digits(NamedTuple):
    """1,797 images of handwritten digits, every fifth of them held out."""

    train: tuple[jax.Array, jax.Array]
    """Images `[1437, 64]` with pixels in [0, 1], and labels `[1437]`."""
    test: tuple[jax.Array, jax.Array]
    """Images `[360, 64]`, and labels `[360]`."""


def digits() -> Digits:
    """Load the digits (needs scikit-learn, which brings them along)."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images / 16.0, jnp.float32), jnp.asarray(labels, jnp.int32)
    held_out = jnp.arange(len(labels)) % 5 == 0
    return Digits(train=(images[~held_out], labels[~held_out]), test=(images[held_out], labels[held_out]))


def init(key: jax.Array, hidden: int = 64) -> Params:
    """A network of two layers, its weights normal with variance `2 / inputs` (He et al. 2015)."""
    first, second = jax.random.split(key)
    return {
        "w1": jax.random.normal(first, (64, hidden)) * jnp.sqrt(2 / 64),
        "b1": jnp.zeros(hidden),
        "w2": jax.random.normal(second, (hidden, 10)) * jnp.sqrt(2 / hidden),
        "b2": jnp.zeros(10),
    }


def logits(params: Params, images: jax.Array) -> jax.Array:
    """The network: `[n, 64]` to `[n, 10]`."""
    return jax.nn.relu(images @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


def loss(params: Params, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The mean cross-entropy, in nats."""
    images, labels = batch
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, images), labels).mean()


def accuracy(params: Params, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The share of images that are told right."""
    images, labels = batch
    return jnp.mean(jnp.argmax(logits(params, images), axis=-1) == labels)


def epoch(tx: Any, params: Params, state: Any, data: tuple[jax.Array, jax.Array], key: jax.Array, batch_size: int):
    """Descend once through the data in a new order; the last, smaller batch is left out.

    Returns:
      The parameters, the optimizer's state and the mean loss.
    """
    order = jax.random.permutation(key, len(data[1]))
    batches = order[: len(order) // batch_size * batch_size].reshape(-1, batch_size)

    def step(carry, rows):
        params, state = carry
        of_params = functools.partial(loss, batch=(data[0][rows], data[1][rows]))
        value, grads = jax.value_and_grad(of_params)(params)
        updates, state = tx.update(grads, state, params, value=value, grad=grads, value_fn=of_params)
        return (apply_updates(params, updates), state), value

    (params, state), losses = jax.lax.scan(step, (params, state), batches)
    return params, state, losses.mean()
