"""Second-order derivatives: the names of `optax.second_order`, gdjax's own where it has them."""

from optax.second_order import fisher_diag as fisher_diag
from optax.second_order import hessian_diag as hessian_diag
from optax.second_order import hvp as hvp
