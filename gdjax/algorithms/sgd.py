"""Stochastic gradient descent, with or without momentum."""

from gdjax.compose.chain import chain
from gdjax.transforms.momentum import trace
from gdjax.transforms.scaling import identity, scale_by_learning_rate
from gdjax.value import AccumulatorDType, LearningRate, Momentum, transform


@transform
def sgd(
    learning_rate: LearningRate,
    momentum: Momentum | None = None,
    nesterov: bool = False,
    accumulator_dtype: AccumulatorDType = None,
):
    r"""SGD with momentum, $p \leftarrow p - \eta\, t$ with $t$ from `trace`, or without, $p \leftarrow p - \eta\, g$.

    State: 4 bytes per parameter with momentum, none without.

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      momentum: the decay of `trace`, in [0, 1]; `None` for no momentum.
      nesterov, accumulator_dtype: as in `trace`.

    >>> import gdjax as gd
    >>> tx = gd.sgd(0.1)
    >>> params = 5.0
    >>> updates, state = tx.update(2 * (params - 2), tx.init(params), params)
    >>> print(gd.apply_updates(params, updates))
    4.4
    """
    return chain(
        identity() if momentum is None else trace(momentum, nesterov, accumulator_dtype),
        scale_by_learning_rate(learning_rate),
    )
