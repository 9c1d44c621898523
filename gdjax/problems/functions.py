r"""Test functions with known minima: a parabola, a quadratic, Rosenbrock, Beale and Rastrigin."""

import functools
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.problems.base import Parts, problem
from gdjax.problems.checks import require_sizes
from gdjax.value import Interval, Scalar

Condition = Annotated[Scalar, Interval("[1, inf)")]


@problem
def parabola(start: Scalar = 5.0, least: Scalar = 2.0):
    r"""Minimize a parabola of one weight, checked by hand: the gradient is 6, the next weight 4.4.

    $f(w) = (w - a)^2$, starting at $w = w_0$ for every key. The optimum is 0, at $w = a$.

    Source: Cauchy 1847, for gradient descent.

    Args:
      start: $w_0$, the initial weight, in (-inf, inf).
      least: $a$, the minimizer, in (-inf, inf).

    >>> import jax, gdjax as gd
    >>> p = gd.problems.parabola()
    >>> w, tx = p.init(jax.random.key(0)), gd.parse(p.optimizer)
    >>> gradient = jax.grad(p.loss)(w, None)
    >>> updates, state = tx.update(gradient, tx.init(w))
    >>> print(gradient, gd.apply_updates(w, updates))
    6.0 4.4
    """
    return Parts(
        init=lambda key: jnp.asarray(start, float),
        loss=lambda w, batch: (w - least) ** 2,
        optimum=0.0,
        minimizer=lambda: np.asarray(least, float),
        target="gap<1e-9",
        optimizer="sgd(0.1)",
        steps=100,
    )


@problem
def quadratic(condition: Condition = 100.0, size: int = 10):
    r"""Minimize a quadratic of any condition number: a long valley.

    $f(x) = \frac{1}{2} x^\top Q \Lambda Q^\top x$, starting at a normal $x$. The diagonal of $\Lambda$ falls
    geometrically from 1 to $1 / \kappa$; the columns of $Q$ are cosines (an orthonormal DCT-II). The optimum is 0, at
    $x = 0$. The default optimizer is the optimal heavy ball, with learning rate $4 / (1 + \kappa^{-1/2})^2$ and
    momentum $((\sqrt\kappa - 1) / (\sqrt\kappa + 1))^2$.

    Source: Polyak 1964, section 2 (https://doi.org/10.1016/0041-5553(64)90137-5).

    Args:
      condition: $\kappa$, the condition number: the largest curvature over the smallest, in [1, inf).
      size: the number of weights, at least 2.

    Raises:
      ValueError: `size` is not an integer of at least 2.

    >>> import jax, gdjax as gd
    >>> p = gd.problems.quadratic(100, size=3)
    >>> hessian = jax.hessian(p.loss)(p.init(jax.random.key(0)), None)
    >>> print(f"{jnp.linalg.cond(hessian):.1f}")
    100.0
    """
    require_sizes("quadratic", 2, size=size)

    def loss(x, batch):
        curvatures = condition ** -jnp.linspace(0.0, 1.0, size)
        return 0.5 * curvatures @ (x @ jnp.asarray(_cosine_matrix(size), float)) ** 2

    def optimizer():
        root = float(condition) ** 0.5
        return f"sgd({4 / (1 + 1 / root) ** 2:.6g}, momentum={((root - 1) / (root + 1)) ** 2:.6g})"

    return Parts(
        init=lambda key: jax.random.normal(key, (size,)),
        loss=loss,
        optimum=0.0,
        minimizer=lambda: np.zeros(size),
        target="gap<1e-9",
        optimizer=optimizer,
        steps=lambda: 50 + int(20 * float(condition) ** 0.5),
    )


@problem
def rosenbrock(size: int = 2):
    r"""Minimize Rosenbrock's function, a curved valley with an almost flat floor.

    $f(x) = \sum_i 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2$, starting at $(-1.2, 1, -1.2, 1, \dots)$ for every key. The
    optimum is 0, where all weights are 1. With 4 or more weights there is also a local minimum near $x_1 = -1$.

    Source: Rosenbrock 1960 (https://doi.org/10.1093/comjnl/3.3.175); for many weights, De Jong 1975.

    Args:
      size: the number of weights, at least 2.

    Raises:
      ValueError: `size` is not an integer of at least 2.

    >>> import jax, gdjax as gd
    >>> p = gd.problems.rosenbrock()
    >>> print(f"{p.loss(p.init(jax.random.key(0)), None):.1f}")
    24.2
    """
    require_sizes("rosenbrock", 2, size=size)
    return Parts(
        init=lambda key: jnp.asarray(np.resize([-1.2, 1.0], size), float),
        loss=lambda x, batch: (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum(),
        optimum=0.0,
        minimizer=lambda: np.ones(size),
        target="gap<1e-9",
        optimizer="adam(0.02)",
        steps=5_000,
    )


@problem
def beale():
    r"""Minimize Beale's function, a plain with one narrow valley.

    $f(x, y) = (1.5 - x + xy)^2 + (2.25 - x + xy^2)^2 + (2.625 - x + xy^3)^2$, starting at $(1, 1)$ for every
    key. The optimum is 0, at $(3, 0.5)$.

    Source: Beale 1958; More, Garbow and Hillstrom 1981, problem 5 (https://doi.org/10.1145/355934.355936).

    >>> import jax, gdjax as gd
    >>> p = gd.problems.beale()
    >>> print(f"{p.loss(p.init(jax.random.key(0)), None):.4f}")
    14.2031
    """

    def loss(params, batch):
        x, y = params
        return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2

    return Parts(
        init=lambda key: jnp.ones(2),
        loss=loss,
        optimum=0.0,
        minimizer=np.array([3.0, 0.5]),
        target="gap<1e-9",
        optimizer="adam(0.02)",
        steps=3_000,
    )


@problem
def rastrigin(size: int = 2):
    r"""Minimize Rastrigin's function, which has very many local minima.

    $f(x) = \sum_i x_i^2 + 10 (1 - \cos 2 \pi x_i)$, starting at a uniform point in $[-5.12, 5.12]^n$. The optimum is 0,
    at $x = 0$. There is a local minimum near each point with integer coordinates; the default run ends in the nearest.

    Source: Rastrigin 1974; for many weights, Muehlenbein et al. 1991.

    Args:
      size: the number of weights, at least 1.

    Raises:
      ValueError: `size` is not an integer of at least 1.

    >>> import gdjax as gd
    >>> p = gd.problems.rastrigin()
    >>> print(p.loss(jnp.zeros(2), None), f"{p.loss(jnp.full(2, 0.5), None):.1f}")
    0.0 40.5
    """
    require_sizes("rastrigin", 1, size=size)
    return Parts(
        init=lambda key: jax.random.uniform(key, (size,), minval=-5.12, maxval=5.12),
        loss=lambda x, batch: (x**2 + 20 * jnp.sin(jnp.pi * x) ** 2).sum(),  # 1 - cos, accurate near 0
        optimum=0.0,
        minimizer=lambda: np.zeros(size),
        optimizer="adam(0.02)",
        steps=1_000,
    )


@functools.lru_cache(maxsize=4)
def _cosine_matrix(size: int) -> np.ndarray:
    """Return a fixed orthonormal matrix, no column of which lies along an axis."""
    rows, columns = np.mgrid[:size, :size]
    waves = np.cos(np.pi * (rows + 0.5) * columns / size)
    return waves / np.linalg.norm(waves, axis=0)
