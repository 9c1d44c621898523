"""Blocks that algorithms are made of: clipping, decay, scaling, momentum, normalizing, plateau, trust."""

from gdjax import exports
from gdjax.fallback import stand_in

__getattr__, __dir__ = stand_in(__name__, exports.HOME)
