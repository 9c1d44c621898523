"""Question: what does distributed training cost and save, in memory, in communication, and in steps on a cluster?

`python benchmarks/scale.py` makes virtual devices, answers three questions, and writes `results/scale-cpu.md` and
`results/scale-cpu.png`:

1. memory: how many bytes of parameters, state and temporaries does each of N devices hold? Which collectives does a
   step have?
2. wire: how many bytes does a member send per step, for each method to average gradients?
3. cluster: how many steps, messages and bytes do 256 workers need to a target, simulated by `vmap` on one CPU?

The first two are read from compiled programs, and nothing is timed. The third is arithmetic, equal on any machine up to
rounding. `--only cluster` answers one question and writes no file.
"""

import argparse
import functools
import os
import pathlib

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=256")  # most are only compiled for

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from hlo import collectives, counts
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from timing import machine

import gdjax as gd

RESULTS = pathlib.Path(__file__).parent / "results"
WIDTH = 1024
WORKERS = 256
P = PartitionSpec


def main():
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=QUESTIONS, help="answer only these; write no file")
    only = parser.parse_args().only
    lines = ["# Scale", "", f"{machine()}; `benchmarks/scale.py`."]
    for name, question in QUESTIONS.items():
        if not only or name in only:
            lines += ["", *question(draw=not only)]
    print("\n".join(lines))
    if not only:
        (RESULTS / "scale-cpu.md").write_text("\n".join(lines) + "\n")


# Bytes on devices


def network_params():
    """Return two matrices, 33.5 MB in float32."""
    keys = jax.random.split(jax.random.key(0))
    shapes = ((WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH))
    return {name: 0.02 * jax.random.normal(key, shape) for name, key, shape in zip("ab", keys, shapes, strict=True)}


def network_loss(params, x):
    """Return the mean squared error of two layers that reproduce their input."""
    return jnp.mean(jnp.square(jax.nn.relu(x @ params["a"]) @ params["b"] - x))


def memory(draw):
    """Return the table of a training step of two layers under AdamW, with a batch of 64 rows sharded over N devices."""
    lines = [
        "## Bytes per device, and collectives per step",
        "",
        "Two layers of 33.5 MB under `adamw`, a batch of 64 rows sharded over N devices, float32, parameters and state "
        "donated. MB per device: of the local parameters and state, and of the temporaries that XLA reports for the "
        "compiled step, with the gradient and, for FSDP, the gathered parameters. The update is `gd.descend` alone, of "
        "gradients that each device already has.",
        "",
        "| | N | parameters | state | temporaries | temporaries of the update | collectives | MB sent per step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, compile_steps in METHODS.items():
        for number in (1, 2, 4, 8):
            params, state, compiled, update = compile_steps(number)
            ops = collectives(compiled)
            row = [name, number, _mb(_local_bytes(params)), _mb(_local_bytes(state)), _mb(_temporaries(compiled))]
            row += [_mb(_temporaries(update)) if update else "", _format_counts(counts(ops))]
            row += [_mb(sum(one.wire_bytes for one in ops))]
            lines.append("| " + " | ".join(map(str, row)) + " |")
    return [*lines, "", NOTE]


NOTE = (
    "The state is exactly 1 / N, plus a counter. The temporaries of `shard_update`'s update are the mean gradient of "
    "the local shard. That is 1 / N of the parameters: 12.5 % at N = 8, at most 5 % from N = 20 on. Reduce-scatters "
    "return it, and cannot write into an existing buffer. Taking one leaf after another would leave only the largest "
    "(6.25 % here), but prevent collectives from overlapping. XLA:CPU keeps the all-reduce of `sharding.zero` and of "
    "FSDP. On accelerators XLA has a pass that turns it into a reduce-scatter (not tried here)."
)


def _by_jit(number, make_shardings):
    """Compile a step that XLA partitions by the shardings of parameters and state."""
    mesh, tx = _mesh(number), gd.adamw(1e-3)
    params_sharding, state_sharding = make_shardings(mesh, tx, network_params())
    params = jax.device_put(network_params(), params_sharding)
    state = gd.sharding.init(tx, params, state_sharding)

    def step(params, state, x):
        return gd.descend(tx, jax.grad(network_loss)(params, x), state, params)

    batch = jax.ShapeDtypeStruct((64, WIDTH), jnp.float32, sharding=NamedSharding(mesh, P("data")))
    run = jax.jit(step, donate_argnums=(0, 1), out_shardings=(params_sharding, state_sharding))
    return params, state, run.lower(params, state, batch).compile(), None


def _replicated(mesh, tx, params):
    replicated = NamedSharding(mesh, P())
    return jax.tree.map(lambda _: replicated, params), jax.tree.map(
        lambda _: replicated, jax.eval_shape(tx.init, params)
    )


def _zero(mesh, tx, params):
    params_sharding, _ = _replicated(mesh, tx, params)
    return params_sharding, gd.sharding.zero(tx, jax.device_put(params, params_sharding), mesh)


def _fsdp(mesh, tx, params):
    params_sharding = jax.tree.map(lambda _: NamedSharding(mesh, P("data")), params)
    return params_sharding, gd.sharding.of_state(tx, jax.device_put(params, params_sharding))


def _by_shard_map(number):
    """Compile a step in which each device scatters its gradients and gathers the parameters."""
    mesh, inner = _mesh(number), gd.adamw(1e-3)
    tx = gd.shard_update(inner, "data")
    params = jax.device_put(network_params(), NamedSharding(mesh, P()))
    state_specs = jax.tree.map(lambda x: P("data") if x.ndim else P(), jax.eval_shape(inner.init, params))
    mapped = functools.partial(jax.shard_map, mesh=mesh, out_specs=(P(), state_specs))
    state = jax.jit(jax.shard_map(tx.init, mesh=mesh, in_specs=P(), out_specs=state_specs))(params)
    step = gd.make_step(network_loss, tx, axis_name="data")

    def train_step(params, state, x):
        new, _ = step(gd.State(params, state, jnp.zeros((), jnp.int32), jax.random.key(0), None), x)
        return new.params, new.opt_state

    def update(params, state, grads):
        return gd.descend(tx, jax.tree.map(lambda g: g[0], grads), state, params)

    def compiled(f, last):
        run = jax.jit(mapped(f, in_specs=(P(), state_specs, P("data"))), donate_argnums=(0, 1))
        return run.lower(params, state, last).compile()

    rows = NamedSharding(mesh, P("data"))
    batch = jax.ShapeDtypeStruct((64, WIDTH), jnp.float32, sharding=rows)
    grads = jax.tree.map(lambda p: jax.ShapeDtypeStruct((number, *p.shape), p.dtype, sharding=rows), params)
    return params, state, compiled(train_step, batch), compiled(update, grads)


METHODS = {
    "replicated": lambda number: _by_jit(number, _replicated),
    "ZeRO-1, `sharding.zero`": lambda number: _by_jit(number, _zero),
    "ZeRO-2, `shard_update`": _by_shard_map,
    "FSDP, `sharding.of_state`": lambda number: _by_jit(number, _fsdp),
}


def _mesh(number):
    return Mesh(np.array(jax.devices()[:number]), ("data",))


def _local_bytes(values):
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(values))


def _temporaries(compiled):
    return compiled.memory_analysis().temp_size_in_bytes


def _mb(size):
    return f"{size / 1e6:,.2f}"


def _format_counts(numbers):
    return ", ".join(f"{number} {kind}" for kind, number in numbers.items()) or "none"


# Bytes between devices

MEANS = {
    "`mean_over`": gd.mean_over("data"),
    "`mean_over(dtype=bfloat16)`": gd.mean_over("data", jnp.bfloat16),
    "`quantized_mean`": gd.quantized_mean("data"),
    "`low_rank_mean(rank=1)`": gd.low_rank_mean("data", 1),
    "`low_rank_mean(rank=4)`": gd.low_rank_mean("data", 4),
}


def wire(draw):
    """Return the table of bytes that a member sends per step, for each method to average gradients."""
    lines = [
        "## Bytes that a member sends per step",
        "",
        "MB for the mean of 8.4M float32 gradients in two matrices over N members, from the compiled program. In a "
        "ring, an all-reduce sends 2 (N - 1) / N times its operand; the others (N - 1) / N times what they gather or "
        "exchange.",
        "",
        "| | N = 2 | N = 4 | N = 8 | ratio to `mean_over`, N = 8 | collectives |",
        "|---|---|---|---|---|---|",
    ]
    plain = sum(one.wire_bytes for one in mean_of(gd.mean_over("data"), 8))
    after = ["", "XLA:CPU adds and sends 16-bit numbers in 32 bits; accelerators do not."]
    for name, tx in MEANS.items():
        ops = {number: mean_of(tx, number) for number in (2, 4, 8)}
        sent = {number: sum(one.wire_bytes for one in of) for number, of in ops.items()}
        shown = [*map(_mb, sent.values()), f"{sent[8] / plain:.4f}", _format_counts(counts(ops[8]))]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return lines + after


def mean_of(tx, number, params=None):
    """Return the collectives of the mean of gradients."""
    params = params or jax.eval_shape(network_params)
    mesh = _mesh(number)

    def mean(grads):
        local = jax.tree.map(lambda g: g[0], grads)
        return tx.update(local, tx.init(local))[0]

    rows = NamedSharding(mesh, P("data"))
    grads = jax.tree.map(lambda p: jax.ShapeDtypeStruct((number, *p.shape), p.dtype, sharding=rows), params)
    run = jax.jit(jax.shard_map(mean, mesh=mesh, in_specs=P("data"), out_specs=P()))
    return collectives(run.lower(grads).compile())


# A simulated cluster

TARGET = 0.1
EVERY = 16
STEPS = 512
RATE = 3e-3
OUTER = gd.sgd(0.7, momentum=0.9, nesterov=True)
CLUSTER = {
    "synchronous": (gd.chain(gd.mean_over("data"), gd.adamw(RATE)), "black", "-"),
    "int8": (gd.chain(gd.quantized_mean("data"), gd.adamw(RATE)), "#009E73", "-"),
    "PowerSGD, rank 2": (gd.chain(gd.low_rank_mean("data", 2), gd.adamw(RATE)), "#CC79A7", "-"),
    "local SGD, H = 8": (gd.local_steps(gd.adamw(RATE), gd.sgd(1.0), 8, "data"), "#E69F00", "--"),
    "DiLoCo, H = 16": (gd.local_steps(gd.adamw(RATE), OUTER, 16, "data"), "#0072B2", "--"),
    "DiLoCo, H = 64": (gd.local_steps(gd.adamw(RATE), OUTER, 64, "data"), "#D55E00", "--"),
}
"""Methods by name, each with the colour and style of its line."""


def cluster(draw):
    """Return the table of training on digits with 256 workers of 4 images each."""
    problem = gd.problems.digits()
    lines = [
        f"## A simulated cluster of {WORKERS} workers",
        "",
        f"`digits`, {WORKERS} workers under `vmap(axis_name=)`, 4 images per worker and step, AdamW at {RATE:g}. "
        f"Steps, messages in sequence (collectives) and MB per worker until the training loss is {TARGET:g}. MB are "
        f"read from the program compiled for {WORKERS} devices. *Shuffled*: every worker draws from all images. "
        "*Separate*: each worker has 5 images and sees no others. The model is small (4,810 numbers): int8 pads a "
        "block of 256 for each worker, and sends more than float32.",
        "",
        "| | steps, shuffled | messages | MB sent | steps, separate | messages | MB sent |",
        "|---|---|---|---|---|---|---|",
    ]
    curves = {data: {name: training_losses(problem, tx, data) for name, (tx, *_) in CLUSTER.items()} for data in DATA}
    for name in CLUSTER:
        cells = [cell for data in DATA for cell in _to_target(name, curves[data][name])]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if draw:
        _draw(curves)
        lines += ["", "![Loss against bytes sent](scale-cpu.png)"]
    return lines


def _shuffled(key, images):
    return jax.random.randint(key, (WORKERS, 4), 0, images)


def _separate(key, images):
    share = images // WORKERS
    return share * jnp.arange(WORKERS)[:, None] + jax.random.randint(key, (WORKERS, 4), 0, share)


DATA = {"shuffled": _shuffled, "separate": _separate}


def training_losses(problem, tx, data):
    """Return the training loss every few steps, of the shared parameters."""
    step = jax.vmap(gd.make_step(problem.loss, tx, axis_name="data"), axis_name="data")
    images, labels = map(jnp.asarray, problem.train)
    init = jax.vmap(lambda _: gd.State.create(problem.init(jax.random.key(0)), tx), axis_name="data")

    def one(state, key):
        rows = DATA[data](key, len(images))
        return step(state, (images[rows], labels[rows]))[0], None

    @jax.jit
    def several(state, keys):
        state, _ = jax.lax.scan(one, state, keys)
        shared = getattr(state.opt_state, "anchor", state.params)
        return state, problem.loss(jax.tree.map(lambda x: x[0], shared), problem.train)

    state, losses = init(jnp.arange(WORKERS)), []
    for keys in jax.random.split(jax.random.key(1), (STEPS // EVERY, EVERY)):
        state, loss = several(state, keys)
        losses.append(float(loss))
    return np.array(losses)


@functools.cache
def sent_per_step(name):
    """Return the MB and messages of a worker per step, from the program compiled for all workers."""
    tx = CLUSTER[name][0]
    params = jax.eval_shape(gd.problems.digits().init, jax.random.key(0))
    mean, every = (gd.mean_over("data"), tx.every) if tx.factory is gd.local_steps else (tx.transforms[0], 1)
    ops = mean_of(mean, WORKERS, params)
    return sum(one.wire_bytes for one in ops) / 1e6 / every, len(ops) / every


def _to_target(name, losses):
    reached = np.flatnonzero(losses <= TARGET)
    if not len(reached):
        return f"over {STEPS} ({losses[-1]:.2f})", "", ""
    steps = EVERY * int(reached[0] + 1)
    megabytes, messages = sent_per_step(name)
    return f"{steps}", f"{steps * messages:,.0f}", f"{steps * megabytes:,.2f}"


def _draw(curves):
    matplotlib.use("agg")
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained", dpi=120)
    for panel, (data, of) in zip(panels, curves.items(), strict=True):
        for name, losses in of.items():
            _, colour, line = CLUSTER[name]
            steps = EVERY * np.arange(1, len(losses) + 1)
            panel.loglog(sent_per_step(name)[0] * steps, losses, color=colour, ls=line, lw=1.4, label=name)
        panel.axhline(TARGET, color="grey", lw=0.6)
        panel.set(title=f"{WORKERS} workers, data {data}", xlabel="MB sent by each worker")
    panels[0].set_ylabel("training loss, nats")
    panels[0].legend(frameon=False, fontsize=9)
    figure.savefig(RESULTS / "scale-cpu.png")


QUESTIONS = {"memory": memory, "wire": wire, "cluster": cluster}


if __name__ == "__main__":
    main()
