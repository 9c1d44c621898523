"""Scales: the length of the update of a matrix as a function of its shape."""

import functools
from collections.abc import Callable
from typing import Any

from gdjax.matrices.function_value import FunctionValue
from gdjax.value import NonNegative
from gdjax.value.base import register
from gdjax.value.factory import declared


@register
class Scale(FunctionValue):
    """A factor that depends on the shape of a matrix: call it with the numbers of inputs and outputs."""

    _takes = "inputs and outputs, as jordan_scale()"

    @classmethod
    def opaque(cls, function: Callable[..., Any]) -> "Scale":
        """Return the value of a plain function."""
        return opaque_scale(function)


ScaleOrFunction = Scale | Callable[[int, int], Any]

scale = functools.partial(declared, kind=Scale)


@scale
def opaque_scale(function: Any):
    """Make a value of a plain function of inputs and outputs: it has no leaves, and equals only itself."""
    return function


@scale
def jordan_scale():
    r"""Return $\sqrt{\max(1, out / in)}$: an update changes the outputs of a layer by as much whatever its shape.

    Source: Jordan 2024 (https://kellerjordan.github.io/posts/muon).

    >>> jordan_scale()(64, 256)
    2.0
    """
    return lambda inputs, outputs: max(1.0, outputs / max(inputs, 1)) ** 0.5


@scale
def moonlight_scale(factor: NonNegative = 0.2):
    r"""Return $c \sqrt{\max(in, out)}$: updates have the root mean square of AdamW's, so its rates carry over.

    Source: Liu et al. 2025, equation 4 (https://arxiv.org/abs/2502.16982).

    Args:
      factor: $c$, in [0, inf).

    >>> round(moonlight_scale()(64, 256), 6)
    3.2
    """
    return lambda inputs, outputs: factor * max(inputs, outputs) ** 0.5
