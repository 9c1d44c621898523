"""A random order of which any part can be told alone: no epoch is sorted, and no order is kept."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

LARGEST = 2**31 - 1
"""Examples at the most."""


def shuffled(key: jax.Array, places: jax.Array, number: int) -> jax.Array:
    r"""Tell which examples stand at these places of a random order of all.

    In every round an example $x$ has a partner $K - x \bmod N$, and a coin that the two share says whether they change
    places: each round is a bijection, so every example stands at one place. After $6 \log_2 N$ rounds the order cannot
    be told from a uniform one.

    Source: Hoang, Morris, Rogaway 2012, figure 1 (swap-or-not) and its number of rounds
    (https://doi.org/10.1007/978-3-642-32009-5_1). The coin is a bit of a hash (the finalizer of MurmurHash3).

    Args:
      key: of this order.
      places: integers in [0, number), of any shape.
      number: examples, from 1 to `LARGEST`.

    >>> print(jnp.sort(shuffled(jax.random.key(0), jnp.arange(5), 5)))
    [0 1 2 3 4]
    """
    rounds = 6 * max(number - 1, 1).bit_length()
    turns, coins = _hashed(jax.random.bits(key, (2, 1)) + np.arange(rounds, dtype=np.uint32) * np.uint32(0x9E3779B9))
    turns, last = turns % np.uint32(number), np.uint32(number)

    def swapped(i: int, x: jax.Array) -> jax.Array:
        partner = jnp.where(turns[i] >= x, turns[i] - x, turns[i] + last - x)
        return jnp.where(_hashed(jnp.maximum(x, partner) ^ coins[i]) >> 31 == 1, partner, x)

    # a processor runs the loop as it stands; an accelerator would start a kernel in every round of it
    loop, one_kernel = (functools.partial(jax.lax.fori_loop, 0, rounds, swapped, unroll=how) for how in (1, True))
    return jax.lax.platform_dependent(places.astype(jnp.uint32), cpu=loop, default=one_kernel).astype(jnp.int32)


def _hashed(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
