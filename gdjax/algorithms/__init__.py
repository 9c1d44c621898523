"""One algorithm, one file: its state, its transform `scale_by_*`, and the named optimizers made of it."""

from gdjax.algorithms.distance_over_gradients import (
    scale_by_distance_over_gradients as scale_by_distance_over_gradients,
)
from gdjax.algorithms.optimistic import optimistic_adam as optimistic_adam
from gdjax.algorithms.optimistic import optimistic_adam_v2 as optimistic_adam_v2
from gdjax.algorithms.optimistic import optimistic_gradient_descent as optimistic_gradient_descent
from gdjax.algorithms.optimistic import scale_by_optimistic_gradient as scale_by_optimistic_gradient
from gdjax.algorithms.rprop import rprop as rprop
from gdjax.algorithms.rprop import scale_by_rprop as scale_by_rprop
from gdjax.algorithms.simplified_ademamix import scale_by_simplified_ademamix as scale_by_simplified_ademamix
from gdjax.algorithms.simplified_ademamix import simplified_ademamix as simplified_ademamix
from gdjax.algorithms.sm3 import scale_by_sm3 as scale_by_sm3
from gdjax.algorithms.sm3 import sm3 as sm3
