"""PSGD with Kronecker factors: against Kron's code in NumPy, whitening, stacks and meshes."""

import functools
import math
import re

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import gdjax as gd
from gdjax.algorithms import psgd
from gdjax.algorithms.psgd import scale_by_psgd_kron
from tests.samples import assert_close

B1, LR, SCALE, RMS = 0.8, 0.2, 0.3, 0.9


def norm_lower_bound(a):
    """`_norm_lower_bound` of Kron."""
    max_abs = np.max(np.abs(a))
    a = a / max_abs
    aa = np.real(a * a.conj())
    i, j = np.argmax(aa.sum(0)), np.argmax(aa.sum(1))
    if aa.sum(0)[i] > aa.sum(1)[j]:
        x = a[:, i].conj() @ a
        return max_abs * np.linalg.norm((x / np.linalg.norm(x)) @ a.conj().T)
    x = a @ a[j].conj()
    return max_abs * np.linalg.norm(a.conj().T @ (x / np.linalg.norm(x)))


def kron(gs, vs, diagonal, balance):
    """Yield Kron's updates and factors for a matrix and given probes; a diagonal factor is a full matrix here."""
    ql, qr = (SCALE**0.5 * np.eye(side, dtype=gs.dtype) for side in gs.shape[1:])
    m = 0
    for t, (g, v) in enumerate(zip(gs, vs, strict=True), 1):
        m = B1 * m + (1 - B1) * g
        g = m / (1 - B1**t)
        if balance:
            norms = np.abs(ql).max(), np.abs(qr).max()
            ql, qr = (q * np.prod(norms) ** 0.5 / norm for q, norm in zip((ql, qr), norms, strict=True))
        a = np.einsum("aA,bB,AB->ab", ql, qr, g)
        conj_b = np.linalg.inv(ql).T @ v.conj() @ np.linalg.inv(qr)
        new = []
        for q, expression, diag in zip((ql, qr), ("ab,cb->ac", "ba,bc->ac"), diagonal, strict=True):
            term1 = np.einsum(expression, a, a.conj())
            term2 = np.einsum(expression, conj_b.conj(), conj_b)
            if diag:
                tmp, norm = np.diag(np.diag(term1 - term2)), np.abs(np.diag(term1 + term2)).max()
            else:
                tmp, norm = np.triu(term1 - term2), norm_lower_bound(term1 + term2)
            new.append(q - LR * tmp / norm @ q)
        ql, qr = new
        u = np.einsum("ab,cd,aA,cC,AC->bd", ql.conj(), qr.conj(), ql, qr, g)
        yield u * min(1, RMS / np.sqrt(np.mean(np.abs(u) ** 2))), (ql, qr)


def probes(steps, shape, dtype):
    """Return the probes that a state with seed 0 draws for the first matrix."""
    keys = [jax.random.split(jax.random.fold_in(jax.random.PRNGKey(0), t))[1] for t in range(steps)]
    return np.stack([jax.random.normal(jax.random.fold_in(key, 0), shape, dtype) for key in keys])


def normal(*shape, seed=0, dtype=float):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + (1j * rng.normal(size=shape) if dtype is complex else 0)


CASES = {
    "tall": ((5, 3), {}, (False, False)),
    "complex and balanced": ((3, 5), {}, (False, False)),
    "one diagonal": ((3, 5), {"max_size_triangular": 4}, (False, True)),
    "a vector": ((4,), {}, (True, True)),
}


@pytest.mark.parametrize("name", CASES)
def test_updates_and_factors_match_kron(name, monkeypatch):
    monkeypatch.setattr(psgd, "BALANCE_PROBABILITY", float("balanced" in name))
    shape, options, diagonal = CASES[name]
    dtype = complex if "complex" in name else float
    gs = normal(3, *shape, dtype=dtype)
    matrices = gs.reshape(3, *shape, *[1] * (2 - len(shape)))
    transposed = matrices.shape[1] > matrices.shape[2]
    matrices = matrices.swapaxes(1, 2) if transposed else matrices
    with jax.enable_x64(True):
        tx = scale_by_psgd_kron(B1, 1.0, LR, SCALE, RMS, **options)
        state, update = tx.init(jnp.zeros(shape, dtype)), jax.jit(tx.update)
        expected = kron(matrices, probes(3, matrices.shape[1:], dtype), diagonal, "balanced" in name)
        for g, (u, factors) in zip(gs, expected, strict=True):
            updates, state = update(jnp.asarray(g), state)
            np.testing.assert_allclose(updates, (u.T if transposed else u).reshape(shape), rtol=1e-9)
            for ours, theirs in zip(state.factors[0], factors, strict=True):
                theirs = np.diag(theirs) if ours.ndim == 2 else theirs
                np.testing.assert_allclose(ours[0], theirs, rtol=1e-9, atol=1e-12)


def test_preconditioned_gradients_are_white():
    """Check that preconditioning turns covariance A x B into the identity, to 0.1: the learning rate leaves noise."""
    m, n = 3, 4
    left, right = (np.linalg.qr(normal(k, k, seed=k))[0] * np.geomspace(1, 4, k) for k in (m, n))
    colours = jnp.asarray(0.1 * left, jnp.float32), jnp.asarray(right, jnp.float32)

    @jax.jit
    def learned(tx, state, key):
        def step(state, key):
            return tx.update(colours[0] @ jax.random.normal(key, (m, n)) @ colours[1].T, state)[1], None

        return jax.lax.scan(step, state, jax.random.split(key, 2_000))[0]

    tx = scale_by_psgd_kron(0.0, 1.0, max_rms=math.inf)
    state = tx.init(jnp.zeros((m, n)))
    for i, rate in enumerate((0.1, 0.03, 0.01, 0.003, 0.001)):
        state = learned(tx.replace(precond_lr=rate), state, jax.random.key(i))
    p = np.kron(*(np.asarray(q[0].T @ q[0], float) for q in state.factors[0]))
    covariance = np.kron(0.01 * left @ left.T, right @ right.T)
    assert np.linalg.cond(covariance) > 200
    np.testing.assert_allclose(p @ covariance @ p.T, np.eye(m * n), atol=0.1)


SHAPES = {"a": (8, 16), "b": (16, 8), "stack": (8, 8, 16)}
"""Shapes of a tree whose ten matrices lie in one stack, one of them transposed."""


def gradients(shapes=SHAPES):
    """Return the gradients of three steps."""
    return {k: jnp.asarray(normal(3, *shape), jnp.float32) for k, shape in shapes.items()}


def last_update(tx, grads):
    """Return the update of the last step."""
    start = tx.init(jax.tree.map(lambda g: g[0], grads))
    return jax.tree.map(lambda u: u[-1], jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, grads)[1])


jitted_last_update = jax.jit(last_update)


def test_update_of_a_matrix_does_not_depend_on_its_stack():
    grads, tx = gradients(), scale_by_psgd_kron()
    # alone in its stack, at the same index
    by_itself = jitted_last_update(tx, {"a": jnp.ones((3, 1)), "b": grads["b"]})
    assert_close(jitted_last_update(tx, grads)["b"], by_itself["b"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "options", "left", "right"),
    [
        ((16, 8), {}, (1, 8, 8), (1, 16, 16)),
        ((2, 8, 16), {"max_size_triangular": 8}, (2, 8, 8), (2, 16)),
        ((8, 16), {"max_size_triangular": 1}, (1, 8), (1, 16)),
        ((8, 16), {"max_skew_triangular": 1}, (1, 8, 8), (1, 16)),
        ((8, 16), {"max_skew_triangular": 2}, (1, 8, 8), (1, 16, 16)),
        ((8, 16), {"views": {"": "m (two=2 n) -> two m n"}}, (2, 8, 8), (2, 8, 8)),
        ((16,), {}, (1, 1), (1, 16)),
        ((), {}, (1, 1), (1, 1)),
    ],
    ids=str,
)
def test_sides_have_triangular_factors_or_diagonal_ones(shape, options, left, right):
    factors = scale_by_psgd_kron(**options).init(jnp.zeros(shape)).factors[0]
    assert (factors.left.shape, factors.right.shape) == (left, right)


def test_devices_with_replicated_leaves_share_the_work():
    tx, grads = scale_by_psgd_kron(axis_name="data"), gradients()
    mapped = jax.jit(jax.vmap(lambda grads: last_update(tx, grads), None, axis_name="data", axis_size=5))(grads)
    expected = jitted_last_update(scale_by_psgd_kron(), grads)
    for member in (0, 4):
        assert_close(jax.tree.map(lambda x, i=member: x[i], mapped), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("manual", "dim"), [(True, 0), (False, 0), (False, None)])
def test_devices_of_a_mesh_share_the_work(manual, dim):
    tx, grads = scale_by_psgd_kron(axis_name="data", dim=dim), gradients()
    mesh = jax.make_mesh((8,), ("data",))
    spec, batched_spec = (
        PartitionSpec(*() if dim is None else ("data",)),
        PartitionSpec(None, *() if dim is None else ("data",)),
    )
    with jax.set_mesh(mesh):
        placed = jax.device_put(grads, NamedSharding(mesh, batched_spec))
        run = functools.partial(last_update, tx)
        run = jax.shard_map(run, mesh=mesh, in_specs=batched_spec, out_specs=spec) if manual else run
        updates = jax.jit(run)(placed)
    assert_close(updates, jitted_last_update(scale_by_psgd_kron(), grads), rtol=1e-6, atol=1e-6)


def test_a_nonfinite_or_zero_gradient_leaves_the_factors_unchanged():
    tx, grads = scale_by_psgd_kron(0.0), normal(3, 3, 4)
    grads[0, 1, 2], grads[1] = np.nan, 0.0
    before = tx.init(jnp.asarray(grads))
    _, state = jax.jit(tx.update)(jnp.asarray(grads), before)
    assert state.failures[0].tolist() == [1, 0, 0]
    for new, old in zip(state.factors[0], before.factors[0], strict=True):
        np.testing.assert_array_equal(new[:2], old[:2])
        assert not np.allclose(new[2], old[2])


def test_refreshes_become_rare():
    tx = scale_by_psgd_kron()
    counts = np.array([0, 499, 500, 1_500, 4_000, 10_000])
    decaying = gd.exponential_decay(1.0, 1_000, math.exp(-1), 500, end_value=0.03)
    np.testing.assert_allclose(
        [psgd._psgd_probability(jnp.asarray(t)) for t in counts], list(map(decaying, counts)), rtol=1e-6
    )
    g = jnp.asarray(normal(3, 4), jnp.float32)

    @jax.jit
    @jax.vmap
    def refreshed(count):
        state = tx.init(g)._replace(count=count)
        return jnp.any(tx.update(g, state)[1].factors[0].left != state.factors[0].left)

    found = refreshed(jnp.concatenate([jnp.arange(500), 10_000 + jnp.arange(2_000)]))
    assert found[:500].all()
    assert 0.02 < found[500:].mean() < 0.04


def test_the_random_key_is_in_the_state():
    state = scale_by_psgd_kron().init(jnp.zeros((3, 4)))
    other = scale_by_psgd_kron(seed=1).init(jnp.zeros((3, 4)))
    assert_close(other, state._replace(key=jax.random.PRNGKey(1)), rtol=0)
    assert (state.key != other.key).any()


def primitives(jaxpr, within=True):
    """Yield the names of a program's primitives; `within=False` leaves out those inside `cond`."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        if within or eqn.primitive.name != "cond":
            for inner in jax.extend.core.jaxprs_in_params(eqn.params):
                yield from primitives(inner, within)


def test_a_step_without_a_refresh_solves_nothing():
    g, tx = jnp.ones((3, 4)), scale_by_psgd_kron()
    jaxpr = jax.make_jaxpr(tx.update)(g, tx.init(g)).jaxpr
    expensive = {"triangular_solve", "erf_inv"}
    assert expensive <= {*primitives(jaxpr)}
    assert not expensive & {*primitives(jaxpr, within=False)}


def test_no_derivative_is_taken_through_factors():
    def total_change(tx):
        state, total = tx.init(g), 0.0
        for scale in (1.0, 0.5):
            updates, state = tx.update(scale * g, state)
            total += jnp.sum(updates * g)
        return total

    g = jnp.asarray(normal(3, 4), jnp.float32)
    slopes = jax.jit(jax.grad(total_change))(scale_by_psgd_kron(0.8, 1.0, max_rms=math.inf))
    assert np.isfinite(slopes.b1)
    assert slopes.b1 != 0
    assert slopes.precond_lr == slopes.precond_init_scale == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"b1": 1.0}, "b1 must lie in [0, 1), got 1.0"),
        ({"preconditioner_update_probability": 1.5}, "preconditioner_update_probability must lie in [0, 1], got 1.5"),
        ({"precond_lr": 1.0}, "precond_lr must lie in (0, 1), got 1.0"),
        ({"max_size_triangular": 0}, "max_size_triangular must be an integer of 1 at least, got 0"),
        ({"max_skew_triangular": 1.5}, "max_skew_triangular must be an integer, got 1.5"),
        ({"seed": 0.5}, "seed must be an integer, got 0.5"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(f"scale_by_psgd_kron: {message}")):
        scale_by_psgd_kron(**wrong)
