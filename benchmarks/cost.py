"""Model of the communication time of a step on clusters, from bytes and latency.

`python benchmarks/cost.py` writes the tables of `docs/scale.md`. The model is small enough to check by hand, and
`tests/sharding/test_cost.py` compares its bytes with those of compiled programs. It does not predict the number of
steps: `benchmarks/scale.py` measures that on a simulated cluster.
"""

import dataclasses
import math
import pathlib

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "scale.md"
TABLES_START, TABLES_END = "<!-- tables of benchmarks/cost.py -->", "<!-- end -->"


@dataclasses.dataclass(frozen=True)
class Network:
    """Network between the members of a cluster."""

    name: str
    bandwidth: float
    """Bytes per second that each member sends, while it receives as many."""
    latency: float
    """Seconds from the start of an empty message to its arrival."""


@dataclasses.dataclass(frozen=True)
class Model:
    """Model that is trained."""

    name: str
    parameters: float
    matrices: float
    """Sum of the rows and columns of all matrices: the numbers in PowerSGD's factors for each unit of rank."""
    compute: float
    """Seconds per step without communication."""


NETWORKS = (
    Network("inside a pod", 50e9, 5e-6),
    Network("a data centre, 100 Gbit/s", 12.5e9, 20e-6),
    Network("the internet, 1 Gbit/s", 125e6, 50e-3),
)
MODEL = Model("1B parameters", 1e9, 1e6, 1.0)


def all_reduce(size, members, network):
    """Return the seconds of an all-reduce: the faster of a ring and a tree."""
    if members == 1:
        return 0.0
    ring = 2 * (members - 1) / members * size / network.bandwidth + 2 * (members - 1) * network.latency
    tree = 2 * size / network.bandwidth + 2 * math.ceil(math.log2(members)) * network.latency
    return min(ring, tree)


def all_gather(size, members, network):
    """Return the seconds of an all-gather to `size` bytes by recursive doubling, or of a reduce-scatter."""
    if members == 1:
        return 0.0
    return (members - 1) / members * size / network.bandwidth + math.ceil(math.log2(members)) * network.latency


def all_to_all(size, members, network):
    """Return the seconds of an all-to-all, in which each member sends one message to every other in turn."""
    return (members - 1) / members * size / network.bandwidth + (members - 1) * network.latency


def synchronous(model, members, network):
    """Return the seconds of communication per step of a float32 mean."""
    return all_reduce(4 * model.parameters, members, network)


def sharded(model, members, network):
    """Return those of `shard_update`, which scatters gradients and gathers parameters."""
    return 2 * all_gather(4 * model.parameters, members, network)


def eight_bits(model, members, network):
    """Return those of `quantized_mean`, with one scale for each block of 256 numbers."""
    size = 65 / 64 * model.parameters
    return all_to_all(size, members, network) + all_gather(size, members, network)


def low_rank(model, members, network, rank=4):
    """Return those of `low_rank_mean(rank=4)`, with two factors of each matrix."""
    return 2 * all_reduce(4 * rank * model.matrices / 2, members, network)


def local(model, members, network, every=64):
    """Return those of `local_steps(every=64)`, averaged over the steps."""
    return synchronous(model, members, network) / every


METHODS = {
    "synchronous": synchronous,
    "`shard_update`": sharded,
    "`quantized_mean`": eight_bits,
    "`low_rank_mean(rank=4)`": low_rank,
    "`local_steps(every=64)`": local,
}
MEMBERS = (8, 64, 1_024, 10_000, 100_000)


def table(network, model=MODEL):
    """Return the table of seconds of communication per step, by method and number of members."""
    lines = ["| | " + " | ".join(f"N = {n:,}" for n in MEMBERS) + " |", "|---" * (len(MEMBERS) + 1) + "|"]
    for name, seconds in METHODS.items():
        lines.append(f"| {name} | " + " | ".join(_format_seconds(seconds(model, n, network)) for n in MEMBERS) + " |")
    return "\n".join(lines)


def _format_seconds(seconds):
    return f"{seconds:.2g}" if seconds < 0.1 else f"{seconds:,.2f}" if seconds < 100 else f"{seconds:,.0f}"


def page():
    """Return the tables of all networks."""
    titles = (f"{n.name} ({n.bandwidth / 1e9:g} GB/s, {n.latency * 1e6:,.0f} us)" for n in NETWORKS)
    return "\n\n".join(
        f"**{title[0].upper()}{title[1:]}**\n\n{table(n)}" for title, n in zip(titles, NETWORKS, strict=True)
    )


if __name__ == "__main__":
    before, first, rest = PAGE.read_text().partition(TABLES_START)
    _, last, after = rest.partition(TABLES_END)
    PAGE.write_text(f"{before}{first}\n\n{page()}\n\n{last}{after}")
