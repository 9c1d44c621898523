"""Gradient descent for JAX: an optimizer is a value."""

import importlib
from typing import TYPE_CHECKING, Any

import optax

from gdjax import contrib as contrib
from gdjax import linalg as linalg
from gdjax import matrices as matrices
from gdjax import sharding as sharding
from gdjax.collectives import LocalStepsState as LocalStepsState
from gdjax.collectives import compressed_mean as compressed_mean
from gdjax.collectives import local_steps as local_steps
from gdjax.collectives import mean_over as mean_over
from gdjax.collectives import replicate as replicate
from gdjax.collectives import shard_update as shard_update
from gdjax.collectives import unreplicate as unreplicate
from gdjax.compose import WatchState as WatchState
from gdjax.compose import apply_updates as apply_updates
from gdjax.compose import by_path as by_path
from gdjax.compose import chain as chain
from gdjax.compose import descend as descend
from gdjax.compose import frozen as frozen
from gdjax.compose import hidden_matrices as hidden_matrices
from gdjax.compose import masked as masked
from gdjax.compose import metrics as metrics
from gdjax.compose import named_chain as named_chain
from gdjax.compose import watch as watch
from gdjax.describing import Description as Description
from gdjax.describing import describe as describe
from gdjax.lifted import *  # noqa: F403  (one table of names, not two)
from gdjax.matrices import jordan_scale as jordan_scale
from gdjax.matrices import moonlight_scale as moonlight_scale
from gdjax.names import factories as factories
from gdjax.names import parse as parse
from gdjax.norms import global_norm as global_norm
from gdjax.optimizers import adabelief as adabelief
from gdjax.optimizers import adadelta as adadelta
from gdjax.optimizers import adafactor as adafactor
from gdjax.optimizers import adagrad as adagrad
from gdjax.optimizers import adam as adam
from gdjax.optimizers import adamax as adamax
from gdjax.optimizers import adamaxw as adamaxw
from gdjax.optimizers import adamw as adamw
from gdjax.optimizers import adan as adan
from gdjax.optimizers import ademamix as ademamix
from gdjax.optimizers import adopt as adopt
from gdjax.optimizers import amsgrad as amsgrad
from gdjax.optimizers import came as came
from gdjax.optimizers import cautious_adamw as cautious_adamw
from gdjax.optimizers import dadapt_adamw as dadapt_adamw
from gdjax.optimizers import dog as dog
from gdjax.optimizers import dowg as dowg
from gdjax.optimizers import fromage as fromage
from gdjax.optimizers import lamb as lamb
from gdjax.optimizers import laprop as laprop
from gdjax.optimizers import lars as lars
from gdjax.optimizers import lion as lion
from gdjax.optimizers import mars_adamw as mars_adamw
from gdjax.optimizers import muon as muon
from gdjax.optimizers import nadam as nadam
from gdjax.optimizers import nadamw as nadamw
from gdjax.optimizers import normuon as normuon
from gdjax.optimizers import novograd as novograd
from gdjax.optimizers import prodigy as prodigy
from gdjax.optimizers import psgd_kron as psgd_kron
from gdjax.optimizers import radam as radam
from gdjax.optimizers import rmsprop as rmsprop
from gdjax.optimizers import schedule_free_adamw as schedule_free_adamw
from gdjax.optimizers import schedule_free_sgd as schedule_free_sgd
from gdjax.optimizers import sgd as sgd
from gdjax.optimizers import shampoo as shampoo
from gdjax.optimizers import sign_sgd as sign_sgd
from gdjax.optimizers import signum as signum
from gdjax.optimizers import soap as soap
from gdjax.optimizers import yogi as yogi
from gdjax.schedules import ademamix_alpha as ademamix_alpha
from gdjax.schedules import ademamix_b3 as ademamix_b3
from gdjax.schedules import constant as constant
from gdjax.schedules import constant_schedule as constant_schedule
from gdjax.schedules import cosine_decay_schedule as cosine_decay_schedule
from gdjax.schedules import cosine_onecycle_schedule as cosine_onecycle_schedule
from gdjax.schedules import exponential_decay as exponential_decay
from gdjax.schedules import inverse_sqrt as inverse_sqrt
from gdjax.schedules import join_schedules as join_schedules
from gdjax.schedules import linear_onecycle_schedule as linear_onecycle_schedule
from gdjax.schedules import linear_schedule as linear_schedule
from gdjax.schedules import piecewise_constant_schedule as piecewise_constant_schedule
from gdjax.schedules import piecewise_interpolate_schedule as piecewise_interpolate_schedule
from gdjax.schedules import polynomial_schedule as polynomial_schedule
from gdjax.schedules import scaled as scaled
from gdjax.schedules import sgdr_schedule as sgdr_schedule
from gdjax.schedules import warm_restarts as warm_restarts
from gdjax.schedules import warmup_constant_schedule as warmup_constant_schedule
from gdjax.schedules import warmup_cosine as warmup_cosine
from gdjax.schedules import warmup_cosine_decay_schedule as warmup_cosine_decay_schedule
from gdjax.schedules import warmup_exponential_decay_schedule as warmup_exponential_decay_schedule
from gdjax.schedules import warmup_stable_decay as warmup_stable_decay
from gdjax.transforms import adaptive_grad_clip as adaptive_grad_clip
from gdjax.transforms import add_cautious_weight_decay as add_cautious_weight_decay
from gdjax.transforms import add_decayed_weights as add_decayed_weights
from gdjax.transforms import centralize as centralize
from gdjax.transforms import clip as clip
from gdjax.transforms import clip_by_block_rms as clip_by_block_rms
from gdjax.transforms import clip_by_global_norm as clip_by_global_norm
from gdjax.transforms import ema as ema
from gdjax.transforms import identity as identity
from gdjax.transforms import normalize_by_update_norm as normalize_by_update_norm
from gdjax.transforms import reduce_on_plateau as reduce_on_plateau
from gdjax.transforms import scale as scale
from gdjax.transforms import scale_by_adadelta as scale_by_adadelta
from gdjax.transforms import scale_by_adam as scale_by_adam
from gdjax.transforms import scale_by_adam_mini as scale_by_adam_mini
from gdjax.transforms import scale_by_adamax as scale_by_adamax
from gdjax.transforms import scale_by_adan as scale_by_adan
from gdjax.transforms import scale_by_ademamix as scale_by_ademamix
from gdjax.transforms import scale_by_adopt as scale_by_adopt
from gdjax.transforms import scale_by_amsgrad as scale_by_amsgrad
from gdjax.transforms import scale_by_belief as scale_by_belief
from gdjax.transforms import scale_by_came as scale_by_came
from gdjax.transforms import scale_by_dog as scale_by_dog
from gdjax.transforms import scale_by_dowg as scale_by_dowg
from gdjax.transforms import scale_by_factored_rms as scale_by_factored_rms
from gdjax.transforms import scale_by_laprop as scale_by_laprop
from gdjax.transforms import scale_by_learning_rate as scale_by_learning_rate
from gdjax.transforms import scale_by_lion as scale_by_lion
from gdjax.transforms import scale_by_muon as scale_by_muon
from gdjax.transforms import scale_by_normuon as scale_by_normuon
from gdjax.transforms import scale_by_novograd as scale_by_novograd
from gdjax.transforms import scale_by_param_block_norm as scale_by_param_block_norm
from gdjax.transforms import scale_by_param_block_rms as scale_by_param_block_rms
from gdjax.transforms import scale_by_psgd_kron as scale_by_psgd_kron
from gdjax.transforms import scale_by_radam as scale_by_radam
from gdjax.transforms import scale_by_rms as scale_by_rms
from gdjax.transforms import scale_by_rss as scale_by_rss
from gdjax.transforms import scale_by_schedule as scale_by_schedule
from gdjax.transforms import scale_by_shampoo as scale_by_shampoo
from gdjax.transforms import scale_by_sign as scale_by_sign
from gdjax.transforms import scale_by_soap as scale_by_soap
from gdjax.transforms import scale_by_stddev as scale_by_stddev
from gdjax.transforms import scale_by_trust_ratio as scale_by_trust_ratio
from gdjax.transforms import scale_by_yogi as scale_by_yogi
from gdjax.transforms import trace as trace
from gdjax.transforms import zero_nans as zero_nans
from gdjax.value import Decay as Decay
from gdjax.value import Factory as Factory
from gdjax.value import GradientTransform as GradientTransform
from gdjax.value import Interval as Interval
from gdjax.value import NonNegative as NonNegative
from gdjax.value import ParseError as ParseError
from gdjax.value import Positive as Positive
from gdjax.value import Rate as Rate
from gdjax.value import Scalar as Scalar
from gdjax.value import ScalarOrSchedule as ScalarOrSchedule
from gdjax.value import Schedule as Schedule
from gdjax.value import expand as expand
from gdjax.value import lift as lift
from gdjax.value import schedule as schedule
from gdjax.value import stack as stack
from gdjax.value import transform as transform
from gdjax.wrappers import accumulate as accumulate
from gdjax.wrappers import apply_if_finite as apply_if_finite
from gdjax.wrappers import cautious as cautious
from gdjax.wrappers import eval_params as eval_params
from gdjax.wrappers import lookahead as lookahead
from gdjax.wrappers import mars as mars
from gdjax.wrappers import packed as packed
from gdjax.wrappers import params_ema as params_ema
from gdjax.wrappers import sam as sam
from gdjax.wrappers import schedule_free as schedule_free

if TYPE_CHECKING:  # loaded when they are asked for: who composes optimizers alone pays nothing for them
    from gdjax import descent as descent
    from gdjax import problems as problems
    from gdjax.descent import *  # noqa: F403
    from gdjax.problems import problem as problem

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """What is loaded when it is asked for, and what else Optax has (losses, classes of states), as it is there."""
    if not name.startswith("__") and hasattr(optax, name):
        return getattr(optax, name)
    late = {} if name.startswith("__") else _late()
    if name not in late:
        raise AttributeError(f"module 'gdjax' has no attribute {name!r}")
    return late[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_late(), *(name for name in dir(optax) if not name.startswith("_"))})


def _late() -> dict[str, Any]:
    descent, problems = (importlib.import_module(f"gdjax.{name}") for name in ("descent", "problems"))
    found = {"descent": descent, "problems": problems, "problem": problems.problem}
    return found | {name: getattr(descent, name) for name in descent.__all__}
