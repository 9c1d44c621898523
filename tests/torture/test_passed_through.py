"""What Optax has as plain functions is right here at every dtype and at every edge: losses and projections.

References are NumPy in float64. A new public function of Optax fails `test_every_..._is_here` until it has a case.
"""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import logsumexp, softmax

import gdjax as gd
from gdjax import losses

INF = float("inf")
DTYPES = ["float16", "bfloat16", "float32", "float64"]


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
    """The sum over all alignments, one by one."""
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


def test_every_loss_of_optax_is_here():
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


def total(value):
    """What is differentiated, and the value itself."""
    return value.astype(jnp.promote_types(value.dtype, jnp.float32)).sum(), value


def slopes(f, args):
    """The derivative of the sum of a function by every number of every argument, by central differences."""
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
def test_a_loss_and_its_gradient_are_right_in_every_dtype(name):
    loss, reference, args = LOSSES[name]
    want, slope = reference(*args), slopes(reference, [x.copy() for x in args])
    with jax.enable_x64(True):
        both = jax.value_and_grad(lambda xs: total(loss(*xs)), has_aux=True)
        run = jitted(lambda many: [both(xs) for xs in many])
        found = run([tuple(jnp.asarray(x, dtype) for x in args) for dtype in DTYPES])
        for dtype, ((_, value), gradient) in zip(DTYPES, found, strict=True):
            assert value.dtype == dtype
            assert value.shape == np.shape(want)
            rough = max(4 * float(jnp.finfo(dtype).eps), 1e-6)
            np.testing.assert_allclose(np.float64(value), want, rough, rough)
            for one, right in zip(gradient, slope, strict=True):
                assert one.dtype == dtype
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
    # logits without bounds
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
    # sizes without bounds
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
def test_a_loss_is_finite_where_mathematics_is_and_so_is_its_gradient(group):
    chosen = dict(list(EDGES.items())[group::6])

    def run(args):
        return {
            name: jax.value_and_grad(lambda xs, loss=loss: total(loss(*xs)), has_aux=True)(args[name])
            for name, (loss, _, _) in chosen.items()
        }

    found = jitted(run)({name: args for name, (_, args, _) in chosen.items()})
    for name, ((_, value), gradient) in found.items():
        want = np.broadcast_to(np.asarray(chosen[name][2]), value.shape)
        fits = want <= float(jnp.finfo(value.dtype).max)
        np.testing.assert_allclose(
            np.float64(value)[fits], want[fits], 2e-3 if value.dtype == "float16" else 1e-5, 1e-5, err_msg=name
        )
        assert all(jnp.isfinite(x).all() for x in gradient), (name, gradient)


def test_the_derivative_of_the_divergence_by_a_target_of_0_is_0():
    p = jax.nn.log_softmax(jnp.array([0.5, 1.0, 2.0, -1.0]))
    gradient = jax.grad(losses.kl_divergence, 1)(p, jnp.array([0.0, 0.4, 0.6, 0.0]))
    np.testing.assert_allclose(gradient, [0, 1 + np.log(0.4) - p[1], 1 + np.log(0.6) - p[2], 0], rtol=1e-6)


def test_a_nan_is_not_hidden_by_a_weight_of_0():
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


def test_a_loss_refuses_what_it_cannot_take_and_names_it():
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


def test_probabilities_of_few_bits_are_taken_for_such_and_traced_ones_too():
    p = jax.nn.softmax(jnp.asarray(PIXELS, jnp.bfloat16))
    want = losses.dice_loss(PIXELS, CLASSES)
    for run in (losses.dice_loss, jax.jit(losses.dice_loss, static_argnames="apply_softmax")):
        np.testing.assert_allclose(np.float32(run(p, CLASSES, apply_softmax=False)), want, rtol=2e-2)
    binary_p = jax.nn.sigmoid(X)
    np.testing.assert_allclose(
        losses.binary_dice_loss(binary_p, Q, apply_sigmoid=False), losses.binary_dice_loss(X, Q), rtol=1e-6
    )


@pytest.mark.filterwarnings("ignore:convex_kl_divergence")
def test_a_batch_of_no_examples_has_no_losses():
    for name, (loss, _, args) in LOSSES.items():
        if name in ("ctc_loss", "ctc_loss_with_forward_probs", "ntxent", "sparsemax_loss") or "integer_labels" in name:
            continue
        if name.startswith("multiclass"):
            continue
        value = jax.eval_shape(loss, *(jnp.zeros((0, *x.shape[1:])) for x in args))
        assert value.shape in ((), (0,), (0, 3)), name
    assert losses.ranking_softmax_loss(jnp.zeros((0, 3)), jnp.zeros((0, 3))) == 0
