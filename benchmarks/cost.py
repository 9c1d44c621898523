"""What a step costs on machines that are not here: a model of bytes and latency, and a page of what it says.

`python benchmarks/cost.py` writes the tables of `docs/scale.md`. The model is small enough to be checked by hand, and
its bytes are held to those of compiled programs (`tests/test_cost.py`). How many steps a method takes it does not say:
that is tried on a simulated cluster (`benchmarks/scale.py`).
"""

import dataclasses
import math
import pathlib

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "scale.md"
FIRST, LAST = "<!-- tables of benchmarks/cost.py -->", "<!-- end -->"


@dataclasses.dataclass(frozen=True)
class Network:
    """What joins the members."""

    name: str
    bandwidth: float
    """Bytes a second that each member sends while it receives as many."""
    latency: float
    """Seconds from the start of an empty message to its arrival."""


@dataclasses.dataclass(frozen=True)
class Model:
    """What is descended on."""

    name: str
    parameters: float
    matrices: float
    """Rows and columns of all matrices, summed: what PowerSGD sends a factor of, for each unit of rank."""
    compute: float
    """Seconds of a step without communication."""


NETWORKS = (
    Network("inside a pod", 50e9, 5e-6),
    Network("a data centre, 100 Gbit/s", 12.5e9, 20e-6),
    Network("the internet, 1 Gbit/s", 125e6, 50e-3),
)
MODEL = Model("1B parameters", 1e9, 1e6, 1.0)


def all_reduce(size, members, network):
    """Seconds of a sum on all members: the faster of a ring and a tree."""
    if members == 1:
        return 0.0
    ring = 2 * (members - 1) / members * size / network.bandwidth + 2 * (members - 1) * network.latency
    tree = 2 * size / network.bandwidth + 2 * math.ceil(math.log2(members)) * network.latency
    return min(ring, tree)


def all_gather(size, members, network):
    """Seconds until all have every part of `size` bytes: by halves and doubles; a reduce-scatter takes as long."""
    if members == 1:
        return 0.0
    return (members - 1) / members * size / network.bandwidth + math.ceil(math.log2(members)) * network.latency


def all_to_all(size, members, network):
    """Seconds until each has its part from every other: a message to each of them, one after the other."""
    return (members - 1) / members * size / network.bandwidth + (members - 1) * network.latency


def synchronous(model, members, network):
    """Seconds of communication a step of the plain mean, in float32."""
    return all_reduce(4 * model.parameters, members, network)


def sharded(model, members, network):
    """That of `shard_update`: the gradients are scattered, the parameters gathered."""
    return 2 * all_gather(4 * model.parameters, members, network)


def eight_bits(model, members, network):
    """That of `compressed_mean(bits=8)`: blocks of 256 numbers and a scale."""
    size = 65 / 64 * model.parameters
    return all_to_all(size, members, network) + all_gather(size, members, network)


def low_rank(model, members, network, rank=4):
    """That of `compressed_mean(rank=4)`: two factors of each matrix."""
    return 2 * all_reduce(4 * rank * model.matrices / 2, members, network)


def local(model, members, network, every=64):
    """That of `local_steps(every=64)`, the mean over the steps."""
    return synchronous(model, members, network) / every


METHODS = {
    "synchronous": synchronous,
    "`shard_update`": sharded,
    "`compressed_mean(bits=8)`": eight_bits,
    "`compressed_mean(rank=4)`": low_rank,
    "`local_steps(every=64)`": local,
}
MEMBERS = (8, 64, 1_024, 10_000, 100_000)


def table(network, model=MODEL):
    """Seconds of communication a step, by method and number of members."""
    lines = ["| | " + " | ".join(f"N = {n:,}" for n in MEMBERS) + " |", "|---" * (len(MEMBERS) + 1) + "|"]
    for name, seconds in METHODS.items():
        lines.append(f"| {name} | " + " | ".join(_shown(seconds(model, n, network)) for n in MEMBERS) + " |")
    return "\n".join(lines)


def _shown(seconds):
    return f"{seconds:.2g}" if seconds < 0.1 else f"{seconds:,.2f}" if seconds < 100 else f"{seconds:,.0f}"


def page():
    """The tables of all networks."""
    heads = (f"{n.name} ({n.bandwidth / 1e9:g} GB/s, {n.latency * 1e6:,.0f} us)" for n in NETWORKS)
    return "\n\n".join(
        f"**{head[0].upper()}{head[1:]}**\n\n{table(n)}" for head, n in zip(heads, NETWORKS, strict=True)
    )


if __name__ == "__main__":
    before, first, rest = PAGE.read_text().partition(FIRST)
    _, last, after = rest.partition(LAST)
    PAGE.write_text(f"{before}{first}\n\n{page()}\n\n{last}{after}")
