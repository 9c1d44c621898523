"""Question: what do matrix methods cost, on one device, sharded over devices, and within a training step?

`python benchmarks/matrix.py` answers three questions, prints tables and writes `results/matrix-cpu.md`:

1. step: how long does a step of Muon take on the hidden matrices of 8 layers of width 512, in gdjax, Optax and (if
   installed) PyTorch? What do products in bfloat16 change?
2. sharded: with parameters sharded by rows or replicated on 8 virtual devices, how long does a step take? Which
   collectives does it have, and how much arithmetic per device?
3. training: how much longer than with AdamW does a training step take, with the refreshes of factors averaged in?

`--only step` answers one question and writes no file.
"""

import argparse
import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import os
import pathlib
import statistics
import time
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the threads of XLA and of LAPACK block each other

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hlo import collectives, counts
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from timing import machine, time_in_turn

import gdjax as gd

try:
    import torch
except ModuleNotFoundError:
    torch = None

RESULT = pathlib.Path(__file__).parent / "results" / "matrix-cpu.md"
DEVICES = 8
P = PartitionSpec


def main():
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=QUESTIONS, help="answer only these; write no file")
    only = parser.parse_args().only
    versions = {"PyTorch": torch.__version__} if torch else {}
    lines = ["# Matrix methods", "", f"{machine(**versions)}; `benchmarks/matrix.py`."]
    print("\n".join(lines), flush=True)
    for name, question in QUESTIONS.items():
        if not only or name in only:
            for line in itertools.chain([""], question()):
                lines.append(line)
                print(line, flush=True)
    if not only:
        RESULT.write_text("\n".join([*lines, "", NOTES]))


def layers(number=8, width=512):
    """Return the shapes of the hidden matrices of a transformer."""
    kinds = {name: (width, width) for name in ("query", "key", "value", "output")}
    kinds |= {"up": (width, 4 * width), "down": (4 * width, width)}
    return {f"layer{i}/{name}": shape for i in range(number) for name, shape in kinds.items()}


def random_matrices(shapes, seed):
    """Return a normal random matrix of every shape."""
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return {name: 0.02 * jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=True)}


@dataclasses.dataclass
class Compiled:
    """Compiled step with its arguments: parameters, state and gradients."""

    call: Any
    carry: tuple
    """Parameters and state."""
    grads: Any
    seconds: float
    """Seconds of tracing and compiling."""

    @classmethod
    def of(cls, step, params, state, grads, **options):
        """Compile a function of parameters, state and gradients, with the first two donated."""
        start = time.perf_counter()
        call = jax.jit(step, donate_argnums=(0, 1), **options).lower(params, state, grads).compile()
        return cls(call, (params, state), grads, time.perf_counter() - start)

    def __call__(self):
        """Take a step and wait for it."""
        self.carry = jax.block_until_ready(self.call(*self.carry, self.grads))

    @property
    def flops(self):
        """Return the operations of a step on one device, as XLA counts them."""
        return self.call.cost_analysis()["flops"]

    @property
    def temporaries(self):
        """Return the bytes of temporaries."""
        return self.call.memory_analysis().temp_size_in_bytes


def updated(tx):
    """Return the step that computes and applies an update."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def paired(ours, theirs):
    """Format the median ratio of two peers over rounds, and its range."""
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    return f"**{statistics.median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def milliseconds(taken):
    """Format the median."""
    return f"{1e3 * statistics.median(taken):,.1f}"


def row(*cells):
    """Format a line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


# One step on one device


MUONS = {
    "Optax": optax.contrib.muon(0.02),
    "gdjax": gd.muon(0.02),
    "gdjax, products in bfloat16": gd.muon(0.02, products=jnp.bfloat16),
    "gdjax, Polar Express": gd.muon(0.02, ns_coeffs=gd.linalg.POLAR_EXPRESS),
    "gdjax, NorMuon": gd.normuon(0.02),
}


def step(rounds=5):
    """Measure a step of Muon."""
    shapes = layers()
    params = random_matrices(shapes, 0)
    steps = {name: compiled_muon(tx, shapes) for name, tx in MUONS.items()}
    x = jnp.ones((32, 512, 512))
    product = jax.jit(lambda x: jnp.matmul(x, x, precision="highest"))
    times = time_in_turn(steps | {"product": lambda: product(x).block_until_ready()}, rounds, warmup=1)
    speed = 2 * x.size * x.shape[-1] / statistics.median(times.pop("product"))
    numbers = sum(p.size for p in params.values())
    yield from (
        "## A step",
        "",
        f"Update and apply, {len(shapes)} hidden matrices of 8 layers of width 512 ({numbers / 1e6:.1f}M numbers, "
        f"float32), parameters and state donated. Medians of {rounds} rounds, with the peers timed in turn. "
        "Ratios are medians of the ratios of rounds, with their range in brackets. GFLOP as XLA counts them. A product "
        f"of 32 stacked matrices of 512 by 512 runs at {speed / 1e9:,.0f} GFLOP per second here.",
        "",
        row(
            "",
            "ms",
            "ratio to Optax",
            "goal",
            "GFLOP",
            "ratio to Optax",
            "share of the speed of a product",
            "temporaries, MB",
            "trace + compile, s",
            "ratio to Optax",
            "goal",
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|",
    )
    for name, taken in times.items():
        one, theirs = steps[name], steps["Optax"]
        share = one.flops / statistics.median(taken) / speed
        yield row(
            name,
            milliseconds(taken),
            "" if name == "Optax" else paired(taken, times["Optax"]),
            "<= 0.65" if name == "gdjax" else "",
            f"{one.flops / 1e9:.0f}",
            f"{one.flops / theirs.flops:.2f}",
            f"{share:.0%}",
            f"{one.temporaries / 1e6:.0f}",
            f"{one.seconds:.2f}",
            "" if one is theirs else f"{one.seconds / theirs.seconds:.2f}",
            "<= 1" if name == "gdjax" else "",
        )
    yield from ("", torch_line(shapes, statistics.median(times["Optax"])))


def compiled_muon(tx, shapes):
    """Compile a step of Muon on hidden matrices."""
    params = random_matrices(shapes, 0)
    return Compiled.of(updated(tx), params, tx.init(params), random_matrices(shapes, 1))


def torch_line(shapes, theirs, parts=8):
    """Time a step of PyTorch's Muon, which rounds products to bfloat16, and compare it with the seconds of Optax."""
    if torch is None or not hasattr(torch.optim, "Muon"):
        return "PyTorch is not installed here, or has no `torch.optim.Muon`."
    params = [torch.nn.Parameter(0.02 * torch.randn(shape)) for shape in [*shapes.values()][: len(shapes) // parts]]
    for param in params:
        param.grad = 0.02 * torch.randn(param.shape)
    step = torch.optim.Muon(params, lr=0.02, weight_decay=0.0).step
    taken = [parts * seconds for seconds in time_in_turn({"torch": step}, 1, warmup=1)["torch"]]
    return (
        f"`torch.optim.Muon`, with products in bfloat16: {milliseconds(taken)} ms, {taken[0] / theirs:.1f} times "
        f"Optax: one step of one layer, times {parts}, measured after the others."
    )


# One step, sharded


SETS = {"8 of 256 by 256": {f"layer{i}": (256, 256) for i in range(8)}, "the 8 layers": layers()}
PLACEMENTS = {"sharded by rows": P("data"), "replicated": P()}


def sharded():
    """Measure a step of Muon on 8 devices: time, arithmetic per device and collectives."""
    yield from (
        "## Sharded over 8 devices",
        "",
        f"The same step on {DEVICES} virtual devices. They share the cores of the machine, so the time is that of "
        "all of their work, and a collective is a copy. Parameters, momentum and gradients are sharded by rows, or "
        "replicated. gdjax: `muon(axis_name=)`, with `dim=0` for sharded rows, under `jit` with a mesh of Auto axes "
        "and in `shard_map`. Optax: its Muon under `jit`, leaf by leaf. GFLOP and MB sent are those of one device, "
        "from the compiled program.",
        "",
        row(
            "matrices",
            "placement",
            "",
            "ms",
            "ratio to Optax",
            "GFLOP per device",
            "ratio to Optax",
            "ratio to Optax on one device",
            "collectives",
            "MB sent",
            "trace + compile, s",
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|",
    )
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, virtual_devices, (DEVICES,)) as child:
        for name in SETS:
            for placed in PLACEMENTS:
                yield from child.submit(sharded_rows, name, placed).result()


def virtual_devices(number):
    """Configure virtual CPU devices, before JAX starts."""
    jax.config.update("jax_num_cpu_devices", number)


def sharded_rows(name, placed, rounds=3):
    """Return the rows of a set of matrices with one placement. Runs in a separate process."""
    mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
    spec, dim = PLACEMENTS[placed], 0 if placed == "sharded by rows" else None
    ours = gd.muon(0.02, axis_name="data", dim=dim)
    theirs = optax.contrib.muon(0.02)
    shapes = SETS[name]
    alone = compiled_muon(theirs, shapes).flops
    with jax.set_mesh(mesh):
        steps = {
            "Optax, `jit`": placed_step(theirs, shapes, mesh, spec),
            "gdjax, `jit`": placed_step(ours, shapes, mesh, spec),
            "gdjax, `shard_map`": placed_step(ours, shapes, mesh, spec, mapped=True),
        }
        times = time_in_turn(steps, rounds, warmup=1)
    base = steps["Optax, `jit`"]
    rows = []
    for who, one in steps.items():
        ops = collectives(one.call)
        listed = ", ".join(f"{number} {kind}" for kind, number in counts(ops).items()) or "none"
        rows.append(
            row(
                name,
                placed,
                who,
                milliseconds(times[who]),
                "" if one is base else paired(times[who], times["Optax, `jit`"]),
                f"{one.flops / 1e9:.2f}",
                f"{one.flops / base.flops:.3f}",
                f"{one.flops / alone:.3f}",
                listed,
                f"{sum(c.wire_bytes for c in ops) / 1e6:.2f}",
                f"{one.seconds:.1f}",
            )
        )
    return rows


def placed_step(tx, shapes, mesh, spec, mapped=False):
    """Compile a step of parameters with a spec on a mesh."""
    params, grads = (jax.device_put(random_matrices(shapes, seed), NamedSharding(mesh, spec)) for seed in (0, 1))
    if not mapped:
        state = gd.sharding.init(tx, params)
        return Compiled.of(updated(tx), params, state, grads, out_shardings=shardings((params, state)))
    specs = jax.tree.map(lambda x: spec if x.ndim > 1 else P(), jax.eval_shape(tx.init, params))
    over = {"mesh": mesh, "axis_names": {"data"}}
    state = jax.jit(jax.shard_map(tx.init, in_specs=spec, out_specs=specs, **over))(params)
    step = jax.shard_map(updated(tx), in_specs=(spec, specs, spec), out_specs=(spec, specs), **over)
    return Compiled.of(step, params, state, grads)


def shardings(values):
    """Return the shardings of a tree."""
    return jax.tree.map(lambda x: x.sharding, values)


# Whole steps of training


TRAINED = {
    "adamw": "adamw(3e-3)",
    "muon": "muon(0.02, 3e-3)",
    "normuon": "normuon(0.02, 3e-3)",
    "soap": "soap(3e-3)",
    "shampoo": "shampoo(3e-3)",
    "psgd_kron": "psgd_kron(1e-3)",
}
GOALS = {"soap": "<= 1.6"}
START_STEP = 10_000
"""Value of counters at the start: factors are refreshed as often as late in a run."""


def training(steps=100, rounds=5):
    """Measure a training step."""
    problem = gd.problems.text()
    trained = {name: Trained(problem, gd.parse(text)) for name, text in TRAINED.items()}
    times = time_in_turn({name: one.runner(steps) for name, one in trained.items()}, rounds, warmup=1)
    sizes = [p.size for p in jax.tree.leaves(trained["adamw"].state.params)]
    yield from (
        "## Whole steps of training",
        "",
        f"`text` with its defaults ({sum(sizes):,} numbers), batches of {problem.batch_size}, steps of `make_step` "
        f"with the gradient, from step {START_STEP:,} on. Medians of {rounds} rounds of {steps} steps, with the "
        f"peers timed in turn. That is {steps // 10} periods of methods that refresh every 10 steps; `psgd_kron` "
        f"refreshes at random, in 3 of 100 steps. `OPENBLAS_NUM_THREADS` is {os.environ['OPENBLAS_NUM_THREADS']}, "
        "for SciPy's LAPACK, which XLA calls for QR and eigenvectors. State in bytes per parameter of the whole "
        "model.",
        "",
        row("", "ms per step", "ratio to adamw", "goal", "state", "trace + compile, s"),
        "|---|---|---|---|---|---|",
    )
    for name, taken in times.items():
        one = trained[name]
        state = sum(x.nbytes for x in jax.tree.leaves(one.state.opt_state)) / sum(sizes)
        ratio = "" if name == "adamw" else paired(taken, times["adamw"])
        each = [t / steps for t in taken]
        yield row(
            f"`{TRAINED[name]}`", milliseconds(each), ratio, GOALS.get(name, ""), f"{state:.1f}", f"{one.seconds:.1f}"
        )


class Trained:
    """Model and optimizer, some way into training."""

    def __init__(self, problem, tx):
        self.data = jnp.asarray(problem.train)
        self.rows = np.random.default_rng(0).integers(0, len(self.data), (128, problem.batch_size))
        self.state = gd.State.create(problem.init(jax.random.key(0)), tx)
        step = gd.make_step(problem.loss, tx)

        def taken(state, rows, data):
            return step(state, data[rows])[0]

        start = time.perf_counter()
        self.call = jax.jit(taken, donate_argnums=0).lower(self.state, self.rows[0], self.data).compile()
        self.seconds = time.perf_counter() - start
        self.take(20)
        self.state = self.state._replace(opt_state=jax.tree.map(advance_counter, self.state.opt_state))

    def runner(self, steps):
        """Return a function that takes some steps."""
        return lambda: self.take(steps)

    def take(self, steps):
        """Take some steps, and wait for them."""
        for i in range(steps):
            self.state = self.call(self.state, self.rows[i % len(self.rows)], self.data)
        jax.block_until_ready(self.state)


def advance_counter(x):
    """Advance a counter by `START_STEP`; return other arrays unchanged."""
    return x + START_STEP if x.dtype == jnp.int32 and not x.ndim else x


QUESTIONS = {"step": step, "sharded": sharded, "training": training}

NOTES = """\
## Limits, and why

- Products in bfloat16 gain nothing on a CPU through XLA, which widens them and never takes the Gram side for them:
  they are for accelerators. PyTorch's Muon always rounds to bfloat16. This CPU has instructions for it, and PyTorch's
  library has kernels: its step takes 0.6 of our float32 step. On a CPU without them it took 16 times as long as Optax.
- With rows sharded, XLA shards the products of Optax too. It loses time to collectives, one in every product.
- QR and eigenvectors come from LAPACK, one matrix after another, whose threads compete for few cores. With two threads
  on two cores, the ratio was 1.78 (1.50 to 2.01) for SOAP and 1.61 for Shampoo, in a separate run.
"""

if __name__ == "__main__":
    main()
