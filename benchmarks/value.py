"""What does it cost that an optimizer is a value? Import, make, trace, compile and dispatch, beside Optax.

`python benchmarks/value.py` prints a table of ratios, the peers interleaved in one run, and writes it to
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


def importing(module):
    """Seconds until an optimizer can be made, in a process of its own and measured inside it."""
    code = (
        f"import time; start = time.perf_counter(); import {module}; {module}.adamw; print(time.perf_counter() - start)"
    )
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


def imports():
    """Median seconds to import Optax and gdjax, one after the other in turn."""
    times = [(importing("optax"), importing("gdjax")) for _ in range(ROUNDS)]
    return dict(zip(("optax", "gdjax"), map(statistics.median, zip(*times, strict=True)), strict=True))


def step_of(tx):
    """A step with the optimizer closed over."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def step_with(tx, params, state, grads):
    """A step with the optimizer as an argument."""
    return step_of(tx)(params, state, grads)


def main():
    """Measure and write the table."""
    params = {f"layer{i}": {"kernel": jnp.ones((16, 16)), "bias": jnp.ones(16)} for i in range(50)}
    peers = {"optax": optax.adamw(1e-3), "gdjax": gd.adamw(1e-3)}
    rows = [("import, and adamw found", imports()), ("make adamw", making())]
    rows.append(("trace and lower, 100 leaves", medians({n: lowering(tx, params) for n, tx in peers.items()}, ROUNDS)))
    rows.append(("the same and compile", medians({n: compiling(tx, params) for n, tx in peers.items()}, ROUNDS)))
    rows.append(("dispatch, 100 leaves, tx closed over", medians(dispatching(peers, params), 200)))
    calls = dispatching(peers, params)
    calls["gdjax"] = dispatch(jax.jit(step_with), (peers["gdjax"], params, peers["gdjax"].init(params), params))
    rows.append(("dispatch, 100 leaves, gdjax's tx an argument", medians(calls, 200)))
    rows += nnx_rows()
    lines = [
        "# What it costs that an optimizer is a value",
        "",
        f"{machine()}; medians, interleaved in one run of `benchmarks/value.py`.",
        "",
        "| what | Optax, ms | gdjax, ms | ratio |",
        "|---|---|---|---|",
    ]
    for name, taken in rows:
        ours, theirs = taken["gdjax"], taken["optax"]
        lines.append(f"| {name} | {1e3 * theirs:.3f} | {1e3 * ours:.3f} | {ours / theirs:.2f} |")
    RESULT.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def making():
    """Seconds to make an optimizer."""
    return medians({"optax": lambda: optax.adamw(1e-3), "gdjax": lambda: gd.adamw(1e-3)}, 500)


def lowering(tx, params):
    """A call that traces and lowers a step anew."""
    state = tx.init(params)
    return lambda: jax.jit(step_of(tx)).lower(params, state, params)


def compiling(tx, params):
    """A call that traces, lowers and compiles a step anew."""
    lower = lowering(tx, params)
    return lambda: lower().compile()


def nnx_rows():
    """A step of `nnx.Optimizer` with sgd, by hand and under `nnx.jit`.

    The rate that is an array comes last: from then on NNX takes all values of gdjax for data, and looks into them.
    """
    peers = {"optax": optax.sgd(0.1), "gdjax": gd.sgd(0.1)}
    rows = [
        ("a step of nnx.Optimizer, sgd, by hand", medians(nnx_calls(peers, lambda: nnx_step), 100, 6)),
        ("the same under nnx.jit", medians(nnx_calls(peers, jitted_nnx_step), 400, 6)),
    ]
    data = {**peers, "gdjax": gd.sgd(jnp.asarray(0.1))}
    return [*rows, ("the same, gdjax's rate an array", medians(nnx_calls(data, jitted_nnx_step), 400, 6))]


def nnx_step(model, optimizer, x):
    """Take a step of NNX."""
    grads = nnx.grad(lambda model: (model(x) ** 2).mean())(model)
    optimizer.update(model, grads)


def jitted_nnx_step():
    """Return a jitted step with a cache of its own: in a shared one, the programs of two peers are told apart first."""
    return nnx.jit(lambda *arguments: nnx_step(*arguments))


def nnx_calls(peers, make_step):
    """Calls of a step, each with a model, an optimizer and a step of its own."""

    def call(tx):
        step = make_step()
        model = nnx.Sequential(*(nnx.Linear(64, 64, rngs=nnx.Rngs(0)) for _ in range(4)))
        optimizer, x = nnx.Optimizer(model, tx, wrt=nnx.Param), jnp.ones((8, 64))

        def run():
            step(model, optimizer, x)
            jax.block_until_ready(nnx.state(model))

        return run

    return {name: call(tx) for name, tx in peers.items()}


def dispatching(peers, params):
    """Calls of a compiled step."""
    return {name: dispatch(jax.jit(step_of(tx)), (params, tx.init(params), params)) for name, tx in peers.items()}


def dispatch(step, arguments):
    """A call of a step that waits for its end, once compiled."""
    step(*arguments)
    return lambda: jax.block_until_ready(step(*arguments))


if __name__ == "__main__":
    main()
