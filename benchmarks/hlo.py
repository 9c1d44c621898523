"""The collectives of a compiled program, read from its text: how many, of how many bytes, and within what."""

import dataclasses
import math
import re

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "ragged-all-to-all", "reduce-scatter")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program."""

    kind: str
    """Of `KINDS`; one that is started and awaited apart counts once."""
    operand_bytes: int
    """What each member gives to it."""
    members: int
    """Of one of its groups."""
    within: tuple[str, ...]
    """The loops and branches that it stands in, `while` and `conditional`, the outermost first."""

    @property
    def wire_bytes(self):
        """What each member sends, by a ring of the group."""
        others = self.members - 1
        if self.kind == "all-gather":
            return others * self.operand_bytes
        if self.kind == "all-reduce":
            return 2 * others / self.members * self.operand_bytes
        if self.kind == "collective-permute":
            return self.operand_bytes
        return others / self.members * self.operand_bytes


def collectives(compiled):
    """The collectives of a compiled function (`jax.jit(f).lower(...).compile()`), or of its text."""
    text = compiled if isinstance(compiled, str) else compiled.as_text()
    found = [instruction for instruction in _instructions(text) if _kind(instruction.opcode)]
    types = {(i.computation, i.name): i.type for i in _instructions(text)}
    callers = {called: i for i in _instructions(text) for called in i.called}
    everyone = math.prod(int(n) for n in re.findall(r"(?:num_partitions|replica_count)=(\d+)", text.partition("\n")[0]))

    def given(i):
        return sum(_bytes(types[i.computation, name]) for name in i.operands)

    return [Collective(_kind(i.opcode), given(i), _members(i, everyone), _within(i, callers)) for i in found]


def counts(found):
    """How many there are of each kind."""
    return {kind: sum(c.kind == kind for c in found) for kind in KINDS if any(c.kind == kind for c in found)}


@dataclasses.dataclass(frozen=True)
class _Instruction:
    computation: str
    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    @property
    def called(self):
        """The computations that it runs."""
        single = r"(?:body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)"
        several = re.findall(r"(?:branch_computations|calls|called_computations)=\{([^}]*)\}", self.attributes)
        return [*re.findall(single, self.attributes), *re.findall(r"%([\w.\-]+)", " ".join(several))]


def _instructions(text):
    computation = ""
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            computation = head[1]
        elif parts := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)", line):
            type_, rest = _closed(parts[2]) if parts[2].startswith("(") else parts[2].split(" ", 1)
            opcode = rest.strip().partition("(")[0]
            operands, attributes = _closed(rest.strip()[len(opcode) :])
            names = re.findall(r"%([\w.\-]+)", operands)
            yield _Instruction(computation, parts[1], type_, opcode, tuple(names), attributes)


def _closed(text):
    """A text that starts with a parenthesis, cut where that one is closed."""
    depth = 0
    for end, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[: end + 1], text[end + 1 :]
    raise ValueError(f"no end of {text!r}")


def _kind(opcode):
    kind = opcode.removesuffix("-start")
    return kind if kind in KINDS else None


def _bytes(type_):
    """The bytes of an array, or of a tuple of them."""
    found = re.findall(r"([a-z]+)(\d*)[a-z0-9]*\[([\d,]*)\]", type_)
    return sum(_width(kind, bits) * math.prod(int(n) for n in dims.split(",") if n) for kind, bits, dims in found)


def _width(kind, bits):
    return 1 if kind == "pred" else 0 if kind == "token" else math.ceil(int(bits) / 8)


def _members(instruction, everyone):
    """The size of a group: written out, by strides, by the axes of a mesh, or all."""
    text = instruction.attributes
    if groups := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
        return groups[1].count(",") + 1
    if strides := re.search(r"replica_groups=\[\d+,(\d+)\]<=", text):
        return int(strides[1])
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", mesh[2]))
    return everyone


def _within(instruction, callers):
    found = []
    while (instruction := callers.get(instruction.computation)) is not None:
        if instruction.opcode in ("while", "conditional"):
            found.insert(0, instruction.opcode)
    return tuple(found)
