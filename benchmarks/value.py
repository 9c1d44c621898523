"""Question: what does it cost that an optimizer is a value, in import, construction, compilation and dispatch?

`python benchmarks/value.py` times gdjax and Optax in turn in one run. It prints a table of ratios, and writes it to
`benchmarks/results/value-cpu.md`.
"""

import pathlib
import statistics
import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from timing import machine, medians

import gdjax as gd

ROUNDS = 9
RESULT = pathlib.Path(__file__).parent / "results" / "value-cpu.md"


def import_seconds(module):
    """Return the seconds to import a module and look up `adamw`, measured inside a new process."""
    code = (
        f"import time; start = time.perf_counter(); import {module}; {module}.adamw; print(time.perf_counter() - start)"
    )
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


def imports():
    """Return the median seconds to import Optax and gdjax, in turn."""
    times = [(import_seconds("optax"), import_seconds("gdjax")) for _ in range(ROUNDS)]
    return dict(zip(("optax", "gdjax"), map(statistics.median, zip(*times, strict=True)), strict=True))


def step_of(tx):
    """Return a step with the optimizer closed over."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def step_with(tx, params, state, grads):
    """Take a step with the optimizer as an argument."""
    return step_of(tx)(params, state, grads)


def main():
    """Measure and write the table."""
    params = {f"layer{i}": {"kernel": jnp.ones((16, 16)), "bias": jnp.ones(16)} for i in range(50)}
    peers = {"optax": optax.adamw(1e-3), "gdjax": gd.adamw(1e-3)}
    rows = [("import, and look up adamw", imports()), ("make adamw", construction_seconds())]
    rows.append(
        ("trace and lower, 100 leaves", medians({n: lower_call(tx, params) for n, tx in peers.items()}, ROUNDS))
    )
    compiled = medians({n: compile_call(tx, params) for n, tx in peers.items()}, ROUNDS)
    rows.append(("trace, lower and compile, 100 leaves", compiled))
    rows.append(("dispatch, 100 leaves, tx closed over", medians(dispatch_calls(peers, params), 200)))
    calls = dispatch_calls(peers, params)
    calls["gdjax"] = dispatch_call(jax.jit(step_with), (peers["gdjax"], params, peers["gdjax"].init(params), params))
    rows.append(("dispatch, 100 leaves, gdjax's tx as an argument", medians(calls, 200)))
    rows += nnx_rows()
    lines = [
        "# Cost of an optimizer that is a value",
        "",
        f"{machine()}; medians, timed in turn in one run of `benchmarks/value.py`.",
        "",
        "| what | Optax, ms | gdjax, ms | ratio |",
        "|---|---|---|---|",
    ]
    for name, taken in rows:
        ours, theirs = taken["gdjax"], taken["optax"]
        lines.append(f"| {name} | {1e3 * theirs:.3f} | {1e3 * ours:.3f} | {ours / theirs:.2f} |")
    RESULT.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def construction_seconds():
    """Return the median seconds to make an optimizer."""
    return medians({"optax": lambda: optax.adamw(1e-3), "gdjax": lambda: gd.adamw(1e-3)}, 500)


def lower_call(tx, params):
    """Return a function that traces and lowers a new step."""
    state = tx.init(params)
    return lambda: jax.jit(step_of(tx)).lower(params, state, params)


def compile_call(tx, params):
    """Return a function that traces, lowers and compiles a new step."""
    lower = lower_call(tx, params)
    return lambda: lower().compile()


def nnx_rows():
    """Return the rows of a step of `nnx.Optimizer` with sgd, eager and under `nnx.jit`.

    The row with an array as learning rate comes last: afterwards NNX treats all values of gdjax as data, and traverses
    them.
    """
    peers = {"optax": optax.sgd(0.1), "gdjax": gd.sgd(0.1)}
    rows = [
        ("a step of nnx.Optimizer, sgd, eager", medians(nnx_calls(peers, lambda: nnx_step), 100, 6)),
        ("the same under nnx.jit", medians(nnx_calls(peers, jitted_nnx_step), 400, 6)),
    ]
    data = {**peers, "gdjax": gd.sgd(jnp.asarray(0.1))}
    return [*rows, ("the same, gdjax's learning rate an array", medians(nnx_calls(data, jitted_nnx_step), 400, 6))]


def nnx_step(model, optimizer, x):
    """Take a step of NNX."""
    grads = nnx.grad(lambda model: (model(x) ** 2).mean())(model)
    optimizer.update(model, grads)


def jitted_nnx_step():
    """Return a jitted step with a separate cache: a shared one would first look up the program of each peer."""
    return nnx.jit(lambda *arguments: nnx_step(*arguments))


def nnx_calls(peers, make_step):
    """Return a function for each peer that takes a step, each with a separate model, optimizer and step."""

    def call(tx):
        step = make_step()
        model = nnx.Sequential(*(nnx.Linear(64, 64, rngs=nnx.Rngs(0)) for _ in range(4)))
        optimizer, x = nnx.Optimizer(model, tx, wrt=nnx.Param), jnp.ones((8, 64))

        def run():
            step(model, optimizer, x)
            jax.block_until_ready(nnx.state(model))

        return run

    return {name: call(tx) for name, tx in peers.items()}


def dispatch_calls(peers, params):
    """Return a function for each peer that calls a compiled step."""
    return {name: dispatch_call(jax.jit(step_of(tx)), (params, tx.init(params), params)) for name, tx in peers.items()}


def dispatch_call(step, arguments):
    """Compile a step, and return a function that calls it and waits for its result."""
    step(*arguments)
    return lambda: jax.block_until_ready(step(*arguments))


if __name__ == "__main__":
    main()
