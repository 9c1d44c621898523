"""Large matrices cut into blocks that are as equal as can be."""

import jax
import jax.numpy as jnp


def blocks(x: jax.Array, most: int) -> jax.Array:
    """Matrices `[count, m, n]` as blocks `[number, a, b]` of sides no longer than `most`, filled up with zeros.

    >>> import jax.numpy as jnp
    >>> blocks(jnp.ones((1, 3, 4)), 2).shape
    (4, 2, 2)
    """
    (p, a), (q, b) = (_cut(length, most) for length in x.shape[1:])
    filled = jnp.pad(x, ((0, 0), (0, p * a - x.shape[1]), (0, q * b - x.shape[2])))
    return filled.reshape(len(x), p, a, q, b).transpose(0, 1, 3, 2, 4).reshape(-1, a, b)


def joined(parts: jax.Array, shape: tuple[int, ...], most: int) -> jax.Array:
    """Matrices of the shape `[count, m, n]` of their blocks."""
    count, m, n = shape
    (p, a), (q, b) = (_cut(length, most) for length in (m, n))
    whole = parts.reshape(count, p, q, a, b).transpose(0, 1, 3, 2, 4).reshape(count, p * a, q * b)
    return whole[:, :m, :n]


def _cut(length: int, most: int) -> tuple[int, int]:
    """In how many blocks a side is cut, and how long these are."""
    number = -(-length // most)
    return number, -(-length // number)
