"""The main job, run as a user runs it."""

import os
import re
import subprocess
import sys

import pytest

ENV = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}

MEAN = "params_ema(sgd(0.3), decay=0.99)"


def gdjax(*arguments, code=None):
    command = [sys.executable, *(["-c", code] if code else ["-m", "gdjax"]), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env=ENV, check=False)


@pytest.mark.parametrize(
    "optimizer", ["adamw(3e-3)", "chain(clip_by_global_norm(1), sgd(warmup_cosine(0.5, 40, 330), momentum=0.9))"]
)
def test_it_learns_digits(optimizer):
    done = gdjax("train", "--optimizer", optimizer, "--epochs", "15")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 16
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", done.stdout)]
    accuracies = [float(share) for share in re.findall(r"accuracy (\d\.\d+)", done.stdout)]
    assert losses[-1] < 0.15 < losses[0]
    assert accuracies[-1] > 0.95


def test_what_it_evaluates_is_the_mean_that_an_optimizer_keeps():
    plain, averaged = (gdjax("train", "--epochs", "1", "--optimizer", o).stdout for o in ("sgd(0.3)", MEAN))
    losses = [re.findall(r"loss (\d+\.\d+)", out) for out in (plain, averaged)]
    accuracies = [re.findall(r"accuracy (\d\.\d+)", out) for out in (plain, averaged)]
    assert losses[0] == losses[1] != []
    assert accuracies[0] != accuracies[1]


@pytest.mark.parametrize("optimizer", ["sam(sgd(0.1))", "lbfgs()"])
def test_optimizers_that_call_the_loss_run(optimizer):
    done = gdjax("train", "--epochs", "1", "--optimizer", optimizer)
    assert done.returncode == 0, done.stderr


def test_the_same_seed_is_the_same_run():
    first, second, other = (gdjax("train", "--epochs", "2", "--seed", seed).stdout for seed in ("1", "1", "2"))
    assert first == second != other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "adamv(1e-3)"], "unknown name 'adamv'"),
        (["--optimizer", "constant(1)"], "a transform is needed, got constant(value=1.0)"),
        (["--optimizer", "adam(1, b1=2)"], "b1 must lie in [0, 1), got 2.0"),
        (["--batch-size", "2000"], "'--batch-size'"),
        (["--epochs", "0"], "'--epochs'"),
    ],
)
def test_wrong_input_is_one_message_and_a_failure(arguments, message):
    done = gdjax("train", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_without_its_extra_it_says_what_to_install():
    done = gdjax(code="import sys; sys.modules['typer'] = None; import gdjax.cli")
    assert done.returncode == 1
    assert done.stderr.startswith("gdjax: the command line needs typer and scikit-learn: pip install 'gdjax[train]'")
