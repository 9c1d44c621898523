r"""Where gradients say little: beside a saddle, and far out on a plateau."""

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.problems.base import Parts, problem
from gdjax.problems.checks import at_least
from gdjax.value import NonNegative, Positive


@problem
def saddle(offset: NonNegative = 1e-3):
    r"""Leave a saddle, from so near its ridge that at first the descent goes straight to it.

    $f(x, y) = \frac{1}{4} (x^2 - 1)^2 + \frac{1}{2} y^2$ from $(\delta z, 1)$ with $z$ normal. At the saddle, $(0, 0)$,
    the curvatures are $-1$ and $1$; the optimum is 0 at $(1, 0)$ and at $(-1, 0)$.

    Source: Dauphin et al. 2014, section 4 (https://arxiv.org/abs/1406.2572), for what saddles do to descent.

    Args:
      offset: $\delta$, how far from the ridge the descent starts, in [0, inf).

    >>> import jax, gdjax as gd
    >>> print(jax.hessian(gd.problems.saddle().loss)(jnp.zeros(2), None))
    [[-1.  0.]
     [ 0.  1.]]
    """

    def loss(params, batch):
        x, y = params
        return 0.25 * (x**2 - 1) ** 2 + 0.5 * y**2

    return Parts(
        init=lambda key: jnp.array([0.0, 1.0]).at[0].set(offset * jax.random.normal(key)),
        loss=loss,
        optimum=0.0,
        minimizer=np.array([1.0, 0.0]),
        target="gap<1e-9",
        optimizer="sgd(0.1, momentum=0.9)",
        steps=1_000,
    )


@problem
def plateau(distance: Positive = 5.0, size: int = 2):
    r"""Come in from a plateau, where the gradient is all but zero though the least is far.

    $f(x) = 1 - \exp(-\frac{1}{2} \|x\|^2)$ from a point at distance $r$; there the gradient is $r \exp(-r^2 / 2)$ long.
    The optimum is 0 at $x = 0$. Adam comes in fast, but forgets how large the gradients on its way were and is thrown
    out again by its own steps; AMSGrad, the default, does not forget.

    Source: Dennis and Welsch 1978 (https://doi.org/10.1080/03610917808812083), the loss that forgets what is far.

    Args:
      distance: $r$, in (0, inf].
      size: how many weights, at least 1.

    Raises:
      ValueError: if the size is no integer of at least 1.

    >>> import jax, gdjax as gd
    >>> p = gd.problems.plateau(5)
    >>> gradient = jax.grad(p.loss)(p.init(jax.random.key(0)), None)
    >>> print(f"{jnp.linalg.norm(gradient):.2g}")
    1.9e-05
    """
    at_least("plateau", 1, size=size)

    def init(key):
        direction = jax.random.normal(key, (size,))
        return distance * direction / jnp.linalg.norm(direction)

    def loss(x, batch):
        exponent = -0.5 * (x**2).sum()
        near = jnp.maximum(exponent, -1.0)  # where expm1 is exact, as is its gradient
        return jnp.where(exponent > -1.0, -jnp.expm1(near), 1 - jnp.exp(exponent))

    return Parts(
        init=init,
        loss=loss,
        optimum=0.0,
        minimizer=lambda: np.zeros(size),
        target="gap<1e-9",
        optimizer="amsgrad(0.1)",
        steps=1_000,
    )
