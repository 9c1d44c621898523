"""Matrix methods against their papers, line by line in NumPy float64, and in limits where they equal other methods."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib._muon import scale_by_shape

import gdjax as gd
from tests.samples import assert_close

SHAPES = [(3, 3), (5, 3), (10, 10), (15, 31)]
STEPS = 7


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def gradients(shape, steps=STEPS, seed=0):
    """Return the gradients of some steps."""
    return np.random.default_rng(seed).normal(size=(steps, *shape))


def descended(tx, start, grads):
    """Return the parameters and the states after each step."""

    @jax.jit
    def step(params, state, g):
        updates, state = tx.update({"w": g}, state, params)
        return gd.apply_updates(params, updates), state

    params = {"w": jnp.asarray(start)}
    state, seen = tx.init(params), []
    for g in grads:
        params, state = step(params, state, g)
        seen.append((np.asarray(params["w"]), state))
    return zip(*seen, strict=True)


def updates_of(tx, grads, params=None):
    """Return the updates of every step."""

    def step(state, g):
        updates, state = tx.update(g, state, params)
        return state, updates

    first = jax.tree.map(lambda g: g[0], grads)
    return jax.jit(lambda grads: jax.lax.scan(step, tx.init(first if params is None else params), grads)[1])(grads)


def newton_schulz(x, table):
    x = x / np.linalg.norm(x)
    for a, b, c in table:
        r = x @ x.T
        x = a * x + (b * r + c * r @ r) @ x
    return x


def momentum(grads, beta, nesterov):
    """Yield the bias-corrected momentum of each step."""
    m = np.zeros_like(grads[0])
    for t, g in enumerate(grads, 1):
        m = beta * m + (1 - beta) * g
        if nesterov:
            yield beta * m / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t)
        else:
            yield m / (1 - beta**t)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_matches_the_paper(shape, nesterov):
    w = start = gradients(shape, 1, seed=1)[0]
    rate, decay = 0.1, 0.3
    tx = gd.muon(rate, beta=0.9, weight_decay=decay, nesterov=nesterov, ns_coeffs=gd.linalg.QUINTIC, which="w")
    seen, _ = descended(tx, start, gradients(shape))
    for direction, ours in zip(momentum(gradients(shape), 0.9, nesterov), seen, strict=True):
        step = max(1, shape[1] / shape[0]) ** 0.5 * newton_schulz(direction, gd.linalg.QUINTIC)
        w = w - rate * (step + decay * w)
        np.testing.assert_allclose(ours, w, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_normuon_matches_the_paper(shape):
    w = start = gradients(shape, 1, seed=1)[0]
    rate, decay, beta2, eps = 0.1, 0.3, 0.9, 1e-8
    seen, _ = descended(gd.normuon(rate, beta2=beta2, weight_decay=decay, which="w"), start, gradients(shape))
    v = np.zeros(shape[1])
    for direction, ours in zip(momentum(gradients(shape), 0.95, True), seen, strict=True):
        o = newton_schulz(direction, gd.linalg.JORDAN)
        v = beta2 * v + (1 - beta2) * np.mean(o**2, axis=0)
        even = o / (np.sqrt(v) + eps)
        step = max(1, shape[1] / shape[0]) ** 0.5 * even * np.linalg.norm(o) / np.linalg.norm(even)
        w = w - rate * (step + decay * w)
        np.testing.assert_allclose(ours, w, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_soap_matches_the_paper(shape):
    w = start = gradients(shape, 1, seed=1)[0]
    rate, b1, b2, beta, eps, decay, every = 0.1, 0.9, 0.8, 0.7, 1e-8, 0.3, 3
    tx = gd.soap(rate, None, b1, b2, beta, eps, decay, every=every, which="w")
    seen, states = descended(tx, start, gradients(shape))
    stacks = [state.inner_states["inner"].inner_state[0].stacks[0] for state in states]
    m, v = np.zeros(shape), np.zeros(shape)
    left, right = np.zeros((shape[0],) * 2), np.zeros((shape[1],) * 2)
    ql, qr = np.eye(shape[0]), np.eye(shape[1])
    for t, g in enumerate(gradients(shape)):
        step = np.zeros(shape)
        if t:
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * (ql.T @ g @ qr) ** 2
            m_hat, v_hat = ql.T @ m @ qr / (1 - b1**t), v / (1 - b2**t)
            step = ql @ (m_hat / (np.sqrt(v_hat) + eps)) @ qr.T
        left, right = beta * left + (1 - beta) * g @ g.T, beta * right + (1 - beta) * g.T @ g
        if not t:
            ql, qr = (np.asarray(basis[0]) for basis in stacks[0].bases[:: 1 if shape[0] <= shape[1] else -1])
            for a, q in ((left, ql), (right, qr)):  # a rank-deficient matrix has no unique basis
                np.testing.assert_allclose(a @ q, q * np.linalg.eigvalsh(a)[::-1], atol=1e-10)
                np.testing.assert_allclose(q.T @ q, np.eye(len(a)), atol=1e-12)
        elif t % every == 0:
            by_row = np.argsort(-np.diag(ql.T @ left @ ql))
            by_column = np.argsort(-np.diag(qr.T @ right @ qr))
            v = v[by_row][:, by_column]
            ql, qr = np.linalg.qr(left @ ql[:, by_row])[0], np.linalg.qr(right @ qr[:, by_column])[0]
        w = w - rate * (step + decay * w)
        np.testing.assert_allclose(seen[t], w, rtol=1e-6, atol=1e-9)
    assert not stacks[-1].failures.any()


def inverse_root(a, exponent, eps):
    values, vectors = np.linalg.eigh(a)
    return vectors * (values - min(values[0], 0) + eps) ** -exponent @ vectors.T


def blocks(size, most):
    """Return the indices of each block of a side: as few blocks as possible, equally long except the last."""
    number = -(-size // most)
    length = -(-size // number)
    return [np.arange(i * length, min((i + 1) * length, size)) for i in range(number)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("b2", "block", "one_sided"), [(0.9, 1024, False), (1.0, 4, False), (0.9, 8, True)])
def test_shampoo_matches_the_paper(shape, b2, block, one_sided):
    w = start = gradients(shape, 1, seed=1)[0]
    rate, b1, eps, decay = 0.1, 0.8, 1e-6, 0.3
    every = 1 if max(shape) > block else 2  # blocks take turns
    graft = gd.scale_by_rms(0.9)
    tx = gd.shampoo(rate, None, graft, b1, b2, eps, decay, every=every, block=block, one_sided=one_sided, which="w")
    seen, _ = descended(tx, start, gradients(shape))
    cuts = [blocks(size, block) for size in shape]
    m, v, weight = np.zeros(shape), np.zeros(shape), 1.0 if b2 == 1 else 1 - b2
    factors, roots = {}, {}
    for t, g in enumerate(gradients(shape), 1):
        m, v = b1 * m + (1 - b1) * g, 0.9 * v + 0.1 * g**2
        length = g / np.sqrt(v + 1e-8)
        step = np.zeros(shape)
        bias_correction = 1 if b2 == 1 else 1 - b2**t
        for i, rows in enumerate(cuts[0]):
            for j, columns in enumerate(cuts[1]):
                cell = np.ix_(rows, columns)
                left, right = factors.get((i, j), (0.0, 0.0))
                left, right = b2 * left + weight * g[cell] @ g[cell].T, b2 * right + weight * g[cell].T @ g[cell]
                factors[i, j] = left, right
                if t % every == 0:
                    by_left, by_right = (
                        inverse_root(a / bias_correction, 0.5 if one_sided else 0.25, eps) for a in (left, right)
                    )
                    by_left = np.eye(len(rows)) if one_sided and shape[0] > shape[1] else by_left
                    by_right = np.eye(len(columns)) if one_sided and shape[0] <= shape[1] else by_right
                    roots[i, j] = by_left, by_right
                if t < every:
                    step[cell] = length[cell]
                    continue
                whitened = roots[i, j][0] @ m[cell] @ roots[i, j][1]
                step[cell] = whitened * np.linalg.norm(length[cell]) / np.linalg.norm(whitened)
        w = w - rate * (step + decay * w)
        np.testing.assert_allclose(seen[t - 1], w, rtol=1e-6, atol=1e-9)


def test_shampoo_newton_roots_match_eigenvalue_roots():
    grads = {"w": gradients((6, 6))}
    by_eigenvalues, by_products = (gd.scale_by_shampoo(eps=1e-3, every=1, root=root) for root in ("eigh", "newton"))
    assert_close(updates_of(by_products, grads), updates_of(by_eigenvalues, grads), rtol=1e-6)


@pytest.mark.parametrize("graft", ["scale_by_adam()", "scale_by_rms()", "identity()"])
def test_shampoo_before_its_start_equals_the_grafted_transform(graft):
    grads = {"w": gradients((4, 6)), "v": gradients((3,))}
    ours = updates_of(gd.scale_by_shampoo(gd.parse(graft), every=2, start=STEPS + 1), grads)
    assert_close(ours, updates_of(gd.parse(graft), grads), rtol=0)


def test_soap_with_no_basis_is_adam_one_step_later():
    grads = {"w": gradients((4, 6)), "v": gradients((3,))}
    ours = updates_of(gd.scale_by_soap(0.9, 0.99, max_dim=1), grads)
    adam = updates_of(gd.scale_by_adam(0.9, 0.99), jax.tree.map(lambda g: g[1:], grads))
    assert_close(jax.tree.map(lambda u: u[1:], ours), adam, rtol=1e-12)
    assert not any(u[0].any() for u in ours.values())


def test_soap_on_one_side_keeps_one_basis_and_commutes_with_transposition():
    params = {"w": jnp.ones((4, 9))}
    for tx in (gd.scale_by_soap(max_dim=8), gd.scale_by_soap(one_sided=True)):
        (stack,) = tx.init(params).stacks
        assert jax.tree.map(jnp.shape, stack.bases) == ((1, 4, 4), None)
        grads = {"w": gradients((4, 9))}
        turned = updates_of(tx, jax.tree.map(lambda g: g.swapaxes(1, 2), grads))
        assert_close(updates_of(tx, grads), jax.tree.map(lambda u: u.swapaxes(1, 2), turned), rtol=1e-9)


def test_muon_with_converging_coefficients_gives_the_polar_factor():
    table = (*gd.linalg.POLAR_EXPRESS_8, *gd.linalg.POLAR_EXPRESS_8[-1:] * 4)
    g = gradients((4, 7), 1)
    u, _, v = np.linalg.svd(g[0], full_matrices=False)
    ours = updates_of(gd.scale_by_muon(table, scale=lambda *_: 1.0), {"w": g})["w"][0]
    np.testing.assert_allclose(ours, u @ v, atol=1e-9)


def test_muon_and_its_state_match_optax():
    dimensions = {"w": optax.contrib.MuonDimensionNumbers(), "v": optax.contrib.MuonDimensionNumbers()}
    theirs = optax.chain(
        optax.contrib.scale_by_muon(weight_dimension_numbers=dimensions),
        scale_by_shape(weight_dimension_numbers=dimensions),
    )
    grads = {"w": gradients((4, 6)), "v": gradients((6, 3))}
    assert_close(updates_of(gd.scale_by_muon(), grads), updates_of(theirs, grads), rtol=1e-6)
    params = jax.tree.map(lambda g: jnp.asarray(g[0], jnp.float32), grads)
    with jax.enable_x64(False):
        ours, plain = gd.scale_by_muon().init(params), optax.contrib.scale_by_muon().init(params)
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, plain)


METHODS = {
    "muon": lambda **options: gd.scale_by_muon(**options),
    "normuon": lambda **options: gd.scale_by_normuon(**options),
    "soap": lambda **options: gd.scale_by_soap(every=1, **options),
    "shampoo": lambda **options: gd.scale_by_shampoo(eps=1e-6, every=1, **options),
}


@pytest.mark.parametrize("name", METHODS)
def test_leaves_of_a_tree_are_updated_independently(name):
    grads = {
        k: gradients(s, 4, seed=i)
        for i, (k, s) in enumerate({"a": (4, 4), "b": (4, 4), "c": (4, 4), "l": (2, 3, 3), "v": (5,)}.items())
    }
    together = updates_of(METHODS[name](), grads)
    for leaf, g in grads.items():
        by_itself = updates_of(METHODS[name](), g)
        assert_close(together[leaf], by_itself, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_a_view_splits_a_leaf_into_the_matrices_that_it_names(name):
    g = gradients((4, 12), 3)
    fused = updates_of(METHODS[name](views={".*qkv": "m (qkv=3 n) -> qkv m n"}), {"qkv": g})["qkv"]
    for update, part in zip(np.split(np.asarray(fused), 3, axis=2), np.split(g, 3, axis=2), strict=True):
        assert_close(update, updates_of(METHODS[name](), part), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["soap", "shampoo"])
def test_a_nonfinite_gradient_keeps_the_factors_and_is_counted(name):
    tx = METHODS[name]()
    params = {"w": jnp.ones((3, 3))}
    state = tx.init(params)
    grads = gradients((3, 3), 3)
    for g in grads[:2]:
        _, state = tx.update({"w": jnp.asarray(g)}, state, params)
    factors = state.stacks[0].bases if name == "soap" else state.stacks[0].roots
    _, broken = tx.update({"w": jnp.full((3, 3), jnp.nan)}, state, params)
    factors_after_nan = broken.stacks[0].bases if name == "soap" else broken.stacks[0].roots
    chex.assert_trees_all_equal(factors, factors_after_nan)
    np.testing.assert_array_equal(broken.stacks[0].failures, [1])
    guarded = gd.apply_if_finite(tx, 3)
    state = guarded.init(params)
    for g in (grads[0], np.full((3, 3), np.nan), grads[1]):
        updates, state = guarded.update({"w": jnp.asarray(g)}, state, params)
    assert np.isfinite(updates["w"]).all()
    assert not state.inner_state.stacks[0].failures.any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scale_by_muon(((1.0, 2.0),))", r"scale_by_muon: ns_coeffs must be a table with one row \(a, b, c\)"),
        ("scale_by_normuon(())", "scale_by_normuon: ns_coeffs must be a table"),
        ("scale_by_soap(every=0)", "scale_by_soap: every must be an integer of 1 at least, got 0"),
        ("scale_by_soap(max_dim=0)", "scale_by_soap: max_dim must be an integer of 1 at least, got 0"),
        ("scale_by_shampoo(block=0)", "scale_by_shampoo: block must be an integer of 1 at least, got 0"),
        ("scale_by_shampoo(start=-1)", "scale_by_shampoo: start must be an integer of 1 at least, got -1"),
        ("scale_by_shampoo(eps=0)", r"scale_by_shampoo: eps must lie in \(0, inf\], got 0"),
        ("muon(0.1, beta=1.0)", r"muon: beta must lie in \[0, 1\), got 1.0"),
    ],
)
def test_invalid_arguments_are_refused_at_construction(text, message):
    with pytest.raises(ValueError, match=message):
        gd.parse(text)


def test_an_unbound_axis_is_named():
    tx = gd.scale_by_muon(axis_name="data")
    with pytest.raises(ValueError, match="scale_by_muon: the axis 'data' must be bound, got no axis of this name"):
        tx.init(jnp.ones((2, 2)))
