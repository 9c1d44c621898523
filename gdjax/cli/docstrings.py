"""Render the docstring of a factory as a page of plain text."""

import inspect
import re
import textwrap
import warnings
from typing import Any, NamedTuple

import jax

from gdjax.cli.latex import docstring_to_text, formula_to_text
from gdjax.cli.tables import wrap
from gdjax.value import Factory, GradientTransform

NOTES = r"(?:^|(?<=\s))(State|Stateless|Source|Differs from [^:.]{3,60}):\s"
SECTIONS = r"^(Args|Raises|Returns|Examples?|References|Note|\.\. note::|\.\. seealso::|\.\. warning::)(?::.*)?$"


class Page(NamedTuple):
    """Documentation of a factory."""

    name: str
    signature: str
    paragraphs: list[str]
    """Paragraphs before the first section."""
    notes: dict[str, str]
    """Notes by kind: `State`, `Source`, `Differs from ...`."""
    sections: dict[str, str]
    """Sections by name (`Args`, `Raises`, ...), indented as in the docstring."""
    example: str


def read_page(name: str, factory: Factory[..., Any]) -> Page:
    """Read the docstring of a factory into a page."""
    doc = re.sub(r"\.\. math::\s*\n\s*\n", ".. math::\n", inspect.getdoc(factory.function) or "")
    body, sections, example = _split_sections(doc)
    paragraphs: list[str] = []
    notes: dict[str, str] = {}
    for paragraph in re.split(r"\n\s*\n", body):
        if not paragraph.strip():
            continue
        if not re.match(r"\s|\.\. math::|- ", paragraph):
            paragraph = re.sub(r"\s*\n\s*", " ", paragraph)
        text, *found = re.split(NOTES, paragraph)
        if text.strip():
            paragraphs.append(_display_formula(text) if text.startswith(".. math::") else docstring_to_text(text))
        notes |= {kind: docstring_to_text(note).strip() for kind, note in zip(found[::2], found[1::2], strict=True)}
    if "References" in sections:
        references = re.split(r"\n\s*\n", sections.pop("References"))
        notes["Source"] = "; ".join(_reference(reference) for reference in references) + "."
    if not factory.function.__module__.startswith("gdjax"):
        state = _measure_state(factory)
        notes = {**({"State": state} if state else {}), **notes, "Lifted": "from Optax; this text is Optax's own."}
    return Page(name, _signature(name, factory), paragraphs, notes, sections, example)


def summary(factory: Factory[..., Any]) -> str:
    """Return the first sentence of a docstring, with its formula as text."""
    first = re.split(r"\n\s*\n", (inspect.getdoc(factory.function) or "").strip())[0]
    text = re.split(r"(?<=[a-z`)\d]\.)\s", docstring_to_text(_collapse_spaces(first)))[0]
    return text.rstrip(".")


def format_page(page: Page, width: int) -> str:
    """Format a page as text of a width."""
    blocks = [_wrap(page.signature, width, later="    ")]
    blocks += [text if text.startswith(" ") else _wrap(text, width) for text in page.paragraphs]
    if page.notes:
        blocks.append("\n".join(_wrap(f"{kind}: {note}", width, later="  ") for kind, note in page.notes.items()))
    blocks += [f"{name}:\n{_format_items(text, width)}" for name, text in page.sections.items()]
    if page.example:
        blocks.append(f"Example:\n{textwrap.indent(page.example, '  ')}")
    return "\n\n".join(blocks)


def _split_sections(doc: str) -> tuple[str, dict[str, str], str]:
    """Split a docstring into its body, its sections by name, and its example."""
    body, example, sections = [], [], {}
    current = body
    for line in doc.split("\n"):
        if line.startswith(">>>"):
            current = example
        elif match := re.match(SECTIONS, line):
            current = sections.setdefault(match[1].strip(".: ").capitalize(), [])
            continue
        current.append(line)
    texts = {name: textwrap.dedent("\n".join(lines)).strip("\n") for name, lines in sections.items()}
    examples = [texts.pop(name) for name in ("Example", "Examples") if name in texts]
    for name in ("Returns", "Seealso"):
        texts.pop(name, None)  # Optax: an `optax.GradientTransformation`
    return "\n".join(body), texts, "\n".join(example).strip() or "\n".join(examples)


def _signature(name: str, factory: Factory[..., Any]) -> str:
    """Return the signature of a factory without types."""
    parameters = [p.replace(annotation=p.empty) for p in factory.signature.parameters.values()]
    return f"{name}{inspect.Signature(parameters)}"


def _measure_state(factory: Factory[..., Any]) -> str | None:
    """Measure the state of an Optax transform, whose docstring does not give it; `None` if it needs arguments."""
    parameters = factory.signature.parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    if factory.kind is not GradientTransform or not all("learning_rate" in name for name in required):
        return None
    matrix = jax.ShapeDtypeStruct((128, 128), float)
    try:
        with warnings.catch_warnings(action="ignore"):
            state = jax.eval_shape(factory(**dict.fromkeys(required, 0.1)).init, matrix)
    except (TypeError, ValueError):
        return None
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    return f"{round(size / 128**2, 1):g} bytes per parameter, measured on a float32 matrix of shape (128, 128)."


def _format_items(text: str, width: int) -> str:
    """Format the items of a section; an item starts at each line without indentation."""
    items = [_collapse_spaces(item) for item in re.split(r"\n(?=\S)", text) if item.strip()]
    return "\n".join(_wrap(docstring_to_text(item), width, first="  ", later="      ") for item in items)


def _display_formula(paragraph: str) -> str:
    """Format a `.. math::` block of Optax, indented."""
    lines = formula_to_text(paragraph.removeprefix(".. math::")).split("\n")
    return "\n".join(f"    {line.strip()}" for line in lines if line.strip())


def _reference(text: str) -> str:
    """Format a reference of Optax: the text of its link, then the address."""
    link = re.sub(r"`?([^`<]+?)\s*<(https?://[^>]+)>`_*\s*", r"\1 (\2)", _collapse_spaces(text))
    return link.strip("., ")


def _collapse_spaces(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _wrap(text: str, width: int, *, first: str = "", later: str = "") -> str:
    """Wrap text, with an indentation for its first line and one for later lines."""
    return "\n".join(wrap(text, width, initial_indent=first, subsequent_indent=later))
