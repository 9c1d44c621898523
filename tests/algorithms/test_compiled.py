"""Temporary memory of a compiled step."""

import jax
import jax.numpy as jnp
import pytest

import gdjax as gd
from tests.compiling import optimized

CHAINS = {
    "sgd": gd.sgd(0.1),
    "momentum": gd.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": gd.adam(0.1),
    "adamw": gd.adamw(gd.warmup_cosine(0.1, 10, 100), weight_decay=0.1),
    "nadamw": gd.nadamw(0.1),
    "rmsprop": gd.rmsprop(0.1, momentum=0.9, bias_correction=True),
    "amsgrad": gd.amsgrad(0.1),
    "adamax": gd.adamax(0.1),
    "radam": gd.radam(0.1),
    "adabelief": gd.adabelief(0.1),
    "yogi": gd.yogi(0.1),
    "adan": gd.adan(0.1),
    "ademamix": gd.ademamix(0.1),
    "laprop": gd.laprop(0.1),
    "adopt": gd.adopt(0.1),
    "adagrad": gd.adagrad(0.1),
    "adadelta": gd.adadelta(0.1),
    "centred rmsprop": gd.rmsprop(0.1, centered=True),
    "cooled": gd.chain(gd.reduce_on_plateau(), gd.adam(0.1)),
    "lookahead": gd.lookahead(gd.adamw(0.1), 5, 0.5),
    "schedule_free_adamw": gd.schedule_free_adamw(0.1, warmup_steps=10, weight_decay=0.1),
    "schedule_free_sgd": gd.schedule_free_sgd(0.1),
    "signum": gd.signum(0.1),
    "lion": gd.lion(0.1),
    "clip": gd.chain(gd.clip(1.0), gd.sgd(0.1, momentum=0.9)),
    "lamb": gd.lamb(0.1, weight_decay=0.1),
    "dadapt_adamw": gd.dadapt_adamw(),
    "prodigy": gd.prodigy(),
}
CLIPPED = {f"clipped {name}": gd.chain(gd.clip_by_global_norm(1.0), tx) for name, tx in CHAINS.items()}
UNCLIPPED = {"lars": gd.lars(0.1), "adafactor": gd.adafactor(0.1)}
"""They read clipped gradients twice, and have no state from which these could be computed again."""


@pytest.mark.parametrize("tx", [pytest.param(tx, id=name) for name, tx in (CHAINS | CLIPPED | UNCLIPPED).items()])
def test_a_step_allocates_no_temporary_trees(tx):
    params = {f"layer{i}": jax.ShapeDtypeStruct((1024, 1024), jnp.float32) for i in range(8)}
    state = jax.eval_shape(tx.init, params)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params, value=1.0)
        return gd.apply_updates(params, updates), state

    compiled = optimized(jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params))
    assert compiled.memory_analysis().temp_size_in_bytes <= 0.01 * 8 * 1024 * 1024 * 4
