"""Names of hyperparameters elsewhere (PyTorch, Keras, papers), and the parameters here that mean the same."""

from collections.abc import Collection, Mapping
from typing import Any

from gdjax.value.printing import brief, nearest

MEANS = (
    ("betas", "b1 b2 b3"),
    ("alpha rho smoothing", "decay rho slow_step_size"),
    (
        "lr alpha eta rate step learningrate learn_rate base_lr max_lr initial_learning_rate learning_rate step_size",
        "learning_rate peak peak_value init_value value step_size step_size_fn",
    ),
    ("wd decay l2 l2_penalty lambda lambda_ lam weightdecay weight_decay", "weight_decay weight_decay_rate"),
    ("beta1 beta_1 momentum mu beta", "b1 momentum beta decay"),
    ("b1 gamma", "momentum beta decay decay_rate"),
    ("beta2 beta_2 rho decay", "b2 decay rho decay_rate"),
    ("b2", "beta2 decay rho"),
    ("beta3 beta_3", "b3 beta3"),
    ("epsilon", "eps epsilon"),
    ("eps", "epsilon eps_root"),
    ("clipnorm global_clipnorm clip_norm max_grad_norm gradient_clip_val threshold", "max_norm threshold"),
    ("clipvalue clip_value value", "max_delta"),
    ("k n steps every_k every_k_schedule accumulation_steps gradient_accumulation_steps", "every"),
    ("k sync every la_steps", "sync_period"),
    ("la_alpha", "slow_step_size"),
    ("optimizer opt tx base transform inner", "inner fast_optimizer base_optimizer"),
    ("steps num_steps n_steps total t_max", "total_steps decay_steps transition_steps cycle_steps"),
    ("decay_steps", "total_steps transition_steps"),
    ("total_steps", "decay_steps transition_steps"),
    ("warmup num_warmup_steps warmup_iters", "warmup_steps"),
    ("peak peak_lr peak_learning_rate", "peak_value peak"),
    ("min_lr eta_min final end_value floor", "floor end_value"),
    ("weight_decay_mask wd_mask decay_mask param_mask", "mask"),
    ("momentum_dtype state_dtype dtype", "mu_dtype accumulator_dtype"),
    ("axis", "axis_name"),
)
"""Words, and the parameters that each may stand for: the first that a factory has is meant."""

ELSEWHERE = {
    "maximize": "wrap the optimizer, gd.maximize(tx)",
    "amsgrad": "gd.amsgrad is an optimizer of its own",
    "weight_decay wd": "gd.adamw has it, or put gd.add_decayed_weights(...) in a chain",
    "nesterov": "gd.sgd, gd.adam and gd.nadam have it",
    "clipnorm global_clipnorm max_norm max_grad_norm": "put gd.clip_by_global_norm(...) first in a chain",
    "clipvalue clip_value max_delta": "put gd.clip(...) first in a chain",
    "every accumulate gradient_accumulation_steps": "wrap the optimizer, gd.accumulate(tx, every=...)",
    "mask": "wrap the transform, gd.masked(tx, mask)",
    "use_ema ema_momentum": "wrap the optimizer, gd.params_ema(tx)",
    "params parameters model": "an optimizer is made without the parameters; tx.init(params) gets them",
    "schedule scheduler lr_scheduler": "a schedule is given as the learning rate",
    "name": "gd.named_chain gives names to the parts of a chain",
    "foreach fused capturable jit_compile differentiable": "leave it out, jax.jit does this",
}
"""Advice for words that no parameter of a factory stands for."""


def unknown(given: Mapping[str, Any], parameters: Collection[str]) -> str:
    """Explain arguments that no parameter has: which ones are meant, or what to use instead."""
    return "; ".join(f"no parameter {name!r}{_hint(name, argument, parameters)}" for name, argument in given.items())


def meant(name: str, parameters: Collection[str]) -> list[str]:
    """Return the parameters that a name stands for: one, several for a pair, or none."""
    word = name.lower()
    for words, ours in MEANS:
        if word in words.split() and (found := [p for p in ours.split() if p in parameters]):
            return found if word == "betas" else found[:1]
    return []


def _hint(name: str, argument: Any, parameters: Collection[str]) -> str:
    found = meant(name, parameters)
    if len(found) > 1 and isinstance(argument, (tuple, list)):
        pairs = zip(found, argument, strict=False)
        return f", did you mean {', '.join(f'{p}={brief(x)}' for p, x in pairs)}"
    if found:
        return f", did you mean {found[0]!r}"
    where = next((way for words, way in ELSEWHERE.items() if name.lower() in words.split()), None)
    return nearest(name, parameters) or (f": {where}" if where else "")
