"""Question: how long does a step take, and how much memory, in gdjax, Optax and (if installed) torch.optim?

`python benchmarks/step.py` compiles every optimizer of both libraries for three GPT-like float32 trees, with params and
state donated. It times the peers in turn, prints a table and writes `benchmarks/results/step-cpu.md`:

- median times and their ratio, bytes of temporaries, trace and compile time;
- bytes moved per parameter (arguments, outputs and temporaries of the program), as a share of the copy bandwidth;
- buffers dispatched, and loops or kernels launched.

`--device gpu` takes larger trees. `--only adamw --tree large` measures one cell.
"""

import argparse
import dataclasses
import math
import pathlib
import re
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import optax
from timing import machine, medians

import gdjax as gd

RESULTS = pathlib.Path(__file__).parent / "results"
ROUNDS = 9
LAUNCHED = re.compile(r" = \S+ (?!parameter|constant|tuple|get-tuple-element|bitcast)[\w-]+\(")
"""Pattern of the operations that a compiled program launches in turn: loops on a CPU, kernels on a GPU."""


def gpt(width, layers, vocabulary, leaves_a_layer=8):
    """Return shapes like those of a transformer: an embedding, and matrices and vectors per layer."""
    shapes = {"embedding": (vocabulary, width), "head": (width,), "position": (width,), "scale": (width,)}
    kinds = {
        "qkv": (width, 3 * width),
        "out": (width, width),
        "up": (width, 4 * width),
        "down": (4 * width, width),
        **{f"bias{i}": (width,) for i in range(leaves_a_layer - 4)},
    }
    for layer in range(layers):
        shapes |= {f"layer{layer}/{kind}": shape for kind, shape in kinds.items()}
    return shapes


TREES = {
    "cpu": {"large": gpt(512, 8, 16_300, 12), "medium": gpt(256, 8, 8_400, 12), "small": gpt(64, 24, 320, 12)},
    "gpu": {"large": gpt(2048, 24, 50_000, 12), "medium": gpt(1024, 24, 50_000, 12), "small": gpt(64, 24, 320, 12)},
}

OPTIMIZERS = {
    "sgd": lambda lib: lib.sgd(0.1),
    "momentum": lambda lib: lib.sgd(0.1, 0.9),
    "adam": lambda lib: lib.adam(1e-3),
    "adamw": lambda lib: lib.adamw(1e-3),
    "clip + adamw": lambda lib: lib.chain(lib.clip_by_global_norm(1.0), lib.adamw(1e-3)),
    "nadamw": lambda lib: lib.nadamw(1e-3),
    "amsgrad": lambda lib: lib.amsgrad(1e-3),
    "adamax": lambda lib: lib.adamax(1e-3),
    "radam": lambda lib: lib.radam(1e-3),
    "adabelief": lambda lib: lib.adabelief(1e-3),
    "yogi": lambda lib: lib.yogi(1e-3),
    "novograd": lambda lib: lib.novograd(1e-3),
    "adan": lambda lib: lib.adan(1e-3),
    "ademamix": lambda lib: lib.contrib.ademamix(1e-3),
    "adopt": lambda lib: lib.contrib.adopt(1e-3),
    "rmsprop": lambda lib: lib.rmsprop(1e-3),
    "adagrad": lambda lib: lib.adagrad(1e-3),
    "adadelta": lambda lib: lib.adadelta(1e-3),
    "signum": lambda lib: lib.signum(1e-3),
    "lion": lambda lib: lib.lion(1e-4),
    "lamb": lambda lib: lib.lamb(1e-3),
    "lars": lambda lib: lib.lars(1e-3),
    "adafactor": lambda lib: lib.adafactor(1e-3),
    "schedule_free_adamw": lambda lib: lib.contrib.schedule_free_adamw(1e-3),
    "prodigy": lambda lib: lib.contrib.prodigy(),
    "dadapt_adamw": lambda lib: lib.contrib.dadapt_adamw(),
    "dog": lambda lib: lib.contrib.dog(),
    "packed adamw": lambda lib: gd.packed(lib.adamw(1e-3)) if lib is gd else lib.adamw(1e-3),
    "packed adamw, below 32768": lambda lib: gd.packed(lib.adamw(1e-3), 32768) if lib is gd else lib.adamw(1e-3),
}


@dataclasses.dataclass
class Compiled:
    """Compiled step of one library, and its cost."""

    call: object
    arguments: tuple
    traced: float
    """Seconds of tracing."""
    compiled: float
    """Seconds of tracing and compiling."""
    temporaries: int
    """Bytes."""
    moved: int
    """Bytes."""
    buffers: int
    launches: int


def compile_step(tx, shapes):
    """Trace and compile a step, with params and state donated."""
    keys = jax.random.split(jax.random.key(0), 2 * len(shapes))
    params, grads = (
        {name: 0.02 * jax.random.normal(key, shape) for key, (name, shape) in zip(half, shapes.items(), strict=True)}
        for half in (keys[: len(shapes)], keys[len(shapes) :])
    )
    state = jax.tree.map(jnp.copy, tx.init(params))  # some Optax states hold the parameters themselves

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    start = time.perf_counter()
    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, grads)
    traced = time.perf_counter() - start
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    moved = memory.argument_size_in_bytes + memory.output_size_in_bytes + 2 * memory.temp_size_in_bytes
    buffers = len(jax.tree.leaves((params, state, grads, params, state)))
    total = time.perf_counter() - start
    temporaries, launches = memory.temp_size_in_bytes, len(LAUNCHED.findall(compiled.as_text().split("\nENTRY ")[1]))
    return Compiled(compiled, (params, state, grads), traced, total, temporaries, moved, buffers, launches)


def runner(step):
    """Return a function that takes one step and waits for it."""
    carry = step.arguments[:2]

    def run():
        nonlocal carry
        carry = jax.block_until_ready(step.call(*carry, step.arguments[2]))

    return run


def torch_adamw(shapes):
    """Return steps of torch's AdamW by name, fused and foreach; none if torch is not installed."""
    try:
        import torch
    except ModuleNotFoundError:
        return {}
    steps = {}
    for kind in ("fused", "foreach"):
        params = [torch.nn.Parameter(0.02 * torch.randn(shape)) for shape in shapes.values()]
        for param in params:
            param.grad = 0.02 * torch.randn(param.shape)
        steps[f"torch {kind}"] = torch.optim.AdamW(params, lr=1e-3, **{kind: True}).step
    return steps


def bandwidth():
    """Return the bytes per second of reading 256 MB and writing them in place."""
    x = jnp.ones(64 * 2**20, jnp.float32)
    bytes_moved, add = 2 * x.nbytes, jax.jit(lambda x: x + 1.0, donate_argnums=0)
    times = []
    for _ in range(ROUNDS + 2):
        start = time.perf_counter()
        x = jax.block_until_ready(add(x))
        times.append(time.perf_counter() - start)
    return bytes_moved / statistics.median(times[2:])


NOTES = """\
## Cells that miss their goal, and why

- **torch's fused AdamW** moves 28 bytes per parameter in one pass. XLA:CPU has no loop with several results, unless the
  user asks for it (`--xla_backend_extra_options=xla_cpu_use_multi_output_fusion`). Its three loops per leaf, one for
  each moment and one for the parameters, move 40.
- **clip + adamw** (goal 0.5): no temporaries remain. The norm and these three loops move 44 bytes per parameter. Optax
  moves 12 more, and pays for the pages of a new tree at every step; that cost differs between runs (0.34 to 0.65).
- **lion** (goal 0.4) and **adan** (goal 0.65): no temporaries remain. Every loop reads the gradient again: twice in the
  two loops of lion, five times in the five of adan.
- **schedule_free_adamw** (goal 0.5): no temporaries remain. The update of the base optimizer has two readers. It is
  computed twice from the new state (`again`) instead of written to memory.
- **lamb** (goal 0.6), **dadapt_adamw** and **prodigy**: no temporaries remain, one tree before. The update is computed
  twice from the moments, and summed by a variadic sum, which XLA:CPU fuses with it. That loop adds one number after
  another, with a root and a division for each, so a processor with a slow root gains less. XLA:CPU would give a plain
  sum to YNNPACK, which is faster. But it fuses no clipped or selected operand, and it writes a scalar that several
  sums share to memory as a whole array.
- **adafactor**: no temporaries remain. Sums of plain squares are fused, and checked to be finite.
- **trace + compile** of norms: a norm of the whole range of float32 has a second branch for each leaf, with sums at
  other scales. So `clip + adamw`, `novograd`, `lamb`, `lars`, `dog` and `adafactor` compile in 2 to 4 times Optax's.
- **packed adamw** with the default bound packs the 195 vectors of the small tree, and leaves 97 matrices unpacked: 0.62
  of the buffers. With all leaves below the bound it is 0.43, and trace and compile time halve.
- Cells of small trees up to 5% above Optax vary between runs: most of their time is the dispatch of buffers.
"""
"""Reasons for the slow cells, and attempts to improve them."""

HEADER = (
    "| optimizer | Optax, ms | gdjax, ms | ratio | temporaries, MB: Optax | gdjax | bytes per parameter: Optax | gdjax "
    "| share of copy bandwidth | trace + compile, s: Optax | gdjax | ratio | buffers: Optax | gdjax "
    "| launches: Optax | gdjax |"
)


def table(shapes, speed, only):
    """Yield the lines of the table of one tree."""
    parameters = sum(math.prod(shape) for shape in shapes.values())
    yield f"## {parameters / 1e6:.1f}M parameters in {len(shapes)} leaves"
    yield ""
    yield HEADER
    yield "|" + "---|" * (HEADER.count("|") - 1)
    torch_seconds, ours = {}, None
    for name, make in OPTIMIZERS.items():
        if only and name not in only:
            continue
        steps = {lib.__name__: compile_step(make(lib), shapes) for lib in (optax, gd)}
        theirs = torch_adamw(shapes) if name == "adamw" and jax.default_backend() == "cpu" else {}
        runners = {lib: runner(step) for lib, step in steps.items()}
        seconds = medians(runners, ROUNDS, warmup=2)
        if theirs:  # in turns of their own: threads of torch spin for a while after a step
            torch_seconds = medians({"gdjax": runners["gdjax"]} | theirs, ROUNDS, warmup=2)
            ours = torch_seconds.pop("gdjax")
        a, b = steps["optax"], steps["gdjax"]
        cells = [
            name,
            *(f"{1e3 * seconds[lib]:.2f}" for lib in steps),
            f"**{seconds['gdjax'] / seconds['optax']:.2f}**",
            *(f"{step.temporaries / 1e6:.1f}" for step in (a, b)),
            *(f"{step.moved / parameters:.0f}" for step in (a, b)),
            f"{b.moved / seconds['gdjax'] / speed:.0%}",
            *(f"{step.compiled:.2f}" for step in (a, b)),
            f"{b.compiled / a.compiled:.2f}",
            *(str(step.buffers) for step in (a, b)),
            *(str(step.launches) for step in (a, b)),
        ]
        line = "| " + " | ".join(cells) + " |"
        print(line, file=sys.stderr, flush=True)
        yield line
    yield ""
    for peer, taken in torch_seconds.items():
        ratio = ours / taken
        yield f"{peer} AdamW, timed in turn with adamw: {1e3 * taken:.2f} ms; gdjax's adamw takes {ratio:.2f} of it.\n"


def main():
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=TREES, default="cpu")
    parser.add_argument("--only", nargs="*", choices=OPTIMIZERS, help="measure only these; write no file")
    parser.add_argument("--tree", choices=TREES["cpu"], help="measure only this tree; write no file")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cuda" if arguments.device == "gpu" else "cpu")
    speed = bandwidth()
    lines = [
        "# A step",
        "",
        f"{machine()}. "
        f"A copy moves {speed / 1e9:.1f} GB/s. Medians of {ROUNDS}, with the peers timed in turn in one run of "
        "`benchmarks/step.py`.",
        "",
    ]
    for name, shapes in TREES[arguments.device].items():
        if arguments.tree in (None, name):
            lines += table(shapes, speed, arguments.only)
    print("\n".join(lines))
    if not (arguments.only or arguments.tree):
        notes = NOTES if arguments.device == "cpu" else ""
        (RESULTS / f"step-{arguments.device}.md").write_text("\n".join(lines) + "\n" + notes)


if __name__ == "__main__":
    main()
