r"""Matrix factorization of a table of ratings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.problems.base import Parts, problem
from gdjax.problems.bundled import Split, split_rows
from gdjax.problems.checks import require_sizes
from gdjax.value import NonNegative


@problem
def recommendation(users: int = 300, items: int = 200, rank: int = 4, noise: NonNegative = 0.1, seed: int = 0):
    r"""Complete a table of ratings, half of which is known, by matrix factorization.

    $f(U, V) = \frac{1}{2 n} \sum_{(i, j)} (u_i^\top v_j - r_{ij})^2$ over the ratings of a batch. The table is
    $A B^\top / \sqrt k + \sigma Z$, of rank $k$ plus noise, with $A$, $B$ and $Z$ normal, from NumPy's generator with
    the seed. Ratings have variance $1 + \sigma^2$; the best expected `rmse` on held-out ratings is $\sigma$. Half of
    the ratings are known, and every fifth of these is held out. $U$ and $V$ start normal with variance
    $1 / \sqrt k$, so that their product has variance 1.

    Source: Koren, Bell and Volinsky 2009, equation 2 (https://doi.org/10.1109/MC.2009.263), without its penalty.

    Args:
      users: the number of rows of the table, at least 1.
      items: the number of columns of the table, at least 1.
      rank: $k$, at least 1.
      noise: $\sigma$, in [0, inf).
      seed: the seed of the table, at least 0.

    Raises:
      ValueError: a size is not an integer of at least 1, or the seed is not an integer of at least 0.

    >>> import gdjax as gd
    >>> p = gd.problems.recommendation(users=30, items=20)
    >>> rows, columns, ratings = p.train
    >>> ratings.shape, p.target
    ((240,), 'rmse<0.11')
    """
    require_sizes("recommendation", 1, users=users, items=items, rank=rank)
    require_sizes("recommendation", 0, seed=seed)

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

    def add_noise(split):
        rows, columns, clean, normal = split
        return rows, columns, clean + noise * normal

    return Parts(
        init=init,
        loss=loss,
        train=lambda: add_noise(_make_table(users, items, rank, seed).train),
        held_out=lambda: add_noise(_make_table(users, items, rank, seed).held_out),
        metrics={"rmse": lambda params, batch: jnp.sqrt(2 * loss(params, batch))},
        target=lambda: f"rmse<{1.1 * float(noise):g}" if noise else None,
        optimizer="params_ema(adam(0.02), decay=0.99)",
        batch_size=256,
        epochs=15,
    )


@functools.lru_cache(maxsize=4)
def _make_table(users: int, items: int, rank: int, seed: int) -> Split:
    """Return rows, columns, ratings without noise, and noise of variance 1, in random order."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(users, rank)), rng.normal(size=(items, rank))
    known = rng.permutation(users * items)[: users * items // 2]
    rows, columns = np.divmod(known, items)
    clean = (a[rows] * b[columns]).sum(1) / np.sqrt(rank)
    normal = rng.normal(size=len(known))
    return split_rows(*(x.astype(np.int32) for x in (rows, columns)), *(x.astype(np.float32) for x in (clean, normal)))
