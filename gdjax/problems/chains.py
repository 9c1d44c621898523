r"""Deep chains of linear layers whose gradients explode or vanish."""

import functools
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.problems.base import Parts, problem
from gdjax.problems.checks import require_sizes
from gdjax.value import Interval, Scalar

AboveOne = Annotated[Scalar, Interval("(1, inf)")]
UnitInterval = Annotated[Scalar, Interval("(0, 1)")]


@problem
def exploding(gain: AboveOne = 1.3, depth: int = 20, size: int = 4):
    r"""Train a deep chain of layers, each of which multiplies gradients by a gain above 1.

    $f = \frac{1}{2 n} \sum_i \|h_L(e_i) - e_i\|^2$ over the unit vectors, with $h_0(x) = x$ and
    $h_l = W_l h_{l-1} + b_l$: the chain should learn the identity. Initially $b_l = 0$, and $W_l$ is the gain $\gamma$
    times an orthogonal matrix; the last of these inverts the product of the others. So
    $\|\partial f / \partial b_l\| = \gamma^{L-l} \|\partial f / \partial b_L\|$. The optimum is 0, with identity
    weights. With one unit per layer, the chain is a product of numbers.

    Source: Bengio, Simard and Frasconi 1994, section 4 (https://doi.org/10.1109/72.279181). Clipping as the remedy:
    Pascanu, Mikolov and Bengio 2013, algorithm 1 (https://arxiv.org/abs/1211.5063).

    Args:
      gain: $\gamma$, the factor of gradients per layer, in (1, inf).
      depth: $L$, the number of layers, at least 1.
      size: $n$, the number of units per layer, at least 1.

    Raises:
      ValueError: `depth` or `size` is not an integer of at least 1.

    >>> import jax, gdjax as gd
    >>> p = gd.problems.exploding(1.5, depth=3)
    >>> layers = jax.grad(p.loss)(p.init(jax.random.key(0)), None)
    >>> lengths = jnp.array([jnp.linalg.norm(layer["bias"]) for layer in layers])
    >>> print((lengths[:-1] / lengths[1:]).round(4))
    [1.5 1.5]
    """
    return _chain("exploding", gain, depth, size, "chain(clip_by_global_norm(1), sgd(0.02, momentum=0.9))")


@problem
def vanishing(gain: UnitInterval = 0.7, depth: int = 20, size: int = 4):
    r"""Train a deep chain of layers, each of which multiplies gradients by a gain below 1.

    Everything but the gain is as in `exploding`.

    Source: Bengio, Simard and Frasconi 1994, section 4 (https://doi.org/10.1109/72.279181).

    Args:
      gain: $\gamma$, the factor of gradients per layer, in (0, 1).
      depth: $L$, the number of layers, at least 1.
      size: $n$, the number of units per layer, at least 1.

    Raises:
      ValueError: `depth` or `size` is not an integer of at least 1.

    >>> import jax, gdjax as gd
    >>> p = gd.problems.vanishing(0.5, depth=3)
    >>> layers = jax.grad(p.loss)(p.init(jax.random.key(0)), None)
    >>> lengths = jnp.array([jnp.linalg.norm(layer["bias"]) for layer in layers])
    >>> print((lengths[:-1] / lengths[1:]).round(4))
    [0.5 0.5]
    """
    return _chain("vanishing", gain, depth, size, "sgd(0.1, momentum=0.9)")


def _chain(who: str, gain: Any, depth: int, size: int, optimizer: str) -> Parts:
    require_sizes(who, 1, depth=depth, size=size)

    def init(key):
        rotations = list(jax.random.orthogonal(key, size, (depth - 1,)))
        rotations.append(functools.reduce(lambda product, q: product @ q.T, rotations, jnp.eye(size)))
        return [{"weights": gain * q, "bias": jnp.zeros(size)} for q in rotations]

    def loss(layers, batch):
        outputs = jnp.eye(size)  # one row per input
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
