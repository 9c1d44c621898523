"""Random access into a random permutation: no epoch is sorted, and no order is stored."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

MAX_EXAMPLES = 2**31 - 1
"""Largest number of examples that can be shuffled."""


def shuffled(key: jax.Array, positions: jax.Array, number: int) -> jax.Array:
    r"""Return the examples at some positions of a random permutation.

    In every round an example $x$ has a partner $K - x \bmod N$, and a coin that the two share decides whether they
    swap. Each round is a bijection, so every example is at exactly one position. After $6 \log_2 N$ rounds the order
    is indistinguishable from a uniform one.

    Source: Hoang, Morris, Rogaway 2012, figure 1 (swap-or-not) and its number of rounds
    (https://doi.org/10.1007/978-3-642-32009-5_1). The coin is a bit of a hash (the finalizer of MurmurHash3).

    Args:
      key: of this permutation.
      positions: integers in [0, number), of any shape.
      number: examples, from 1 to `MAX_EXAMPLES`.

    >>> print(jnp.sort(shuffled(jax.random.key(0), jnp.arange(5), 5)))
    [0 1 2 3 4]
    """
    rounds = 6 * max(number - 1, 1).bit_length()
    seeds = jax.random.bits(key, (2, 1)) + np.arange(rounds, dtype=np.uint32) * np.uint32(0x9E3779B9)
    turns, coins = _hash(seeds)
    turns, size = turns % np.uint32(number), np.uint32(number)

    def swap_round(i: int, x: jax.Array) -> jax.Array:
        partner = jnp.where(turns[i] >= x, turns[i] - x, turns[i] + size - x)
        return jnp.where(_hash(jnp.maximum(x, partner) ^ coins[i]) >> 31 == 1, partner, x)

    # a CPU runs the loop as it stands; an accelerator would start a kernel in every round
    loop, unrolled = (functools.partial(jax.lax.fori_loop, 0, rounds, swap_round, unroll=flag) for flag in (1, True))
    return jax.lax.platform_dependent(positions.astype(jnp.uint32), cpu=loop, default=unrolled).astype(jnp.int32)


def _hash(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
