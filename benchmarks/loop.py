"""Question: what does the training loop cost in `gd.fit` and `gd.make_step`, compared with hand-written loops?

`python benchmarks/loop.py` answers five questions, with the peers of each timed in turn. It prints a table and writes
`benchmarks/results/loop-cpu.md`: medians, the ratio with its range over rounds, and the goal. Programs are compiled
before they are timed, except where compilation is the question. `--only sweep` answers one question and writes no file.
"""

import argparse
import dataclasses
import functools
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import machine, time_in_turn

import gdjax as gd

try:
    import torch
except ModuleNotFoundError:
    torch = None

RESULT = pathlib.Path(__file__).parent / "results" / "loop-cpu.md"
ROUNDS = 5


@dataclasses.dataclass
class Row:
    """Row of the table: the times of both peers, their ratio and its goal."""

    question: str
    ours: str
    theirs: str
    ratio: str
    goal: str

    @classmethod
    def paired(cls, question, ours, theirs, goal, shown, faster=False):
        """Return a row from the seconds of two peers in the same rounds.

        Args:
          question: the first cell.
          ours: seconds of gdjax.
          theirs: seconds of the other.
          goal: the last cell.
          shown: formats the median seconds of a peer.
          faster: give the ratio of speeds, not of seconds.
        """
        ratios = sorted((b / a if faster else a / b) for a, b in zip(ours, theirs, strict=True))
        spread = f"**{statistics.median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        return cls(question, shown(statistics.median(ours)), shown(statistics.median(theirs)), spread, goal)


def main():
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=QUESTIONS, help="answer only these; write no file")
    only = parser.parse_args().only
    lines = [
        "# The loop",
        "",
        f"{machine(**({'PyTorch': torch.__version__} if torch else {}))}. Medians of {ROUNDS} rounds unless stated, "
        "with the peers timed in turn in one run of `benchmarks/loop.py`. Ratios are medians of the ratios of rounds, "
        "with their range in brackets.",
        "",
        "| question | gdjax | other | ratio | goal |",
        "|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for name, question in QUESTIONS.items():
        for row in question() if not only or name in only else ():
            lines.append("| " + " | ".join(dataclasses.astuple(row)) + " |")
            print(lines[-1], flush=True)
    if not only:
        RESULT.write_text("\n".join(lines) + "\n\n" + NOTES)


def digits(steps=8_800, torch_steps=880):
    """Measure the steps per second of a small network."""
    problem = gd.problems.digits()
    loss, train, params = problem.loss, problem.train, problem.init(jax.random.key(0))
    peers = {
        "ours": fit_call(loss, params, gd.adamw(3e-3), train, problem.batch_size, steps),
        "packed": fit_call(loss, params, gd.packed(gd.adamw(3e-3)), train, problem.batch_size, steps),
        "numpy": hand_written(loss, params, optax.adamw(3e-3), train, problem.batch_size, steps),
        "device": hand_written(loss, params, optax.adamw(3e-3), train, problem.batch_size, steps, on_device=True),
    }
    if torch:
        default = torch.get_num_threads()
        peers |= {f"torch {n}": torch_digits(train, params, problem.batch_size, torch_steps, n) for n in {default, 1}}
    times = time_in_turn(peers, ROUNDS, warmup=1)

    def shown(seconds):
        return f"{steps / seconds:,.0f}"

    row = functools.partial(Row.paired, shown=shown, faster=True)
    of = "digits, batches of 64, steps per second; "
    yield row(f"{of}Optax, batches gathered in NumPy", times["ours"], times["numpy"], ">= 1.4")
    yield row(f"{of}the same, gdjax with `packed(adamw(3e-3))`", times["packed"], times["numpy"], "")
    yield row(f"{of}Optax, batches gathered on the device", times["ours"], times["device"], "")
    for name in [name for name in times if name.startswith("torch")]:
        threads = name.removeprefix("torch ")
        what = f"{of}PyTorch, fused AdamW, {threads} thread{'s' if threads != '1' else ''}"
        theirs = [steps / torch_steps * seconds for seconds in times[name]]
        yield row(what, times["ours"], theirs, ">= 4 for the faster")


def text(steps=100, rounds=5):
    """Measure what `gd.fit` adds to long steps."""
    problem = gd.problems.text()
    loss, train, params = problem.loss, problem.train, problem.init(jax.random.key(0))
    tx = gd.parse(problem.optimizer)
    peers = {
        "ours": fit_call(loss, params, tx, train, problem.batch_size, steps),
        "hand-written": hand_written(loss, params, tx, train, problem.batch_size, steps),
    }
    times = time_in_turn(peers, rounds, warmup=1)

    def shown(seconds):
        return f"{1e3 * seconds / steps:.2f}"

    what = f"text, batches of {problem.batch_size}, ms per step; a hand-written loop with the same optimizer"
    what = f"{what} ({rounds} rounds of {steps} steps)"
    yield Row.paired(what, times["ours"], times["hand-written"], "<= 1.02", shown)


def parabola(steps=100_000):
    """Measure 10^5 steps with almost no computation."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if event == COMPILES else None
    )

    def fit(steps):
        problem = gd.problems.parabola()  # an equal problem, built again
        fit = gd.fit(problem.loss, problem.init(jax.random.key(0)), gd.sgd(0.1), steps=steps, progress=False)
        assert fit.history.rows == steps
        return fit

    start = time.perf_counter()
    fit(10)
    first = time.perf_counter() - start
    compiled.clear()
    fit(10)
    again = len(compiled)
    taken = sorted(time_in_turn({"ours": lambda: fit(steps)}, ROUNDS)["ours"])
    seconds = f"{statistics.median(taken):.3f} ({taken[0]:.3f} to {taken[-1]:.3f})"
    yield Row(f"parabola, {steps:,} full-batch steps, s, after a fit of 10 steps that compiled", seconds, "", "", "< 1")
    yield Row("parabola, that first fit of 10 steps, s", f"{first:.2f}", "", "", "")
    yield Row("parabola, programs that a second fit of an equal problem compiled", str(again), "", "", "0")


COMPILES = "/jax/core/compile/backend_compile_duration"
"""Event that JAX reports once for every program that it compiles."""


def sweep(number=64, steps=500, rounds=5):
    """Measure a sweep over the learning rates of one problem."""
    problem = gd.problems.digits()
    loss, train, params = problem.loss, problem.train, problem.init(jax.random.key(0))
    rates = np.geomspace(1e-4, 1e-1, number).astype(np.float32)
    batches = np.stack([rows for rows, _ in zip(shuffled(train, problem.batch_size), range(steps), strict=False)])

    def one(tx, batches):
        step = gd.make_step(loss, tx)

        def taken(state, rows):
            return step(state, jax.tree.map(lambda x: x[rows], data))

        return jax.lax.scan(taken, gd.State.create(params, tx), batches)[0].params

    data = jax.device_put(train)

    def stacked():
        """Return a jitted `vmap` over `make_step`, not yet compiled."""
        descend = jax.jit(jax.vmap(one, in_axes=(0, None)))
        return lambda: jax.block_until_ready(descend(gd.stack([gd.adamw(float(rate)) for rate in rates]), batches))

    def one_by_one():
        """Return hand-written loops in turn, with one step that reads the learning rate from the state."""
        tx = optax.inject_hyperparams(optax.adamw)(learning_rate=1e-3)
        step = hand_written_step(loss, tx)

        def descend():
            for rate in rates:
                trained, state = jax.tree.map(jnp.copy, params), tx.init(params)
                state.hyperparams["learning_rate"] = jnp.asarray(rate)
                for rows in batches:
                    trained, state, _ = step(trained, state, jax.tree.map(lambda x, rows=rows: x[rows], train))
            return jax.block_until_ready(trained)

        return descend

    def seconds(descend):
        return f"{descend:.2f}"

    ours, theirs = stacked(), one_by_one()
    compiled = time_in_turn({"ours": ours, "theirs": theirs}, 1)
    times = time_in_turn({"ours": ours, "theirs": theirs}, rounds)
    what = f"{number} learning rates of digits, {steps} steps each, s: `vmap` over `make_step`, and Optax loops in turn"
    yield Row.paired(f"{what} ({rounds} rounds)", times["ours"], times["theirs"], "<= 0.25", seconds)
    yield Row.paired("the same with compilation, once", compiled["ours"], compiled["theirs"], "", seconds)


def command_line(rounds=3):
    """Measure the time from the command to its first step."""
    if "--no-cache" not in subprocess.run([*TRAIN, "--help"], capture_output=True, text=True, check=False).stdout:
        return
    for problem in ("parabola", "digits"):
        cold, warm = [], []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as cache:
                cold.append(first_step(problem, cache))
                warm.append(first_step(problem, cache))
        for which, what in enumerate(("the first step", "the end")):
            yield Row.paired(
                f"`gdjax train {problem} --steps 1`, s from the command to {what}: with the compiled programs of an "
                f"earlier run, and without ({rounds} rounds)",
                [times[which] for times in warm],
                [times[which] for times in cold],
                "stated",
                "{:.2f}".format,
            )


TRAIN = [sys.executable, "-m", "gdjax", "train"]


def first_step(problem, cache):
    """Return the seconds until the first step is in the history of the run, and until the command ends."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "run"
        environment = {name: x for name, x in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
        environment["XDG_CACHE_HOME"] = cache
        start, seen = time.perf_counter(), None
        command = [*TRAIN, problem, "--steps", "1", "--out", str(out)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            while process.poll() is None:
                if seen is None and any("grad_norm" in file.read_text() for file in out.glob("metrics.jsonl")):
                    seen = time.perf_counter() - start
                time.sleep(0.005)
            ended = time.perf_counter() - start
            if seen is None:
                raise SystemExit(f"{' '.join(command)} took no step: {process.stderr.read().decode()}")
        return seen, ended


def fit_call(loss, params, tx, data, batch_size, steps):
    """Return a function that calls `gd.fit` once."""

    def descend():
        fit = gd.fit(loss, params, tx, data, batch_size=batch_size, steps=steps, progress=False)
        return jax.block_until_ready(fit.params)

    return descend


def hand_written(loss, params, tx, data, batch_size, steps, on_device=False):
    """Return a hand-written loop: a jitted step with donated arrays, and batches in a new order every epoch."""
    if on_device:
        arrays = jax.device_put(data)
        step = hand_written_step(lambda params, rows, arrays: loss(params, jax.tree.map(lambda x: x[rows], arrays)), tx)
    else:
        step = hand_written_step(loss, tx)

    def descend():
        trained, state = jax.tree.map(jnp.copy, params), tx.init(params)
        for _, rows in zip(range(steps), shuffled(data, batch_size), strict=False):
            batch = (rows, arrays) if on_device else (jax.tree.map(lambda x, rows=rows: x[rows], data),)
            trained, state, _ = step(trained, state, *batch)
        return jax.block_until_ready(trained)

    return descend


def hand_written_step(loss, tx):
    """Return a jitted step of an Optax optimizer, with parameters and state donated."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, *batch):
        value, grads = jax.value_and_grad(loss)(params, *batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    return step


def shuffled(data, batch_size):
    """Yield the rows of batches without end, in a new order every epoch."""
    generator, examples = np.random.default_rng(0), len(jax.tree.leaves(data)[0])
    while True:
        order = generator.permutation(examples)
        for first in range(0, examples - batch_size + 1, batch_size):
            yield order[first : first + batch_size]


def torch_digits(train, params, batch_size, steps, threads):
    """Return a function that trains the same network in PyTorch, on the same data."""
    images, labels = torch.from_numpy(np.array(train[0])), torch.from_numpy(np.array(train[1])).long()
    layers = [torch.nn.Linear(*params[name]["kernel"].shape) for name in ("hidden", "output")]

    def descend():
        torch.set_num_threads(threads)
        with torch.no_grad():
            for layer, name in zip(layers, ("hidden", "output"), strict=True):
                layer.weight.copy_(torch.from_numpy(np.array(params[name]["kernel"].T)))
                layer.bias.zero_()
        model = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1])
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-4, fused=True)
        for _, rows in zip(range(steps), shuffled(train, batch_size), strict=False):
            rows = torch.from_numpy(rows)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
        return model

    return descend


QUESTIONS = {"digits": digits, "text": text, "parabola": parabola, "sweep": sweep, "command-line": command_line}

NOTES = """\
## Method

- **digits**: the whole call of `gd.fit` is timed, from the caller's arrays to the fitted ones. This includes its start
  of a few milliseconds. The hand-written loops never wait for a loss. PyTorch takes a tenth of the steps.
- **text**: both use the optimizer of the problem, a value of gdjax, so that only the loop differs.
- **parabola**: the number of steps is an argument of the program, so a fit of 10 steps compiles the program of 10^5.
- **learning rates**: the Optax loops share one compiled step; `inject_hyperparams` keeps the rate in the state.
- **command line**: the first step counts when it is in the `metrics.jsonl` of the run. Without compiled programs the
  cache folder is empty; with them it is that of the run before. The end follows the checkpoint and the curves.

## Rows that miss their goal, and why

- **digits**: a step takes about 24 us. The gradient of the network and AdamW take 17, which no loop changes. Drawing
  and gathering the batch takes 4; the guard, the history and the criterion take 3. The hand-written loop runs Python on
  a second core while the device works. `packed` starts fewer loops of AdamW. The order of examples is computed place by
  place (1.3 us per step), because sorting one order per epoch of 22 steps took 12.
- **64 learning rates**: the single program is bound by the same arithmetic: about 12 us per rate and step, of the 40 in
  a hand-written loop. Sharded over two virtual devices by `shard_map`, the ratio was 0.22, in separate runs.
- **PyTorch with 2 threads** waits at barriers: on a busy machine a step takes a hundred times as long. The faster of
  the two counts.
"""

if __name__ == "__main__":
    main()
