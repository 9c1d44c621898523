"""`fit` takes the documented steps in the documented order, and ends when it should."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax as gd

RNG = np.random.default_rng(0)
X = RNG.normal(size=(10, 3)).astype(np.float32)
Y = X @ np.array([1.0, -2.0, 0.5], np.float32) + 0.1
START = {"w": np.zeros(3, np.float32), "b": np.float32(0)}


def loss(params, batch):
    x, y = batch
    return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)


def parabola(w, batch):
    return (w - 2.0) ** 2


def fit(*arguments, **options):
    return gd.fit(*arguments, **{"progress": False} | options)


def by_hand(order, rate, weights=None):
    """Return the parameters after float64 gradient descent over batches of rows."""
    w, b = np.zeros(3), 0.0
    for i, rows in enumerate(order):
        error = X[rows].astype(float) @ w + b - Y[rows]
        step = rate * (1 if weights is None else weights[i])
        w, b = w - step * 2 * X[rows].T @ error / len(rows), b - step * 2 * error.mean()
    return w, b


def batches_seen(**options):
    """Return the rows of every batch, in the order in which a descent uses them."""
    seen = []

    def spy(params, batch):
        jax.debug.callback(lambda rows: seen.append(rows.tolist()), batch, ordered=True)
        return params * 0.0 + batch.mean()

    fit(spy, 0.0, gd.sgd(0.1), np.arange(10.0, dtype=np.float32), **options)
    jax.effects_barrier()
    return [[int(row) for row in rows] for rows in seen]


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def test_full_batch_is_gradient_descent():
    done = fit(loss, START, gd.sgd(0.1), (X, Y), steps=7)
    w, b = by_hand([np.arange(10)] * 7, 0.1)
    np.testing.assert_allclose(done.params["w"], w, rtol=1e-5)
    np.testing.assert_allclose(done.params["b"], b, rtol=1e-5)
    assert done.stopped is gd.Stopped.STEPS
    assert done.history["step"].tolist() == list(range(7))


@pytest.mark.parametrize("size", [1, 3, 5])
def test_an_epoch_uses_every_example_once_and_each_epoch_is_shuffled_anew(size):
    seen = batches_seen(batch_size=size, epochs=3)
    per_epoch = 10 // size
    assert len(seen) == 3 * per_epoch
    epochs = [flat(seen[i * per_epoch : (i + 1) * per_epoch]) for i in range(3)]
    assert all(len(set(epoch)) == per_epoch * size for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert seen == batches_seen(batch_size=size, epochs=3)
    assert seen != batches_seen(batch_size=size, epochs=3, key=1)


def test_the_remainder_batch_is_weighted_by_its_size():
    seen = batches_seen(batch_size=4, epochs=2, drop_remainder=False)
    assert [len(rows) for rows in seen] == [4, 4, 2, 4, 4, 2]
    assert sorted(flat(seen[:3])) == sorted(flat(seen[3:])) == list(range(10))
    done = fit(loss, START, gd.sgd(0.1), (X, Y), batch_size=4, epochs=2, drop_remainder=False)
    w, _ = by_hand(seen, 0.1, weights=[1, 1, 0.5] * 2)
    np.testing.assert_allclose(done.params["w"], w, rtol=1e-5)
    assert len(done.history["loss"]) == 6


def test_arrays_of_the_caller_and_earlier_states_are_not_donated():
    params, x = {"w": jnp.ones(3), "b": jnp.zeros(())}, jnp.asarray(X)
    first = fit(loss, params, gd.prodigy(), (x, Y), steps=3)
    second = fit(loss, first.state, gd.prodigy(), (x, Y), steps=6)
    assert np.isfinite([*params["w"], *first.state.params["w"], *second.params["w"], x.sum()]).all()
    assert second.state.count == 6
    at_once = fit(loss, params, gd.prodigy(), (x, Y), steps=6)
    np.testing.assert_array_equal(at_once.params["w"], second.params["w"])


def test_the_number_of_steps_per_dispatch_never_changes_results():
    def halting(progress):  # a slow callback, which changes the pace
        return jnp.linalg.inv(jnp.eye(200) * 2).sum() < 0

    options = {"batch_size": 3, "steps": 500}
    one = fit(loss, START, gd.adamw(1e-2), (X, Y), **options)
    other = fit(loss, START, gd.adamw(1e-2), (X, Y), **options, evaluate=gd.Evaluate(lambda p: p["b"], every=7))
    third = fit(loss, START, gd.adamw(1e-2), (X, Y), **options, callbacks=[halting])
    for done in (other, third):
        for name in ("loss", "grad_norm", "learning_rate"):
            np.testing.assert_array_equal(one.history[name], done.history[name])
        np.testing.assert_array_equal(one.params["w"], done.params["w"])


def test_the_loss_receives_a_key_and_returns_extra_and_aux():
    def noisy(params, batch, key, extra):
        return (params - 1) ** 2 + 0 * jax.random.normal(key), (extra + 1, {"drawn": jax.random.uniform(key)})

    tx = gd.sgd(0.1)
    done = fit(noisy, gd.State.create(0.0, tx, key=5, extra=jnp.zeros((), jnp.int32)), tx, steps=20)
    assert done.state.extra == 20
    assert len(set(done.history["drawn"].tolist())) == 20


def test_the_history_records_learning_rates_and_norms():
    schedule = gd.linear_schedule(0.1, 0.0, 10)
    done = fit(parabola, 5.0, gd.watch(gd.sgd(schedule)), steps=5)
    np.testing.assert_allclose(done.history["learning_rate"], [0.1, 0.09, 0.08, 0.07, 0.06], rtol=1e-6)
    np.testing.assert_allclose(done.history["loss"][0], 9.0)
    np.testing.assert_allclose(done.history["grad_norm"][0], 6.0)
    np.testing.assert_allclose(done.history["update_norm"][0], 0.6, rtol=1e-6)
    assert done.history["param_norm"][0] == 5.0
    assert (done.history["throughput"][1:] > 0).all()


def test_the_history_records_the_learning_rate_that_was_applied():
    done = fit(parabola, 5.0, gd.accumulate(gd.sgd(gd.linear_schedule(0.1, 0.0, 4)), every=2), steps=8)
    np.testing.assert_allclose(done.history["learning_rate"], np.repeat([0.1, 0.075, 0.05, 0.025], 2), rtol=1e-6)
    by_path = gd.by_path({"a": gd.sgd(0.1), "b": gd.sgd(0.2)})
    both = fit(lambda p, b: p["a"] ** 2 + p["b"] ** 2, {"a": 1.0, "b": 1.0}, by_path, steps=2)
    assert "learning_rate" not in both.history


def test_evaluation_uses_eval_params_of_the_optimizer():
    tx = gd.schedule_free_sgd(0.1)
    done = fit(parabola, 5.0, tx, steps=10, evaluate=lambda w: w)
    averaged = gd.eval_params(tx, done.state.opt_state, done.state.params)
    assert done.params == averaged != done.state.params
    np.testing.assert_array_equal(done.history.evaluations["evaluation"][-1], np.float32(averaged))


@pytest.mark.parametrize(
    "tx",
    [gd.lbfgs(), gd.sam(gd.sgd(0.1)), gd.polyak_sgd(0.1), optax.adam(0.1)],
    ids=["lbfgs", "sam", "polyak", "optax"],
)
def test_optimizers_that_need_the_loss_and_optax_optimizers_run(tx):
    done = fit(loss, START, tx, (X, Y), steps=60)
    assert done.history["loss"][-1] < 0.2 * done.history["loss"][0]


def test_repeating_a_descent_does_not_compile_again(monkeypatch):
    def run(rate):
        return fit(loss, START, gd.adamw(rate), (X, Y), batch_size=2, epochs=2)

    first = run(0.125)
    traced = []
    monkeypatch.setattr(gd.descent.loop.program.Program, "take_steps", lambda *a: traced.append(a))
    np.testing.assert_array_equal(run(0.125).params["w"], first.params["w"])
    assert not traced


class Batches:
    """An iterable that restarts every epoch."""

    def __iter__(self):
        return ((X[i : i + 5], Y[i : i + 5]) for i in (0, 5))


def test_an_iterable_is_read_once_per_epoch():
    done = fit(loss, START, gd.sgd(0.1), Batches(), epochs=3, evaluate=loss_of_all)
    w, _ = by_hand([np.arange(5), np.arange(5, 10)] * 3, 0.1)
    np.testing.assert_allclose(done.params["w"], w, rtol=1e-5)
    assert done.history.evaluations["step"].tolist() == [0, 2, 4, 6]
    assert done.stopped is gd.Stopped.STEPS


def loss_of_all(params):
    return {"all": loss(params, (X, Y))}


def test_an_iterator_ends_the_descent_when_exhausted():
    done = fit(loss, START, gd.sgd(0.1), iter(Batches()), steps=10)
    assert (done.stopped, int(done.state.count)) == (gd.Stopped.EXHAUSTED, 2)


def test_at_most_six_batches_are_prefetched():
    requested = itertools.count()
    fit(lambda w, b: (w - b) ** 2, 0.0, gd.sgd(0.1), (np.float32(next(requested)) for _ in itertools.count()), steps=20)
    assert 20 <= next(requested) <= 20 + 6


def refilled_buffer(count):
    """Yield one buffer, refilled for every batch."""
    buffer = np.zeros(4, np.float32)
    for i in range(count):
        buffer[:] = i
        yield buffer


def test_a_buffer_may_be_refilled_for_every_batch():
    done = fit(lambda w, b: w * 0 + b.mean(), 0.0, gd.sgd(0.1), refilled_buffer(20), steps=20)
    assert done.history["loss"].tolist() == list(range(20))


def test_no_extra_epoch_is_started():
    class Counted(Batches):
        epochs = 0

        def __iter__(self):
            self.epochs += 1
            return super().__iter__()

    data = Counted()
    done = fit(loss, START, gd.sgd(0.1), data, epochs=2)
    assert (data.epochs, int(done.state.count)) == (2, 4)


def test_an_iterable_that_is_exhausted_after_an_epoch_ends_the_descent():
    class Once:
        rows = iter(Batches())

        def __iter__(self):
            yield from self.rows

    done = fit(loss, START, gd.sgd(0.1), Once(), epochs=3)
    assert (done.stopped, int(done.state.count)) == (gd.Stopped.EXHAUSTED, 2)


def test_a_target_stops_at_the_exact_step():
    done = fit(parabola, 5.0, gd.sgd(0.1), stop=gd.stop.target("loss", below=1.0), steps=100)
    losses = 9 * 0.8 ** (2 * np.arange(100))
    assert int(done.state.count) == np.argmax(losses < 1) + 1
    assert done.stopped is gd.Stopped.TARGET
    assert done.because.startswith("loss 0.9")


STOP = gd.stop


@pytest.mark.parametrize(
    ("stop", "reason", "steps"),
    [
        (STOP.steps(30), "steps", 30),
        (STOP.tolerance(grad_norm=0.6), "tolerance", 12),
        (STOP.tolerance(grad_norm=1e-9) | STOP.steps(20), "steps", 20),
        (STOP.steps(20) & STOP.tolerance(grad_norm=0.6), "steps", 20),
        (STOP.plateau(4, metric="distance"), "plateau", 50),
        (STOP.target("distance", below=0.5), "target", 10),
        (STOP.plateau(3, min_delta=0.1), "plateau", None),
        (STOP.seconds(1e-6), "seconds", None),
    ],
    ids=repr,
)
def test_every_criterion_ends_the_descent_and_is_reported(stop, reason, steps):
    evaluate = gd.Evaluate(lambda w: {"distance": jnp.round(jnp.abs(w - 2.0), 3)}, every=10)
    done = fit(parabola, 5.0, gd.sgd(0.1), stop=stop, evaluate=evaluate)
    assert done.stopped == reason
    losses = 9 * 0.8 ** (2 * np.arange(100))
    if reason == "plateau" and steps is None:
        best = 0
        for i in range(100):
            best = i if losses[i] < losses[best] - 0.1 else best
            if i == best + 3:
                steps = i + 1
                break
    if reason == "plateau" and "distance" in repr(stop):
        rounded = [round(3 * 0.8 ** (10 * k), 3) for k in range(20)]
        last = max(k for k in range(1, 20) if rounded[k] < min(rounded[:k]))
        steps = 10 * (last + 4)
    if steps:
        assert int(done.state.count) == steps
    assert reason in repr(done)


def test_the_repr_of_a_criterion_is_its_expression():
    stop = (STOP.target("accuracy", above=0.97) | STOP.seconds(60)) & STOP.plateau(5, 0.1, "loss", higher=True)
    one, other = "target('accuracy', above=0.97) | seconds(60)", "plateau(5, min_delta=0.1, metric='loss', higher=True)"
    assert repr(stop) == f"({one}) & {other}"


@pytest.mark.parametrize("callback", [lambda now: now.step >= 1, lambda now: now.history["loss"][-1] < 100])
def test_a_callback_that_returns_true_ends_the_descent(callback):
    done = fit(parabola, 5.0, gd.sgd(0.1), steps=100, callbacks=[callback])
    assert done.stopped is gd.Stopped.CALLBACK


def test_a_callback_that_raises_leaves_a_checkpoint(tmp_path):
    def broken(now):
        if now.step >= 30:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fit(parabola, 5.0, gd.sgd(0.1), steps=1000, checkpoint=tmp_path, callbacks=[broken])
    done = fit(parabola, 5.0, gd.sgd(0.1), steps=1000, checkpoint=tmp_path, resume=True)
    assert done.history.rows == 1000


DATA = np.ones(8, np.float32)
BAD = np.where(np.arange(8) == 5, np.nan, DATA).astype(np.float32)


def fit_mean(batch_size, data, **options):
    return fit(lambda w, b: (w - b.mean()) ** 2, 0.0, gd.sgd(0.1), data, batch_size=batch_size, **options)


def test_a_nonfinite_loss_ends_the_descent_with_the_last_finite_parameters():
    done = fit_mean(1, BAD, epochs=1)
    assert done.stopped is gd.Stopped.NONFINITE
    bad = int(done.state.count) - 1
    np.testing.assert_allclose(done.params, 1 - 0.8**bad, rtol=1e-5)
    assert np.isnan(done.history["loss"][-1])
    assert np.isfinite(done.history["loss"][:-1]).all()
    assert f"at step {bad}" in done.because
    norms = [f"{x:.3g}" for x in done.history["grad_norm"][-6:-1]]
    assert ", ".join(norms) in done.because


def test_nonfinite_tolerates_the_given_number_of_steps():
    done = fit_mean(1, BAD, epochs=1, stop=STOP.nonfinite(2))
    assert done.stopped is gd.Stopped.STEPS
    np.testing.assert_allclose(done.params, 1 - 0.8**7, rtol=1e-5)


@pytest.mark.parametrize(
    ("start", "data", "words"),
    [
        (np.nan, DATA, "at step 0: the parameters given are not finite"),
        (0.0, DATA * np.nan, "at step 0, of finite parameters; the data are not finite at"),
        (1e30, DATA, "at step 0, of finite parameters"),
    ],
)
def test_a_nonfinite_first_step_is_reported_with_its_cause(start, data, words):
    done = fit(lambda w, b: (w - b.mean()) ** 2, start, gd.sgd(0.1), data, steps=5)
    assert done.stopped is gd.Stopped.NONFINITE
    assert words in done.because


def test_a_nonfinite_update_is_distinguished_from_a_nonfinite_gradient():
    done = fit(parabola, 5.0, gd.sgd(lambda count: jnp.where(count == 3, jnp.inf, 0.1)), steps=9)
    assert done.stopped is gd.Stopped.NONFINITE
    assert "the parameters made by the update before it are not finite" in done.because


def test_a_nonfinite_last_update_is_reported_and_not_saved(tmp_path):
    tx = gd.sgd(lambda count: jnp.where(count == 7, jnp.inf, 0.1))
    options = {"steps": 8, "checkpoint": gd.Checkpoints(tmp_path, every=5)}
    done = fit(parabola, 5.0, tx, **options)
    assert done.stopped is gd.Stopped.NONFINITE
    assert [path.name for path in tmp_path.iterdir() if path.name.isdigit()] == ["5"]


def test_a_mesh_shards_the_batch_and_gives_the_parameters_of_one_device():
    mesh = jax.make_mesh((8,), ("data",))
    options = {"batch_size": 8, "steps": 20}
    on_one_device, over_mesh = (fit(loss, START, gd.adam(0.1), (X, Y), mesh=m, **options) for m in (None, mesh))
    np.testing.assert_allclose(on_one_device.params["w"], over_mesh.params["w"], rtol=1e-5)
    assert len(over_mesh.state.params["w"].sharding.device_set) == 8


def test_json_lines_record_the_history(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    options = {"evaluate": gd.Evaluate(lambda w: {"distance": abs(w - 2)}, every=4), "steps": 10}
    done = fit(parabola, 5.0, gd.sgd(0.1), callbacks=[gd.JsonLines(path)], **options)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 10 + 4
    assert lines[0] == {"step": 0, "evaluation": {"distance": 3.0}}
    read = gd.History.read(path)
    for name in ("step", "loss", "grad_norm", "learning_rate"):
        np.testing.assert_array_equal(read[name].astype(np.float32), done.history[name])
    np.testing.assert_allclose(read.evaluations["distance"], done.history.evaluations["distance"])


def test_json_lines_start_over_with_every_descent(tmp_path):
    lines = gd.JsonLines(tmp_path / "metrics.jsonl")
    for steps in (10, 4):
        fit(parabola, 5.0, gd.sgd(0.1), steps=steps, callbacks=[lines])
    assert gd.History.read(tmp_path / "metrics.jsonl")["step"].tolist() == [0, 1, 2, 3]


def test_history_columns_are_nan_where_a_name_was_absent():
    columns = gd.descent.history.Columns({"a": [1.0, 2.0]})
    columns.add({"b": [3.0]})
    np.testing.assert_array_equal(columns["a"], [1, 2, np.nan])
    np.testing.assert_array_equal(columns["b"], [np.nan, np.nan, 3])
    assert {name: x.tolist()[-1:] for name, x in columns.since(2).items()} == {
        "a": [pytest.approx(np.nan, nan_ok=True)],
        "b": [3],
    }


def test_the_repr_of_a_fit_says_why_it_ended_and_its_html_shows_curves():
    done = fit(parabola, 5.0, gd.sgd(0.1), steps=10, evaluate=lambda w: {"distance": abs(w - 2)})
    assert repr(done).startswith("Fit: steps (10 steps taken) after 10 steps")
    page = done._repr_html_()
    assert "<svg" in page
    assert "after 10 steps" in page
    figure = done.plot()
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "distance"]
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), done.history["loss"])


def test_a_long_curve_is_drawn_with_2000_points():
    done = fit(parabola, 5.0, gd.sgd(0.1), steps=10_000)
    assert len(done.plot().axes[0].lines[0].get_ydata()) == 2_000


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (lambda: fit(parabola, 5.0, gd.sgd(0.1)), ValueError, "give a length"),
        (lambda: fit(parabola, 5.0, gd.sgd(0.1), steps=1, epochs=1), ValueError, "give a length"),
        (lambda: fit(parabola, 5.0, gd.sgd(0.1), steps=0), ValueError, "steps must be an integer of 1 at least, got 0"),
        (lambda: fit(parabola, 5, gd.sgd(0.1), steps=1), TypeError, "must be floating or complex"),
        (
            lambda: fit(lambda w, b: w * b, 5.0, gd.sgd(0.1), X, steps=1),
            TypeError,
            r"got float32\[10,3\]; take its mean",
        ),
        (
            lambda: fit(loss, START, gd.sgd(0.1), {"x": X, "y": Y[:9], "z": X}, steps=1),
            ValueError,
            "'y' has 9, 'x' has 10",
        ),
        (lambda: fit(loss, START, gd.sgd(0.1), (X, Y), batch_size=11, steps=1), ValueError, "at most .* 10, got 11"),
        (
            lambda: fit(loss, START, gd.sgd(0.1), (X, Y), batch_size=0, steps=1),
            ValueError,
            "batch_size must be .* got 0",
        ),
        (lambda: fit(loss, START, gd.sgd(0.1), (X[:0], Y[:0]), steps=1), ValueError, "at least one example, got none"),
        (lambda: fit(loss, START, gd.sgd(0.1), (), steps=1), ValueError, "data must hold at least one array"),
        (lambda: fit(loss, START, gd.sgd(0.1), (X, 3.0), steps=1), ValueError, "got a scalar at '1'"),
        (lambda: fit(loss, START, gd.sgd(0.1), iter(()), steps=1), ValueError, "at least one batch"),
        (lambda: fit(loss, START, gd.sgd(0.1), Batches(), batch_size=2, steps=1), ValueError, "batches as they are"),
        (
            lambda: fit(parabola, 5.0, gd.sgd(0.1), stop=STOP.target("los", below=1)),
            ValueError,
            "'los', did you mean 'loss'",
        ),
        (lambda: fit(parabola, 5.0, gd.sgd(0.1), stop="loss<1"), TypeError, "stop must be made of gd.stop"),
        (lambda: fit(parabola, 5.0, gd.sgd(0.1), steps=1, resume=True), ValueError, "resume needs the checkpoint"),
        (lambda: fit(parabola, 5.0, gd.sgd(0.1), steps=1, resume="all"), ValueError, "resume must be"),
        (
            lambda: fit(parabola, 5.0, gd.sgd(0.1), steps=1, evaluate=3),
            TypeError,
            "function must be a function of the parameters",
        ),
        (
            lambda: fit(parabola, 5.0, gd.sgd(0.1), steps=1, evaluate=lambda w: jnp.ones(2)),
            TypeError,
            r"evaluate must return scalars, got shape \(2,\)",
        ),
        (
            lambda: fit(lambda w, b: (w, {"all": jnp.ones(2)}), 5.0, gd.sgd(0.1), steps=1),
            ValueError,
            r"aux must hold scalars, got shape \(2,\) at 'all'",
        ),
        (
            lambda: fit(loss, START, gd.sgd(0.1), (X, Y), batch_size=9, steps=1, mesh=jax.make_mesh((8,), ("data",))),
            ValueError,
            "batch_size must be a multiple of the 8 devices of mesh, got 9",
        ),
        (
            lambda: fit(parabola, 5.0, gd.sgd(0.1), steps=1, evaluate=lambda w: {"loss": w}),
            ValueError,
            "what is evaluated must not have the name of a metric that every step reports, got 'loss'",
        ),
        (
            lambda: fit(lambda w, b: (w, {"step": w}), 5.0, gd.sgd(0.1), steps=1),
            ValueError,
            "aux must not have the name of a metric that every step reports, got 'step'",
        ),
        (
            lambda: fit(parabola, 5.0, gd.sgd(0.1), steps=1, evaluate=lambda w: {"a": {"b": w}}),
            TypeError,
            "evaluate must return scalars, got a dict for 'a'",
        ),
        (
            lambda: fit(lambda w, b: w, {"w": 5.0, "n": 3}, gd.sgd(0.1), steps=1),
            TypeError,
            "params at 'n' must be floating or complex, got 3. Close over such leaves",
        ),
        (
            lambda: fit(lambda w, b, extra: (w, 1.0), gd.State.create(5.0, gd.sgd(0.1), extra=1), gd.sgd(0.1), steps=1),
            ValueError,
            "fit: loss must return `extra` of the same type as it received",
        ),
        (lambda: fit(parabola, 5.0, "sgd(0.1)", steps=1), TypeError, "tx must be an optimizer.* gd.parse reads a text"),
        (lambda: fit(parabola, 5.0, gd.sgd, steps=1), TypeError, "tx must be an optimizer.*; call it"),
        (lambda: fit(loss, START, gd.sgd(0.1), [X, Y], steps=1), TypeError, "a list could mean either"),
        (lambda: fit(loss, START, gd.sgd(0.1), Batches, steps=1), TypeError, "got the function .*: call it"),
        (lambda: fit(parabola, 5.0, gd.sgd(0.1), steps=1, evaluate=lambda w: "x"), TypeError, "numbers, got 'x'"),
        (lambda: gd.make_step(parabola, gd.sgd(0.1))(5.0, None), TypeError, "step takes a State"),
        (lambda: STOP.target("loss"), ValueError, "one of above and below"),
        (lambda: STOP.target("loss", below=np.nan), ValueError, "the bound must be a number"),
        (lambda: STOP.steps(2.5), ValueError, "number must be an integer of 1 at least, got 2.5"),
        (lambda: STOP.plateau(0), ValueError, "patience must be an integer of 1 at least, got 0"),
        (lambda: STOP.tolerance(grad_norm=0), ValueError, "grad_norm must be greater than 0"),
        (lambda: gd.Evaluate(parabola, every=0), ValueError, "every must be an integer of 1 at least, got 0"),
    ],
)
def test_wrong_input_is_named(attempt, error, message):
    with pytest.raises(error, match=message):
        attempt()
