"""One algorithm, one file: its state, its transform `scale_by_*`, and the named optimizers made of it."""

from gdjax.algorithms.optimistic import optimistic_adam as optimistic_adam
from gdjax.algorithms.optimistic import optimistic_adam_v2 as optimistic_adam_v2
from gdjax.algorithms.optimistic import optimistic_gradient_descent as optimistic_gradient_descent
from gdjax.algorithms.optimistic import scale_by_optimistic_gradient as scale_by_optimistic_gradient
from gdjax.algorithms.rprop import rprop as rprop
from gdjax.algorithms.rprop import scale_by_rprop as scale_by_rprop
from gdjax.algorithms.sm3 import scale_by_sm3 as scale_by_sm3
from gdjax.algorithms.sm3 import sm3 as sm3
