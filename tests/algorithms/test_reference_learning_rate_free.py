"""The learning-rate-free family against its papers: runs in NumPy float64, line by line, on one flat vector."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import gdjax as gd
from tests.samples import tree

STEPS = 12
B1, B2, B3, C, EPS, ROOT, FIRST, LAMBDA = 0.75, 0.9375, 0.75, 1.5, 1e-3, 0.5, 0.01, 0.03
SLOPE, SOLUTION, *NOISE = np.random.default_rng(7).normal(size=(2 + STEPS, 15))
norm = np.linalg.norm


def gradient(x, k):
    """Return the noisy gradient of a quadratic at step k."""
    return (0.5 + np.abs(SLOPE)) * (x - 3 * SOLUTION) + 0.1 * NOISE[k]


def decaying_rate(k):
    return 1.0 / (1.0 + 0.1 * k)


def prodigy(x, b3=B2**0.5, c=1.0, decay=0.0, gamma=lambda k: 1.0, safeguarded=False):
    start, d, m, v, s, r = x, FIRST, 0.0, 0.0, 0.0, 0.0
    for k in range(STEPS):
        g = gradient(x, k)
        rate = gamma(k) * np.sqrt(1 - B2 ** (k + 1)) / (1 - B1 ** (k + 1))  # the paper has gamma(k)
        m = B1 * m + (1 - B1) * d * g
        v = B2 * v + (1 - B2) * d**2 * g**2
        r = b3 * r + (1 - b3) * rate * d**2 * (g @ (start - x))
        s = b3 * s + (1 - b3) * (1.0 if safeguarded else rate) * d**2 * g
        old, d = d, max(d, c * r / np.abs(s).sum())
        x = x - rate * old * (m / (np.sqrt(v) + d * EPS) + decay * x)  # the paper has old * EPS, and no decay
    return x, d


def dadapt_adamw(x, decay=0.0, gamma=lambda k: 1.0):
    b3 = B2**0.5
    d, m, v, s, r = FIRST, 0.0, 0.0, 0.0, 0.0
    for k in range(STEPS):
        g = gradient(x, k)
        rate = d * gamma(k) * np.sqrt(1 - B2 ** (k + 1)) / (1 - B1 ** (k + 1))  # the paper has d * gamma(k)
        r = b3 * r + (1 - b3) * rate * np.sum(g * s / (np.sqrt(v) + EPS))  # the paper has the next v
        m = B1 * m + (1 - B1) * rate * g
        v = B2 * v + (1 - B2) * g**2
        x = x - m / (np.sqrt(v) + EPS) - rate * decay * x
        s = b3 * s + (1 - b3) * rate * g
        d = max(d, r / ((1 - b3) * np.abs(s).sum()))
    return x, d


def dog(x, kind, eps=0.0, decay=0.0, gamma=lambda k: 1.0):
    start, total = x, 0.0
    r = {"heuristic": FIRST * (1 + norm(x)), "distance": FIRST, "learning_rate": 0.0}[kind]
    for k in range(STEPS):
        g = gradient(x, k) + decay * x
        r = max(r, norm(x - start))
        total += norm(g) ** 2
        step = FIRST if kind == "learning_rate" and k == 0 else r / np.sqrt(total + eps)
        x = x - gamma(k) * step * g
    return x, r


def dowg(x, first, eps=0.0, decay=0.0, gamma=lambda k: 1.0):
    start, r, v = x, first**0.5, 0.0
    for k in range(STEPS):
        g = gradient(x, k) + decay * x
        r = max(r, norm(x - start))
        v += r**2 * norm(g) ** 2
        x = x - gamma(k) * r**2 / (np.sqrt(v) + eps) * g
    return x, r**2


PRODIGY = gd.prodigy(1.0, (B1, B2), None, EPS, FIRST)
DADAPT = gd.dadapt_adamw(1.0, (B1, B2), EPS, FIRST)
HEURISTIC, DISTANCE, RATE = ((kind, FIRST) for kind in ("heuristic", "distance", "learning_rate"))
CASES = {
    "prodigy": (prodigy, PRODIGY),
    "prodigy with a memory, a coefficient and decay": (
        partial(prodigy, b3=B3, c=C, decay=LAMBDA),
        PRODIGY.replace(beta3=B3, estim_lr_coef=C, weight_decay=LAMBDA),
    ),
    "prodigy with a schedule": (partial(prodigy, gamma=decaying_rate), PRODIGY.replace(learning_rate=decaying_rate)),
    "prodigy with a safeguard": (
        partial(prodigy, gamma=decaying_rate, safeguarded=True),
        PRODIGY.replace(learning_rate=decaying_rate, safeguard_warmup=True),
    ),
    "dadapt_adamw": (dadapt_adamw, DADAPT),
    "dadapt_adamw with decay": (partial(dadapt_adamw, decay=LAMBDA), DADAPT.replace(weight_decay=LAMBDA)),
    "dadapt_adamw with a schedule": (
        partial(dadapt_adamw, gamma=decaying_rate),
        DADAPT.replace(learning_rate=decaying_rate),
    ),
    "dog": (partial(dog, kind="heuristic"), gd.dog(1.0, HEURISTIC, 0.0)),
    "dog with decay": (partial(dog, kind="distance", eps=ROOT, decay=LAMBDA), gd.dog(1.0, DISTANCE, ROOT, LAMBDA)),
    "dog from a learning rate": (
        partial(dog, kind="learning_rate", gamma=decaying_rate),
        gd.dog(decaying_rate, RATE, 0.0),
    ),
    "dowg": (partial(dowg, first=FIRST), gd.dowg(1.0, FIRST, 0.0)),
    "dowg with decay": (partial(dowg, first=ROOT, eps=ROOT, decay=LAMBDA), gd.dowg(1.0, None, ROOT, LAMBDA)),
    "dowg with a schedule": (partial(dowg, first=FIRST, gamma=decaying_rate), gd.dowg(decaying_rate, FIRST, 0.0)),
}


def descended(tx, params):
    """Return the parameters and the estimate after the run."""
    state = tx.init(params)
    for k in range(STEPS):
        flat, unravel = ravel_pytree(params)
        grads = unravel(jnp.asarray(gradient(np.asarray(flat, np.float64), k), flat.dtype))
        updates, state = tx.update(grads, state, params)
        params = gd.apply_updates(params, updates)
    found = [optax.tree.get(state, name) for name in ("estim_lr", "max_dist", "estim_sq_dist")]
    return ravel_pytree(params)[0], next(number for number in found if number is not None)


@pytest.mark.parametrize("case", CASES)
def test_parameters_and_estimates_match_the_paper(case):
    algorithm, tx = CASES[case]
    with jax.enable_x64(True):
        x, estimate = algorithm(np.asarray(ravel_pytree(tree(jnp.float64))[0]))
        assert estimate > 2 * FIRST, "the estimate must grow during the run"
        for dtype, rtol, atol in ((jnp.float64, 1e-11, 0), (jnp.float32, 2e-5, 2e-6)):
            params, found = descended(tx, tree(dtype))
            assert found.dtype == dtype
            np.testing.assert_allclose(params, x, rtol=rtol, atol=atol)
            np.testing.assert_allclose(found, estimate, rtol=rtol)


ANNEALED = optax.cosine_decay_schedule(1.0, 1000)
UNTUNED = [gd.prodigy(ANNEALED), gd.dadapt_adamw(ANNEALED), gd.dog(), gd.dowg(init_estim_sq_dist=1e-12, eps=1e-12)]


@pytest.mark.parametrize("distance", [1e-2, 1.0, 1e2])
@pytest.mark.parametrize("tx", UNTUNED, ids=lambda tx: tx.factory.__name__)
def test_the_rate_adapts_from_a_tiny_first_step_at_any_distance(tx, distance):
    slope, solution = (jnp.asarray(x) for x in (0.5 + np.abs(SLOPE), distance * SOLUTION / norm(SOLUTION)))

    def step(carry, _):
        x, state = carry
        updates, state = tx.update(slope * (x - solution), state, x)
        return (x + updates, state), gd.global_norm(updates)

    start = jnp.zeros_like(solution)
    (x, _), moved = jax.lax.scan(step, (start, tx.init(start)), length=1000)
    assert moved[0] < 1e-5
    assert gd.global_norm(x - solution) < 1e-4 * distance


ZEROS = {
    "prodigy": gd.prodigy(),
    "dadapt_adamw": gd.dadapt_adamw(),
    "dog": gd.dog(),
    "dog from a learning rate": gd.dog(init_step=("learning_rate", 0.1)),
    "dowg": gd.dowg(),
}


@pytest.mark.parametrize("case", ZEROS)
def test_leading_zero_gradients_change_nothing(case):
    tx, params, g = ZEROS[case], tree(), tree(seed=1)
    waited = tx.init(params)
    for _ in range(3):
        updates, waited = tx.update(jax.tree.map(jnp.zeros_like, g), waited, params)
        assert not any(leaf.any() for leaf in jax.tree.leaves(updates))
    at_once = tx.init(params)
    if "count" in getattr(at_once, "_fields", ()):  # the bias correction counts every step
        at_once = at_once._replace(count=waited.count)
    chex.assert_trees_all_equal(waited, at_once)
    chex.assert_trees_all_equal(tx.update(g, waited, params), tx.update(g, at_once, params))


def test_donating_the_state_keeps_arrays_of_the_optimizer():
    first = jnp.float32(0.1)
    for tx in (gd.prodigy(estim_lr0=first), gd.dog(init_step=("distance", first)), gd.dowg(init_estim_sq_dist=first)):
        params = tree()
        step = jax.jit(lambda tx, state, params: tx.update(params, state, params), donate_argnums=1)
        for _ in range(2):
            step(tx, tx.init(params), params)
        assert first == np.float32(0.1)


@pytest.mark.parametrize(
    "init_step", [0.1, ("distance",), ("near", 0.1), ("distance", "near"), ("distance", 0.1, 0.2), (0.1, "distance")]
)
def test_init_step_must_be_a_kind_and_a_number(init_step):
    with pytest.raises(ValueError, match=r"^scale_by_dog: init_step must be a pair of 'distance', .*, got "):
        gd.dog(init_step=init_step)


@pytest.mark.parametrize("tx", UNTUNED, ids=lambda tx: tx.factory.__name__)
def test_no_tree_is_broadcast_to_another(tx):
    params, state = tree(), tx.init(tree())
    for shape in ((3, 4), (4, 1), (1, 3)):
        other = {**params, "w": jnp.ones(shape)}
        for grads, current in ((other, params), (params, other)):
            with pytest.raises(ValueError, match="updates and params differ at 'w'"):
                tx.update(grads, state, current)


def test_pair_arguments_round_trip_through_parse():
    for tx in (gd.dog(), gd.dog(init_step=("learning_rate", 0.1)), gd.prodigy(betas=(0.8, 0.9)), gd.dadapt_adamw()):
        assert gd.parse(repr(tx)) == tx
    assert repr(gd.dog()).startswith("dog(learning_rate=1.0, init_step=('heuristic', 1e-06), eps=1e-08,")
    assert jax.tree.leaves(gd.prodigy().betas) == [0.9, 0.999]
    with pytest.raises(ValueError, match=r"prodigy: betas must lie in \[0, 1\), got 1.5"):
        gd.prodigy(betas=(0.9, 1.5))
