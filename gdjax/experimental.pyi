"""Experimental modules: the names of `optax.experimental`, gdjax's own where it has them."""

from optax.experimental import aggregating as aggregating
