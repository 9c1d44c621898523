"""Assignment problems: the names of `optax.assignment`, gdjax's own where it has them."""

from optax.assignment import base_hungarian_algorithm as base_hungarian_algorithm
from optax.assignment import hungarian_algorithm as hungarian_algorithm
