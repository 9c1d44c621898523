r"""Chains of layers, so deep that their gradients explode or vanish."""

import functools
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.problems.base import Parts, problem
from gdjax.problems.checks import at_least
from gdjax.value import Interval, Scalar

Growing = Annotated[Scalar, Interval("(1, inf)")]
Shrinking = Annotated[Scalar, Interval("(0, 1)")]


@problem
def exploding(gain: Growing = 1.3, depth: int = 20, size: int = 4):
    r"""Descend on a deep chain whose gradients grow by the gain with every layer that they pass.

    $f = \frac{1}{2 n} \sum_i \|h_L(e_i) - e_i\|^2$ over the unit vectors, $h_0(x) = x$, $h_l = W_l h_{l-1} + b_l$:
    the chain shall be the identity. At the start $b_l = 0$ and $W_l$ is the gain $\gamma$ times an orthogonal matrix,
    the last of which undoes the others, so that gradients pass as
    $\|\partial f / \partial b_l\| = \gamma^{L-l} \|\partial f / \partial b_L\|$. The optimum is 0, where weights are
    the identity. With one unit a layer the chain is a product of numbers.

    Source: Bengio, Simard and Frasconi 1994, section 4 (https://doi.org/10.1109/72.279181); clipping as the way out:
    Pascanu, Mikolov and Bengio 2013, algorithm 1 (https://arxiv.org/abs/1211.5063).

    Args:
      gain: $\gamma$, what a layer multiplies lengths by, in (1, inf).
      depth: $L$, how many layers, at least 1.
      size: $n$, how many units a layer, at least 1.

    Raises:
      ValueError: if depth or size is no integer of at least 1.

    >>> import jax, gdjax as gd
    >>> p = gd.problems.exploding(1.5, depth=3)
    >>> layers = jax.grad(p.loss)(p.init(jax.random.key(0)), None)
    >>> lengths = jnp.array([jnp.linalg.norm(layer["bias"]) for layer in layers])
    >>> print((lengths[:-1] / lengths[1:]).round(4))
    [1.5 1.5]
    """
    return _chain("exploding", gain, depth, size, "chain(clip_by_global_norm(1), sgd(0.02, momentum=0.9))")


@problem
def vanishing(gain: Shrinking = 0.7, depth: int = 20, size: int = 4):
    r"""Descend on a deep chain whose gradients shrink by the gain with every layer that they pass.

    All is as in `exploding`, but for the gain.

    Source: Bengio, Simard and Frasconi 1994, section 4 (https://doi.org/10.1109/72.279181).

    Args:
      gain: $\gamma$, what a layer multiplies lengths by, in (0, 1).
      depth: $L$, how many layers, at least 1.
      size: $n$, how many units a layer, at least 1.

    Raises:
      ValueError: if depth or size is no integer of at least 1.

    >>> import jax, gdjax as gd
    >>> p = gd.problems.vanishing(0.5, depth=3)
    >>> layers = jax.grad(p.loss)(p.init(jax.random.key(0)), None)
    >>> lengths = jnp.array([jnp.linalg.norm(layer["bias"]) for layer in layers])
    >>> print((lengths[:-1] / lengths[1:]).round(4))
    [0.5 0.5]
    """
    return _chain("vanishing", gain, depth, size, "sgd(0.1, momentum=0.9)")


def _chain(who: str, gain: Any, depth: int, size: int, optimizer: str) -> Parts:
    at_least(who, 1, depth=depth, size=size)

    def init(key):
        turns = list(jax.random.orthogonal(key, size, (depth - 1,)))
        turns.append(functools.reduce(lambda product, turn: product @ turn.T, turns, jnp.eye(size)))
        return [{"weights": gain * turn, "bias": jnp.zeros(size)} for turn in turns]

    def loss(layers, batch):
        outputs = jnp.eye(size)  # a row an input
        for layer in layers:
            outputs = outputs @ layer["weights"].T + layer["bias"]
        return 0.5 * ((outputs - jnp.eye(size)) ** 2).sum(1).mean()

    return Parts(
        init=init,
        loss=loss,
        optimum=0.0,
        minimizer=lambda: [{"weights": np.eye(size), "bias": np.zeros(size)} for _ in range(depth)],
        target="gap<1e-9",
        optimizer=optimizer,
        steps=3_000,
    )
