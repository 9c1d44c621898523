"""SignSGD and Signum: step by the sign of the gradient, or of its mean."""

import jax
import jax.numpy as jnp

from gdjax.compose.chain import chain
from gdjax.transforms.momentum import ema
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.value import (
    AccumulatorDType,
    Decay,
    LearningRate,
    stateless,
    transform,
)


@transform(elementwise=True)
def scale_by_sign():
    r"""Replace each element by its sign, $-1$, 0 or 1; a complex element by $g / |g|$.

    Stateless: 0 bytes per parameter. Source: Bernstein et al. 2018, algorithm 1 (https://arxiv.org/abs/1802.04434).

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> print(gd.scale_by_sign().update(jnp.array([-3.0, 0.0, 0.5]), ())[0])
    [-1.  0.  1.]
    """
    return stateless(lambda updates, params: jax.tree.map(jnp.sign, updates))


@transform
def sign_sgd(
    learning_rate: LearningRate,
):
    r"""SignSGD: $p \leftarrow p - \eta\, \mathrm{sign}(g)$.

    State: none. Source: Bernstein et al. 2018, algorithm 1 (https://arxiv.org/abs/1802.04434).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.sign_sgd(0.1)).transforms]
    ['scale_by_sign', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_sign(),
        scale_by_learning_rate(learning_rate),
    )


@transform
def signum(
    learning_rate: LearningRate,
    beta: Decay = 0.9,
    accumulator_dtype: AccumulatorDType = None,
):
    r"""Signum: $p \leftarrow p - \eta\, \mathrm{sign}(m)$ with $m$ from `ema`.

    State: 4 bytes per parameter (8 in float64). Source: Bernstein et al. 2018, algorithm 2 (https://arxiv.org/abs/1802.04434).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      beta, accumulator_dtype: the decay of `ema`, in [0, 1), and the dtype of its state.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.signum(0.1)).transforms]
    ['ema', 'scale_by_sign', 'scale_by_learning_rate']
    """
    return chain(
        ema(beta, debias=False, accumulator_dtype=accumulator_dtype),
        scale_by_sign(),
        scale_by_learning_rate(learning_rate),
    )
