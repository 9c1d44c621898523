"""Perturbed functions: the names of `optax.perturbations`, gdjax's own where it has them."""

from optax.perturbations import Gumbel as Gumbel
from optax.perturbations import Normal as Normal
from optax.perturbations import make_perturbed_fun as make_perturbed_fun
