r"""Ratings to be completed by a product of two thin matrices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.problems.base import Parts, problem
from gdjax.problems.bundled import Split, split
from gdjax.problems.checks import at_least
from gdjax.value import NonNegative


@problem
def recommendation(users: int = 300, items: int = 200, rank: int = 4, noise: NonNegative = 0.1, seed: int = 0):
    r"""Complete a table of ratings of which half is known: matrix factorisation.

    $f(U, V) = \frac{1}{2 n} \sum_{(i, j)} (u_i^\top v_j - r_{ij})^2$ over the ratings of a batch. The table is
    $A B^\top / \sqrt k + \sigma Z$ with $A$, $B$, $Z$ normal and rank $k$, from NumPy's generator of the seed; so
    ratings have variance $1 + \sigma^2$, and $\sigma$ is the least that `rmse` can be expected to be on what is held
    out. Every other rating is known; of these every fifth is held out. $U$ and $V$ start normal with variance
    $1 / \sqrt k$, so that their product has that of the ratings.

    Source: Koren, Bell and Volinsky 2009, equation 2 (https://doi.org/10.1109/MC.2009.263); without its penalty.

    Args:
      users: rows of the table, at least 1.
      items: columns of the table, at least 1.
      rank: $k$, at least 1.
      noise: $\sigma$, in [0, inf).
      seed: of the table, at least 0.

    Raises:
      ValueError: if one of the sizes is no integer of at least 1, or the seed none of at least 0.

    >>> import gdjax as gd
    >>> p = gd.problems.recommendation(users=30, items=20)
    >>> rows, columns, ratings = p.train
    >>> ratings.shape, p.target
    ((240,), 'rmse<0.11')
    """
    at_least("recommendation", 1, users=users, items=items, rank=rank)
    at_least("recommendation", 0, seed=seed)

    def init(key):
        left, right = jax.random.split(key)
        scale = rank**-0.25
        return {
            "users": scale * jax.random.normal(left, (users, rank)),
            "items": scale * jax.random.normal(right, (items, rank)),
        }

    def loss(params, batch):
        rows, columns, ratings = batch
        predicted = (params["users"][rows] * params["items"][columns]).sum(-1)
        return 0.5 * jnp.mean((predicted - ratings) ** 2)

    def noisy(part):
        rows, columns, clean, normal = part
        return rows, columns, clean + noise * normal

    return Parts(
        init=init,
        loss=loss,
        train=lambda: noisy(_table(users, items, rank, seed).train),
        held_out=lambda: noisy(_table(users, items, rank, seed).held_out),
        metrics={"rmse": lambda params, batch: jnp.sqrt(2 * loss(params, batch))},
        target=lambda: f"rmse<{1.1 * float(noise):g}" if noise else None,
        optimizer="params_ema(adam(0.02), decay=0.99)",
        batch_size=256,
        epochs=15,
    )


@functools.lru_cache(maxsize=4)
def _table(users: int, items: int, rank: int, seed: int) -> Split:
    """Rows, columns, ratings without noise, and noise of variance 1, in an order by chance."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(users, rank)), rng.normal(size=(items, rank))
    known = rng.permutation(users * items)[: users * items // 2]
    rows, columns = np.divmod(known, items)
    clean = (a[rows] * b[columns]).sum(1) / np.sqrt(rank)
    normal = rng.normal(size=len(known))
    return split(*(x.astype(np.int32) for x in (rows, columns)), *(x.astype(np.float32) for x in (clean, normal)))
