"""Transforms around others: when they run, on which gradients, at which parameters."""

from gdjax.wrappers.accumulating import accumulate as accumulate
from gdjax.wrappers.averaging import lookahead as lookahead
from gdjax.wrappers.averaging import params_ema as params_ema
from gdjax.wrappers.cautious import cautious as cautious
from gdjax.wrappers.evaluating import eval_params as eval_params
from gdjax.wrappers.guarding import apply_if_finite as apply_if_finite
from gdjax.wrappers.injecting import inject_hyperparams as inject_hyperparams
from gdjax.wrappers.injecting import inject_stateful_hyperparams as inject_stateful_hyperparams
from gdjax.wrappers.mars import mars as mars
from gdjax.wrappers.maximizing import maximize as maximize
from gdjax.wrappers.monitoring import monitor as monitor
from gdjax.wrappers.multi_steps import MultiSteps as MultiSteps
from gdjax.wrappers.packing import packed as packed
from gdjax.wrappers.schedule_free import schedule_free as schedule_free
from gdjax.wrappers.sharpness import sam as sam
