"""What do matrix methods cost: a step of Muon beside Optax's, its division among devices, refreshes spread over steps?

`python benchmarks/matrix.py` asks three questions, and prints and writes `results/matrix-cpu.md`:

1. step: how long is a step of Muon, of the hidden matrices of 8 layers of width 512, beside Optax's and PyTorch's
   (where that is installed)? What do products in bfloat16 change?
2. divided: on 8 virtual devices, whose parameters are divided by rows or whole on each: which collectives are in a
   step, how much arithmetic does each device, how long is it?
3. training: how much longer than under AdamW is a whole step of training, the refreshes of factors averaged in?

`--only step` asks one question and writes nothing.
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

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # XLA's threads and LAPACK's own wait for one another

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hlo import collectives, counts
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from timing import in_turn, machine

import gdjax as gd

try:
    import torch
except ModuleNotFoundError:
    torch = None

RESULT = pathlib.Path(__file__).parent / "results" / "matrix-cpu.md"
DEVICES = 8
P = PartitionSpec


def main():
    """Ask, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=QUESTIONS, help="ask these alone, and write nothing")
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
    """The shapes of the hidden matrices of a transformer."""
    kinds = {name: (width, width) for name in ("query", "key", "value", "output")}
    kinds |= {"up": (width, 4 * width), "down": (4 * width, width)}
    return {f"layer{i}/{name}": shape for i in range(number) for name, shape in kinds.items()}


def drawn(shapes, seed):
    """A matrix of every shape, normal."""
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return {name: 0.02 * jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=True)}


@dataclasses.dataclass
class Compiled:
    """A step, compiled, and what it is called with: parameters, state and gradients."""

    call: Any
    held: tuple
    grads: Any
    seconds: float
    """Of trace and compile."""

    @classmethod
    def of(cls, step, params, state, grads, **options):
        """Of a function of parameters, state and gradients, the first two donated."""
        start = time.perf_counter()
        call = jax.jit(step, donate_argnums=(0, 1), **options).lower(params, state, grads).compile()
        return cls(call, (params, state), grads, time.perf_counter() - start)

    def __call__(self):
        """Take a step and wait for it."""
        self.held = jax.block_until_ready(self.call(*self.held, self.grads))

    @property
    def flops(self):
        """Of a step on one device, as XLA counts them."""
        return self.call.cost_analysis()["flops"]

    @property
    def temporaries(self):
        """Bytes."""
        return self.call.memory_analysis().temp_size_in_bytes


def updated(tx):
    """The function that updates parameters and applies it."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def paired(ours, theirs):
    """The median of the ratios of two peers' rounds, and the range of these."""
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    return f"**{statistics.median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def milliseconds(taken):
    """The median, shown."""
    return f"{1e3 * statistics.median(taken):,.1f}"


def row(*cells):
    """A line of a table."""
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
    """How long is a step of Muon?"""
    shapes = layers()
    params = drawn(shapes, 0)
    steps = {name: compiled_muon(tx, shapes) for name, tx in MUONS.items()}
    x = jnp.ones((32, 512, 512))
    product = jax.jit(lambda x: jnp.matmul(x, x, precision="highest"))
    times = in_turn(steps | {"product": lambda: product(x).block_until_ready()}, rounds, unseen=1)
    speed = 2 * x.size * x.shape[-1] / statistics.median(times.pop("product"))
    numbers = sum(p.size for p in params.values())
    yield from (
        "## A step",
        "",
        f"Update and apply, {len(shapes)} hidden matrices of 8 layers of width 512 ({numbers / 1e6:.1f}M numbers, "
        f"float32), parameters and state donated. Medians of {rounds} rounds, the peers in turn; ratios are those of "
        "rounds, in brackets the least and the greatest. GFLOP as XLA counts them; a product of 32 stacked matrices of "
        f"512 by 512 has {speed / 1e9:,.0f} GFLOP a second here.",
        "",
        row(
            "",
            "ms",
            "of Optax's",
            "wanted",
            "GFLOP",
            "of Optax's",
            "of a product's speed",
            "temporaries, MB",
            "trace + compile, s",
            "of Optax's",
            "wanted",
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
    yield from ("", in_torch(shapes, statistics.median(times["Optax"])))


def compiled_muon(tx, shapes):
    """A step of hidden matrices alone."""
    params = drawn(shapes, 0)
    return Compiled.of(updated(tx), params, tx.init(params), drawn(shapes, 1))


def in_torch(shapes, theirs, parts=8):
    """What a step of PyTorch's Muon comes to, whose products are always in bfloat16, beside the seconds of Optax's."""
    if torch is None or not hasattr(torch.optim, "Muon"):
        return "PyTorch is not installed here, or has no `torch.optim.Muon`."
    params = [torch.nn.Parameter(0.02 * torch.randn(shape)) for shape in [*shapes.values()][: len(shapes) // parts]]
    for param in params:
        param.grad = 0.02 * torch.randn(param.shape)
    step = torch.optim.Muon(params, lr=0.02, weight_decay=0.0).step
    taken = [parts * seconds for seconds in in_turn({"torch": step}, 1, unseen=1)["torch"]]
    return (
        f"`torch.optim.Muon`, whose products are in bfloat16: {milliseconds(taken)} ms, {taken[0] / theirs:.1f} times "
        f"Optax's: one step of one layer, times {parts}, after the others."
    )


# One step, divided


SETS = {"8 of 256 by 256": {f"layer{i}": (256, 256) for i in range(8)}, "the 8 layers": layers()}
PLACES = {"by rows": P("data"), "whole": P()}


def divided():
    """What does each of 8 devices do, and what do they send?"""
    yield from (
        "## Divided among 8 devices",
        "",
        f"The like on {DEVICES} virtual devices, which share the cores of the machine: the time is that of what all of "
        "them compute, and a collective is a copy. Parameters, momentum and gradients are divided by rows, or whole on "
        "each. Of gdjax `muon(axis_name=)`, with `dim=0` where rows are divided, under `jit` with a mesh of Auto axes "
        "and in `shard_map`; of Optax its Muon under `jit`, leaf by leaf. GFLOP and MB sent are those of one device, "
        "read off the compiled program.",
        "",
        row(
            "matrices",
            "placed",
            "",
            "ms",
            "of Optax's",
            "GFLOP a device",
            "of Optax's",
            "of Optax's on one",
            "collectives",
            "MB sent",
            "trace + compile, s",
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|",
    )
    apart = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, apart, virtual_devices, (DEVICES,)) as child:
        for name in SETS:
            for placed in PLACES:
                yield from child.submit(divided_rows, name, placed).result()


def virtual_devices(number):
    """Make one processor several devices, before JAX starts."""
    jax.config.update("jax_num_cpu_devices", number)


def divided_rows(name, placed, rounds=3):
    """The rows of a set of matrices, placed in one way; in a process of its own."""
    mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
    spec, dim = PLACES[placed], 0 if placed == "by rows" else None
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
        times = in_turn(steps, rounds, unseen=1)
    base = steps["Optax, `jit`"]
    rows = []
    for who, one in steps.items():
        found = collectives(one.call)
        listed = ", ".join(f"{number} {kind}" for kind, number in counts(found).items()) or "none"
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
                f"{sum(c.wire_bytes for c in found) / 1e6:.2f}",
                f"{one.seconds:.1f}",
            )
        )
    return rows


def placed_step(tx, shapes, mesh, spec, mapped=False):
    """A step of parameters that lie on a mesh as a spec says."""
    params, grads = (jax.device_put(drawn(shapes, seed), NamedSharding(mesh, spec)) for seed in (0, 1))
    if not mapped:
        state = gd.sharding.init(tx, params)
        return Compiled.of(updated(tx), params, state, grads, out_shardings=shardings((params, state)))
    specs = jax.tree.map(lambda x: spec if x.ndim > 1 else P(), jax.eval_shape(tx.init, params))
    over = {"mesh": mesh, "axis_names": {"data"}}
    state = jax.jit(jax.shard_map(tx.init, in_specs=spec, out_specs=specs, **over))(params)
    step = jax.shard_map(updated(tx), in_specs=(spec, specs, spec), out_specs=(spec, specs), **over)
    return Compiled.of(step, params, state, grads)


def shardings(values):
    """How a tree lies."""
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
WANTED = {"soap": "<= 1.6"}
LATER = 10_000
"""Steps that counters have gone through before: factors are refreshed as often as late in a run."""


def training(steps=100, rounds=5):
    """How long is a step of training?"""
    problem = gd.problems.text()
    trained = {name: Trained(problem, gd.parse(text)) for name, text in TRAINED.items()}
    times = in_turn({name: one.runner(steps) for name, one in trained.items()}, rounds, unseen=1)
    sizes = [p.size for p in jax.tree.leaves(trained["adamw"].held.params)]
    yield from (
        "## Whole steps of training",
        "",
        f"`text` by default ({sum(sizes):,} numbers), batches of {problem.batch_size}, gradient included, as "
        f"`make_step` takes them, from step {LATER:,} on. Medians of {rounds} rounds of {steps} steps, the peers in "
        f"turn: of methods that refresh every 10 steps, {steps // 10} whole periods; `psgd_kron` draws its refreshes, "
        f"3 in 100 steps. `OPENBLAS_NUM_THREADS` is {os.environ['OPENBLAS_NUM_THREADS']}, for SciPy's LAPACK, whose "
        "QR and eigenvectors XLA calls. State in bytes a parameter of the whole model.",
        "",
        row("", "ms a step", "of adamw's", "wanted", "state", "trace + compile, s"),
        "|---|---|---|---|---|---|",
    )
    for name, taken in times.items():
        one = trained[name]
        state = sum(x.nbytes for x in jax.tree.leaves(one.held.opt_state)) / sum(sizes)
        ratio = "" if name == "adamw" else paired(taken, times["adamw"])
        each = [t / steps for t in taken]
        yield row(
            f"`{TRAINED[name]}`", milliseconds(each), ratio, WANTED.get(name, ""), f"{state:.1f}", f"{one.seconds:.1f}"
        )


class Trained:
    """A model under an optimizer, some way into its training."""

    def __init__(self, problem, tx):
        self.data = jnp.asarray(problem.train)
        self.rows = np.random.default_rng(0).integers(0, len(self.data), (128, problem.batch_size))
        self.held = gd.State.create(problem.init(jax.random.key(0)), tx)
        step = gd.make_step(problem.loss, tx)

        def taken(state, rows, data):
            return step(state, data[rows])[0]

        start = time.perf_counter()
        self.call = jax.jit(taken, donate_argnums=0).lower(self.held, self.rows[0], self.data).compile()
        self.seconds = time.perf_counter() - start
        self.take(20)
        self.held = self.held._replace(opt_state=jax.tree.map(later, self.held.opt_state))

    def runner(self, steps):
        """A function that takes some steps."""
        return lambda: self.take(steps)

    def take(self, steps):
        """Take some steps and wait for them."""
        for i in range(steps):
            self.held = self.call(self.held, self.rows[i % len(self.rows)], self.data)
        jax.block_until_ready(self.held)


def later(x):
    """A counter further on, all else as it is."""
    return x + LATER if x.dtype == jnp.int32 and not x.ndim else x


QUESTIONS = {"step": step, "divided": divided, "training": training}

NOTES = """\
## Where it falls short, and why

- Products in bfloat16 gain nothing on a processor through XLA, which widens them, and never takes the Gram side for
  them: they are for accelerators. PyTorch's Muon always rounds to bfloat16, for which this processor has instructions
  and PyTorch's library kernels: it takes 0.6 of our float32 step. On a processor without them it took 16 times Optax's.
- By rows, Optax's products are divided among the devices as well: what it loses is collectives, one in every product.
- QR and eigenvectors are LAPACK's, one matrix after the other, whose threads stand in each other's way on few cores:
  with as many as cores, two, SOAP's ratio was 1.78 (1.50 to 2.01) and Shampoo's 1.61, in a run beside this one.
"""

if __name__ == "__main__":
    main()
