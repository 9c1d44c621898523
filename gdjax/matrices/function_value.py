"""Values that stand for a function: a scale of matrices, an inverse root."""

from collections.abc import Callable
from typing import Any, Self

from gdjax.value.base import Value
from gdjax.value.printing import text, uncalled


class FunctionValue(Value):
    """A value that is called as the function that its factory returns."""

    _takes = ""
    """The arguments of the function, and an example, for errors."""

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        return self.body()(*args)

    @classmethod
    def opaque(cls, function: Callable[..., Any]) -> Self:
        """Return the value of a plain function."""
        raise NotImplementedError

    @classmethod
    def taken(cls, name: str, argument: object) -> Self:
        """Return an argument of a factory as a value; it may be a plain function."""
        if isinstance(argument, cls):
            return argument
        if not callable(argument) or isinstance(argument, Value) or uncalled(argument):
            raise TypeError(f"{name} must be a function of {cls._takes}, got {text(argument)}{uncalled(argument)}")
        return cls.opaque(argument)

    def check(self) -> None:
        """Run the body once, so that arguments it refuses are refused when the value is made."""
        self.body()
