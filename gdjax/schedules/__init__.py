"""Schedules: functions of the step count, each a pytree whose leaves are its numbers."""

from gdjax import exports
from gdjax.fallback import stand_in
from gdjax.schedules.ademamix import ademamix_alpha as ademamix_alpha
from gdjax.schedules.ademamix import ademamix_b3 as ademamix_b3
from gdjax.schedules.cycling import cosine_onecycle_schedule as cosine_onecycle_schedule
from gdjax.schedules.cycling import linear_onecycle_schedule as linear_onecycle_schedule
from gdjax.schedules.cycling import sgdr_schedule as sgdr_schedule
from gdjax.schedules.cycling import warm_restarts as warm_restarts
from gdjax.schedules.decaying import cosine_decay_schedule as cosine_decay_schedule
from gdjax.schedules.decaying import exponential_decay as exponential_decay
from gdjax.schedules.decaying import inverse_sqrt as inverse_sqrt
from gdjax.schedules.decaying import linear_schedule as linear_schedule
from gdjax.schedules.decaying import polynomial_schedule as polynomial_schedule
from gdjax.schedules.joining import join_schedules as join_schedules
from gdjax.schedules.joining import scaled as scaled
from gdjax.schedules.piecewise import constant as constant
from gdjax.schedules.piecewise import constant_schedule as constant_schedule
from gdjax.schedules.piecewise import piecewise_constant_schedule as piecewise_constant_schedule
from gdjax.schedules.piecewise import piecewise_interpolate_schedule as piecewise_interpolate_schedule
from gdjax.schedules.warming import warmup_constant_schedule as warmup_constant_schedule
from gdjax.schedules.warming import warmup_cosine as warmup_cosine
from gdjax.schedules.warming import warmup_cosine_decay_schedule as warmup_cosine_decay_schedule
from gdjax.schedules.warming import warmup_exponential_decay_schedule as warmup_exponential_decay_schedule
from gdjax.schedules.warming import warmup_stable_decay as warmup_stable_decay

__getattr__, __dir__ = stand_in(__name__, exports.HOME)
