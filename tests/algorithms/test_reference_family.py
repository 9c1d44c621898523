"""Adam variants and other transforms against their papers, line by line in NumPy float64, one leaf at a time."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import gdjax as gd
from tests.samples import run, tree

STEPS, WARMUP = 6, 4
B1, B2, B3, EPS, ROOT, RATE, DECAY, LAMBDA = 0.8, 0.95, 0.98, 1e-3, 1e-4, 0.1, 0.7, 0.03
norm = np.linalg.norm


def rms(x):
    return np.sqrt(np.mean(x**2))


def mean(decay, m, x):
    return decay * m + (1 - decay) * x


def hat(decay, m, t):
    return m / (1 - decay**t)


def adaptive_grad_clip(t, p, g):
    length, weight = norm(g, axis=0), np.maximum(norm(p, axis=0), EPS)
    return (p - RATE * np.where(length / weight > 0.2, 0.2 * weight / length, 1) * g,)


def centralize(t, p, g, axis=0):  # a column is what the paper gives one mean: its matrices are inputs x outputs
    return (p - RATE * (g - g.mean(axis, keepdims=True) if g.ndim > 1 else g),)


def ema(t, p, g, m=0, *, debias=True):
    m = mean(B1, m, g)
    return p - RATE * (hat(B1, m, t) if debias else m), m


def lion(t, p, g, m=0):
    c = mean(B1, m, g)
    return p - RATE * (np.sign(c) + LAMBDA * p), mean(B2, m, g)


def amsgrad(t, p, g, m=0, v=0, largest=0, *, debias=False):
    m, v = mean(B1, m, g), mean(B2, v, g**2)
    m_hat, v_hat = (hat(B1, m, t), hat(B2, v, t)) if debias else (m, v)
    largest = np.maximum(largest, v_hat)
    return p - RATE * m_hat / (np.sqrt(largest + ROOT) + EPS), m, v, largest


def adamax(t, p, g, m=0, u=0, *, decay=0):
    m, u = mean(B1, m, g), np.maximum(B2 * u, np.abs(g) + EPS)
    return p - RATE * (hat(B1, m, t) / u + decay * p), m, u


def radam(t, p, g, m=0, v=0, *, threshold=4):
    m, v = mean(B1, m, g), mean(B2, v, g**2)
    last = 2 / (1 - B2) - 1
    rho = last - 2 * t * B2**t / (1 - B2**t)
    if rho > threshold:
        r = np.sqrt((rho - 4) * (rho - 2) * last / ((last - 4) * (last - 2) * rho))
        return p - RATE * r * hat(B1, m, t) / (np.sqrt(hat(B2, v, t) + ROOT) + EPS), m, v
    return p - RATE * hat(B1, m, t), m, v


def adabelief(t, p, g, m=0, s=0):
    m = mean(B1, m, g)
    s = mean(B2, s, (g - m) ** 2) + ROOT
    return p - RATE * hat(B1, m, t) / (np.sqrt(hat(B2, s, t)) + EPS), m, s


def yogi(t, p, g, m=1e-6, v=1e-6):
    m, v = mean(B1, m, g), v - (1 - B2) * np.sign(v - g**2) * g**2
    return p - RATE * hat(B1, m, t) / (np.sqrt(hat(B2, v, t)) + EPS), m, v


def novograd(t, p, g, m=0, v=None):
    v = norm(g) ** 2 if t == 1 else mean(B2, v, norm(g) ** 2)
    m = B1 * m + g / (np.sqrt(v) + EPS) + LAMBDA * p
    return p - RATE * m, m, v


def adan(t, p, g, m=0, v=0, n=0, old=None):  # the paper's 1 - beta_2 is b2
    d = 0 if t == 1 else g - old
    m, v, n = mean(B1, m, g), mean(B2, v, d), mean(B3, n, (g + B2 * d) ** 2)
    u = (hat(B1, m, t) + B2 * hat(B2, v, t)) / (np.sqrt(hat(B3, n, t) + ROOT) + EPS)
    return p - RATE * (u + LAMBDA * p), m, v, n, g


def ademamix(t, p, g, m1=0, m2=0, v=0, *, warmup=1):
    x, first, last = min(t / warmup, 1), np.log(B1), np.log(B3)
    alpha, b3 = 5 * x, min(np.exp(first * last / ((1 - x) * last + x * first)), B3)
    m1, m2, v = mean(B1, m1, g), mean(b3, m2, g), mean(B2, v, g**2)
    u = (hat(B1, m1, t) + alpha * m2) / (np.sqrt(hat(B2, v, t)) + EPS)
    return p - RATE * (u + LAMBDA * p), m1, m2, v


def laprop(t, p, g, m=0, v=0):
    v = mean(B2, v, g**2)
    m = mean(B1, m, g / (np.sqrt(hat(B2, v, t) + ROOT) + EPS))
    return p - RATE * (hat(B1, m, t) + LAMBDA * p), m, v


def adopt(t, p, g, m=0, v=None, *, clipped=True, nesterov=False):
    if t == 1:  # the paper's step 0
        return p, m, g**2
    u, bound = g / np.maximum(np.sqrt(v), EPS), (t - 1) ** 0.25
    u = np.clip(u, -bound, bound) if clipped else u
    m = mean(B1, m, u)
    return p - RATE * (mean(B1, m, u) if nesterov else m), m, mean(B2, v, g**2)


def adadelta(t, p, g, v=0, x=0):
    g = g + LAMBDA * p
    v = mean(DECAY, v, g**2)
    u = np.sqrt(x + EPS) / np.sqrt(v + EPS) * g
    return p - u, v, mean(DECAY, x, u**2)


def adafactor(t, p, g, r=0, c=0, v=0, m=0, *, factored=True, momentum=0, offset=0, decay=0):
    b, square = 1 - max(t - offset, 1) ** -0.8, g**2 + 1e-30
    if factored and g.ndim == 2:
        r, c = mean(b, r, square.sum(1)), mean(b, c, square.sum(0))
        v = np.outer(r, c) / r.sum()
    else:
        v = mean(b, v, square)
    u = g / np.sqrt(v)
    m = mean(momentum, m, RATE * max(rms(p), 1e-3) * u / max(1, rms(u) / 0.9))
    return p - (m + decay * p), r, c, v, m


def came(t, p, g, m=0, r=0, c=0, v=0, rest_r=0, rest_c=0):
    square, matrix = g**2 + EPS, g.ndim == 2
    if matrix:
        r, c = mean(B2, r, square.sum(1)), mean(B2, c, square.sum(0))
    else:
        v = mean(B2, v, square)
    u = g / np.sqrt(np.outer(r, c) / r.sum() if matrix else v)
    u = u / max(1, rms(u) / 0.9)
    m = mean(B1, m, u)
    rest = (u - m) ** 2 + ROOT
    if matrix:
        rest_r, rest_c = mean(B3, rest_r, rest.sum(1)), mean(B3, rest_c, rest.sum(0))
    step = m / np.sqrt(np.outer(rest_r, rest_c) / rest_r.sum()) if matrix else m
    return p - RATE * (step + LAMBDA * p), m, r, c, v, rest_r, rest_c


def cautious_adamw(t, p, g, m=0, v=0):
    m, v = mean(B1, m, g), mean(B2, v, g**2)
    u = hat(B1, m, t) / (np.sqrt(hat(B2, v, t)) + EPS)
    agrees = u * g > 0
    return p - RATE * (u * agrees * g.size / agrees.sum() + LAMBDA * p), m, v


def cautious_weight_decay(t, p, g, m=0, v=0):
    m, v = mean(B1, m, g), mean(B2, v, g**2)
    u = hat(B1, m, t) / (np.sqrt(hat(B2, v, t)) + EPS)
    return p - RATE * (u + LAMBDA * p * (u * p >= 0)), m, v


def lamb(t, p, g, m=0, v=0):
    m, v = mean(B1, m, g), mean(B2, v, g**2)
    u = hat(B1, m, t) / (np.sqrt(hat(B2, v, t)) + EPS) + LAMBDA * p
    return p - RATE * norm(p) / norm(u) * u, m, v


def lars(t, p, g, trace=0, *, decay=0, size=lambda g, pull: norm(g) + norm(pull)):
    trace = DECAY * trace + RATE * 0.5 * norm(p) / size(g, decay * p) * (g + decay * p)
    return p - trace, trace


def from_one(schedule):  # the paper's first step is 1, a schedule's is 0
    return lambda count: schedule(count + 1)


ADAM, MATRIX = (RATE, B1, B2, EPS), partial(gd.adafactor, RATE, 2, clipping_threshold=0.9)
LARS = gd.lars(RATE, LAMBDA, trust_coefficient=0.5, momentum=DECAY)
MIX = partial(gd.ademamix, RATE, B1, B2, eps=EPS, weight_decay=LAMBDA)
DOWN = gd.scale(-RATE)
SLOW = {"b3": from_one(gd.ademamix_b3(B1, B3, WARMUP)), "alpha": from_one(gd.ademamix_alpha(5.0, WARMUP))}
HEAVY = MATRIX(momentum=B1, weight_decay_rate=LAMBDA, dtype_momentum=jnp.float64)
CASES = {
    "clip_by_block_rms": (
        lambda t, p, g: (p - RATE * g / max(1, rms(g) / 0.5),),
        gd.chain(gd.clip_by_block_rms(0.5), DOWN),
    ),
    "adaptive_grad_clip": (adaptive_grad_clip, gd.chain(gd.adaptive_grad_clip(0.2, EPS), DOWN)),
    "centralize as in Optax": (partial(centralize, axis=1), gd.chain(gd.centralize(), DOWN)),
    "ema": (ema, gd.chain(gd.ema(B1), DOWN)),
    "ema with bias": (partial(ema, debias=False), gd.chain(gd.ema(B1, debias=False), DOWN)),
    "sign_sgd": (lambda t, p, g: (p - RATE * np.sign(g),), gd.sign_sgd(RATE)),
    "signum": (lambda t, p, g, m=0: (p - RATE * np.sign(mean(B1, m, g)), mean(B1, m, g)), gd.signum(RATE, B1)),
    "lion": (lion, gd.lion(RATE, B1, B2, weight_decay=LAMBDA)),
    "amsgrad": (amsgrad, gd.amsgrad(*ADAM, ROOT, bias_correction_mu=False, bias_correction_nu=False)),
    "amsgrad corrected": (partial(amsgrad, debias=True), gd.amsgrad(*ADAM, ROOT)),
    "adamax": (adamax, gd.adamax(*ADAM)),
    "adamaxw": (partial(adamax, decay=LAMBDA), gd.adamaxw(*ADAM, LAMBDA)),
    "radam": (radam, gd.radam(*ADAM, ROOT, threshold=4.0)),
    "radam at the default threshold": (partial(radam, threshold=5), gd.radam(*ADAM, ROOT)),
    "adabelief": (adabelief, gd.adabelief(*ADAM, ROOT)),
    "yogi": (yogi, gd.yogi(*ADAM)),
    "novograd": (novograd, gd.novograd(*ADAM, weight_decay=LAMBDA)),
    "adan": (adan, gd.adan(RATE, B1, B2, B3, EPS, ROOT, LAMBDA)),
    "ademamix": (ademamix, MIX(b3=B3)),
    "ademamix warmed up": (partial(ademamix, warmup=WARMUP), MIX(**SLOW)),
    "laprop": (laprop, gd.laprop(*ADAM, ROOT, weight_decay=LAMBDA)),
    "adopt": (adopt, gd.adopt(*ADAM)),
    "adopt unclipped": (partial(adopt, clipped=False), gd.adopt(*ADAM, use_clipping=False)),
    "adopt with nesterov": (partial(adopt, nesterov=True), gd.adopt(*ADAM, nesterov=True)),
    "adagrad": (lambda t, p, g, s=0.1: (p - RATE * g / np.sqrt(s + g**2 + EPS), s + g**2), gd.adagrad(RATE, 0.1, EPS)),
    "adadelta": (adadelta, gd.adadelta(1.0, DECAY, EPS, LAMBDA)),
    "adafactor": (adafactor, MATRIX()),
    "adafactor unfactored": (partial(adafactor, factored=False), MATRIX(factored=False)),
    "adafactor with momentum": (partial(adafactor, momentum=B1, decay=LAMBDA), HEAVY),
    "adafactor with an offset": (partial(adafactor, offset=2), MATRIX(decay_offset=2)),
    "came": (came, gd.came(RATE, B1, B2, B3, EPS, ROOT, 0.9, LAMBDA)),
    "cautious_adamw": (cautious_adamw, gd.cautious_adamw(*ADAM, LAMBDA)),
    "cautious weight decay": (
        cautious_weight_decay,
        gd.chain(gd.scale_by_adam(*ADAM[1:]), gd.add_cautious_weight_decay(LAMBDA), DOWN),
    ),
    "lamb": (lamb, gd.lamb(*ADAM, weight_decay=LAMBDA)),
    "lars": (lars, LARS.replace(weight_decay=0.0)),
    "lars with decay as in Optax": (partial(lars, decay=LAMBDA, size=lambda g, pull: norm(g + pull)), LARS),
    "fromage": (lambda t, p, g: ((p - RATE * norm(p) / norm(g) * g) / np.sqrt(1 + RATE**2),), gd.fromage(RATE)),
}


@pytest.mark.parametrize("case", CASES)
def test_parameters_match_the_paper(case):
    step, tx = CASES[case]
    with jax.enable_x64(True):
        exact, single = (run(tx, tree(dtype), STEPS)[0] for dtype in (jnp.float64, jnp.float32))
        for leaf, p in tree(jnp.float64).items():
            p, state = np.asarray(p), ()
            for t in range(1, 1 + STEPS):
                p, *state = step(t, p, np.asarray(tree(jnp.float64, seed=t)[leaf]), *state)
            np.testing.assert_allclose(exact[leaf], p, rtol=1e-11)
            np.testing.assert_allclose(single[leaf], p, rtol=2e-5, atol=2e-6)


def test_normalize_by_update_norm_uses_the_norm_of_all_leaves():
    with jax.enable_x64(True):
        g, tx = tree(jnp.float64), gd.normalize_by_update_norm(3.0, EPS)
        global_norm = norm(np.concatenate([leaf.ravel() for leaf in g.values()]))
        for leaf in g:
            np.testing.assert_allclose(tx.update(g, ())[0][leaf], 3 * g[leaf] / (global_norm + EPS), rtol=1e-11)
            np.testing.assert_allclose(tx.update(tree(), ())[0][leaf], 3 * g[leaf] / (global_norm + EPS), rtol=2e-5)


def test_zero_nans_replaces_nan_and_marks_its_leaf():
    g, tx = tree(), gd.zero_nans()
    updates, state = tx.update({**g, "b": g["b"].at[1].set(jnp.nan)}, tx.init(g))
    np.testing.assert_array_equal(updates["b"], g["b"] * np.asarray([1, 0, 1]))
    np.testing.assert_array_equal(updates["w"], g["w"])
    assert state.found_nan == {"b": True, "w": False}


@pytest.mark.parametrize(("dtype", "rtol"), [(jnp.float64, 1e-11), (jnp.float32, 2e-5)])
def test_trust_ratio_is_one_for_leaves_with_zero_weights_or_updates(dtype, rtol):
    with jax.enable_x64(True):
        (p, g), zero = (tree(dtype, seed) for seed in range(2)), jnp.zeros((4, 3), dtype)
        tx = gd.scale_by_trust_ratio(trust_coefficient=0.5, eps=EPS)
        updates, _ = tx.update(g, (), {**p, "w": zero})
        weights, moves = (np.asarray(tree(jnp.float64, seed)["b"]) for seed in range(2))
        np.testing.assert_allclose(updates["b"], 0.5 * norm(weights) / (norm(moves) + EPS) * moves, rtol=rtol)
        np.testing.assert_array_equal(updates["w"], g["w"])
        np.testing.assert_array_equal(tx.update({**g, "w": zero}, (), p)[0]["w"], zero)


def test_mars_adamw_clips_the_corrected_gradient_by_its_global_norm():
    tx = gd.mars_adamw(*ADAM, gamma=0.5, max_norm=6.0, weight_decay=LAMBDA)
    with jax.enable_x64(True):
        (p, *gs), m, v, clipped = (np.asarray(ravel_pytree(tree(jnp.float64, t))[0]) for t in range(1 + STEPS)), 0, 0, 0
        for t, (g, old) in enumerate(zip(gs, [gs[0], *gs], strict=False), 1):
            c = g + 0.5 * B1 / (1 - B1) * (g - old)
            clipped += norm(c) > 6
            c = c / max(1, norm(c) / 6)
            m, v = mean(B1, m, c), mean(B2, v, c**2)
            p = p - RATE * (hat(B1, m, t) / (np.sqrt(hat(B2, v, t)) + EPS) + LAMBDA * p)
        assert 0 < clipped < STEPS
        for dtype, rtol, atol in ((jnp.float64, 1e-11, 0), (jnp.float32, 2e-5, 2e-6)):
            np.testing.assert_allclose(ravel_pytree(run(tx, tree(dtype), STEPS)[0])[0], p, rtol=rtol, atol=atol)


def plateaus(losses, factor, patience, rtol, atol, cooldown, accumulation_size, min_scale):
    """Yield the scale after each loss."""
    scale, best, waited, resting, pending = 1.0, None, 0, 0, []
    for loss in losses:
        pending.append(loss)
        if len(pending) == accumulation_size:
            value, pending = sum(pending) / len(pending), []
            improved = best is None or value < best - rtol * abs(best) - atol
            best, waited = (value, 0) if improved else (best, waited + 1)
            if resting:
                resting, waited = resting - 1, 0
            elif waited == patience:
                scale, waited, resting = max(scale * factor, min_scale), 0, cooldown
        yield scale


PLATEAUS = {
    "patience": (0.5, 4, 1e-2, 0.0, 0, 1, 0.0),
    "cooldown": (0.5, 3, 0.0, 0.05, 5, 1, 0.0),
    "accumulation": (0.7, 2, 1e-2, 0.01, 2, 4, 0.0),
    "least scale": (0.3, 1, 1e-2, 0.0, 4, 3, 0.05),
}


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize("given", PLATEAUS.values(), ids=PLATEAUS)
def test_reduce_on_plateau_lowers_the_scale_when_patience_runs_out(given, dtype):
    noise = np.random.default_rng(3).normal(size=400)
    losses = (3 * np.exp(-np.arange(400) / 40) - 1.5 + 0.2 * noise).astype(np.float32)  # from above 0 to below it
    expected = list(plateaus(losses.astype(float), *given))
    assert 1 > expected[200] > expected[-1] or expected[-1] == given[-1] > 0
    with jax.enable_x64(dtype == jnp.float64):
        tx, g = gd.reduce_on_plateau(*given), jnp.ones((), dtype)

        def step(state, loss):
            return tx.update(g, state, value=loss)[::-1]

        _, scales = jax.lax.scan(step, tx.init(g), jnp.asarray(losses))
        np.testing.assert_allclose(scales, expected, rtol=1e-11 if dtype == jnp.float64 else 2e-5)


def test_cautious_weight_decay_applies_where_the_update_is_zero():
    tx, p = gd.add_cautious_weight_decay(0.5), jnp.asarray([2.0, -2.0, 2.0])
    updates, _ = tx.update(jnp.asarray([0.0, 0.0, -1.0]), tx.init(p), p)
    np.testing.assert_array_equal(updates, [1.0, -1.0, -1.0])
