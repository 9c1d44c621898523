"""Optax's transforms that gdjax does not implement, lifted under their own names.

`static` names parameters that Optax branches on, or whose number it needs, while it builds the program. `explicit`
marks transforms that consist of a function of the user. `passes` marks transforms that only pass leaves on to other
transforms or functions, and get them in their own dtypes. All others get 16-bit leaves as float32. `real` marks
transforms that compare or square numbers, and so take no complex leaves. `examples` marks transforms of per-example
gradients.
"""

import optax.contrib

from gdjax.value import lift

# Optimizers

lbfgs = lift(optax.lbfgs)
noisy_sgd = lift(optax.noisy_sgd)
polyak_sgd = lift(optax.polyak_sgd)

# Transforms

add_noise = lift(optax.add_noise)
keep_params_nonnegative = lift(optax.keep_params_nonnegative, real=True)
set_to_zero = lift(optax.set_to_zero, any_dtype=True, passes=True)

# Scalings

scale_by_backtracking_linesearch = lift(optax.scale_by_backtracking_linesearch)
scale_by_lbfgs = lift(optax.scale_by_lbfgs)
scale_by_polyak = lift(optax.scale_by_polyak)
scale_by_zoom_linesearch = lift(optax.scale_by_zoom_linesearch)

# Wrappers

apply_every = lift(optax.apply_every)
conditionally_mask = lift(optax.conditionally_mask, passes=True)
conditionally_transform = lift(optax.conditionally_transform, passes=True)
flatten = lift(optax.flatten)
measure_with_ema = lift(optax.measure_with_ema)
snapshot = lift(optax.snapshot, passes=True)
stateless = lift(optax.stateless, explicit=True)
stateless_with_tree_map = lift(optax.stateless_with_tree_map, explicit=True)

# Contributed

acprop = lift(optax.contrib.acprop)
cocob = lift(optax.contrib.cocob, real=True)
differentially_private_aggregate = lift(optax.contrib.differentially_private_aggregate, examples=True)
dpsgd = lift(optax.contrib.dpsgd, examples=True)
galore = lift(optax.contrib.galore, real=True)
hutchinson_estimator_diag_hessian = lift(optax.contrib.hutchinson_estimator_diag_hessian, real=True)
madgrad = lift(optax.contrib.madgrad, real=True)
mechanize = lift(optax.contrib.mechanize, real=True)
momo = lift(optax.contrib.momo, real=True)
momo_adam = lift(optax.contrib.momo_adam, real=True)
scale_by_acprop = lift(optax.contrib.scale_by_acprop)
scale_by_cocob = lift(optax.contrib.scale_by_cocob, real=True)
scale_by_galore = lift(optax.contrib.scale_by_galore, real=True)
scale_by_madgrad = lift(optax.contrib.scale_by_madgrad, real=True)
sophia = lift(optax.contrib.sophia, real=True)
split_real_and_imaginary = lift(optax.contrib.split_real_and_imaginary, passes=True)
