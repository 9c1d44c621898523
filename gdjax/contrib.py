"""Contributed optimizers: the names of `optax.contrib`, gdjax's own where it has them."""

from gdjax import exports
from gdjax.fallback import stand_in

__getattr__, __dir__ = stand_in(__name__, exports.HOME)
