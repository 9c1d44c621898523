r"""Problems with tiny gradients: near a saddle, and far out on a plateau."""

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.problems.base import Parts, problem
from gdjax.problems.checks import require_sizes
from gdjax.value import NonNegative, Positive


@problem
def saddle(offset: NonNegative = 1e-3):
    r"""Escape a saddle, from a start so near its ridge that descent first leads to it.

    $f(x, y) = \frac{1}{4} (x^2 - 1)^2 + \frac{1}{2} y^2$, starting at $(\delta z, 1)$ with $z$ normal. At the saddle,
    $(0, 0)$, the curvatures are $-1$ and $1$. The optimum is 0, at $(1, 0)$ and at $(-1, 0)$.

    Source: Dauphin et al. 2014, section 4 (https://arxiv.org/abs/1406.2572), on the effect of saddles on descent.

    Args:
      offset: $\delta$, the scale of the initial distance to the ridge, in [0, inf).

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
    r"""Descend from a plateau, where the gradient is almost 0 although the minimum is far.

    $f(x) = 1 - \exp(-\frac{1}{2} \|x\|^2)$, starting at distance $r$, where the gradient has norm $r \exp(-r^2 / 2)$.
    The optimum is 0, at $x = 0$. Adam arrives fast, but its second moment forgets the large gradients on the way, and
    its steps then grow and overshoot. AMSGrad, the default, does not forget.

    Source: Dennis and Welsch 1978 (https://doi.org/10.1080/03610917808812083), the loss that ignores distant points.

    Args:
      distance: $r$, the distance of the start from the minimum, in (0, inf].
      size: the number of weights, at least 1.

    Raises:
      ValueError: `size` is not an integer of at least 1.

    >>> import jax, gdjax as gd
    >>> p = gd.problems.plateau(5)
    >>> gradient = jax.grad(p.loss)(p.init(jax.random.key(0)), None)
    >>> print(f"{jnp.linalg.norm(gradient):.2g}")
    1.9e-05
    """
    require_sizes("plateau", 1, size=size)

    def init(key):
        direction = jax.random.normal(key, (size,))
        return distance * direction / jnp.linalg.norm(direction)

    def loss(x, batch):
        exponent = -0.5 * (x**2).sum()
        clipped = jnp.maximum(exponent, -1.0)  # expm1 and its gradient are accurate here
        return jnp.where(exponent > -1.0, -jnp.expm1(clipped), 1 - jnp.exp(exponent))

    return Parts(
        init=init,
        loss=loss,
        optimum=0.0,
        minimizer=lambda: np.zeros(size),
        target="gap<1e-9",
        optimizer="amsgrad(0.1)",
        steps=1_000,
    )
