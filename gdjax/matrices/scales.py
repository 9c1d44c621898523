"""How long the update of a matrix is, by its shape."""

import functools
from collections.abc import Callable
from typing import Any

from gdjax.value import NonNegative
from gdjax.value.base import Value, register
from gdjax.value.factory import declared
from gdjax.value.printing import text, uncalled


@register
class Scale(Value):
    """A factor that is a function of a matrix's shape: call it with the numbers of inputs and of outputs."""

    def __call__(self, inputs: int, outputs: int) -> Any:
        """The factor."""
        return self.body()(inputs, outputs)

    @classmethod
    def taken(cls, name: str, argument: Any) -> "Scale":
        """An argument as a scale, a plain function too."""
        if isinstance(argument, cls):
            return argument
        if not callable(argument) or isinstance(argument, Value) or uncalled(argument):
            wanted = "a function of inputs and outputs, as jordan_scale()"
            raise TypeError(f"{name} must be {wanted}, got {text(argument)}{uncalled(argument)}")
        return opaque_scale(argument)

    def check(self) -> None:
        """Run the body once, so that what it refuses is refused when the value is made."""
        self.body()


ScaleOrFunction = Scale | Callable[[int, int], Any]

scale = functools.partial(declared, kind=Scale)


@scale
def opaque_scale(function: Any):
    """A plain function of inputs and outputs among values: no leaves, equal only to itself."""
    return function


@scale
def jordan_scale():
    r"""$\sqrt{\max(1, out / in)}$: an update moves what a layer puts out by as much whatever its shape.

    Source: Jordan 2024 (https://kellerjordan.github.io/posts/muon).

    >>> jordan_scale()(64, 256)
    2.0
    """
    return lambda inputs, outputs: max(1.0, outputs / max(inputs, 1)) ** 0.5


@scale
def moonlight_scale(factor: NonNegative = 0.2):
    r"""$c \sqrt{\max(in, out)}$: the root mean square of an update is that of AdamW's, whose rates carry over.

    Source: Liu et al. 2025, equation 4 (https://arxiv.org/abs/2502.16982).

    Args:
      factor: $c$, in [0, inf).

    >>> round(moonlight_scale()(64, 256), 6)
    3.2
    """
    return lambda inputs, outputs: factor * max(inputs, outputs) ** 0.5
