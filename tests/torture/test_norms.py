"""Transforms that divide by a norm, for gradients whose squares overflow or underflow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax as gd
from tests.compiling import optimized

TINY = float(jnp.finfo(jnp.float32).tiny)
SCALES = [1e-37, 1e-30, 1e-24, 1e-19, 1e-12, 1.0, 1e12, 1e19, 1e25, 1e30, 3e37]
DIRECTION = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 12.0]], "float32") / 13


def assert_close(updates, expected, rtol=2e-6):
    np.testing.assert_allclose(np.asarray(updates, np.float64), expected, rtol=rtol, atol=1e-45)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("bound", [1e-3, 1.0, 1e3])
def test_clip_by_global_norm(scale, bound):
    g = {"a": jnp.asarray(DIRECTION[0] * scale), "b": jnp.asarray(DIRECTION[1] * scale)}
    clipped, _ = gd.clip_by_global_norm(bound).update(g, ())
    assert_close(np.stack([clipped["a"], clipped["b"]]), DIRECTION.astype("float64") * min(np.float32(scale), bound))


def test_clip_by_global_norm_on_reported_examples():
    clip = gd.clip_by_global_norm(1.0)
    assert_close(clip.update(jnp.full(4, 1e25), ())[0], np.full(4, 0.5))
    assert_close(clip.update(jnp.array([3e30, 4e30]), ())[0], [0.6, 0.8])
    assert_close(clip.update(jnp.full(4, 3e38), ())[0], np.full(4, 0.5))
    assert_close(clip.update(jnp.full(4, 1e30, jnp.bfloat16), ())[0], np.full(4, 0.5))
    with jax.enable_x64(True):
        assert_close(clip.update(jnp.array([3e200, 4e200]), ())[0], [0.6, 0.8], 1e-14)


@pytest.mark.parametrize("scale", SCALES)
def test_normalize_by_update_norm(scale):
    g = jnp.asarray(DIRECTION * np.float32(scale))
    updates, _ = gd.normalize_by_update_norm(2.0, eps=TINY).update(g, ())
    assert_close(updates, DIRECTION * 2.0, 1e-5 if scale > 1e-36 else 0.2)


@pytest.mark.parametrize("scale", SCALES)
def test_clip_by_block_rms(scale):
    g = jnp.asarray(DIRECTION * np.float32(scale))
    updates, _ = gd.clip_by_block_rms(0.1).update(g, ())
    rms = np.float32(scale) / np.sqrt(DIRECTION.size)
    assert_close(updates, DIRECTION.astype("float64") * np.float32(scale) * min(1, 0.1 / rms))


@pytest.mark.parametrize("weight", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("scale", SCALES)
def test_adaptive_grad_clip(scale, weight):
    g, w = (jnp.asarray(DIRECTION * np.float32(by)) for by in (scale, weight))
    updates, _ = gd.adaptive_grad_clip(0.1, eps=1e-3, axis=-1).update(g, (), w)
    lengths = np.linalg.norm(DIRECTION.astype("float64"), axis=-1, keepdims=True)
    max_norms = 0.1 * np.maximum(lengths * weight, 1e-3)
    expected = DIRECTION.astype("float64") * scale * np.minimum(1, max_norms / (lengths * scale))
    assert_close(updates, expected, 1e-5)


@pytest.mark.parametrize("scale", SCALES)
def test_sam_ascends_by_rho_at_any_scale(scale):
    seen = []

    def loss(p):
        jax.debug.callback(lambda p: seen.append(np.asarray(p)), p)
        return jnp.sum(p)

    tx = gd.sam(gd.sgd(1.0), rho=0.5)
    params = jnp.zeros((2, 3))
    tx.update(jnp.asarray(DIRECTION * np.float32(scale)), tx.init(params), params, value_fn=loss)
    jax.effects_barrier()
    assert_close(seen[0], 0.5 * DIRECTION)


@pytest.mark.parametrize("scale", [1e-18, 1e-3, 1.0, 1e3, 1e18])
def test_scale_by_trust_ratio(scale):
    u, p = jnp.asarray(DIRECTION * np.float32(scale)), jnp.asarray(DIRECTION * np.float32(1 / scale))
    updates, _ = gd.scale_by_trust_ratio().update(u, (), p)
    assert_close(updates, DIRECTION / scale)


def test_fit_accepts_a_large_finite_gradient():
    result = gd.fit(lambda w, batch: jnp.sum(w * jnp.float32(3e38)), jnp.full(4, 1e-3), gd.sgd(1e-38), steps=1)
    assert result.stopped is gd.Stopped.STEPS, result


def test_clipping_adds_one_branch_and_no_temporary_trees():
    params = {f"layer{i}": jax.ShapeDtypeStruct((512, 512), jnp.float32) for i in range(8)}
    tx = gd.clip_by_global_norm(1.0)
    step = optimized(jax.jit(lambda g: tx.update(g, ())[0], donate_argnums=0).lower(params))
    assert step.memory_analysis().temp_size_in_bytes <= 0.01 * 8 * 512 * 512 * 4
    assert step.as_text().count(" conditional(") == 1
