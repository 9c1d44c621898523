"""What a docstring says, section by section, as plain text."""

import inspect
import re
import textwrap
import warnings
from typing import Any, NamedTuple

import jax

from gdjax.cli.latex import formula, plain
from gdjax.cli.tables import wrapped
from gdjax.value import Factory, GradientTransform, printing

NOTES = r"(?:^|(?<=\s))(State|Stateless|Source|Differs from [^:.]{3,60}):\s"
SECTIONS = r"^(Args|Raises|Returns|Examples?|References|Note|\.\. note::|\.\. seealso::|\.\. warning::)(?::.*)?$"


class Page(NamedTuple):
    """A factory, told."""

    name: str
    signature: str
    text: list[str]
    """Paragraphs: what it does, its formula."""
    notes: dict[str, str]
    """By `State`, `Source`, `Differs from ...`."""
    sections: dict[str, str]
    """By `Args`, `Raises`, ..., their indentation kept."""
    example: str


def page(name: str, factory: Factory[..., Any]) -> Page:
    """Read the docstring of a factory."""
    doc = re.sub(r"\.\. math::\s*\n\s*\n", ".. math::\n", inspect.getdoc(factory.function) or "")
    body, sections, example = _parted(doc)
    text: list[str] = []
    notes: dict[str, str] = {}
    for paragraph in re.split(r"\n\s*\n", body):
        if not paragraph.strip():
            continue
        if not re.match(r"\s|\.\. math::|- ", paragraph):
            paragraph = re.sub(r"\s*\n\s*", " ", paragraph)
        before, *told = re.split(NOTES, paragraph)
        text += [_math(before) if before.startswith(".. math::") else plain(before)] if before.strip() else []
        notes |= {kind: plain(words).strip() for kind, words in zip(told[::2], told[1::2], strict=True)}
    if "References" in sections:
        found = re.split(r"\n\s*\n", sections.pop("References"))
        notes["Source"] = "; ".join(_linked(_joined(one)).strip("., ") for one in found) + "."
    if not factory.function.__module__.startswith("gdjax"):
        state = _measured(factory)
        notes = {**({"State": state} if state else {}), **notes, "Lifted": "from Optax; this text is Optax's own."}
    return Page(name, _signature(name, factory), text, notes, sections, example)


def summary(factory: Factory[..., Any]) -> str:
    """The first sentence of a docstring, its formula with it."""
    first = re.split(r"\n\s*\n", (inspect.getdoc(factory.function) or "").strip())[0]
    text = re.split(r"(?<=[a-z`)\d]\.)\s", plain(re.sub(r"\s+", " ", first)))[0]
    return text.rstrip(".")


def told(page: Page, width: int) -> str:
    """A page as text."""
    parts = [_wrapped(page.signature, width, "    ")]
    parts += [part if part.startswith(" ") else _wrapped(part, width) for part in page.text]
    notes = "\n".join(_wrapped(f"{kind}: {words}", width, "  ") for kind, words in page.notes.items())
    parts += [notes] if notes else []
    parts += [f"{name}:\n{_items(text, width)}" for name, text in page.sections.items()]
    if page.example:
        parts.append(f"Example:\n{textwrap.indent(page.example, '  ')}")
    return "\n\n".join(parts)


def _parted(doc: str) -> tuple[str, dict[str, str], str]:
    """The paragraphs, the sections by name, and the example."""
    body, example, sections = [], [], {}
    into = body
    for line in doc.split("\n"):
        if line.startswith(">>>"):
            into = example
        elif found := re.match(SECTIONS, line):
            into = sections.setdefault(found[1].strip(".: ").capitalize(), [])
            continue
        into.append(line)
    shown = {name: textwrap.dedent("\n".join(lines)).strip("\n") for name, lines in sections.items()}
    examples = [shown.pop(name) for name in ("Example", "Examples") if name in shown]
    for name in ("Returns", "Seealso"):
        shown.pop(name, None)  # Optax: an `optax.GradientTransformation`
    return "\n".join(body), shown, "\n".join(example).strip() or "\n".join(examples)


def _signature(name: str, factory: Factory[..., Any]) -> str:
    shown = []
    for p in factory.signature.parameters.values():
        default = p.default if p.default is p.empty else _Shown(p.default)
        shown.append(p.replace(annotation=p.empty, default=default))
    return f"{name}{inspect.Signature(shown)}"


class _Shown:
    """A default, printed as in a value."""

    def __init__(self, default: Any):
        self.default = default

    def __repr__(self) -> str:
        return printing.text(self.default)


def _measured(factory: Factory[..., Any]) -> str | None:
    """The state of a transform of Optax's, whose text does not tell it."""
    parameters = factory.signature.parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    if factory.kind is not GradientTransform or not all("learning_rate" in name for name in needed):
        return None
    matrix = jax.ShapeDtypeStruct((128, 128), float)
    try:
        with warnings.catch_warnings(action="ignore"):
            state = jax.eval_shape(factory(**dict.fromkeys(needed, 0.1)).init, matrix)
    except (TypeError, ValueError):
        return None
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    return f"{round(held / 128**2, 1):g} bytes a parameter, measured of a matrix of 128 by 128 in float32."


def _items(text: str, width: int) -> str:
    """The lines of a section: an item begins where a line is not indented."""
    items = re.split(r"\n(?=\S)", text)
    return "\n".join(_wrapped(plain(_joined(item)), width, "      ", "  ") for item in items if item.strip())


def _math(paragraph: str) -> str:
    """A formula of Optax's that stands alone, indented."""
    lines = formula(paragraph.removeprefix(".. math::")).split("\n")
    return "\n".join(f"    {line.strip()}" for line in lines if line.strip())


def _linked(text: str) -> str:
    """A reference of Optax's: what is linked, then where to."""
    return re.sub(r"`?([^`<]+?)\s*<(https?://[^>]+)>`_*\s*", r"\1 (\2)", text)


def _joined(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _wrapped(text: str, width: int, later: str = "", first: str = "") -> str:
    return "\n".join(wrapped(text, width, initial_indent=first, subsequent_indent=later))
