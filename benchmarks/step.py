"""How long is a step, and what does it hold? gdjax beside Optax (and torch.optim, where it is installed), in one run.

`python benchmarks/step.py` compiles every optimizer of both libraries for three GPT-like float32 trees, params and
state donated, runs the peers in turn, and prints and writes `benchmarks/results/step-cpu.md`: medians, ratios, bytes of
temporaries, bytes moved a parameter (arguments, outputs and temporaries of the compiled program) and the share of the
measured copy bandwidth that is, trace and compile time, buffers dispatched, loops or kernels launched. `--device gpu`
takes larger trees. `--only adamw --tree large` measures one cell.
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
"""What the entry of a compiled program starts one after another: loops on a CPU, kernels on a GPU."""


def gpt(width, layers, vocabulary, leaves_a_layer=8):
    """Shapes like those of a transformer: an embedding, and matrices and vectors a layer."""
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
    """A step of one library, and what the compiler says of it."""

    call: object
    arguments: tuple
    traced: float
    compiled: float
    temporaries: int
    moved: int
    buffers: int
    launches: int


def compile_step(tx, shapes):
    """Trace and compile a step with params and state donated."""
    keys = jax.random.split(jax.random.key(0), 2 * len(shapes))
    params, grads = (
        {name: 0.02 * jax.random.normal(key, shape) for key, (name, shape) in zip(half, shapes.items(), strict=True)}
        for half in (keys[: len(shapes)], keys[len(shapes) :])
    )
    state = jax.tree.map(jnp.copy, tx.init(params))  # some of Optax's hold the parameters themselves

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
    """A function that takes one step and waits for it."""
    held = step.arguments[:2]

    def run():
        nonlocal held
        held = jax.block_until_ready(step.call(*held, step.arguments[2]))

    return run


def torch_adamw(shapes):
    """Steps of torch's AdamW, fused and foreach, or nothing where torch is not installed."""
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
    """Bytes a second of 256 MB that are read, and written where they were."""
    x = jnp.ones(64 * 2**20, jnp.float32)
    bytes_moved, add = 2 * x.nbytes, jax.jit(lambda x: x + 1.0, donate_argnums=0)
    times = []
    for _ in range(ROUNDS + 2):
        start = time.perf_counter()
        x = jax.block_until_ready(add(x))
        times.append(time.perf_counter() - start)
    return bytes_moved / statistics.median(times[2:])


NOTES = """\
## Where it falls short, and why

- **torch's fused AdamW** moves 28 bytes a parameter in one pass. XLA:CPU has no loop with several results unless its
  user asks for it (`--xla_backend_extra_options=xla_cpu_use_multi_output_fusion`): three loops a leaf, one for each of
  the moments and one for the parameters, move 40.
- **clip + adamw** (0.5 wanted): there is no temporary left. The norm and these three loops move 44 bytes a parameter;
  Optax moves 12 more and pays for the pages of a fresh tree at every step, which differs by run (0.34 to 0.65).
- **lion** (0.4 wanted) and **adan** (0.65 wanted): none left either. The gradient is read again in every loop: twice in
  lion's two, five times in adan's five.
- **schedule_free_adamw** (0.5 wanted): none left; the base optimizer's update is computed twice, from the state after
  it (`again`), rather than written down for the two that read it.
- **lamb** (0.6 wanted) and **dadapt_adamw**: an update that is dear to compute is read by its norm, or by a
  mean, and by the step, and is written down in between. Computing it again from the moments leaves two trees in the
  place of one: XLA:CPU gives sums to YNNPACK, whose operands, scalars spread over a leaf included, are whole arrays.
  Leaf after leaf, in an order that data force, has the same temporaries: all leaves are in flight at once.
- **adafactor** (0.5 wanted): the update is now three products, cheap enough for XLA to compute it in both places, but
  what is summed for its root mean square is written down all the same, for the same reason.
- **packed adamw** at the default bound packs the 195 vectors of the small tree and leaves 97 matrices apart: 0.62 of
  the buffers. With all of them below the bound it is 0.43, and trace and compile are half.
- Cells of small trees up to 5% above Optax change sides between runs: there dispatching the buffers is the most of it.
"""
"""What the compiled programs of the slow cells do, and what was tried."""

HEADER = (
    "| optimizer | Optax, ms | gdjax, ms | ratio | temporaries, MB: Optax | gdjax | bytes a parameter: Optax | gdjax "
    "| share of copy bandwidth | trace + compile, s: Optax | gdjax | ratio | buffers: Optax | gdjax "
    "| launches: Optax | gdjax |"
)


def table(shapes, speed, only):
    """The rows of one tree."""
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
        seconds = medians({lib: runner(step) for lib, step in steps.items()} | theirs, ROUNDS, unseen=2)
        if theirs:
            torch_seconds, ours = {peer: seconds[peer] for peer in theirs}, seconds["gdjax"]
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
        yield f"{peer} AdamW, in turn with adamw: {1e3 * taken:.2f} ms; gdjax's adamw is {ours / taken:.2f} of it.\n"


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=TREES, default="cpu")
    parser.add_argument("--only", nargs="*", choices=OPTIMIZERS, help="measure these alone, and write nothing")
    parser.add_argument("--tree", choices=TREES["cpu"], help="measure this tree alone, and write nothing")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cuda" if arguments.device == "gpu" else "cpu")
    speed = bandwidth()
    lines = [
        "# A step",
        "",
        f"{machine()}. "
        f"A copy moves {speed / 1e9:.1f} GB/s. Medians of {ROUNDS}, the peers in turn in one run of "
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
