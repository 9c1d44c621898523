"""Inverse roots of matrices as values, by name."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from gdjax.linalg import inverse_root, inverse_root_by_newton
from gdjax.matrices.function_value import FunctionValue
from gdjax.value.base import register
from gdjax.value.factory import declared


@register
class InverseRoot(FunctionValue):
    r"""A function `(a, exponent, eps)` that returns $(A + \epsilon I)^{-e}$ of a stack of matrices."""

    _takes = "matrices, an exponent and eps, as eigh_root()"

    @classmethod
    def opaque(cls, function: Callable[..., Any]) -> "InverseRoot":
        """Return the value of a plain function."""
        return opaque_root(function)

    @classmethod
    def taken(cls, name: str, argument: object) -> "InverseRoot":
        """Return an argument of a factory as a value; a plain function or an earlier name, `"eigh"`, is accepted."""
        if not isinstance(argument, str):
            return super().taken(name, argument)
        if argument not in _NAMES:
            raise ValueError(f"{name} must be one of {', '.join(_NAMES)}, got {argument!r}")
        return _NAMES[argument]()


InverseRootOrFunction = InverseRoot | Callable[[jax.Array, float, Any], jax.Array]

root = functools.partial(declared, kind=InverseRoot)


@root
def opaque_root(function: Any):
    """Make a value of a plain function of matrices, an exponent and eps: it has no leaves, and equals only itself."""
    return function


@root
def eigh_root():
    """Compute inverse roots by eigenvalues, `gd.linalg.inverse_root`: for any exponent.

    >>> import jax.numpy as jnp
    >>> print(eigh_root()(jnp.diag(jnp.array([16.0, 1.0])), 0.25, 1e-12).round(3))
    [[0.5 0. ]
     [0.  1. ]]
    """
    return inverse_root


@root
def newton_root():
    """Compute inverse roots by products alone, `gd.linalg.inverse_root_by_newton`.

    The exponent must be 1/p with an integer p. Use it where no fast `eigh` exists.

    >>> import jax.numpy as jnp
    >>> print(newton_root()(jnp.diag(jnp.array([16.0, 1.0])), 0.25, 1e-12).round(3))
    [[0.5 0. ]
     [0.  1. ]]
    """
    return inverse_root_by_newton


_NAMES = {"eigh": eigh_root, "newton": newton_root}
"""Roots by the names that earlier versions printed."""
