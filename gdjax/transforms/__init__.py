"""Gradient transforms, one file a family."""

import optax

from gdjax.fallback import names_of
from gdjax.transforms.adam import scale_by_adam as scale_by_adam
from gdjax.transforms.adam import scale_by_adamax as scale_by_adamax
from gdjax.transforms.adam import scale_by_amsgrad as scale_by_amsgrad
from gdjax.transforms.adam import scale_by_radam as scale_by_radam
from gdjax.transforms.adam_mini import scale_by_adam_mini as scale_by_adam_mini
from gdjax.transforms.adan import scale_by_adan as scale_by_adan
from gdjax.transforms.ademamix import scale_by_ademamix as scale_by_ademamix
from gdjax.transforms.came import scale_by_came as scale_by_came
from gdjax.transforms.clipping import adaptive_grad_clip as adaptive_grad_clip
from gdjax.transforms.clipping import clip as clip
from gdjax.transforms.clipping import clip_by_block_rms as clip_by_block_rms
from gdjax.transforms.clipping import clip_by_global_norm as clip_by_global_norm
from gdjax.transforms.decay import add_cautious_weight_decay as add_cautious_weight_decay
from gdjax.transforms.decay import add_decayed_weights as add_decayed_weights
from gdjax.transforms.distance import scale_by_dog as scale_by_dog
from gdjax.transforms.distance import scale_by_dowg as scale_by_dowg
from gdjax.transforms.factored import scale_by_factored_rms as scale_by_factored_rms
from gdjax.transforms.momentum import ema as ema
from gdjax.transforms.momentum import trace as trace
from gdjax.transforms.muon import scale_by_muon as scale_by_muon
from gdjax.transforms.muon import scale_by_normuon as scale_by_normuon
from gdjax.transforms.normalized_first import scale_by_adopt as scale_by_adopt
from gdjax.transforms.normalized_first import scale_by_laprop as scale_by_laprop
from gdjax.transforms.normalizing import centralize as centralize
from gdjax.transforms.normalizing import normalize_by_update_norm as normalize_by_update_norm
from gdjax.transforms.normalizing import zero_nans as zero_nans
from gdjax.transforms.plateau import reduce_on_plateau as reduce_on_plateau
from gdjax.transforms.psgd import scale_by_psgd_kron as scale_by_psgd_kron
from gdjax.transforms.rms import scale_by_adadelta as scale_by_adadelta
from gdjax.transforms.rms import scale_by_rms as scale_by_rms
from gdjax.transforms.rms import scale_by_rss as scale_by_rss
from gdjax.transforms.rms import scale_by_stddev as scale_by_stddev
from gdjax.transforms.scaling import identity as identity
from gdjax.transforms.scaling import scale as scale
from gdjax.transforms.scaling import scale_by_learning_rate as scale_by_learning_rate
from gdjax.transforms.scaling import scale_by_schedule as scale_by_schedule
from gdjax.transforms.second_moment import scale_by_belief as scale_by_belief
from gdjax.transforms.second_moment import scale_by_novograd as scale_by_novograd
from gdjax.transforms.second_moment import scale_by_yogi as scale_by_yogi
from gdjax.transforms.shampoo import scale_by_shampoo as scale_by_shampoo
from gdjax.transforms.sign import scale_by_lion as scale_by_lion
from gdjax.transforms.sign import scale_by_sign as scale_by_sign
from gdjax.transforms.soap import scale_by_soap as scale_by_soap
from gdjax.transforms.trust import scale_by_param_block_norm as scale_by_param_block_norm
from gdjax.transforms.trust import scale_by_param_block_rms as scale_by_param_block_rms
from gdjax.transforms.trust import scale_by_trust_ratio as scale_by_trust_ratio

__getattr__ = names_of(optax.transforms)
