"""What does the loop cost that takes the steps? `gd.fit` and `gd.make_step` beside the loops that are usual.

`python benchmarks/loop.py` asks five questions, runs the peers of each in turn, and prints and writes
`benchmarks/results/loop-cpu.md`: medians, their ratios with the least and the greatest of any round, and what was
wanted. Every program is compiled before it is timed, but where compiling is the question. `--only sweep` asks one
question and writes nothing.
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
from timing import in_turn, machine

import gdjax as gd

try:
    import torch
except ModuleNotFoundError:
    torch = None

RESULT = pathlib.Path(__file__).parent / "results" / "loop-cpu.md"
ROUNDS = 5


@dataclasses.dataclass
class Row:
    """An answer: what was measured of both, their ratio and what it should be."""

    what: str
    ours: str
    theirs: str
    ratio: str
    wanted: str

    @classmethod
    def paired(cls, what, ours, theirs, wanted, shown, faster=False):
        """A row of the seconds of two peers in the same rounds; the ratio is of seconds, or of speeds if `faster`."""
        ratios = sorted((b / a if faster else a / b) for a, b in zip(ours, theirs, strict=True))
        spread = f"**{statistics.median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        return cls(what, shown(statistics.median(ours)), shown(statistics.median(theirs)), spread, wanted)


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=QUESTIONS, help="ask these alone, and write nothing")
    only = parser.parse_args().only
    lines = [
        "# The loop",
        "",
        f"{machine(**({'PyTorch': torch.__version__} if torch else {}))}. Medians of {ROUNDS} rounds unless said, the "
        "peers in turn in one run of `benchmarks/loop.py`; ratios are the medians of the rounds' own, in brackets the "
        "least and the greatest.",
        "",
        "| what | gdjax | the other | ratio | wanted |",
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
    """How many steps a second does a small network take?"""
    problem = gd.problems.digits()
    loss, train, params = problem.loss, problem.train, problem.init(jax.random.key(0))
    peers = {
        "ours": fitting(loss, params, gd.adamw(3e-3), train, problem.batch_size, steps),
        "packed": fitting(loss, params, gd.packed(gd.adamw(3e-3)), train, problem.batch_size, steps),
        "numpy": usual(loss, params, optax.adamw(3e-3), train, problem.batch_size, steps),
        "device": usual(loss, params, optax.adamw(3e-3), train, problem.batch_size, steps, on_device=True),
    }
    if torch:
        default = torch.get_num_threads()
        peers |= {f"torch {n}": torch_digits(train, params, problem.batch_size, torch_steps, n) for n in {default, 1}}
    times = in_turn(peers, ROUNDS, unseen=1)

    def shown(seconds):
        return f"{steps / seconds:,.0f}"

    row = functools.partial(Row.paired, shown=shown, faster=True)
    of = "digits, batches of 64, steps a second; "
    yield row(f"{of}the other: Optax, batches gathered in NumPy", times["ours"], times["numpy"], ">= 1.4")
    yield row(f"{of}the same, gdjax's as `packed(adamw(3e-3))`", times["packed"], times["numpy"], "")
    yield row(f"{of}Optax, gathered on the device", times["ours"], times["device"], "")
    for name in [name for name in times if name.startswith("torch")]:
        threads = name.removeprefix("torch ")
        what = f"{of}PyTorch, fused AdamW, {threads} thread{'s' if threads != '1' else ''}"
        theirs = [steps / torch_steps * seconds for seconds in times[name]]
        yield row(what, times["ours"], theirs, ">= 4 beside the faster")


def text(steps=100, rounds=5):
    """What does `gd.fit` add to steps that take long?"""
    problem = gd.problems.text()
    loss, train, params = problem.loss, problem.train, problem.init(jax.random.key(0))
    tx = gd.parse(problem.optimizer)
    peers = {
        "ours": fitting(loss, params, tx, train, problem.batch_size, steps),
        "usual": usual(loss, params, tx, train, problem.batch_size, steps),
    }
    times = in_turn(peers, rounds, unseen=1)

    def shown(seconds):
        return f"{1e3 * seconds / steps:.2f}"

    what = f"text, batches of {problem.batch_size}, ms a step; the usual loop with the same optimizer"
    what = f"{what} ({rounds} rounds of {steps} steps)"
    yield Row.paired(what, times["ours"], times["usual"], "<= 1.02", shown)


def parabola(steps=100_000):
    """How long are 10^5 steps of next to nothing?"""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if event == COMPILES else None
    )

    def fit(steps):
        problem = gd.problems.parabola()  # an equal one, made anew
        fit = gd.fit(problem.loss, problem.init(jax.random.key(0)), gd.sgd(0.1), steps=steps, progress=False)
        assert fit.history.rows == steps
        return fit

    start = time.perf_counter()
    fit(10)
    first = time.perf_counter() - start
    compiled.clear()
    fit(10)
    again = len(compiled)
    taken = sorted(in_turn({"ours": lambda: fit(steps)}, ROUNDS)["ours"])
    seconds = f"{statistics.median(taken):.3f} ({taken[0]:.3f} to {taken[-1]:.3f})"
    yield Row(f"parabola, {steps:,} full-batch steps, s, after a fit of 10 that compiled", seconds, "", "", "< 1")
    yield Row("parabola, that first fit of 10, s", f"{first:.2f}", "", "", "")
    yield Row("parabola, programs that a second fit of an equal problem compiled", str(again), "", "", "0")


COMPILES = "/jax/core/compile/backend_compile_duration"
"""What JAX tells its listeners once for every program that it compiles."""


def sweep(number=64, steps=500, rounds=5):
    """How long are many learning rates of one problem?"""
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
        """A jitted `vmap` over `make_step`, not yet compiled."""
        descend = jax.jit(jax.vmap(one, in_axes=(0, None)))
        return lambda: jax.block_until_ready(descend(gd.stack([gd.adamw(float(rate)) for rate in rates]), batches))

    def one_by_one():
        """Usual loops one after the other, of one step that takes the learning rate from the state."""
        tx = optax.inject_hyperparams(optax.adamw)(learning_rate=1e-3)
        step = usual_step(loss, tx)

        def descend():
            for rate in rates:
                held, state = jax.tree.map(jnp.copy, params), tx.init(params)
                state.hyperparams["learning_rate"] = jnp.asarray(rate)
                for rows in batches:
                    held, state, _ = step(held, state, jax.tree.map(lambda x, rows=rows: x[rows], train))
            return jax.block_until_ready(held)

        return descend

    def seconds(descend):
        return f"{descend:.2f}"

    ours, theirs = stacked(), one_by_one()
    compiled = in_turn({"ours": ours, "theirs": theirs}, 1)
    times = in_turn({"ours": ours, "theirs": theirs}, rounds)
    what = (
        f"{number} learning rates of digits, {steps} steps each, s: `vmap` over `make_step`, and Optax's loops in turn"
    )
    yield Row.paired(f"{what} ({rounds} rounds)", times["ours"], times["theirs"], "<= 0.25", seconds)
    yield Row.paired("the same, compiling too, once", compiled["ours"], compiled["theirs"], "", seconds)


def command_line(rounds=3):
    """How long is it from the command to the first step?"""
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
                f"`gdjax train {problem} --steps 1`, s from the command to {what}: compiled programs kept from a run "
                f"before, and none ({rounds} rounds)",
                [times[which] for times in warm],
                [times[which] for times in cold],
                "stated",
                "{:.2f}".format,
            )


TRAIN = [sys.executable, "-m", "gdjax", "train"]


def first_step(problem, cache):
    """Seconds until the first step is in the run's history, and until the command ends."""
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


def fitting(loss, params, tx, data, batch_size, steps):
    """A descent by `gd.fit`, all of the call."""

    def descend():
        fit = gd.fit(loss, params, tx, data, batch_size=batch_size, steps=steps, progress=False)
        return jax.block_until_ready(fit.params)

    return descend


def usual(loss, params, tx, data, batch_size, steps, on_device=False):
    """A descent as it is written by hand: a jitted step with its arrays donated, batches by a new order an epoch."""
    if on_device:
        arrays = jax.device_put(data)
        step = usual_step(lambda params, rows, arrays: loss(params, jax.tree.map(lambda x: x[rows], arrays)), tx)
    else:
        step = usual_step(loss, tx)

    def descend():
        held, state = jax.tree.map(jnp.copy, params), tx.init(params)
        for _, rows in zip(range(steps), shuffled(data, batch_size), strict=False):
            batch = (rows, arrays) if on_device else (jax.tree.map(lambda x, rows=rows: x[rows], data),)
            held, state, _ = step(held, state, *batch)
        return jax.block_until_ready(held)

    return descend


def usual_step(loss, tx):
    """A jitted step of an Optax optimizer; parameters and state are donated."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, *batch):
        value, grads = jax.value_and_grad(loss)(params, *batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    return step


def shuffled(data, batch_size):
    """Rows of batches without end, of a new order an epoch."""
    generator, examples = np.random.default_rng(0), len(jax.tree.leaves(data)[0])
    while True:
        order = generator.permutation(examples)
        for first in range(0, examples - batch_size + 1, batch_size):
            yield order[first : first + batch_size]


def torch_digits(train, params, batch_size, steps, threads):
    """The same network in PyTorch, on the same data."""
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
## How it is measured

- **digits**: a call of `gd.fit` is timed whole, from the caller's arrays to the fitted ones: its start, a few
  milliseconds, is in the figure. The usual loops never wait for a loss. PyTorch takes a tenth of the steps.
- **text**: both have the problem's own optimizer, a value of gdjax, so that the loop alone differs.
- **parabola**: the number of steps is an argument of the program, so a fit of 10 compiles what a fit of 10^5 runs.
- **learning rates**: Optax's loops share one compiled step; `inject_hyperparams` has the rate in the state.
- **command line**: the first step counts when it stands in the run's `metrics.jsonl`. Without kept programs, an empty
  cache folder; with them, the folder of the run before. The end comes after the checkpoint and the curves.

## Where it falls short, and why

- **digits**: a step takes about 24 us, 17 of them the network's gradient and AdamW alone, which no loop changes;
  drawing and gathering the batch is 4, the guard, the history and the criterion 3. The usual loop hides Python behind
  the device on a second core. `packed` leaves AdamW fewer loops to start. The order of examples is told place by place
  (1.3 us a step): sorting one every epoch of 22 steps took 12.
- **64 learning rates**: the one program is bound by the same arithmetic, about 12 us a rate and step of the 40 that a
  usual loop takes. Divided over two virtual devices by `shard_map` it came to 0.22, from separate runs.
- **PyTorch with 2 threads** waits at barriers: on a busy machine a step takes a hundred times as long. The faster of
  the two counts.
"""

if __name__ == "__main__":
    main()
