"""All else of Optax, lifted under its own name: the one table of what is not written here.

Static is what Optax branches on, or needs the number of, while it builds the program. Explicit is what is a
function of the user's and nothing else.
"""

import optax.contrib

from gdjax.value import lift

# Optimizers

lbfgs = lift(optax.lbfgs)
noisy_sgd = lift(optax.noisy_sgd)
polyak_sgd = lift(optax.polyak_sgd)

# Transforms

add_noise = lift(optax.add_noise)
keep_params_nonnegative = lift(optax.keep_params_nonnegative)
set_to_zero = lift(optax.set_to_zero, any_dtype=True)

# Scalings

scale_by_backtracking_linesearch = lift(optax.scale_by_backtracking_linesearch)
scale_by_distance_over_gradients = lift(optax.scale_by_distance_over_gradients)
scale_by_lbfgs = lift(optax.scale_by_lbfgs)
scale_by_polyak = lift(optax.scale_by_polyak)
scale_by_zoom_linesearch = lift(optax.scale_by_zoom_linesearch)

# Wrappers

apply_every = lift(optax.apply_every)
conditionally_mask = lift(optax.conditionally_mask)
conditionally_transform = lift(optax.conditionally_transform)
flatten = lift(optax.flatten)
freeze = lift(optax.freeze, any_dtype=True)
measure_with_ema = lift(optax.measure_with_ema)
monitor = lift(optax.monitor)
partition = lift(optax.partition)
selective_transform = lift(optax.selective_transform)
snapshot = lift(optax.snapshot)
stateless = lift(optax.stateless, explicit=True)
stateless_with_tree_map = lift(optax.stateless_with_tree_map, explicit=True)
multi_transform = partition

# Contributed

acprop = lift(optax.contrib.acprop)
cocob = lift(optax.contrib.cocob)
differentially_private_aggregate = lift(optax.contrib.differentially_private_aggregate)
dpsgd = lift(optax.contrib.dpsgd)
galore = lift(optax.contrib.galore)
hutchinson_estimator_diag_hessian = lift(optax.contrib.hutchinson_estimator_diag_hessian)
madgrad = lift(optax.contrib.madgrad)
mechanize = lift(optax.contrib.mechanize)
momo = lift(optax.contrib.momo)
momo_adam = lift(optax.contrib.momo_adam)
scale_by_acprop = lift(optax.contrib.scale_by_acprop)
scale_by_cocob = lift(optax.contrib.scale_by_cocob)
scale_by_galore = lift(optax.contrib.scale_by_galore)
scale_by_madgrad = lift(optax.contrib.scale_by_madgrad)
scale_by_simplified_ademamix = lift(optax.contrib.scale_by_simplified_ademamix)
simplified_ademamix = lift(optax.contrib.simplified_ademamix)
sophia = lift(optax.contrib.sophia)
split_real_and_imaginary = lift(optax.contrib.split_real_and_imaginary)
