"""Losses under Optax's names: finite wherever the formula is, and computed in float32 for 16-bit arguments."""

from gdjax import exports
from gdjax.fallback import stand_in
from gdjax.losses.classification import poly_loss_cross_entropy as poly_loss_cross_entropy
from gdjax.losses.classification import safe_softmax_cross_entropy as safe_softmax_cross_entropy
from gdjax.losses.classification import sigmoid_binary_cross_entropy as sigmoid_binary_cross_entropy
from gdjax.losses.classification import sigmoid_focal_loss as sigmoid_focal_loss
from gdjax.losses.classification import softmax_cross_entropy as softmax_cross_entropy
from gdjax.losses.classification import (
    softmax_cross_entropy_with_integer_labels as softmax_cross_entropy_with_integer_labels,
)
from gdjax.losses.ctc import ctc_loss as ctc_loss
from gdjax.losses.ctc import ctc_loss_with_forward_probs as ctc_loss_with_forward_probs
from gdjax.losses.divergences import convex_kl_divergence as convex_kl_divergence
from gdjax.losses.divergences import generalized_kl_divergence as generalized_kl_divergence
from gdjax.losses.divergences import kl_divergence as kl_divergence
from gdjax.losses.divergences import kl_divergence_with_log_targets as kl_divergence_with_log_targets
from gdjax.losses.fenchel_young import make_fenchel_young_loss as make_fenchel_young_loss
from gdjax.losses.margins import hinge_loss as hinge_loss
from gdjax.losses.margins import multiclass_hinge_loss as multiclass_hinge_loss
from gdjax.losses.margins import multiclass_perceptron_loss as multiclass_perceptron_loss
from gdjax.losses.margins import multiclass_sparsemax_loss as multiclass_sparsemax_loss
from gdjax.losses.margins import perceptron_loss as perceptron_loss
from gdjax.losses.margins import sparsemax_loss as sparsemax_loss
from gdjax.losses.ranking import ranking_softmax_loss as ranking_softmax_loss
from gdjax.losses.regression import cosine_distance as cosine_distance
from gdjax.losses.regression import cosine_similarity as cosine_similarity
from gdjax.losses.regression import huber_loss as huber_loss
from gdjax.losses.regression import l2_loss as l2_loss
from gdjax.losses.regression import log_cosh as log_cosh
from gdjax.losses.regression import squared_error as squared_error
from gdjax.losses.segmentation import binary_dice_loss as binary_dice_loss
from gdjax.losses.segmentation import dice_loss as dice_loss
from gdjax.losses.segmentation import multiclass_generalized_dice_loss as multiclass_generalized_dice_loss
from gdjax.losses.self_supervised import ntxent as ntxent
from gdjax.losses.self_supervised import triplet_margin_loss as triplet_margin_loss
from gdjax.losses.smoothing import smooth_labels as smooth_labels

__getattr__, __dir__ = stand_in(__name__, exports.HOME)
