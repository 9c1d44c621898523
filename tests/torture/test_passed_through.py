"""Functions of Optax beside its transforms, at every dtype and at the edges: losses, projections, trees and more.

References are NumPy in float64. A new public function of Optax fails `test_every_..._exists` until it has a case.
"""

import functools
import inspect
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import logsumexp, softmax

import gdjax as gd
from gdjax import assignment, losses, perturbations, projections, second_order, tree_utils

INF = float("inf")
DTYPES = ["float16", "bfloat16", "float32", "float64"]
COMPUTED_DTYPES = ["float16", "float64"]
"""One dtype that is computed in a wider one, and one computed in itself. The others are only checked for types."""


def public(module):
    return {name for name, x in vars(module).items() if callable(x) and name[0] != "_" and not inspect.isclass(x)}


# Losses: values and gradients


def log_softmax(x):
    return x - logsumexp(x, axis=-1, keepdims=True)


def cross_entropy(x, y):
    return -(y * log_softmax(x)).sum(-1)


def binary(x, y):
    return np.logaddexp(0, x) - x * y


def focal(x, y, gamma=1.5, alpha=0.25):
    p = 1 / (1 + np.exp(-x))
    missed = (1 - y) * p + y * (1 - p)
    return (alpha * y + (1 - alpha) * (1 - y)) * missed**gamma * binary(x, y)


def kl(p, q):
    return (q * (np.log(q) - p)).sum(-1)


def huber(x, y, delta=0.5):
    e = np.abs(x - y)
    return np.where(e <= delta, e**2 / 2, delta * (e - delta / 2))


def cosine(a, b):
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def dice(x, t, weights=1.0, smooth=1.0, alpha=0.5, beta=0.5):
    p = softmax(x, -1)
    both, ours, theirs = ((p * t).sum(1), p.sum(1), t.sum(1))
    return (1 - (both + smooth) / (both + alpha * (ours - both) + beta * (theirs - both) + smooth)) * weights


def generalized_dice(x, t):
    weights = 1 / (t.sum((0, 1)) ** 2 + 1e-7)
    return dice(x, t, weights / weights.sum() * len(weights)).mean()


def binary_dice(x, t):
    p = 1 / (1 + np.exp(-x))
    both = (p * t).sum(1)
    return 1 - (both + 1) / (0.5 * p.sum(1) + 0.5 * t.sum(1) + 1)


def simplex(x, scale=1.0):
    ordered = np.sort(x)[::-1]
    excess = (scale - np.cumsum(ordered)) / np.arange(1, x.size + 1)
    return np.maximum(x + excess[np.nonzero(ordered + excess > 0)[0][-1]], 0)


def sparsemax(x, label=1):
    p = np.stack([simplex(row) for row in x])
    return (p * (x - x[:, [label]])).sum(-1) + 0.5 * (1 - (p * p).sum(-1))


def ctc(x, labels=(1, 2)):
    """Return the sum over all alignments, one by one."""
    found = []
    for rows in log_softmax(x):
        paths = itertools.product(range(rows.shape[1]), repeat=rows.shape[0])
        fitting = [path for path in paths if [k for k, _ in itertools.groupby(path) if k] == list(labels)]
        found.append(-logsumexp([sum(rows[t, k] for t, k in enumerate(path)) for path in fitting]))
    return np.array(found)


def ntxent(x, labels=(0, 0, 1, 1), temperature=0.5):
    s = cosine(x[None], x[:, None]) / temperature
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j and labels[i] == labels[j]]
    against = [logsumexp([s[i, k] for k in range(4) if labels[k] != labels[i]]) for i in range(4)]
    return np.mean([np.logaddexp(0, against[i] - s[i, j]) for i, j in pairs])


def triplet(a, p, n):
    return np.maximum(np.sqrt(((a - p) ** 2).sum(-1) + 1e-6) - np.sqrt(((a - n) ** 2).sum(-1) + 1e-6) + 1, 0)


NUMBERS = np.random.default_rng(0)
X, Y = (np.round(NUMBERS.normal(size=(2, 3)) * 16) / 16 for _ in range(2))
Q = np.array([[0.25, 0.5, 0.25], [0.125, 0.125, 0.75]])
HOT = np.eye(3)[[1, 1]]
SIGNS = np.array([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]])
PIXELS = np.round(NUMBERS.normal(size=(2, 4, 3)) * 16) / 16
CLASSES = np.eye(3)[NUMBERS.integers(0, 3, (2, 4))]
FOUR = np.array([[1.0, 0.5], [0.75, -0.5], [-1.0, 0.25], [0.5, 2.0]])
LABELS = np.array([1, 1])
PADS = {"labels": np.array([[1, 2]]), "logit_paddings": np.zeros((1, 4)), "label_paddings": np.zeros((1, 2))}

LOSSES = {
    "binary_dice_loss": (losses.binary_dice_loss, binary_dice, (X, Q)),
    "convex_kl_divergence": (losses.convex_kl_divergence, lambda p, q: kl(p, q) + (np.exp(p) - q).sum(-1), (X, Q)),
    "cosine_distance": (losses.cosine_distance, lambda a, b: 1 - cosine(a, b), (X, Y)),
    "cosine_similarity": (losses.cosine_similarity, cosine, (X, Y)),
    "ctc_loss": (lambda x: losses.ctc_loss(x, **PADS), ctc, (PIXELS[:1],)),
    "ctc_loss_with_forward_probs": (lambda x: losses.ctc_loss_with_forward_probs(x, **PADS)[0], ctc, (PIXELS[:1],)),
    "dice_loss": (
        lambda x, t: losses.dice_loss(x, t, alpha=0.25, beta=0.75, class_weights=jnp.array([1.0, 2.0, 0.5], x.dtype)),
        lambda x, t: dice(x, t, np.array([1.0, 2.0, 0.5]), alpha=0.25, beta=0.75).mean(-1),
        (PIXELS, CLASSES),
    ),
    "generalized_kl_divergence": (
        losses.generalized_kl_divergence,
        lambda p, q: kl(p, q) + (np.exp(p) - q).sum(-1),
        (X, Q),
    ),
    "hinge_loss": (losses.hinge_loss, lambda x, y: np.maximum(0, 1 - x * y), (X, SIGNS)),
    "huber_loss": (functools.partial(losses.huber_loss, delta=0.5), huber, (X, Y)),
    "kl_divergence": (losses.kl_divergence, kl, (X, Q)),
    "kl_divergence_with_log_targets": (
        losses.kl_divergence_with_log_targets,
        lambda p, q: (np.exp(q) * (q - p)).sum(-1),
        (X, Y),
    ),
    "l2_loss": (losses.l2_loss, lambda x, y: (x - y) ** 2 / 2, (X, Y)),
    "log_cosh": (losses.log_cosh, lambda x, y: np.log(np.cosh(x - y)), (X, Y)),
    "make_fenchel_young_loss": (
        losses.make_fenchel_young_loss(jax.scipy.special.logsumexp),
        lambda x, y: logsumexp(x, axis=-1) - (x * y).sum(-1),
        (X, Q),
    ),
    "multiclass_generalized_dice_loss": (
        lambda x: losses.multiclass_generalized_dice_loss(x, jnp.asarray(CLASSES, x.dtype)),
        lambda x: generalized_dice(x, CLASSES),
        (PIXELS,),
    ),
    "multiclass_hinge_loss": (
        lambda x: losses.multiclass_hinge_loss(x, LABELS),
        lambda x: (x + 1 - HOT).max(-1) - x[:, 1],
        (X,),
    ),
    "multiclass_perceptron_loss": (
        lambda x: losses.multiclass_perceptron_loss(x, LABELS),
        lambda x: x.max(-1) - x[:, 1],
        (X,),
    ),
    "multiclass_sparsemax_loss": (lambda x: losses.multiclass_sparsemax_loss(x, LABELS), sparsemax, (X,)),
    "ntxent": (lambda x: losses.ntxent(x, np.array([0, 0, 1, 1]), 0.5), ntxent, (FOUR,)),
    "perceptron_loss": (losses.perceptron_loss, lambda x, y: np.maximum(0, -x * y), (X, SIGNS)),
    "poly_loss_cross_entropy": (
        losses.poly_loss_cross_entropy,
        lambda x, y: cross_entropy(x, y) + 2 * (y * (1 - softmax(x, -1))).sum(-1),
        (X, Q),
    ),
    "ranking_softmax_loss": (losses.ranking_softmax_loss, lambda x, y: cross_entropy(x, y).mean(), (X, Q)),
    "safe_softmax_cross_entropy": (losses.safe_softmax_cross_entropy, cross_entropy, (X, Q)),
    "sigmoid_binary_cross_entropy": (losses.sigmoid_binary_cross_entropy, binary, (X, Q)),
    "sigmoid_focal_loss": (functools.partial(losses.sigmoid_focal_loss, gamma=1.5, alpha=0.25), focal, (X, Q)),
    "smooth_labels": (lambda y: losses.smooth_labels(y, 0.125), lambda y: 0.875 * y + 0.125 / 3, (Q,)),
    "softmax_cross_entropy": (losses.softmax_cross_entropy, cross_entropy, (X, Q)),
    "softmax_cross_entropy_with_integer_labels": (
        lambda x: losses.softmax_cross_entropy_with_integer_labels(x, LABELS),
        lambda x: cross_entropy(x, HOT),
        (X,),
    ),
    "sparsemax_loss": (
        lambda x: losses.sparsemax_loss(x, HOT),
        lambda x: sparse_plus(np.where(HOT, -x, x)),
        (X,),
    ),
    "squared_error": (losses.squared_error, lambda x, y: (x - y) ** 2, (X, Y)),
    "triplet_margin_loss": (losses.triplet_margin_loss, triplet, (X, Y, Q)),
}


def sparse_plus(x):
    return np.where(x >= 1, x, np.where(x <= -1, 0, (x + 1) ** 2 / 4))


def test_every_loss_of_optax_exists():
    assert set(LOSSES) == public(optax.losses)
    for name in LOSSES:
        assert getattr(losses, name).__module__.startswith("gdjax."), name
        assert getattr(gd, name, getattr(losses, name)) is getattr(losses, name)
        theirs = inspect.signature(getattr(optax.losses, name)).parameters
        ours = inspect.signature(getattr(losses, name)).parameters
        assert [(x.name, x.kind) for x in ours.values()] == [(x.name, x.kind) for x in theirs.values()], name
        assert [x.default for x in ours.values()] == [x.default for x in theirs.values()], name


jitted = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)


def sum_and_value(value):
    """Return the number to differentiate, and the value itself."""
    return value.astype(jnp.promote_types(value.dtype, jnp.float32)).sum(), value


def slopes(f, args):
    """Return derivatives of the sum of a function by every number of every argument, by central differences."""
    found = [np.zeros_like(x) for x in args]
    for x, slope in zip(args, found, strict=True):
        for i in np.ndindex(x.shape):
            kept = x[i]
            x[i] = kept + 1e-6
            above = np.sum(f(*args))
            x[i] = kept - 1e-6
            slope[i] = (above - np.sum(f(*args))) / 2e-6
            x[i] = kept
    return found


@pytest.mark.filterwarnings("ignore:convex_kl_divergence")
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_match_the_reference_in_every_dtype(name):
    loss, reference, args = LOSSES[name]
    want, slope = reference(*args), slopes(reference, [x.copy() for x in args])
    with jax.enable_x64(True):
        both = jax.value_and_grad(lambda xs: sum_and_value(loss(*xs)), has_aux=True)
        given = {dtype: tuple(jnp.asarray(x, dtype) for x in args) for dtype in DTYPES}
        found = jitted(lambda given: {dtype: both(xs) for dtype, xs in given.items()})(
            {x: given[x] for x in COMPUTED_DTYPES}
        )
        for dtype in DTYPES:
            types = jax.eval_shape(both, given[dtype])
            assert (types[0][1].dtype, types[0][1].shape) == (dtype, np.shape(want))
            assert all(x.dtype == dtype for x in types[1])
        for dtype, ((_, value), gradient) in found.items():
            rough = max(4 * float(jnp.finfo(dtype).eps), 1e-6)
            np.testing.assert_allclose(np.float64(value), want, rough, rough)
            for one, right in zip(gradient, slope, strict=True):
                np.testing.assert_allclose(np.float64(one), right, rough, rough)


# Losses: edges

NO = jnp.zeros(3, bool)
HALF = jnp.array([False, True, True])
P = jnp.array([0.25, 0.25, 0.5])
LOG0 = jnp.log(jnp.array([0.0, 0.25, 0.75]))
Q0 = jnp.array([0.0, 0.25, 0.75])
BIG = jnp.array([1e4, 0.0, -1e4])
H = jnp.array([300.0, 400.0], jnp.float16)
NOTHING = jnp.zeros(3)

EDGES = {
    # probabilities of 0
    "kl, q = 0": (losses.kl_divergence, (jnp.log(P), Q0), 0.75 * np.log(1.5)),
    "kl, q = 0 and p = 0": (losses.kl_divergence, (LOG0, Q0), 0.0),
    "kl, q = 0 and 1": (losses.kl_divergence, (jnp.array([-INF, 0.0]), jnp.array([0.0, 1.0])), 0.0),
    "kl of logs, q = 0": (losses.kl_divergence_with_log_targets, (jnp.log(P), LOG0), 0.75 * np.log(1.5)),
    "kl of logs, q = p = 0": (losses.kl_divergence_with_log_targets, (LOG0, LOG0), 0.0),
    "kl of logs, exp(q) underflows": (
        losses.kl_divergence_with_log_targets,
        (jnp.array([-INF, 0.0]), jnp.array([-200.0, 0.0])),
        0.0,
    ),
    "generalized kl, q = p = 0": (losses.generalized_kl_divergence, (LOG0, Q0), 0.0),
    # unbounded logits
    "cross entropy, -inf under 0": (
        losses.softmax_cross_entropy,
        (LOG0, Q0),
        -(0.25 * np.log(0.25) + 0.75 * np.log(0.75)),
    ),
    "safe cross entropy, -inf under 0": (
        losses.safe_softmax_cross_entropy,
        (jnp.array([0.0, -INF]), jnp.array([1.0, 0.0])),
        0.0,
    ),
    "cross entropy, 1e4": (losses.softmax_cross_entropy, (BIG, jnp.array([0.0, 1.0, 0.0])), 1e4),
    "cross entropy, near 1e4": (
        lambda x: losses.softmax_cross_entropy_with_integer_labels(x, 0),
        (jnp.array([1e4, 1e4 - 5]),),
        np.log1p(np.exp(-5)),
    ),
    "integer labels, -inf": (
        lambda x: losses.softmax_cross_entropy_with_integer_labels(x, 0),
        (jnp.array([0.0, 0.0, -INF]),),
        np.log(2),
    ),
    "poly loss, -inf under 0": (losses.poly_loss_cross_entropy, (jnp.array([0.0, -INF]), jnp.array([1.0, 0.0])), 0.0),
    "sigmoid, inf": (
        losses.sigmoid_binary_cross_entropy,
        (jnp.array([INF, -INF, 1e4]), jnp.array([1.0, 0.0, 1.0])),
        0.0,
    ),
    "sigmoid, 1e4": (losses.sigmoid_binary_cross_entropy, (BIG, jnp.array([0.0, 1.0, 1.0])), [1e4, np.log(2), 1e4]),
    "focal, 1e4": (losses.sigmoid_focal_loss, (BIG, jnp.array([1.0, 0.0, 0.0])), [0, np.log(2) / 4, 0]),
    "focal, inf": (losses.sigmoid_focal_loss, (jnp.array([INF, -INF]), jnp.array([1.0, 0.0])), 0.0),
    "focal, gamma = 0": (
        functools.partial(losses.sigmoid_focal_loss, gamma=0.0),
        (jnp.array([INF, -1e4]), jnp.array([1.0, 1.0])),
        [0.0, 1e4],
    ),
    "focal, gamma = 1/2": (
        functools.partial(losses.sigmoid_focal_loss, gamma=0.5),
        (BIG, jnp.array([1.0, 1.0, 1.0])),
        [0.0, np.log(2) * 0.5**0.5, 1e4],
    ),
    "hinge, inf": (lambda x: losses.hinge_loss(x, 1.0), (jnp.array([INF, 2e38]),), 0.0),
    "sparsemax, inf": (lambda x: losses.sparsemax_loss(x, jnp.ones(2, int)), (jnp.array([INF, 1e30]),), 0.0),
    "sparsemax, 1e30": (lambda x: losses.sparsemax_loss(x, 0), (jnp.array(1e30),), 1e30),
    "multiclass hinge, -inf": (lambda x: losses.multiclass_hinge_loss(x, 0), (jnp.array([2.0, -INF]),), 0.0),
    "multiclass perceptron, -inf": (lambda x: losses.multiclass_perceptron_loss(x, 0), (jnp.array([2.0, -INF]),), 0.0),
    "multiclass sparsemax, -inf": (
        lambda x: losses.multiclass_sparsemax_loss(x, jnp.zeros(1, int)),
        (jnp.array([[1e8, -INF, 0.0]]),),
        0.0,
    ),
    "fenchel-young, -inf": (
        losses.make_fenchel_young_loss(jax.scipy.special.logsumexp),
        (jnp.array([1.0, -INF]), jnp.array([1.0, 0.0])),
        0.0,
    ),
    "ctc, -inf": (
        lambda x: losses.ctc_loss(x, jnp.zeros((1, 2)), jnp.array([[1]]), jnp.zeros((1, 1))),
        (jnp.array([[[0.0, 0.0, -INF], [0.0, 0.0, -INF]]]),),
        np.log(4 / 3),
    ),
    "ranking, -inf": (losses.ranking_softmax_loss, (jnp.array([0.0, -INF]), jnp.array([1.0, 0.0])), 0.0),
    # unbounded sizes
    "huber, 1e30": (losses.huber_loss, (jnp.array([1e30, -1e30]),), 1e30),
    "huber in float16": (functools.partial(losses.huber_loss, delta=300.0), (H,), [45000, 75000]),
    "log cosh, 1e30": (losses.log_cosh, (jnp.array([1e30, -1e4]),), [1e30, 1e4 - np.log(2)]),
    "log cosh, 1e-3": (losses.log_cosh, (jnp.array([1e-3, -1e-4, 0.0, 1.0]),), [5e-7, 5e-9, 0, np.log(np.cosh(1))]),
    "l2 in float16": (losses.l2_loss, (H[:1],), 45000),
    "l2, 2e19": (losses.l2_loss, (jnp.array(2e19),), 2e38),
    "cosine, 1e25 and 1e-25": (losses.cosine_similarity, (jnp.array([3e25, 4e25]), jnp.array([0.0, 1e-25])), 0.8),
    "cosine in float16": (losses.cosine_similarity, (H, H), 1.0),
    "cosine of 0": (losses.cosine_similarity, (NOTHING, P), 0.0),
    "cosine distance of 0": (losses.cosine_distance, (NOTHING, NOTHING), 1.0),
    "cosine in float16, distance": (losses.cosine_distance, (H, -H), 2.0),
    "triplet, the same": (losses.triplet_margin_loss, (P, P, P), 1.0),
    "triplet, 1e25": (losses.triplet_margin_loss, (jnp.zeros(2), jnp.array([3e25, 4e25]), jnp.zeros(2)), 5e25),
    "triplet in float16": (losses.triplet_margin_loss, (0 * H, H, 0 * H), 501),
    "triplet of degree 1": (
        functools.partial(losses.triplet_margin_loss, norm_degree=1),
        (jnp.zeros(2), jnp.array([1.0, -2.0]), jnp.zeros(2)),
        4.0,
    ),
    "triplet of degree 3": (
        functools.partial(losses.triplet_margin_loss, norm_degree=3, margin=0.0),
        (jnp.zeros(2), jnp.array([-1.0, -2.0]), jnp.zeros(2)),
        9 ** (1 / 3) - 0.01,
    ),
    "ntxent of zeros": (lambda x: losses.ntxent(x, jnp.array([0, 0, 1])), (jnp.zeros((3, 2)),), np.log(2)),
    "ntxent, all alike": (lambda x: losses.ntxent(x, jnp.zeros(3, int)), (jnp.eye(3),), 0.0),
    "ntxent, none alike": (lambda x: losses.ntxent(x, jnp.arange(3)), (jnp.eye(3),), 0.0),
    "dice of 100,000 pixels": (
        losses.dice_loss,
        (jnp.full((1, 100_000, 1), 20, jnp.float16), jnp.ones((1, 100_000, 1), jnp.float16)),
        0.0,
    ),
    "dice, nothing there": (
        functools.partial(losses.dice_loss, smooth=0.0),
        (jnp.array([[[0.0, -INF]]]), jnp.array([[[1.0, 0.0]]])),
        0.0,
    ),
    "generalized dice in float16": (
        losses.multiclass_generalized_dice_loss,
        (jnp.array([[[20.0, -20.0]]], jnp.float16), jnp.array([[[1.0, 0.0]]], jnp.float16)),
        0.0,
    ),
    # masks
    "cross entropy, nothing": (functools.partial(losses.softmax_cross_entropy, where=NO), (BIG, P), 0.0),
    "cross entropy, masked NaN": (
        functools.partial(losses.softmax_cross_entropy, where=HALF),
        (jnp.array([jnp.nan, 0.0, 0.0]), P),
        0.75 * np.log(2),
    ),
    "integer labels, nothing": (
        lambda x: losses.softmax_cross_entropy_with_integer_labels(x, 0, where=NO),
        (BIG,),
        0.0,
    ),
    "integer labels, masked inf": (
        lambda x: losses.softmax_cross_entropy_with_integer_labels(x, 1, where=HALF),
        (jnp.array([INF, 0.0, 0.0]),),
        np.log(2),
    ),
    "poly loss, nothing": (functools.partial(losses.poly_loss_cross_entropy, where=NO), (BIG, P), 0.0),
    "kl, nothing": (functools.partial(losses.kl_divergence, where=NO), (LOG0, P), 0.0),
    "kl, masked infinity": (
        functools.partial(losses.kl_divergence, where=HALF),
        (LOG0, P),
        0.25 * 0 + 0.5 * np.log(2 / 3),
    ),
    "kl of logs, nothing": (functools.partial(losses.kl_divergence_with_log_targets, where=NO), (LOG0, LOG0), 0.0),
    "generalized kl, nothing": (
        functools.partial(losses.generalized_kl_divergence, where=NO),
        (jnp.array([INF, 1e4, 0.0]), P),
        0.0,
    ),
    "cosine, nothing": (functools.partial(losses.cosine_similarity, where=NO), (P, P), 0.0),
    "cosine, masked inf": (
        functools.partial(losses.cosine_distance, where=HALF),
        (jnp.array([1e38, 3.0, 4.0]), jnp.array([1e38, 3.0, 4.0])),
        0.0,
    ),
    "ranking, nothing": (functools.partial(losses.ranking_softmax_loss, where=NO), (BIG, P), 0.0),
    "ranking, one list of nothing": (
        functools.partial(losses.ranking_softmax_loss, where=jnp.stack([NO, HALF])),
        (jnp.zeros((2, 3)), jnp.ones((2, 3))),
        2 * np.log(2),
    ),
    "smooth labels, nothing": (lambda y: losses.smooth_labels(y, 0.5, where=NO), (P,), 0.5 * P + 0.5),
}


@pytest.mark.parametrize("group", range(6))
def test_losses_and_gradients_are_finite_at_the_edges(group):
    chosen = dict(list(EDGES.items())[group::6])

    def run(args):
        return {
            name: jax.value_and_grad(lambda xs, loss=loss: sum_and_value(loss(*xs)), has_aux=True)(args[name])
            for name, (loss, _, _) in chosen.items()
        }

    found = jitted(run)({name: args for name, (_, args, _) in chosen.items()})
    for name, ((_, value), gradient) in found.items():
        want = np.broadcast_to(np.asarray(chosen[name][2]), value.shape)
        fits = want <= float(jnp.finfo(value.dtype).max)
        np.testing.assert_allclose(
            np.float64(value)[fits], want[fits], 2e-3 if value.dtype == "float16" else 1e-5, 1e-5, err_msg=name
        )
        chex.assert_tree_all_finite({name: gradient})


@pytest.mark.parametrize(("loss", "one"), [(losses.kl_divergence, 1), (losses.generalized_kl_divergence, 0)])
def test_the_derivative_of_a_divergence_by_a_zero_target_is_zero(loss, one):
    p = jax.nn.log_softmax(jnp.array([0.5, 1.0, 2.0, -1.0]))
    gradient = jax.grad(loss, 1)(p, jnp.array([0.0, 0.4, 0.6, 0.0]))
    np.testing.assert_allclose(
        gradient, [0, one + np.log(0.4) - p[1], one + np.log(0.6) - p[2], 0], rtol=1e-6, atol=1e-7 * (1 - one)
    )


def test_nan_is_not_hidden_by_a_zero_weight():
    nan = jnp.array([jnp.nan, 0.0])
    for value in (
        losses.kl_divergence(nan, jnp.array([0.0, 1.0])),
        losses.kl_divergence_with_log_targets(nan, jnp.array([-INF, 0.0])),
        losses.softmax_cross_entropy(nan, jnp.array([0.0, 1.0])),
        losses.cosine_similarity(nan, jnp.ones(2)),
        losses.ranking_softmax_loss(nan, jnp.array([0.0, 1.0])),
    ):
        assert jnp.isnan(value)


def test_log_cosh_has_its_second_derivative_at_0():
    assert jax.grad(jax.grad(losses.log_cosh))(0.0) == 1


def test_losses_refuse_invalid_arguments_by_name():
    complex_ = jnp.ones((2, 3), jnp.complex64)
    for name, (loss, _, args) in LOSSES.items():
        if name not in ("smooth_labels", "make_fenchel_young_loss", "convex_kl_divergence"):
            with pytest.raises((TypeError, ValueError), match=r"^\w+: \w+ must (be real|have a floating dtype)"):
                jax.eval_shape(loss, complex_ if len(args) == 1 else jnp.ones(args[0].shape, "complex64"), *args[1:])
    with pytest.raises(ValueError, match="squared_error: the shapes must be the same"):
        losses.squared_error(jnp.ones(2), jnp.ones((2, 1)))
    with pytest.raises(ValueError, match="dice_loss: predictions must be valid probability distributions"):
        losses.dice_loss(jnp.ones((1, 2, 3)), jnp.ones((1, 2, 3)), apply_softmax=False)
    with pytest.raises(ValueError, match="reduction must be one of mean, sum, none, got 'max'"):
        losses.dice_loss(PIXELS, CLASSES, reduction="max")


def test_probabilities_in_16_bits_and_traced_ones_are_accepted():
    p = jax.nn.softmax(jnp.asarray(PIXELS, jnp.bfloat16))
    want = losses.dice_loss(PIXELS, CLASSES)
    for run in (losses.dice_loss, jax.jit(losses.dice_loss, static_argnames="apply_softmax")):
        np.testing.assert_allclose(np.float32(run(p, CLASSES, apply_softmax=False)), want, rtol=2e-2)
    binary_p = jax.nn.sigmoid(X)
    np.testing.assert_allclose(
        losses.binary_dice_loss(binary_p, Q, apply_sigmoid=False), losses.binary_dice_loss(X, Q), rtol=1e-6
    )


@pytest.mark.filterwarnings("ignore:convex_kl_divergence")
def test_an_empty_batch_has_no_losses():
    for name, (loss, _, args) in LOSSES.items():
        if name in ("ctc_loss", "ctc_loss_with_forward_probs", "ntxent", "sparsemax_loss") or "integer_labels" in name:
            continue
        if name.startswith("multiclass"):
            continue
        value = jax.eval_shape(loss, *(jnp.zeros((0, *x.shape[1:])) for x in args))
        assert value.shape in ((), (0,), (0, 3)), name
    assert losses.ranking_softmax_loss(jnp.zeros((0, 3)), jnp.zeros((0, 3))) == 0


# Projections

TREE = {
    "half": np.array([1.5, -0.25, 0.5], "float16"),
    "none": None,
    "scalar": np.array(-2.0, "float32"),
    "tiny": np.zeros((0, 2), "float32"),
    "wide": np.array([[0.75, 0.0]], "float32"),
}
NORMAL = {**TREE, "half": np.array([1.0, 2.0, -1.0], "float16"), "scalar": np.array(0.5, "float32")}


def flat(tree):
    return np.concatenate([np.ravel(np.float64(x)) for x in jax.tree.leaves(tree)])


def l1_sphere(x, scale=1.0):
    return np.where(x == 0, 1, np.sign(x)) * simplex(np.abs(x), scale)


A = flat(NORMAL)
PROJECTIONS = {
    "projection_box": (lambda t: projections.projection_box(t, -1.0, 0.625), lambda x: np.clip(x, -1, 0.625)),
    "projection_halfspace": (
        lambda t: projections.projection_halfspace(t, NORMAL, -3.0),
        lambda x: x + min((-3 - A @ x) / (A @ A), 0) * A,
    ),
    "projection_hypercube": (lambda t: projections.projection_hypercube(t, 0.5), lambda x: np.clip(x, 0, 0.5)),
    "projection_hyperplane": (
        lambda t: projections.projection_hyperplane(t, NORMAL, 3.0),
        lambda x: x + (3 - A @ x) / (A @ A) * A,
    ),
    "projection_l1_ball": (projections.projection_l1_ball, lambda x: l1_sphere(x)),
    "projection_l1_sphere": (lambda t: projections.projection_l1_sphere(t, 8.0), lambda x: l1_sphere(x, 8.0)),
    "projection_l2_ball": (projections.projection_l2_ball, lambda x: x / np.linalg.norm(x)),
    "projection_l2_sphere": (lambda t: projections.projection_l2_sphere(t, 4.0), lambda x: 4 * x / np.linalg.norm(x)),
    "projection_linf_ball": (lambda t: projections.projection_linf_ball(t, 0.5), lambda x: np.clip(x, -0.5, 0.5)),
    "projection_non_negative": (projections.projection_non_negative, lambda x: np.maximum(x, 0)),
    "projection_simplex": (lambda t: projections.projection_simplex(t, 2.0), lambda x: simplex(x, 2.0)),
    "projection_vector": (lambda t: projections.projection_vector(t, NORMAL), lambda x: (A @ x) / (A @ A) * A),
}


def have_equal_parameters(ours, theirs):
    ours, theirs = (inspect.signature(f).parameters.values() for f in (ours, theirs))
    return [(x.name, x.kind, x.default) for x in ours] == [(x.name, x.kind, x.default) for x in theirs]


def test_every_projection_of_optax_exists():
    assert set(PROJECTIONS) == public(optax.projections)
    for name in PROJECTIONS:
        ours = getattr(gd.projections, name)
        assert ours.__module__ == "gdjax.projections"
        assert have_equal_parameters(ours, getattr(optax.projections, name)), name


def sum_of_projection(project, tree):
    return sum((jnp.sum(x.astype("float32")) for x in jax.tree.leaves(project(tree))), start=jnp.zeros(()))


@functools.cache
def all_projections():
    """Project one tree, zeros and an empty tree with every projection, and differentiate, all in one program."""

    def run(trees):
        return {
            name: [(f(t), jax.grad(functools.partial(sum_of_projection, f))(t)) for t in trees]
            for name, (f, _) in PROJECTIONS.items()
            if name not in ("projection_vector", "projection_hyperplane", "projection_halfspace")
        } | {
            name: [(f(t), jax.tree.map(jnp.zeros_like, t)) for t in trees[:2]]
            for name, (f, _) in PROJECTIONS.items()
            if name in ("projection_vector", "projection_hyperplane", "projection_halfspace")
        }

    return jitted(run)((jax.tree.map(jnp.asarray, TREE), jax.tree.map(jnp.zeros_like, TREE), {}))


@pytest.mark.parametrize("name", PROJECTIONS)
def test_projections_match_the_reference_on_a_tree_of_all_kinds_of_leaves(name):
    reference = PROJECTIONS[name][1]
    for tree, (found, gradient) in zip(
        (TREE, jax.tree.map(np.zeros_like, TREE)), all_projections()[name], strict=False
    ):
        same = jax.tree.map(lambda x, y: x.shape == y.shape and x.dtype == y.dtype, found, tree)
        assert all(jax.tree.leaves(same))
        x = flat(tree)
        if name == "projection_l2_sphere" and not x.any():
            want = np.full_like(x, 4 / np.sqrt(x.size))
        elif name in ("projection_l1_ball", "projection_l2_ball") and not x.any():
            want = x
        else:
            want = reference(x)
        np.testing.assert_allclose(flat(found), want, 2e-3, 1e-3)
        assert np.isfinite(flat(gradient)).all()
    for _, gradient in all_projections()[name][2:]:
        assert gradient == {}


def test_projections_accept_unbounded_numbers():
    ball = jax.jit(projections.projection_simplex)(jnp.array([3e38, 1e10, -3e38, -INF, 3e38]))
    np.testing.assert_allclose(ball, [0.5, 0, 0, 0, 0.5])
    np.testing.assert_allclose(projections.projection_simplex(jnp.array([1e8, 1e8 - 8, 0.0]), 16.0), [12, 4, 0])
    half = projections.projection_simplex(jnp.full(3000, 1.0, jnp.bfloat16))
    np.testing.assert_allclose(np.float32(half), 1 / 3000, rtol=4e-3)
    np.testing.assert_allclose(projections.projection_simplex(jnp.array([2.0, 1.0]), 0), [0, 0])
    np.testing.assert_allclose(projections.projection_l1_sphere(jnp.array([0.5, 0.0])), [0.75, 0.25])


def test_projections_accept_bounds_as_trees_and_numbers_as_leaves():
    cube = projections.projection_hypercube({"w": jnp.array([2.0, -1.0]), "b": jnp.array(5.0)})
    assert jax.tree.map(np.ndarray.tolist, jax.tree.map(np.asarray, cube)) == {"w": [1, 0], "b": 1}
    cube = projections.projection_hypercube(
        {"w": jnp.array([2.0, -1.0]), "b": 5.0}, {"w": jnp.array([0.5, 1.0]), "b": 2.0}
    )
    np.testing.assert_allclose(cube["w"], [0.5, 0])
    assert cube["b"] == 2
    box = projections.projection_box({"a": {"w": jnp.array([2.0, -3.0])}, "b": 5.0}, {"a": -1.0, "b": None}, None)
    np.testing.assert_allclose(box["a"]["w"], [2, -1])
    ball = projections.projection_linf_ball({"w": jnp.array([2.0, -3.0]), "b": 5.0}, {"w": 1.0, "b": 2.0})
    np.testing.assert_allclose(ball["w"], [1, -1])
    assert float(sum(jax.tree.leaves(projections.projection_simplex({"w": 2.5, "b": 0.5})))) == 1
    assert projections.projection_box(jnp.array([5, -5]), 0, 3).dtype == jnp.int32


def test_projections_refuse_invalid_leaves_by_path():
    whole, imaginary = {"w": jnp.array([1, 2])}, {"w": jnp.array([1j])}
    for name, (project, _) in PROJECTIONS.items():
        if name in ("projection_vector", "projection_hyperplane", "projection_halfspace"):
            project = functools.partial(getattr(projections, name), **({} if "vector" in name else {"b": 1.0}))
            with pytest.raises(ValueError, match=rf"{name}: w has shape \(2,\) in x and \(3,\) in a"):
                project({"w": jnp.ones(2)}, {"w": jnp.ones(3)})
            project = functools.partial(lambda t, project: project(t, t), project=project)
        if name not in ("projection_box", "projection_hypercube", "projection_linf_ball", "projection_non_negative"):
            with pytest.raises(ValueError, match=f"{name}: w must be floating or complex"):
                project(whole)
        if name in (
            "projection_box",
            "projection_hypercube",
            "projection_linf_ball",
            "projection_non_negative",
            "projection_simplex",
            "projection_halfspace",
        ):
            with pytest.raises(ValueError, match=f"{name}: w must be real"):
                project(imaginary)
        if ("ball" in name and "linf" not in name) or "sphere" in name or "simplex" in name:
            with pytest.raises(ValueError, match=f"{name}: scale must be at least 0, got -1"):
                getattr(projections, name)(jnp.ones(2), -1)
    with pytest.raises(ValueError, match="projection_box: a bound is larger than w"):
        projections.projection_box({"w": jnp.ones(2)}, jnp.zeros((3, 2)), None)


def test_complex_vectors_are_projected_by_the_inner_product():
    x, a = np.array([1 + 2j, 3 - 1j], "complex64"), np.array([2 - 1j, 1j], "complex64")
    want = np.vdot(a, x) / np.vdot(a, a) * a
    np.testing.assert_allclose(projections.projection_vector(x, a), want, rtol=1e-5)
    plane = projections.projection_hyperplane(x, a, 2.0)
    np.testing.assert_allclose(np.vdot(a, plane), 2, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(projections.projection_l2_ball(x)), 1, rtol=1e-5)


# Trees

HALVES = {
    "a": jnp.array([300.0, 400.0], jnp.float16),
    "b": None,
    "c": jnp.array(0.0, jnp.bfloat16),
    "d": jnp.zeros((0, 2)),
}
REPLACED = {
    "tree_add", "tree_add_scale", "tree_bias_correction", "tree_cast", "tree_cast_like", "tree_clip", "tree_max",
    "tree_min", "tree_norm", "tree_random_like", "tree_scale", "tree_sum", "tree_update_infinity_moment",
    "tree_update_moment", "tree_update_moment_per_elem_norm", "tree_vdot",
}  # fmt: skip
"""Functions that gdjax replaces."""
KEPT = {
    "tree_allclose", "tree_batch_shape", "tree_conj", "tree_div", "tree_dtype", "tree_full_like", "tree_get",
    "tree_get_all_with_path", "tree_map_params", "tree_mul", "tree_ones_like", "tree_real", "tree_set", "tree_size",
    "tree_split_key_like", "tree_sub", "tree_unwrap_random_key_data", "tree_where", "tree_zeros_like",
}  # fmt: skip
"""Functions of Optax that are kept, some with better errors: they sum nothing and change no dtype."""


def test_every_tree_function_of_optax_exists_under_both_names():
    assert public(optax.tree_utils) == REPLACED | KEPT
    assert {f"tree_{name}" for name in public(optax.tree)} == REPLACED | KEPT
    for name in REPLACED | KEPT:
        ours, theirs = getattr(tree_utils, name), getattr(optax.tree_utils, name)
        assert getattr(gd.tree, name.removeprefix("tree_")) is ours
        assert ours.__module__.startswith("gdjax") if name in REPLACED else getattr(ours, "__wrapped__", ours) is theirs
        names = [list(inspect.signature(f).parameters) for f in (ours, theirs)]
        assert names[0] == names[1], name
    for name in ("bias_correction", "update_moment", "update_infinity_moment", "update_moment_per_elem_norm"):
        assert getattr(gd, name) is getattr(gd.tree, name)


def test_sums_and_norms_of_float16_trees_do_not_overflow():
    assert gd.tree.norm(HALVES) == gd.global_norm(HALVES) == 500
    assert gd.tree.norm(HALVES["a"]) == 500
    assert gd.tree.norm(HALVES, ord=1) == 700
    assert gd.tree.norm(HALVES, ord="inf") == gd.tree.norm(HALVES, ord=jnp.inf) == 400
    assert gd.tree.norm(HALVES, squared=True) == 250_000
    assert gd.tree.norm(HALVES, ord=1, squared=True) == 490_000
    assert gd.tree.vdot(HALVES, HALVES) == 250_000
    big = {"x": jnp.full(3, 60000.0, jnp.float16), "y": -1.0}
    assert gd.tree.sum(big) == gd.tree.sum(big, associative_reduction=True) == 179_999
    assert gd.tree.sum(jnp.ones(3000, jnp.bfloat16)) == 3000
    assert gd.tree.sum({"a": jnp.array([True, True]), "b": jnp.array(2)}) == 4
    assert gd.tree.vdot(jnp.array([1j]), jnp.array([1.0 + 0j])) == -1j
    for empty in ({}, None, {"x": jnp.zeros(0)}):
        assert (
            gd.tree.sum(empty)
            == gd.tree.norm(empty)
            == gd.tree.norm(empty, ord=1)
            == gd.tree.norm(empty, ord="inf")
            == 0
        )
        assert gd.tree.max(empty) == -INF
        assert gd.tree.min(empty) == INF
    assert gd.tree.max(HALVES).dtype == jnp.promote_types(jnp.float16, jnp.bfloat16)
    assert int(gd.tree.max({"x": jnp.array([16777217])})) == 16777217


def test_the_gradient_of_a_norm_at_zero_is_finite():
    for options in ({}, {"ord": 1}, {"ord": "inf"}, {"squared": True}):
        gradient = jax.grad(lambda x, options=options: gd.tree.norm(x, **options))(jnp.zeros(3))
        assert jnp.isfinite(gradient).all(), options


def test_scalars_do_not_change_the_dtypes_of_a_tree():
    two, dtypes = jnp.float32(2), jax.tree.map(lambda x: x.dtype, HALVES)
    for tree in (gd.tree.scale(two, HALVES), gd.tree.add_scale(HALVES, two, HALVES), gd.tree.clip(HALVES, -two, two)):
        assert jax.tree.map(lambda x: x.dtype, tree) == dtypes
    assert gd.tree.scale(2j, jnp.ones(2)).dtype == jnp.complex64
    assert gd.tree.scale(0.5, jnp.array([3])).tolist() == [1.5]
    assert gd.tree.add_scale({"x": None}, 1.0, {"x": None}) == {"x": None}
    np.testing.assert_allclose(gd.tree.add_scale(jnp.float16(60000), 2.0, jnp.float16(-30000)), 0)
    with pytest.raises(ValueError, match=r"tree\.clip: x must be real"):
        gd.tree.clip({"x": jnp.array([1j])}, 0.0)
    with pytest.raises(ValueError, match=r"tree\.vdot: x has shapes \(2,\) and \(1,\)"):
        gd.tree.vdot({"x": jnp.ones(2)}, {"x": jnp.ones(1)})


def test_moments_of_float16_trees_do_not_overflow_and_keep_their_dtypes():
    g, m = jnp.array([300.0], jnp.float16), jnp.zeros(1, jnp.float16)
    decay = jnp.float32(0.999)
    for update in (gd.tree.update_moment, gd.tree.update_moment_per_elem_norm):
        new = update({"x": g, "y": None}, {"x": m, "y": None}, decay, 2)
        assert new["x"].dtype == jnp.float16
        assert new["y"] is None
        np.testing.assert_allclose(np.float32(new["x"]), 90, rtol=1e-3)
    assert gd.tree.update_infinity_moment(g, m, decay, 1e-8).dtype == jnp.float16
    assert gd.tree.update_moment_per_elem_norm(jnp.array([3 + 4j]), jnp.zeros(1), 0.0, 2).tolist() == [25]
    found = gd.tree.bias_correction(m + 1, 0.999, jnp.array(1))
    assert found.dtype == jnp.float16
    np.testing.assert_allclose(
        gd.tree.bias_correction(jnp.ones(1), 0.9999, jnp.array(3)), 1 / (1 - 0.9999**3), rtol=1e-6
    )
    assert gd.tree.bias_correction(jnp.ones(1), 0.0, jnp.array(1)).tolist() == [1]


def test_shape_structs_and_python_numbers_are_accepted_as_leaves():
    shapes = {"w": jax.ShapeDtypeStruct((2,), jnp.float32), "n": None}
    assert gd.tree.cast(shapes, jnp.bfloat16)["w"].dtype == jnp.bfloat16
    assert gd.tree.cast({"x": 0.5}, jnp.float16)["x"].dtype == jnp.float16
    assert gd.tree.cast(shapes, None) is shapes
    like = gd.tree.cast_like(tree=shapes, other_tree={"w": jnp.ones(2, jnp.float16), "n": None})
    assert like["w"] == jax.ShapeDtypeStruct((2,), jnp.float16)
    drawn = gd.tree.random_like(jax.random.key(0), {**shapes, "x": 1.0})
    assert (drawn["w"].shape, drawn["x"].shape, drawn["n"]) == ((2,), (), None)
    assert gd.tree.random_like(jax.random.key(0), {}) == {}
    assert gd.tree.zeros_like(shapes)["w"].shape == (2,)
    assert gd.tree.size({"w": jnp.ones((2, 3)), "x": 1.0, "n": None}) == 7
    with pytest.raises(ValueError, match=r"tree\.random_like: w: "):
        gd.tree.random_like(jax.random.key(0), {"w": jnp.array([1])})
    assert gd.global_norm(jnp.array([3.0, 4.0])) == 5


# Assignments, perturbations, second order


def test_every_other_function_of_optax_exists():
    assert public(optax.assignment) == {"base_hungarian_algorithm", "hungarian_algorithm"}
    assert public(optax.perturbations) == {"make_perturbed_fun"}
    assert public(optax.second_order) == {"fisher_diag", "hessian_diag", "hvp"}
    for module in (assignment, perturbations, second_order):
        for name in public(getattr(optax, module.__name__.removeprefix("gdjax."))):
            names = [
                list(inspect.signature(getattr(m, name)).parameters)
                for m in (module, getattr(optax, module.__name__[6:]))
            ]
            assert names[0] == names[1]


def test_an_assignment_avoids_forbidden_pairs_and_always_ends():
    costs = np.random.default_rng(1).normal(size=(4, 3)).astype("float32")
    costs[0, 0] = costs[1, 1] = INF
    least = min(sum(costs[i, j] for j, i in enumerate(rows)) for rows in itertools.permutations(range(4), 3))
    for solve in (assignment.hungarian_algorithm, assignment.base_hungarian_algorithm):
        run = jax.jit(solve)
        for scaled in (costs, costs.astype("float16"), costs * np.float32(1e37)):
            rows, columns = run(scaled)
            assert sorted(columns.tolist()) == [0, 1, 2]
            np.testing.assert_allclose(costs[rows, columns].sum(), least, rtol=1e-3)
        assert [x.shape for x in run(np.full((4, 3), np.nan, "float32"))] == [(3,), (3,)]
        assert [x.shape for x in solve(jnp.zeros((0, 3)))] == [(0,), (0,)]
        with pytest.raises(ValueError, match="must not hold NaN or -inf"):
            solve(np.array([[np.nan]]))
        with pytest.raises(ValueError, match=r"must be a real matrix, got shape \(3,\)"):
            solve(np.ones(3))


def test_perturbed_functions_match_the_reference_in_every_dtype():
    x = np.array([0.5, -0.25])
    noise = perturbations.Normal()
    smooth = perturbations.make_perturbed_fun(lambda x: jnp.sum(x["w"] ** 2) + x["b"], 4000, 0.5, noise)
    run = jax.jit(jax.value_and_grad(smooth, argnums=1))
    for dtype in ("float16", "float32"):
        tree = {"w": jnp.asarray(x, dtype), "b": jnp.asarray(1.0, dtype), "none": None}
        value, gradient = run(jax.random.key(0), tree)
        assert value.dtype == gradient["w"].dtype == dtype
        np.testing.assert_allclose(np.float32(value), np.sum(x**2) + 2 * 0.25 + 1, atol=0.1)
        np.testing.assert_allclose(np.float32(gradient["w"]), 2 * x, atol=0.15)
    for options, message in (
        ({"sigma": 0.0}, "sigma must be above 0"),
        ({"num_samples": 0}, "num_samples must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            perturbations.make_perturbed_fun(jnp.sum, **options)
    with pytest.raises(ValueError, match="make_perturbed_fun: w must be floating, got int32"):
        smooth(jax.random.key(0), {"w": jnp.array([1]), "b": jnp.array(1.0)})


def test_hessians_in_16_bits_and_of_empty_trees():
    def loss(w, x, y):
        return jnp.sum((w["a"] * x) ** 3) + w["b"] ** 2

    for dtype in ("float16", "bfloat16", "float32"):
        w = {"a": jnp.array([1.0, 2.0], dtype), "b": jnp.array(3.0, dtype)}
        one = jnp.ones((), dtype)
        assert second_order.hessian_diag(loss, w, one, None).tolist() == [6, 12, 2]
        assert second_order.fisher_diag(loss, w, one, None).tolist() == [9, 144, 36]
        assert second_order.hvp(loss, jnp.array([1.0, 1.0, 1.0]), w, one, None)["a"].tolist() == [6, 12]
        assert second_order.hessian_diag(loss, w, one, None).dtype == dtype
    assert second_order.hessian_diag(lambda w, x, y: 0.0, {}, None, None).shape == (0,)


# Functions beside the transforms


def test_utility_functions_accept_16_bits_and_traced_numbers():
    h = jnp.array([300.0, 400.0], jnp.float16)
    assert gd.safe_norm(h, 1e-6) == 500
    np.testing.assert_allclose(np.float32(gd.safe_root_mean_squares(h, 1e-6)), 500 / 2**0.5, rtol=1e-3)
    new = gd.incremental_update({"x": h, "n": None}, {"x": 0 * h, "n": None}, jnp.float32(0.5))
    assert new["x"].dtype == jnp.float16
    assert new["x"].tolist() == [150, 200]
    gradient = jax.jit(jax.grad(lambda x, s: jnp.sum(gd.scale_gradient({"x": x}, s)["x"] ** 2)))
    assert gradient(jnp.array([3.0]), 0.5).tolist() == [3]
    assert gradient(jnp.array([3.0]), 0.0).tolist() == [0]


def test_projections_on_the_l2_ball_are_right_over_the_whole_range():
    for size in (1e-30, 1e-24, 1e19, 1e25, 1e37):
        tree = {"x": jnp.array([3 * size]), "y": jnp.array(4 * size)}
        np.testing.assert_allclose(flat(projections.projection_l2_sphere(tree)), [0.6, 0.8], rtol=1e-5)
        want = [0.6, 0.8] if size > 1 else [3 * size, 4 * size]
        np.testing.assert_allclose(flat(projections.projection_l2_ball(tree)), want, rtol=1e-5)


def test_the_norm_of_a_tree_is_accurate_over_the_whole_range():
    for size in (1e-30, 1e19, 1e25, 1e37):
        np.testing.assert_allclose(
            gd.tree.norm({"a": jnp.array(3 * size), "b": jnp.array([4 * size])}), 5 * size, rtol=1e-5
        )


def test_numpy_float64_is_converted_as_by_jax_without_a_warning():
    x = np.array([0.5, 0.25])
    for tree in (gd.tree.add(x, x), gd.tree.scale(2.0, x), gd.tree.add_scale(x, 1.0, x)):
        assert tree.tolist() == [1, 0.5]
    np.testing.assert_allclose(projections.projection_simplex({"x": x})["x"], [0.625, 0.375])
    assert (gd.tree.sum(x), losses.l2_loss(x)[0]) == (0.75, 0.125)
