"""Small arguments, trees and tools that the tests share."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gdjax as gd

REQUIRED = {
    "base_optimizer": gd.sgd(0.1, momentum=0.9),
    "boundaries": [3],
    "clipping": 0.5,
    "cosine_kwargs": [{"init_value": 0.0, "peak_value": 0.1, "warmup_steps": 2, "decay_steps": 5}] * 2,
    "cycle_steps": 3,
    "decay": 0.9,
    "decay_rate": 0.9,
    "decay_steps": 3,
    "end_value": 0.01,
    "every": 2,
    "factor": 0.5,
    "fast_optimizer": gd.sgd(0.1, momentum=0.9),
    "init_step": ("learning_rate", 0.1),
    "init_value": 0.1,
    "inner": gd.sgd(0.1, momentum=0.9),
    "interpolate_type": "cosine",
    "learning_rate": 0.1,
    "mask": True,
    "max_consecutive_errors": 2,
    "max_delta": 0.5,
    "max_norm": 0.5,
    "others": gd.adam(0.1),
    "peak": 0.1,
    "peak_value": 0.1,
    "power": 2.0,
    "schedule": gd.warmup_cosine(0.1, 2, 10),
    "schedules": [gd.constant(0.1), gd.warmup_cosine(0.1, 2, 10)],
    "slow_step_size": 0.5,
    "stable_steps": 3,
    "step_size": -0.5,
    "step_size_fn": gd.warmup_cosine(0.1, 2, 10),
    "sync_period": 2,
    "threshold": 0.5,
    "total_steps": 10,
    "transition_steps": 5,
    "value": 0.1,
    "warmup_steps": 2,
}
"""An argument for every required parameter; add new ones here."""

FEW = gd.linalg.JORDAN[:2]
"""A short table: five steps would magnify the rounding of small singular values 500 times."""

SPECIAL = {
    "by_path": lambda: gd.by_path({"w": gd.adam(0.1), ".*": gd.frozen()}),
    "cautious": lambda: gd.cautious(gd.scale_by_adam()),
    "chain": lambda: gd.chain(gd.clip_by_global_norm(1.0), gd.adamw(gd.warmup_cosine(0.1, 2, 10))),
    "hidden_matrices": lambda: gd.hidden_matrices(gd.scale_by_muon(FEW), gd.adam(0.1)),
    "monitor": lambda: gd.monitor({"mean": gd.ema(0.9)}),
    "muon": lambda: gd.muon(0.1, ns_coeffs=FEW),
    "freeze": lambda: gd.freeze(False),
    "named_chain": lambda: gd.named_chain(("clip", gd.clip(0.5)), ("step", gd.sgd(0.1, momentum=0.9, nesterov=True))),
    "partition": lambda: gd.partition({"a": gd.adam(0.1)}, "a"),
    "scale_by_muon": lambda: gd.scale_by_muon(FEW),
    "scale_by_normuon": lambda: gd.scale_by_normuon(FEW),
    "scale_by_shampoo": lambda: gd.scale_by_shampoo(eps=0.3, every=1),
    "scale_by_soap": lambda: gd.scale_by_soap(every=2, one_sided=True),
    "selective_transform": lambda: gd.selective_transform(gd.adam(0.1), freeze_mask="b"),
}
"""Values of factories that need special arguments, or whose defaults magnify rounding."""


AS_MUON = {"normuon", "psgd_kron", "shampoo", "soap"}
"""Named optimizers built like `muon`, from transforms that have their own tests."""


VARIANTS = [
    "accumulate(adamw(0.1), every=1)",
    "adafactor(0.1, min_dim_size_to_factor=2, momentum=0.9, weight_decay_rate=0.1)",
    "adam(0.1, eps=0.0, nesterov=True)",
    "adamw(warmup_cosine(0.1, 2, 10), weight_decay=constant(0.1), mask='w')",
    "adopt(0.1, nesterov=True)",
    "chain(clip_by_global_norm(1.0), lion(0.1, mu_dtype=float32))",
    "dog(init_step=('learning_rate', 0.1), weight_decay=0.1)",
    "lookahead(adam(0.1), 2, 0.5, reset_state=True)",
    "packed(chain(clip_by_global_norm(1.0), adamw(0.1)), below=6)",
    "prodigy(safeguard_warmup=True, weight_decay=0.1)",
    "rmsprop(0.1, centered=True, momentum=0.9, nesterov=True)",
    "rmsprop(0.1, momentum=0.9, bias_correction=True)",
    "schedule_free_adamw(0.1, warmup_steps=2, weight_decay=0.1)",
    "schedule_free(adam(0.1), 0.1, b1=1.0)",
]
"""Values whose arguments cover branches that the defaults skip."""


OVER_AN_AXIS = [
    "low_rank_mean('data', 1)",
    "quantized_mean('data')",
    "local_steps(adam(0.1), sgd(0.7, momentum=0.9, nesterov=True), 2, 'data')",
    "chain(mean_over('data'), adamw(0.1))",
    "shard_update(chain(clip_by_global_norm(1.0), adamw(0.1)), 'data')",
]
"""Values that take per-device gradients over an axis."""


@gd.transform
def one_member(inner: optax.GradientTransformation):
    """Wrap a transform over an axis in an axis of one device, compiled once."""

    def init(params):
        return _over_axis_of_one("init", (), inner, jax.tree.map(jnp.asarray, params))

    def update(updates, state, params=None, **extra_args):
        return _over_axis_of_one("update", tuple(extra_args.items()), inner, updates, state, params)

    return init, update


@functools.partial(jax.jit, static_argnums=(0, 1))
def _over_axis_of_one(function, extra_args, inner, *trees):
    of_one = jax.vmap(functools.partial(getattr(inner, function), **dict(extra_args)), axis_name="data", axis_size=1)
    return jax.tree.map(lambda x: x[0], of_one(*jax.tree.map(lambda x: x[None], trees)))


def sample(name):
    """Return a value of the factory of this name."""
    if name in SPECIAL:
        return SPECIAL[name]()
    factory = gd.factories()[name]
    required = [p.name for p in factory.signature.parameters.values() if p.default is p.empty]
    assert REQUIRED.keys() >= set(required), f"{name}: add values of {required} to tests/samples.py"
    return factory(**{argument: REQUIRED[argument] for argument in required})


def names(kind):
    """Return names of factories written in gdjax, without those that need an axis and have their own tests."""
    found = gd.factories().items()
    own = {n: f for n, f in found if f.kind is kind and f.function.__module__.startswith("gdjax")}
    return sorted(
        n for n, f in own.items() if not f.traits.takes_local_grads and n not in {*AS_MUON, "multi_transform"}
    )


def tree(dtype=jnp.float32, seed=0):
    """Return a small tree of normal numbers."""
    rng = np.random.default_rng(seed)

    def leaf(*shape):
        x = rng.normal(size=shape)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            x = x + 1j * rng.normal(size=shape)
        return jnp.asarray(x, dtype)

    return {"b": leaf(3), "w": leaf(4, 3)}


def loss(params):
    """Return a real loss of the arrays of the tree."""
    arrays = (leaf for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array))
    return sum(jnp.sum(jnp.abs(leaf - 0.3) ** 2).astype(float) for leaf in arrays)


def update(tx, grads, state, params, **extra_args):
    """Take one update, with the extra arguments that some transforms need."""
    return tx.update(grads, state, params, value=1.0, value_fn=loss, **extra_args)


def run(tx, params, steps=3, dtype=None, seed=1):
    """Return parameters and state after some steps with seeded gradients."""
    state = tx.init(params)
    for step in range(steps):
        grads = tree(dtype or params["w"].dtype, seed + step)
        updates, state = update(tx, grads, state, params)
        params = gd.apply_updates(params, updates)
    return params, state


def assert_close(ours, theirs, rtol=1e-6, atol=0.0):
    """Check that trees have one structure and finite, close numbers of any dtypes."""
    chex.assert_tree_all_finite(ours)
    chex.assert_trees_all_close(ours, theirs, rtol=rtol, atol=atol)


def signature_of(state):
    """Return structure, shapes, dtypes and weak types of a state, which `scan` holds fixed."""
    types = [(jnp.shape(x), jnp.result_type(x), getattr(x, "weak_type", None)) for x in jax.tree.leaves(state)]
    return jax.tree.structure(state), types
