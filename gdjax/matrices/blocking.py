"""Large matrices as blocks of nearly equal size."""

import jax
import jax.numpy as jnp


def split_into_blocks(x: jax.Array, longest: int) -> jax.Array:
    """Split matrices `[count, m, n]` into blocks `[number, a, b]` with sides of at most `longest`, padded with zeros.

    >>> import jax.numpy as jnp
    >>> split_into_blocks(jnp.ones((1, 3, 4)), 2).shape
    (4, 2, 2)
    """
    (p, a), (q, b) = (_split_side(length, longest) for length in x.shape[1:])
    padded = jnp.pad(x, ((0, 0), (0, p * a - x.shape[1]), (0, q * b - x.shape[2])))
    return padded.reshape(len(x), p, a, q, b).transpose(0, 1, 3, 2, 4).reshape(-1, a, b)


def join_blocks(blocks: jax.Array, shape: tuple[int, ...], longest: int) -> jax.Array:
    """Join blocks into the matrices of shape `[count, m, n]` that they were split from."""
    count, m, n = shape
    (p, a), (q, b) = (_split_side(length, longest) for length in (m, n))
    padded = blocks.reshape(count, p, q, a, b).transpose(0, 1, 3, 2, 4).reshape(count, p * a, q * b)
    return padded[:, :m, :n]


def _split_side(length: int, longest: int) -> tuple[int, int]:
    """Return the number of blocks along a side, and their length."""
    number = -(-length // longest)
    return number, -(-length // number)
