r"""Handwritten digits: a two-layer network and a convolutional network."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdjax.problems.base import Parts, problem
from gdjax.problems.bundled import Split, load_sklearn, split_rows
from gdjax.problems.checks import require_sizes


@problem
def digits(hidden: int = 64):
    r"""Classify 1,797 handwritten digits with a two-layer network.

    The loss is the mean cross-entropy, in nats, of $\mathrm{softmax}(W_2 \max(W_1 x + b_1, 0) + b_2)$. Initial weights
    are normal with variance 2 over the number of inputs; biases are 0. An image is 64 pixels in [0, 1]. Every fifth
    image is held out.

    Source: for the data, Alpaydin and Kaynak 1998 (https://doi.org/10.24432/C50P49); for the initialization, He et al.
    2015, equation 10 (https://arxiv.org/abs/1502.01852).

    Args:
      hidden: the number of hidden units, at least 1.

    Raises:
      ValueError: `hidden` is not an integer of at least 1.

    >>> import jax, gdjax as gd
    >>> p = gd.problems.digits()
    >>> images, labels = p.train
    >>> images.shape, p.init(jax.random.key(0))["output"]["kernel"].shape
    ((1437, 64), (64, 10))
    """
    require_sizes("digits", 1, hidden=hidden)

    def init(key):
        first, second = jax.random.split(key)
        return {"hidden": _init_layer(first, (64, hidden)), "output": _init_layer(second, (hidden, 10))}

    def logits(params, images):
        return _linear(params["output"], jax.nn.relu(_linear(params["hidden"], images)))

    return _classifier(init, logits, optimizer="params_ema(adamw(1e-2), decay=0.98)", batch_size=64, epochs=30)


@problem
def digits_conv(channels: int = 16):
    r"""Classify 1,797 handwritten digits with two convolutions and a linear layer.

    The loss is the mean cross-entropy, in nats. Convolutions are 3 by 3, each followed by $\max(x, 0)$. The second
    halves the image of 8 by 8 pixels and doubles the channels. Initialization and data are as in `digits`.

    Source: LeCun et al. 1998, section 2 (https://doi.org/10.1109/5.726791), with strides instead of pooling.

    Args:
      channels: the number of channels of the first convolution, at least 1.

    Raises:
      ValueError: `channels` is not an integer of at least 1.

    >>> import jax, gdjax as gd
    >>> p = gd.problems.digits_conv()
    >>> p.init(jax.random.key(0))["second"]["kernel"].shape
    (3, 3, 16, 32)
    """
    require_sizes("digits_conv", 1, channels=channels)

    def init(key):
        first, second, output = jax.random.split(key, 3)
        return {
            "first": _init_layer(first, (3, 3, 1, channels)),
            "second": _init_layer(second, (3, 3, channels, 2 * channels)),
            "output": _init_layer(output, (4 * 4 * 2 * channels, 10)),
        }

    def logits(params, images):
        x = images.reshape(-1, 8, 8, 1)
        x = jax.nn.relu(_convolution(params["first"], x, stride=1))
        x = jax.nn.relu(_convolution(params["second"], x, stride=2))
        return _linear(params["output"], x.reshape(len(x), -1))

    return _classifier(init, logits, optimizer="params_ema(adamw(1e-2), decay=0.98)", batch_size=64, epochs=15)


def _classifier(init: Callable[..., Any], logits: Callable[..., Any], **defaults: Any) -> Parts:
    def loss(params, batch):
        images, labels = batch
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, images), labels).mean()

    def accuracy(params, batch):
        images, labels = batch
        return jnp.mean(jnp.argmax(logits(params, images), axis=-1) == labels)

    return Parts(
        init=init,
        loss=loss,
        train=lambda: _load_images().train,
        held_out=lambda: _load_images().held_out,
        metrics={"accuracy": accuracy},
        target="accuracy>0.97",
        **defaults,
    )


@functools.cache
def _load_images() -> Split:
    images, labels = load_sklearn("digits")
    return split_rows((images / 16).astype(np.float32), labels.astype(np.int32))


def _init_layer(key: jax.Array, shape: tuple[int, ...]) -> dict[str, jax.Array]:
    """Return a random kernel, whose inputs are all axes but the last, and a bias of zeros."""
    return {
        "kernel": jax.random.normal(key, shape) * np.sqrt(2 / np.prod(shape[:-1])),
        "bias": jnp.zeros(shape[-1]),
    }


def _linear(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return x @ layer["kernel"] + layer["bias"]


def _convolution(layer: dict[str, jax.Array], x: jax.Array, stride: int) -> jax.Array:
    kernel = layer["kernel"]
    numbers = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(
        x.astype(kernel.dtype), kernel, (stride, stride), "SAME", dimension_numbers=numbers
    )
    return x + layer["bias"]
