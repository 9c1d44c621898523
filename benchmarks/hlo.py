"""Read the collectives of a compiled program from its text: their number, bytes and enclosing loops."""

import dataclasses
import math
import re

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "ragged-all-to-all", "reduce-scatter")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collective of a compiled program."""

    kind: str
    """One of `KINDS`; an asynchronous pair of start and done counts once."""
    operand_bytes: int
    """Bytes of the operand on each member."""
    members: int
    """Size of one of its groups."""
    within: tuple[str, ...]
    """Loops and branches around it, `while` and `conditional`, outermost first."""

    @property
    def wire_bytes(self):
        """Return the bytes that each member sends in a ring algorithm."""
        others = self.members - 1
        if self.kind == "all-gather":
            return others * self.operand_bytes
        if self.kind == "all-reduce":
            return 2 * others / self.members * self.operand_bytes
        if self.kind == "collective-permute":
            return self.operand_bytes
        return others / self.members * self.operand_bytes


def collectives(compiled):
    """Return the collectives of a compiled function (`jax.jit(f).lower(...).compile()`), or of its text."""
    text = compiled if isinstance(compiled, str) else compiled.as_text()
    ops = [instruction for instruction in _instructions(text) if _kind(instruction.opcode)]
    types = {(i.computation, i.name): i.type for i in _instructions(text)}
    callers = {called: i for i in _instructions(text) for called in i.called}
    header = text.partition("\n")[0]
    all_members = math.prod(int(n) for n in re.findall(r"(?:num_partitions|replica_count)=(\d+)", header))

    def operand_bytes(i):
        return sum(_bytes(types[i.computation, name]) for name in i.operands)

    return [Collective(_kind(i.opcode), operand_bytes(i), _members(i, all_members), _within(i, callers)) for i in ops]


def counts(ops):
    """Return the number of collectives of each kind."""
    return {kind: sum(c.kind == kind for c in ops) for kind in KINDS if any(c.kind == kind for c in ops)}


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
        """Return the computations that it calls."""
        single = r"(?:body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)"
        several = re.findall(r"(?:branch_computations|calls|called_computations)=\{([^}]*)\}", self.attributes)
        return [*re.findall(single, self.attributes), *re.findall(r"%([\w.\-]+)", " ".join(several))]


def _instructions(text):
    computation = ""
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            computation = head[1]
        elif parts := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)", line):
            type_, rest = _split_at_parenthesis(parts[2]) if parts[2].startswith("(") else parts[2].split(" ", 1)
            opcode = rest.strip().partition("(")[0]
            operands, attributes = _split_at_parenthesis(rest.strip()[len(opcode) :])
            names = re.findall(r"%([\w.\-]+)", operands)
            yield _Instruction(computation, parts[1], type_, opcode, tuple(names), attributes)


def _split_at_parenthesis(text):
    """Split a text that starts with a parenthesis after the one that closes it."""
    depth = 0
    for end, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[: end + 1], text[end + 1 :]
    raise ValueError(f"hlo: no closing parenthesis in {text!r}")


def _kind(opcode):
    kind = opcode.removesuffix("-start")
    return kind if kind in KINDS else None


def _bytes(type_):
    """Return the bytes of an array, or of a tuple of arrays."""
    arrays = re.findall(r"([a-z]+)(\d*)[a-z0-9]*\[([\d,]*)\]", type_)
    return sum(_width(kind, bits) * math.prod(int(n) for n in dims.split(",") if n) for kind, bits, dims in arrays)


def _width(kind, bits):
    return 1 if kind == "pred" else 0 if kind == "token" else math.ceil(int(bits) / 8)


def _members(instruction, all_members):
    """Return the size of a group from its list, its strides or its mesh axes; by default all members."""
    text = instruction.attributes
    if groups := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
        return groups[1].count(",") + 1
    if strides := re.search(r"replica_groups=\[\d+,(\d+)\]<=", text):
        return int(strides[1])
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", mesh[2]))
    return all_members


def _within(instruction, callers):
    enclosing = []
    while (instruction := callers.get(instruction.computation)) is not None:
        if instruction.opcode in ("while", "conditional"):
            enclosing.insert(0, instruction.opcode)
    return tuple(enclosing)
