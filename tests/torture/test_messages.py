"""Mistakes of newcomers, and their messages: the function, what must hold, what came, and what to write."""

import functools
import inspect
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax as gd
from tests.samples import REQUIRED

PARAMS = {"b": jnp.ones(3), "w": jnp.ones((2, 3))}
ADAMW = gd.adamw(1e-3)
STATE = ADAMW.init(PARAMS)
OTHER = gd.sgd(0.1, momentum=0.9)
TWO_RATES = gd.chain(gd.sgd(0.1), gd.adam(0.1))
BY_PATH = gd.by_path({".*/b": gd.sgd(0.1), ".*": gd.adam(0.1)})


def loss(params, batch):
    return jnp.sum(params["w"] ** 2)


def check(call, kind, message):
    """Check that a call raises this kind of error with these words in its message."""
    with pytest.raises(kind, match=re.escape(message)) as caught:
        call()
    assert len(str(caught.value)) < 1_000


NAMES = [
    ("adamw(lr=1e-3)", "adamw: no parameter 'lr', did you mean 'learning_rate'"),
    ("adamw(1e-3, wd=0.1)", "adamw: no parameter 'wd', did you mean 'weight_decay'"),
    ("adamw(1e-3, l2=0.1)", "no parameter 'l2', did you mean 'weight_decay'"),
    ("adamw(1e-3, decay=0.1)", "no parameter 'decay', did you mean 'weight_decay'"),
    ("adamw(1e-3, betas=(0.9, 0.95))", "adamw: no parameter 'betas', did you mean b1=0.9, b2=0.95"),
    ("adan(1e-3, betas=(0.9, 0.95, 0.8))", "adan: no parameter 'betas', did you mean b1=0.9, b2=0.95, b3=0.8"),
    ("adamw(1e-3, beta1=0.9)", "no parameter 'beta1', did you mean 'b1'"),
    ("adamw(1e-3, beta_2=0.9)", "no parameter 'beta_2', did you mean 'b2'"),
    ("adam(1e-3, epsilon=1e-7)", "adam: no parameter 'epsilon', did you mean 'eps'"),
    ("adam(alpha=1e-3)", "adam: no parameter 'alpha', did you mean 'learning_rate'"),
    ("sgd(eta=1e-3)", "sgd: no parameter 'eta', did you mean 'learning_rate'"),
    ("sgd(0.1, mu=0.9)", "sgd: no parameter 'mu', did you mean 'momentum'"),
    ("sgd(0.1, momentun=0.9)", "sgd: no parameter 'momentun', did you mean 'momentum'"),
    ("adam(0.1, momentum=0.9)", "adam: no parameter 'momentum', did you mean 'b1'"),
    ("rmsprop(0.1, alpha=0.99)", "rmsprop: no parameter 'alpha', did you mean 'decay'"),
    ("rmsprop(0.1, rho=0.9)", "rmsprop: no parameter 'rho', did you mean 'decay'"),
    ("adadelta(0.1, decay=0.9)", "adadelta: no parameter 'decay', did you mean 'weight_decay'"),
    ("lbfgs(lr=0.1)", "lbfgs: no parameter 'lr', did you mean 'learning_rate'"),
    ("madgrad(lr=0.1)", "madgrad: no parameter 'lr', did you mean 'learning_rate'"),
    ("clip_by_global_norm(clipnorm=1.0)", "no parameter 'clipnorm', did you mean 'max_norm'"),
    ("warmup_cosine(lr=0.1)", "warmup_cosine: no parameter 'lr', did you mean 'peak'"),
    ("warmup_cosine(0.1, 10, 100, eta_min=0.0)", "no parameter 'eta_min', did you mean 'floor'"),
    ("accumulate(sgd(0.1), k=4)", "accumulate: no parameter 'k', did you mean 'every'"),
    ("adam(1e-3, weight_decay=0.1)", "adam: no parameter 'weight_decay': gd.adamw has it"),
    ("adam(1e-3, clipnorm=1.0)", "no parameter 'clipnorm': put gd.clip_by_global_norm(...) first in a chain"),
    ("adam(1e-3, amsgrad=True)", "no parameter 'amsgrad': gd.amsgrad is an optimizer of its own"),
    ("adam(1e-3, maximize=True)", "no parameter 'maximize': wrap the optimizer, gd.maximize(tx)"),
    ("adamw(lr=1e-3, wd=0.1)", "no parameter 'lr', did you mean 'learning_rate'; no parameter 'wd', did you mean"),
    ("adamw()", "adamw: missing a required argument: 'learning_rate'; its signature is adamw(learning_rate, b1=0.9"),
]


@pytest.mark.parametrize(("text", "message"), NAMES)
def test_names_of_other_libraries_are_answered_with_the_name_here(text, message):
    with pytest.raises(gd.ParseError, match=re.escape(message)):
        gd.parse(text)


ARGUMENTS = [
    (lambda: gd.adamw(PARAMS, 1e-3), "got a dict of 2 leaves; an optimizer is made without the parameters, and init"),
    (lambda: gd.adamw(1e-3, (0.9, 0.95)), "adamw: b1 must be a number, got (0.9, 0.95); give b1=0.9, b2=0.95"),
    (lambda: gd.sgd("0.1"), "sgd: learning_rate must be a number or a schedule, got '0.1'; write it without quotes"),
    (lambda: gd.adam(gd.warmup_cosine), "got <warmup_cosine>; call it: warmup_cosine(...)"),
    (lambda: gd.chain([gd.clip(1.0), gd.sgd(0.1)]), "give its elements one by one, without the list"),
    (lambda: gd.chain((gd.clip(1.0), gd.sgd(0.1))), "give its elements one by one, without the tuple"),
    (lambda: gd.chain(gd.clip(1.0), None), "got None; leave it out, or give gd.identity()"),
    (lambda: gd.chain(gd.adam), "got <adam>; call it: adam(...)"),
    (lambda: gd.chain(gd.clip(1.0), 1e-3), "got 0.001; gd.scale_by_learning_rate(0.001) is one"),
    (lambda: gd.chain(gd.constant(1.0)), "gd.scale_by_learning_rate(constant(value=1.0)) is one"),
    (lambda: gd.chain("adam(1e-3)"), "got 'adam(1e-3)'; gd.parse reads a text"),
    (lambda: gd.accumulate([gd.clip(1.0), gd.sgd(0.1)], 2), "; gd.chain makes one of several"),
    (lambda: gd.accumulate(gd.adam, 2), "accumulate: inner must be a transform, got <adam>; call it: adam(...)"),
    (lambda: gd.named_chain({"a": gd.clip(1.0)}), "give them one by one: named_chain(*items.items())"),
    (lambda: gd.named_chain([("a", gd.clip(1.0))]), "give them one by one: named_chain(*pairs)"),
    (lambda: gd.named_chain((gd.clip(1.0), "a")), "the name comes first"),
    (lambda: gd.named_chain(gd.clip(1.0)), 'got clip(max_delta=1.0); write ("name", clip(...))'),
    (lambda: gd.stack(gd.adam), "stack: give a list of values, got <adam>"),
    (lambda: OTHER.replace(0.1), "replace: give hyperparameters by name, or a dict of them by path"),
]


@pytest.mark.parametrize(("call", "message"), ARGUMENTS)
def test_arguments_of_a_wrong_kind_are_answered_with_what_to_write(call, message):
    check(call, TypeError, message)


NEGATIVE = ["adamw(-1e-3)", "sgd(-1)", "lbfgs(-1.0)", "madgrad(-0.1)", "muon(0.1, -0.1)", "schedule_free_sgd(-1.0)"]
NEGATIVE += ["adamw(constant(-1.0))", "adamw(linear_schedule(0.0, -1.0, 10))", "adam(scaled(constant(0.1), -1))"]
NEGATIVE += ["sgd(join_schedules([constant(0.1), constant(-0.1)], [10]))"]


@pytest.mark.parametrize("text", NEGATIVE)
def test_a_negative_learning_rate_is_refused_with_how_to_maximize(text):
    check(lambda: gd.parse(text), ValueError, "learning_rate must lie in [0, inf), got ")
    check(lambda: gd.parse(text), ValueError, "gd.maximize(tx)")


def test_every_named_optimizer_refuses_a_negative_learning_rate():
    rates = {name: [r for r in f.slots if r in ("learning_rate", "adam_learning_rate")] for name, f in _named().items()}
    for name, factory in _named().items():
        given = _required(factory)
        for rate in rates[name]:
            with pytest.raises(ValueError, match=rf"{name}: {rate} must lie in [(\[]0, inf[\])], got -0.1"):
                factory(**given | {rate: -0.1})


def _named():
    """Return the factories with a learning rate, without the transforms that multiply by one."""
    return {n: f for n, f in gd.factories().items() if "learning_rate" in f.slots and not n.startswith("scale_by_")}


def test_traced_rates_and_rates_of_transforms_may_be_negative():
    up = jax.jit(lambda rate: gd.sgd(rate).update(2.0, gd.sgd(rate).init(1.0))[0])
    assert up(-0.1) == 0.2
    for text in ("scale(-1.0)", "scale_by_learning_rate(-0.1)", "scale_by_schedule(constant(-1.0))"):
        assert gd.parse(text)
    assert gd.scale_by_learning_rate(0.1, flip_sign=False).update(2.0, ())[0] == 0.2
    assert gd.adamw(gd.exponential_decay(1.0, 10, 0.5, end_value=-1.0))  # a bound that is never reached


def _required(factory):
    parameters = factory.signature.parameters.items()
    return {name: REQUIRED.get(name, 1) for name, of in parameters if of.default is of.empty}


OUT_OF_RANGE = ["eps=-0.5", "weight_decay=-0.1", "momentum=-0.9", "momentum=1.5", "b1=-0.1", "b2=1.5", "eps_root=-1.0"]


@pytest.mark.parametrize("given", OUT_OF_RANGE)
def test_numbers_of_the_wrong_sign_are_refused_by_every_named_optimizer(given):
    parameter, number = given.split("=")
    tried = 0
    for name, factory in _named().items():
        slot = factory.slots.get(parameter)
        if slot is None or not slot.leaf:
            continue
        with pytest.raises(ValueError, match=rf"{name}: {parameter} must lie in .*, got {number}"):
            factory(**_required(factory) | {parameter: float(number)})
        tried += 1
    assert tried > 3


UPDATES = [
    (lambda: ADAMW.update(STATE, PARAMS, PARAMS), "adamw: the state came first: call tx.update(grads, state, params)"),
    (lambda: ADAMW.update(STATE, PARAMS), "adamw: the state came first"),
    (lambda: OTHER.update(STATE, PARAMS, PARAMS), "sgd: the state came first"),
    (lambda: gd.sgd(0.1).update(gd.sgd(0.1).init(PARAMS), PARAMS), "sgd: the state came first"),
    (lambda: ADAMW.update(PARAMS, PARAMS, STATE), "adamw: the parameters came before the state"),
    (lambda: ADAMW.update(PARAMS, PARAMS), "adamw: the parameters, or gradients, came in the place of the state"),
    (lambda: gd.clip(1.0).update(PARAMS, PARAMS), "clip: the parameters, or gradients, came in the place of the state"),
    (lambda: ADAMW.update(PARAMS, ADAMW.init, PARAMS), "got a function, <adamw.init>; call it"),
    (lambda: ADAMW.update(PARAMS, ADAMW, PARAMS), "state must be what tx.init(params) returns, got an optimizer"),
    (lambda: ADAMW.update(PARAMS, None, PARAMS), "state must be what tx.init(params) returns, got None"),
    (lambda: ADAMW.update(jax.grad(loss), STATE, PARAMS), "adamw: updates must be gradients, got a function"),
    (lambda: ADAMW.update(PARAMS, (PARAMS, STATE), PARAMS), "state is the pair that tx.update returned; unpack it"),
    (lambda: ADAMW.update((1.0, PARAMS), STATE, PARAMS), "updates is a pair; unpack it: value, grads = jax.value_and"),
    (lambda: ADAMW.update((PARAMS, 1.0), STATE, PARAMS), "updates is a pair; unpack it: grads, aux = jax.grad"),
    (lambda: ADAMW.update(PARAMS, OTHER.init(PARAMS), PARAMS), "adamw: the state is that of another transform"),
    (lambda: ADAMW.init(STATE), "adamw: init takes the parameters, got the state of an optimizer (ScaleByAdamState)"),
    (lambda: OTHER.init(OTHER.init(PARAMS)), "sgd: init takes the parameters, got the state of an optimizer"),
    (lambda: ADAMW.init(ADAMW), "adamw: init takes the parameters, got an optimizer"),
    (lambda: ADAMW.init(gd.State.create(PARAMS, ADAMW)), "init takes the parameters, got a State; give its params"),
    (lambda: gd.apply_updates(PARAMS, (PARAMS, STATE)), "updates is the pair that tx.update returned; unpack it"),
    (lambda: gd.apply_updates((PARAMS, STATE), PARAMS), "params come first: apply_updates(params, updates)"),
    (lambda: gd.apply_updates(PARAMS, STATE), "apply_updates: updates is the state of an optimizer"),
    (lambda: gd.descend(ADAMW, STATE, PARAMS, PARAMS), "adamw: the state came first"),
]


@pytest.mark.parametrize(("call", "message"), UPDATES)
def test_swapped_arguments_of_update_are_named(call, message):
    check(call, ValueError, message)


DATA = (jnp.ones((8, 3)), jnp.ones(8))
STEP = gd.make_step(loss, ADAMW)


def fit(*arguments, **options):
    return gd.fit(*arguments, **{"steps": 2, "progress": False} | options)


DESCENTS = [
    (
        lambda: fit(PARAMS, loss, ADAMW),
        "fit: loss must be a function of (params, batch), got a dict of 2 leaves; the los",
    ),
    (lambda: fit(loss, ADAMW, PARAMS, DATA), "fit: params must be arrays, got an optimizer; call fit(loss, params, tx"),
    (
        lambda: fit(loss, PARAMS, DATA, ADAMW),
        "fit: data must be arrays, got an optimizer; call fit(loss, params, tx, da",
    ),
    (
        lambda: fit(loss, PARAMS, gd.adamw, DATA),
        "fit: tx must be an optimizer, a value or one of Optax, got <adamw>; cal",
    ),
    (lambda: fit(loss, PARAMS, "adamw(1e-3)", DATA), "got 'adamw(1e-3)'; gd.parse reads a text"),
    (lambda: fit(loss, PARAMS, ADAMW, DATA, key="a"), "fit: key must be a PRNG key, jax.random.key(0), or the seed of"),
    (
        lambda: fit(loss, PARAMS, ADAMW, DATA, key=None),
        "fit: key must be a PRNG key, jax.random.key(0), or the seed of",
    ),
    (
        lambda: fit(loss, PARAMS, ADAMW, [DATA]),
        "Give tuple(data), or np.asarray(data), where it holds all examples, and",
    ),
    (lambda: fit(loss, PARAMS, ADAMW, "data"), "fit: data must be arrays of numbers, got 'data'"),
    (lambda: fit(loss, PARAMS, ADAMW, gd.problems.parabola()), "got parabola(start=5.0, least=2.0); give its train"),
    (lambda: fit(gd.problems.parabola(), PARAMS, ADAMW), "got parabola(start=5.0, least=2.0); give its loss"),
    (lambda: fit(loss, PARAMS, ADAMW, iter([("a",)])), "fit: batches must be arrays of numbers, got 'a' at '0'"),
    (lambda: fit(loss, lambda key: key, ADAMW, DATA), "fit: params must be arrays, got a function"),
    (lambda: fit(lambda p, b: None, PARAMS, ADAMW), "fit: loss must return a scalar, got None; it lacks a return"),
    (lambda: fit(lambda p, x, y: 1.0, PARAMS, ADAMW), "and a PRNG key as its third, which it calls 'y'"),
    (lambda: fit(loss, PARAMS, ADAMW, DATA, stop=gd.stop.target), "got <target>; call it: gd.stop.target(...)"),
    (lambda: fit(loss, PARAMS, ADAMW, DATA, stop=lambda s: True), "callbacks= takes functions of your own"),
    (
        lambda: fit(loss, PARAMS, ADAMW, DATA, evaluate=loss),
        "Evaluate: function must take (params), it takes (params, b",
    ),
    (lambda: fit(loss, PARAMS, ADAMW, DATA, callbacks=print), "write callbacks=[<print>]"),
    (
        lambda: fit(loss, PARAMS, ADAMW, DATA, callbacks=[1]),
        "each of callbacks must be a function of a Progress, got 1",
    ),
    (lambda: gd.make_step(ADAMW, loss), "make_step: loss must be a function of (params, batch), got adamw("),
    (lambda: gd.make_step(3.0, ADAMW), "got 3.0; give the function, not its result"),
    (
        lambda: gd.State.create(PARAMS, gd.adamw),
        "State.create: tx must be an optimizer, a value or one of Optax, got <a",
    ),
    (
        lambda: gd.State.create(ADAMW, PARAMS),
        "State.create: tx must be an optimizer, a value or one of Optax, got a di",
    ),
    (lambda: gd.State.create(PARAMS, ADAMW, key="a"), "State.create: key must be a PRNG key"),
    (lambda: STEP(DATA, gd.State.create(PARAMS, ADAMW)), "the state comes first: step(state, batch)"),
    (lambda: STEP((gd.State.create(PARAMS, ADAMW), {}), DATA), "state, metrics = step(state, batch)"),
    (lambda: STEP(PARAMS), "step() missing 1 required positional argument: 'batch'"),
]


@pytest.mark.parametrize(("call", "message"), DESCENTS)
def test_wrong_arguments_of_a_descent_are_named_with_a_fix(call, message):
    check(call, TypeError, message)


def test_params_without_an_array_are_refused():
    check(lambda: fit(loss, {}, ADAMW), ValueError, "fit: params must hold at least one array, got {}")
    check(lambda: fit(loss, PARAMS, ADAMW, ([1.0], [2.0])), ValueError, "make arrays of lists: np.asarray")


READ = [
    (lambda: gd.masked(OTHER, {"w": True}).init(PARAMS), ValueError, "whose paths are 'b', 'w', or a prefix of it;"),
    (lambda: gd.masked(OTHER, lambda p: {"w": True}).init(PARAMS), ValueError, "masked: mask must be a tree of bool"),
    (lambda: gd.masked(OTHER, lambda p: "w").init(PARAMS), ValueError, "masked: mask must return booleans, got 'w'"),
    (lambda: gd.masked(OTHER, None), TypeError, "masked: mask must be a pattern, or a tree or a function of booleans"),
    (lambda: gd.adamw(0.1, mask={"w": True}).init(PARAMS), ValueError, "add_decayed_weights: mask must be a tree of"),
    (lambda: gd.lbfgs().update(PARAMS, gd.lbfgs().init(PARAMS), PARAMS), TypeError, "lbfgs needs value, grad, value"),
    (lambda: gd.momo().update(PARAMS, gd.momo().init(PARAMS), PARAMS), TypeError, "momo needs value: call tx.update("),
    (lambda: gd.eval_params(ADAMW, PARAMS, STATE), TypeError, "the state came last: call eval_params(tx, state, par"),
    (lambda: gd.eval_params(STATE, ADAMW, PARAMS), TypeError, "eval_params: tx must be an optimizer"),
    (lambda: gd.eval_params(ADAMW, gd.State.create(PARAMS, ADAMW), PARAMS), TypeError, "state.opt_state, state.params"),
    (lambda: gd.metrics(gd.watch(OTHER)), TypeError, "metrics: give the state that update returned, got the optimizer"),
    (lambda: gd.watch(OTHER, name=3), TypeError, "watch: name must be a string, got 3"),
    (lambda: gd.describe(PARAMS, ADAMW), TypeError, "describe: tx must be a gdjax transform, got a dict of 2 leaves"),
    (lambda: gd.apply_if_finite(OTHER, 1.5), TypeError, "max_consecutive_errors must be an integer, got 1.5"),
    (lambda: gd.packed(OTHER, below="a"), TypeError, "packed: below must be an integer, got 'a'"),
    (lambda: gd.parse("adam(0.1, nesterov=true)"), ValueError, "unknown name 'true', did you mean True"),
    (lambda: gd.parse("adam(0.1, mu_dtype=jnp.bfloat16)"), ValueError, "write bfloat16 alone"),
    (lambda: gd.parse("torch.optim.AdamW(0.1)"), ValueError, "names stand alone, adamw(...)"),
]


READ += [
    (lambda: gd.stop.target(0.9), TypeError, "stop.target: name must be the name of a metric, got 0.9"),
    (lambda: gd.stop.target("loss", above="a"), TypeError, "stop.target: above must be a number, got 'a'"),
    (lambda: gd.stop.seconds("60"), TypeError, "stop.seconds: number must be a number, got '60'"),
    (lambda: gd.stop.tolerance(grad_norm="a"), TypeError, "stop.tolerance: grad_norm must be a number, got 'a'"),
    (lambda: gd.stop.seconds(1) | 3, TypeError, "stop: | must stand between two criteria, got 3"),
    (lambda: gd.stop.seconds(1) & gd.stop.steps, TypeError, "got <steps>; call it: gd.stop.steps(...)"),
    (lambda: gd.problems.digits.loss, AttributeError, "digits is a factory, which has no 'loss'; call it first: dig"),
    (lambda: gd.adamw.init(PARAMS), AttributeError, "adamw is a factory, which has no 'init'; call it first: adamw("),
    (lambda: gd.lift("adam"), TypeError, "lift: function must be a factory of Optax, got 'adam'"),
    (lambda: gd.lift(optax.adam(0.1)), TypeError, "give the factory itself, uncalled: lift(optax.adam)"),
    (lambda: gd.transform(3), TypeError, "transform: decorate a function of hyperparameters, got 3"),
    (lambda: gd.transform(linear=True), TypeError, "transform: nothing is declared by 'linear'; it takes any_dtype, "),
    (lambda: gd.schedule(lambda: 3)(), TypeError, "must return a function of the step, got 3"),
    (lambda: gd.join_schedules(gd.constant(1.0), 10), TypeError, "join_schedules: schedules must be a list, got const"),
    (lambda: gd.join_schedules([1.0, 2.0], [10]), TypeError, "got 1.0; gd.constant(1.0) is one"),
    (lambda: gd.adam(0.1, mu_dtype="bf16"), TypeError, "adam: mu_dtype must be a dtype, got 'bf16', did you mean 'b"),
    (lambda: gd.adam(0.1, mu_dtype=3), TypeError, "adam: mu_dtype must be a dtype, got 3"),
    (lambda: gd.adam(0.1, mu_dtype=int), ValueError, "adam: mu_dtype must be a floating or complex dtype, got int64"),
    (
        lambda: gd.ema(0.9, accumulator_dtype="int8"),
        ValueError,
        "accumulator_dtype must be a floating or complex dtype",
    ),
    (lambda: gd.adopt(0.1, clip_value_fn=2.5), TypeError, "adopt: clip_value_fn must be a function, got 2.5"),
    (
        lambda: gd.adaptive_grad_clip(0.1, axis=2.5),
        TypeError,
        "axis must be an integer, a tuple of them or None, got 2",
    ),
    (lambda: gd.adafactor(min_dim_size_to_factor=2.5), TypeError, "min_dim_size_to_factor must be an integer, got 2.5"),
    (lambda: gd.lbfgs(memory_size=2.5), TypeError, "lbfgs: memory_size must be an integer, got 2.5"),
    (lambda: gd.galore(0.1, update_proj_gap="x"), TypeError, "galore: update_proj_gap must be an integer, got 'x'"),
    (lambda: gd.mechanize(OTHER, num_betas=0), ValueError, "mechanize: num_betas must lie in [1, inf), got 0"),
    (lambda: gd.noisy_sgd(0.1, eta=-1), ValueError, "noisy_sgd: eta must lie in [0, inf), got -1"),
    (lambda: gd.polyak_sgd(scaling=-1), ValueError, "polyak_sgd: scaling must lie in [0, inf), got -1.0"),
    (lambda: gd.momo(beta=1.5), ValueError, "momo: beta must lie in [0, 1], got 1.5"),
    (lambda: gd.rprop(0.1, min_step_size=60), ValueError, "min_step_size must be at most max_step_size (50.0), got 60"),
    (lambda: gd.sgd(np.float32(-1)), ValueError, "sgd: learning_rate must lie in [0, inf), got -1.0; give a positive"),
    (lambda: gd.sgd(jnp.float32(-1)), ValueError, "sgd: learning_rate must lie in [0, inf), got -1.0; give a positive"),
    (lambda: gd.sgd(np.array([0.1, -1])), ValueError, "sgd: learning_rate must lie in [0, inf), got [0.1, -1.0]; give"),
    (lambda: gd.inject_hyperparams(gd.sgd)(-0.1), ValueError, "sgd: learning_rate must lie in [0, inf), got -0.1; giv"),
    (
        lambda: gd.inject_hyperparams(gd.adam)(learning_rate=0.1, b1=jnp.float32(2)),
        ValueError,
        "adam: b1 must lie in [0, 1), got 2.0",
    ),
    (lambda: gd.maximize(gd.chain(gd.polyak_sgd())), ValueError, "f_min of polyak_sgd must be a lower bound of -f"),
    (lambda: gd.maximize(gd.momo()), ValueError, "Give lower_bound=-f_max, minus the largest value of f; write -0.0"),
    (
        lambda: gd.projections.projection_box(0.5, 1, jnp.zeros(())),
        ValueError,
        "lower must be at most upper, got 1 and",
    ),
    (
        lambda: gd.losses.smooth_labels(jnp.ones(2), -0.5),
        ValueError,
        "smooth_labels: alpha must be in [0, 1], got ",
    ),
    (
        lambda: gd.losses.huber_loss(jnp.ones(2), delta=jnp.float32(-1)),
        ValueError,
        "huber_loss: delta must be at least",
    ),
    (lambda: gd.masked(OTHER, lambda p: 2).init(PARAMS), ValueError, "masked: mask must return booleans, got 2"),
    (
        lambda: gd.masked(OTHER, lambda p: np.float32(0.5)).init(PARAMS),
        ValueError,
        "must return booleans, got np.float",
    ),
    (lambda: gd.masked(OTHER, {"b": 1, "w": np.int64(3)}), ValueError, "masked: mask must be a pattern, or a tree"),
    (lambda: gd.sgd(0.1, accumulator_dtype="float33"), TypeError, "accumulator_dtype must be a dtype, got 'float33'"),
    (lambda: gd.sharding.of_state(PARAMS, ADAMW), TypeError, "sharding.of_state: tx must be an optimizer"),
]


READ += [
    (
        lambda: gd.partition([OTHER], {"b": 0, "w": 0}),
        TypeError,
        "partition: transforms must be a dict of transforms by",
    ),
    (
        lambda: gd.partition({"a": OTHER}, {"b": "a", "w": "c"}).init(PARAMS),
        ValueError,
        "partition: every label of param_labels must be one of 'a', got 'c' at 'w'",
    ),
    (lambda: gd.inject_hyperparams(ADAMW), TypeError, "give the factory itself, uncalled: inject_hyperparams(adamw)"),
    (
        lambda: gd.inject_hyperparams("adamw"),
        TypeError,
        "inject_hyperparams: inner_factory must be a factory, got 'adamw'",
    ),
    (
        lambda: gd.inject_hyperparams(gd.adamw, "betas1"),
        ValueError,
        "static_args must be among 'learning_rate', 'b1', 'b2'",
    ),
    (lambda: gd.inject_hyperparams(gd.adamw, 3), TypeError, "static_args must be names of parameters, got 3"),
    (
        lambda: gd.inject_hyperparams(gd.adam, (), "bf"),
        TypeError,
        "hyperparam_dtype must be a dtype, got 'bf', did you",
    ),
    (
        lambda: gd.inject_hyperparams(gd.adamw)(OTHER),
        TypeError,
        "adamw: learning_rate must be a number or a schedule, got s",
    ),
    (
        lambda: gd.inject_hyperparams(gd.adamw)(lr=0.1),
        TypeError,
        "adamw: no parameter 'lr', did you mean 'learning_rate'",
    ),
    (
        lambda: gd.MultiSteps(2, ADAMW),
        TypeError,
        "MultiSteps: opt must be an optimizer, a value or one of Optax, got 2",
    ),
    (lambda: gd.MultiSteps(gd.adamw, 2), TypeError, "got <adamw>; call it: adamw(...)"),
    (
        lambda: gd.MultiSteps(ADAMW, 2, should_skip_update_fn=3),
        TypeError,
        "should_skip_update_fn must be a function of",
    ),
    (
        lambda: gd.MultiSteps(ADAMW, 2, accumulator_dtype="bf"),
        TypeError,
        "MultiSteps: accumulator_dtype must be a dtype",
    ),
    (lambda: MULTI.update(MULTI.init(PARAMS), PARAMS), ValueError, "MultiSteps: the state came first"),
    (
        lambda: MULTI.update(PARAMS, None, PARAMS),
        ValueError,
        "MultiSteps: state must be what tx.init(params) returns, got",
    ),
    (lambda: MULTI.has_updated(PARAMS), ValueError, "MultiSteps: state must be what init(params) returns, got a dict"),
    (lambda: MULTI.init(STATE), ValueError, "MultiSteps: init takes the parameters, got the state of an optimizer"),
    (lambda: gd.muon(0.1, ns_coeffs=5), TypeError, "muon: ns_coeffs must be a table of gd.linalg, got 5"),
    (
        lambda: gd.muon(0.1, products="bf"),
        TypeError,
        "muon: products must be a dtype, got 'bf', did you mean 'bfloat16'",
    ),
    (
        lambda: gd.scale_by_adam_mini(views={"a": 1}),
        ValueError,
        "a view must be written 'dimensions -> stack rows colum",
    ),
    (
        lambda: fit(loss, PARAMS, ADAMW, key=jnp.ones((2, 2), "uint32")),
        ValueError,
        "key must be one PRNG key, got an array",
    ),
    (
        lambda: fit(loss, PARAMS, ADAMW, key=jnp.ones(3)),
        TypeError,
        "fit: key must be a PRNG key, jax.random.key(0), or",
    ),
    (
        lambda: fit(loss, PARAMS),
        TypeError,
        "fit: missing a required argument: 'tx'; its signature is fit(loss, params, t",
    ),
    (
        lambda: fit(loss, PARAMS, ADAMW, batchsize=3),
        TypeError,
        "fit: no parameter 'batchsize', did you mean 'batch_size'",
    ),
    (lambda: gd.conditionally_transform(ADAMW, 3), TypeError, "should_transform_fn must be a function, got 3"),
    (lambda: gd.stateless(3), TypeError, "stateless: f must be a function, got 3"),
    (
        lambda: gd.acprop(0.1, mask={"z": True}).init(PARAMS),
        ValueError,
        "acprop: mask must be a tree of booleans like the",
    ),
    (lambda: gd.lbfgs(0.1, "a"), TypeError, "lbfgs: memory_size must be an integer, got 'a'"),
    (lambda: gd.lbfgs(0.1, 2.5), TypeError, "lbfgs: memory_size must be an integer, got 2.5"),
    (lambda: gd.soap(0.1, max_dim=2.5), TypeError, "soap: max_dim must be an integer, got 2.5"),
    (lambda: gd.packed(OTHER, below=True), TypeError, "packed: below must be an integer, got True"),
    (lambda: gd.lamb(0.1, axis_name={}), TypeError, "axis_name must be the name of an axis, or a tuple of names, got"),
    (lambda: gd.sophia(0.1, mu_dtype="int8"), ValueError, "sophia: mu_dtype must be a floating or complex dtype"),
    (lambda: gd.muon(0.1, ns_coeffs=np.ones((2, 2))), ValueError, "must be a table with one row (a, b, c) for each"),
    (lambda: gd.galore(0.1, rank=-2), ValueError, "galore: `rank` must be positive, got -2"),
    (
        lambda: gd.schedule_free(OTHER, 0.1, state_dtype=3.7),
        TypeError,
        "schedule_free: state_dtype must be a dtype, got 3.7",
    ),
    (lambda: gd.monitor({"a": 1}), TypeError, "monitor: measures must be a dict of functions or transforms by name"),
    (
        lambda: gd.piecewise_constant_schedule(1.0, 3.0),
        TypeError,
        "boundaries_and_scales must be a dict from boundaries",
    ),
    (lambda: gd.sgdr_schedule({}), TypeError, "sgdr_schedule: cosine_kwargs must be a list of dicts, one per cycle"),
    (
        lambda: gd.sgdr_schedule([3.0]),
        TypeError,
        "sgdr_schedule: cosine_kwargs must be dicts of the arguments of warmup_",
    ),
    (
        lambda: gd.cosine_decay_schedule(1.0, 10)(None),
        TypeError,
        "cosine_decay_schedule: the count must be a number of st",
    ),
    (
        lambda: gd.replicate(PARAMS, 3),
        TypeError,
        "replicate: devices must be a list of devices, such as jax.local_devices(), or None",
    ),
    (lambda: gd.replicate(ADAMW.init), TypeError, "replicate: tree must be an array or a number, got <adamw.init>"),
    (lambda: gd.sharding.of_state(ADAMW, PARAMS, 3), TypeError, "sharding.of_state: mesh must be a jax.sharding.Mesh"),
    (lambda: gd.sharding.of_state(ADAMW, "a", MESH), TypeError, "sharding.of_state: params must be an array or a jax"),
    (
        lambda: gd.sharding.zero(ADAMW, PARAMS, MESH, axis=3),
        TypeError,
        "sharding.zero: axis must be the name of an axis",
    ),
    (
        lambda: gd.sharding.init(ADAMW, PARAMS, 3),
        TypeError,
        "sharding.init: shardings must be a tree of shardings like",
    ),
    (lambda: gd.JsonLines(3), TypeError, "JsonLines: path must be the path of a file, got 3"),
    (lambda: gd.JsonLines(""), ValueError, "JsonLines: path must be the path of a file, got an empty one"),
    (lambda: gd.Evaluate(3), TypeError, "Evaluate: function must be a function of the parameters, got 3"),
    (lambda: gd.Checkpoints(None), TypeError, "Checkpoints: folder must be a path, got None"),
    (lambda: gd.stop.tolerance(0.1), TypeError, "its signature is tolerance(*, grad_norm)"),
    (lambda: gd.stop.plateau(min_delta=1), TypeError, "stop.plateau: missing a required argument: 'patience'; its sig"),
    (lambda: gd.stop.plateau(3, higher="a"), TypeError, "stop.plateau: higher must be True or False, got 'a'"),
    (lambda: gd.problems.text(data=3), TypeError, "text: data must be a string, got 3"),
    (lambda: gd.problems.digits("a"), TypeError, "digits: hidden must be an integer, got 'a'"),
    (lambda: gd.parse("adam(1)", 3), TypeError, "parse: give factories of your own after the text, got 3"),
    (lambda: gd.problems.find(3), ValueError, "parse reads a string, got int"),
    (
        lambda: gd.describe(ADAMW, "a"),
        TypeError,
        "describe: params must be an array or a jax.ShapeDtypeStruct, got 'a'",
    ),
    (lambda: gd.global_norm({"w": print}), TypeError, "global_norm: updates at 'w' must be an array or a number, got"),
    (
        lambda: gd.descend(ADAMW, PARAMS, STATE),
        TypeError,
        "descend: missing a required argument: 'params'; its signature",
    ),
    (
        lambda: gd.apply_updates(PARAMS, {"b": PARAMS["b"]}),
        ValueError,
        "apply_updates: params and updates differ at 'w'",
    ),
    (lambda: gd.incremental_update(PARAMS, PARAMS, "a"), TypeError, "step_size must be an array or a number, got 'a'"),
    (lambda: gd.safe_norm("a", 1.0), TypeError, "safe_norm: x must be an array or a number, got 'a'"),
]
MULTI = gd.MultiSteps(ADAMW, 2)
MESH = jax.sharding.AbstractMesh((2,), ("data",))


@pytest.mark.parametrize(("call", "kind", "message"), READ)
def test_wrong_masks_extra_arguments_and_readers_are_named_with_a_fix(call, kind, message):
    check(call, kind, message)


LOSSES_OF_TWO = """
    cosine_distance cosine_similarity generalized_kl_divergence hinge_loss kl_divergence kl_divergence_with_log_targets
    multiclass_sparsemax_loss poly_loss_cross_entropy ranking_softmax_loss safe_softmax_cross_entropy
    sigmoid_binary_cross_entropy sigmoid_focal_loss softmax_cross_entropy sparsemax_loss
"""


@pytest.mark.parametrize("name", LOSSES_OF_TWO.split())
def test_a_loss_names_arguments_whose_shapes_differ(name):
    loss, x = getattr(gd.losses, name), jax.ShapeDtypeStruct((4, 3), "float32")
    one, two, *_ = inspect.signature(loss).parameters
    fault = "Indexer must have .*;" if name == "multiclass_sparsemax_loss" else "the shapes must fit together,"
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: {fault} got {one} of shape \(4, 3\), {two} of shape"):
        jax.eval_shape(loss, x, jax.ShapeDtypeStruct((4, 5), "float32"))
    for strange, told in (("zz", "'zz'"), ([1.0, 2.0], f"[1.0, 2.0]; pass jnp.asarray({two})"), (None, "None")):
        check(
            lambda strange=strange: loss(jnp.ones((4, 3)), strange), Exception, f"{name}: {two} must be an array or a"
        )
        check(lambda strange=strange: loss(jnp.ones((4, 3)), strange), Exception, told)
    check(loss, TypeError, f"{name}: missing a required argument: '{one}'; its signature is {name}({one}, {two}")


def test_shape_errors_without_argument_names_are_plain():
    message = (
        r"^cast_like: the result and what it must be like differ at 'w': float32\[2\] in the result, float32\[3\] in"
    )
    with pytest.raises(ValueError, match=message):
        gd.tree.cast_like({"w": jnp.ones(2)}, {"w": jnp.ones(3)})
    with pytest.raises(ValueError, match="differ in structure: the result is "):
        gd.tree.cast_like([jnp.ones(2)], (jnp.ones(2),))


def test_an_error_inside_a_loss_of_matching_shapes_keeps_its_cause():
    loss, labels = gd.losses.softmax_cross_entropy_with_integer_labels, jnp.zeros(4, int)
    with pytest.raises(ValueError, match=r"axis 5 is out of bounds .*; got logits of shape \(4, 3\), labels of shape"):
        loss(jnp.ones((4, 3)), labels, axis=5)


@pytest.mark.parametrize("name", ["add", "allclose", "cast_like", "div", "mul", "sub", "vdot", "update_moment"])
def test_a_function_of_trees_names_the_path_where_they_differ(name):
    of_trees, rest = getattr(gd.tree, name), (0.9, 1) if name == "update_moment" else ()
    for other in ({"b": jnp.ones(4), "w": PARAMS["w"]}, {"b": PARAMS["b"]}):
        path = "b" if "w" in other else "w"
        with pytest.raises((TypeError, ValueError), match=rf"^(tree\.)?{name}: .*'?{path}'?"):
            of_trees(PARAMS, other, *rest)
    if name not in ("cast_like", "update_moment"):
        check(lambda: of_trees(PARAMS, {"b": "x", "w": 0.0}), Exception, f"tree.{name}: ")


def test_donating_a_state_keeps_the_arrays_of_the_caller():
    shared, key = jnp.ones(3), jax.random.key(0)
    params, extra = {"one": shared, "other": shared}, {"seen": shared}

    def loss(params, batch, key, *, extra):
        return sum(jnp.sum(leaf**2) for leaf in params.values()), extra

    tx = gd.sgd(0.1, momentum=0.9)
    state = gd.State.create(params, tx, key=key, extra=extra)
    state, _ = jax.jit(gd.make_step(loss, tx), donate_argnums=0)(state, None)
    assert not shared.is_deleted()
    assert not key.is_deleted()
    assert jnp.array_equal(state.params["one"], 0.8 * shared)


def test_missing_arguments_are_named_with_their_function():
    check(lambda: ADAMW.update(PARAMS), TypeError, "adamw: update() missing 1 required positional argument: 'state'")
    check(lambda: ADAMW.update(PARAMS), TypeError, "call tx.update(grads, state, params)")
    check(lambda: ADAMW.update(1, 2, 3, 4), TypeError, "update() takes (updates, state, params), got 4 arguments by")
    check(
        lambda: ADAMW.init(1, 2), TypeError, "adamw: init() takes (params), got 2 arguments by position; call tx.init("
    )
    check(lambda: ADAMW.init(), TypeError, "init() missing 1 required positional argument: 'params'")
    check(lambda: gd.descend(PARAMS, STATE, PARAMS, ADAMW), TypeError, "descend: tx must be an optimizer")
    check(lambda: gd.descend(ADAMW, PARAMS, STATE, value=1.0), TypeError, "missing a required argument: 'params'")


NEEDED = [
    (gd.momo(), {}, TypeError, "momo needs value: call tx.update(grads, state, params, value=...)"),
    (gd.lbfgs(), {}, TypeError, "lbfgs needs value, grad, value_fn: call tx.update(grads, state, params, value=..."),
    (
        gd.lbfgs(),
        {"value": 1.0, "grad": PARAMS, "value_fn": lambda p: jnp.sum(p["w"])},
        ValueError,
        "lbfgs needs the parameters: call update(",
    ),
    (gd.sophia(0.1), {}, TypeError, "sophia needs obj_fn: call tx.update(grads, state, params, obj_fn=...)"),
    (gd.polyak_sgd(), {}, TypeError, "polyak_sgd needs value"),
    (gd.reduce_on_plateau(), {}, ValueError, "reduce_on_plateau needs the loss"),
    (gd.sam(gd.sgd(0.1)), {}, ValueError, "sam needs the parameters"),
    (gd.madgrad(0.1), {}, ValueError, "madgrad needs the parameters"),
    (gd.adamw(0.1), {}, ValueError, "add_decayed_weights needs the parameters"),
]
WRAPPERS = {
    "alone": lambda tx: tx,
    "chain": lambda tx: gd.chain(gd.clip(1.0), tx),
    "masked": lambda tx: gd.masked(tx, {"b": False, "w": True}),
    "conditional": lambda tx: gd.conditionally_transform(tx, lambda step: True),
    "MultiSteps": lambda tx: gd.MultiSteps(tx, 1),
}


@pytest.mark.parametrize("around", WRAPPERS)
@pytest.mark.parametrize(("tx", "extra", "kind", "message"), NEEDED)
def test_missing_arguments_of_update_are_reported_first(tx, extra, kind, message, around):
    tx = WRAPPERS[around](tx)
    for params in (PARAMS, {"b": None, "w": PARAMS["w"]}):
        state = jax.eval_shape(tx.init, params)
        if around == "masked" and "value" in extra:
            continue  # a gradient of all leaves
        if params["b"] is None and "value" in extra:
            continue  # Optax's line search takes no leaf of None
        update = functools.partial(tx.update, **extra)
        check(lambda update=update, of=(params, state): jax.eval_shape(update, *of), kind, message)


def test_an_error_raised_by_the_user_is_unchanged():
    @gd.transform
    def own(rate: float = 0.1):
        def update(updates, state, params=None):
            raise ValueError("mine")

        return lambda params: {}, update

    with pytest.raises(ValueError, match=r"^mine$"):
        own().update(PARAMS, PARAMS, {"other": jnp.ones(2)})
    with pytest.raises(KeyError, match=r"^'mine'"):
        gd.sam(gd.sgd(0.1)).update(PARAMS, gd.sam(gd.sgd(0.1)).init(PARAMS), PARAMS, value_fn=lambda p: p["mine"])


DIFFERENT = [
    (
        [gd.sgd(0.1), gd.sgd(0.1, momentum=0.9)],
        "number 1, differ in more than numbers: momentum is None in the first",
    ),
    (
        [gd.sgd(0.1), gd.sgd(0.1), gd.sgd(0.1, nesterov=True)],
        "2, differ in more than numbers: nesterov is False",
    ),
    ([gd.adamw(0.1, mask=".*w"), gd.adamw(0.1)], "mask is '.*w' in the first, None here (it shapes the program)"),
    ([gd.sgd(jnp.ones(2)), gd.sgd(jnp.ones(3))], "learning_rate is array([1.0, 1.0], float32) in the first"),
    ([gd.chain(gd.clip(1.0)), gd.chain(gd.sgd(0.1))], "transforms/0 is clip(max_delta=1.0) in the first, sgd("),
    ([gd.clip(1.0), gd.scale(1.0)], "number 1, differ in more than numbers: they come of two factories"),
]


@pytest.mark.parametrize(("values", "message"), DIFFERENT)
def test_stacking_different_optimizers_names_the_field(values, message):
    check(lambda: gd.stack(values), ValueError, message)


REACHED = [
    (lambda: TWO_RATES.learning_rate, "write tx.transforms[0].learning_rate or tx.transforms[1].learning_rate"),
    (lambda: BY_PATH.learning_rate, "write tx.transforms['.*/b'].learning_rate or tx.transforms['.*'].learning_rate"),
    (lambda: TWO_RATES.replace(learning_rate=0.2), "as in tx.replace({'transforms/0/learning_rate': 0.2})"),
    (lambda: BY_PATH.replace(learning_rate=0.2), "as in tx.replace({'transforms/.*/b/learning_rate': 0.2})"),
    (lambda: ADAMW.lr, "adamw has no hyperparameter 'lr', did you mean 'learning_rate'"),
    (lambda: ADAMW.replace(wd=0.1), "adamw has no hyperparameter 'wd', did you mean 'weight_decay'"),
]


@pytest.mark.parametrize(("call", "message"), REACHED)
def test_a_message_says_how_to_reach_one_of_several_hyperparameters(call, message):
    check(call, AttributeError, message)


def test_the_expressions_in_those_messages_work():
    assert TWO_RATES.replace({"transforms/0/learning_rate": 0.2}).transforms[0].learning_rate == 0.2
    assert BY_PATH.replace({"transforms/.*/b/learning_rate": 0.2}).transforms[".*/b"].learning_rate == 0.2


def test_describe_shows_rate_decay_and_pattern_under_by_path():
    params = {"enc": {"bias": jnp.ones(3), "kernel": jnp.ones((2, 3))}, "head": jnp.ones(2)}
    within = gd.by_path({".*bias": gd.frozen(), ".*": gd.adamw(1e-3, weight_decay=0.01)})
    rows = gd.describe(gd.by_path({"head": gd.sgd(0.2), ".*": within}), params).rows
    assert [(row.path, row.learning_rate, row.weight_decay, row.pattern) for row in rows] == [
        ("enc/bias", "", "", ".* > .*bias"),
        ("enc/kernel", "0.001", "0.01", ".* > .*"),
        ("head", "0.2", "", "head"),
    ]
    masked = gd.by_path({"head": gd.sgd(0.2), ".*": gd.adamw(gd.constant(0.1), mask=".*kernel")})
    shown = str(gd.describe(masked, params))
    assert re.search(r"transform +learning rate +weight decay +pattern\n", shown)
    assert re.search(r"enc/bias .* adamw +constant\(value=0.1\) +0.0 +\.\*\n", shown)
    assert re.search(r"enc/kernel .* adamw +constant\(value=0.1\) +0.0001 +\.\*\n", shown)
    assert "pattern" not in str(gd.describe(gd.adamw(0.1), params))


PARTS_OF = [
    (
        gd.masked(gd.adamw(1e-3), ".*kernel"),
        [("", "", "", ""), ("adamw", "0.001", "0.0001", ".*kernel"), ("", "", "", "")],
    ),
    (
        gd.partition({0: gd.sgd(0.1), 1: gd.adamw(0.2, weight_decay=0.3)}, {"enc": 0, "head": 1}),
        [("sgd", "0.1", "", "0"), ("sgd", "0.1", "", "0"), ("adamw", "0.2", "0.3", "1")],
    ),
    (
        gd.partition({"a": gd.by_path({".*": gd.sgd(0.1)}), "b": gd.frozen()}, lambda p: {"enc": "a", "head": "b"}),
        [("sgd", "0.1", "", "a > .*"), ("sgd", "0.1", "", "a > .*"), ("frozen", "", "", "b")],
    ),
    (
        gd.chain(gd.masked(gd.add_decayed_weights(0.1), {"enc": True, "head": False}), gd.sgd(0.1)),
        [("add_decayed_weights + sgd", "0.1", "0.1", "mask")] * 2 + [("sgd", "0.1", "", "")],
    ),
    (
        gd.selective_transform(gd.sgd(0.1), freeze_mask={"enc": True, "head": False}),
        [("frozen", "", "", "freeze")] * 2 + [("sgd", "0.1", "", "train")],
    ),
    (gd.freeze({"enc": True, "head": False}), [("frozen", "", "", "mask")] * 2 + [("", "", "", "")]),
]


@pytest.mark.parametrize(
    ("tx", "cells"), PARTS_OF, ids=["masked", "partition", "nested", "chain", "selective", "freeze"]
)
def test_describe_shows_rate_decay_and_labels_under_masks(tx, cells):
    params = {"enc": {"bias": jnp.ones(3), "kernel": jnp.ones((2, 3))}, "head": jnp.ones(2)}
    described = gd.describe(tx, params)
    assert [(row.transform, row.learning_rate, row.weight_decay, row.pattern) for row in described.rows] == cells
    assert re.search(r"transform +learning rate +weight decay +pattern\n", str(described))


def test_the_command_line_lists_every_factory_once_in_its_group(capsys):
    from gdjax.cli.listing import optimizers

    optimizers(None)
    shown = re.split(r"\n(?=[A-Z])", capsys.readouterr().out)
    groups = {block.split(":")[0]: re.findall(r"\w+", block.split(":", 1)[1]) for block in shown[1:]}
    rows = [line.split()[0] for line in shown[0].splitlines()[1:] if line[:1].strip() and line[0].isalpha()]
    assert {"adamw", "galore", "lbfgs", "shampoo", "soap", "sophia"} < {*rows}
    assert {"frozen", "scale_by_galore", "scale_by_shampoo", "trace"} < {*groups["Transforms"]}
    assert {"by_path", "chain", "maximize", "mechanize", "schedule_free"} < {*groups["Wrappers"]}
    listed = rows + [name for names in groups.values() for name in names]
    for name in gd.factories():
        assert listed.count(name) == 1, name


def test_signatures_are_short():
    shown = str(inspect.signature(gd.adamw))
    assert shown.startswith("(learning_rate: ScalarOrSchedule, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e")
    for name, factory in gd.factories().items():
        assert not re.search(r"typing|Annotated|Union|jaxlib|0x|Interval|Forward", str(inspect.signature(factory))), (
            name
        )
    assert inspect.signature(gd.adamw).parameters["b1"].annotation == gd.Decay  # a type with a short repr


def test_ipython_shows_and_completes_factories():
    code = """
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
ip = InteractiveShell.instance()
ip.run_cell("import gdjax as gd")
print(ip.object_inspect_text("gd.adamw"))
with provisionalcompleter():
    print([found.text for found in ip.Completer.completions("gd.adamw(weight_d", 17)])
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240).stdout
    assert re.search(r"learning_rate: ScalarOrSchedule,\s", shown)
    assert "Annotated" not in shown
    assert "weight_decay=" in shown.splitlines()[-1]


TAKEN_BEFORE = [
    (lambda: gd.MultiSteps(gd.sgd(0.1), 0), r"MultiSteps: every_k_schedule must be"),
    (lambda: gd.projections.projection_linf_ball(jnp.ones(3), -1.0), r"projection_linf_ball: scale must be at least 0"),
    (lambda: gd.projections.projection_hypercube(jnp.ones(3), -1.0), r"projection_hypercube: scale must be at least 0"),
    (lambda: gd.losses.huber_loss(jnp.ones(3), delta=-1.0), r"huber_loss: delta must be at least 0, got -1.0"),
    (lambda: gd.Checkpoints(""), r"Checkpoints: folder must be a path, got an empty one"),
    (lambda: gd.parse("scale(array([1.7], int32))"), r"int32 must hold the numbers exactly"),
    (lambda: gd.parse("scale(array([1e39], float32))"), r"float32 must hold the numbers, got one beyond its range"),
    (
        lambda: gd.accumulate(gd.sgd(0.1), 2).update(
            jnp.ones(2), gd.accumulate(gd.sgd(0.1), 2).init(jnp.ones(2)), weight=jnp.float32(-1)
        ),
        r"accumulate: weight must be at least 0, got -1.0\.",
    ),
    (
        lambda: gd.make_step(lambda w, b: w, gd.sgd(0.1), weight=lambda b: np.nan, accumulate=2)(
            gd.State.create(1.0, gd.sgd(0.1)), jnp.ones(2)
        ),
        r"make_step: the number that weight returns must be at least 0, got nan\.",
    ),
    (lambda: gd.sgd(-jnp.ones(2)), r"learning_rate must lie in \[0, inf\), got \[-1.0, -1.0\]; give a positive one"),
    (lambda: gd.sgd(-jnp.ones(99)), r"learning_rate must lie in \[0, inf\), got float32\[99\]; give a positive one"),
]


@pytest.mark.parametrize(("call", "words"), TAKEN_BEFORE)
def test_meaningless_arguments_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
