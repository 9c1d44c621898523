"""The mechanical part of plain English: how docstrings begin, and how long sentences are."""

import ast
import pathlib
import re

import pytest

import gdjax

PACKAGE = pathlib.Path(gdjax.__file__).parent
ROOT = PACKAGE.parent
MAX_WORDS = 30
FIRST_WORDS = re.compile(r"(What|Whether|How|Of|Those|That|The like|Which|Where|Who|When)\b")

UNFINISHED: set[str] = set()
"""Files and folders, relative to the repository, whose text is not rewritten yet."""

LONG_SENTENCES: set[str] = set()
"""Sentences of more than `MAX_WORDS` words that stay, by their first five words."""


def is_finished(path):
    relative = path.relative_to(ROOT)
    return not {str(relative), *map(str, relative.parents)} & UNFINISHED


def docstrings(path):
    """Yield `(name, text, is_public)` for each docstring of a module, of its classes, functions and attributes."""

    def visit(node, name, is_public):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            if text := ast.get_docstring(node):
                yield name, text, is_public
            before = None
            for child in node.body:
                if isinstance(before, (ast.Assign, ast.AnnAssign)) and is_text(child):
                    yield f"{name}: attribute", child.value.value, is_public
                before = child
                nested = getattr(child, "name", "")
                yield from visit(child, f"{name}.{nested}", is_public and not nested.startswith("_"))

    yield from visit(ast.parse(path.read_text()), str(path.relative_to(ROOT)), is_public=True)


def is_text(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def sentences(text):
    """Yield the sentences of a docstring or a page; code, formulas and links count as one word each."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    text = re.split(r"^\s*>>>", text, maxsplit=1, flags=re.M)[0]
    text = re.sub(r"^\s*(\||#|!|<).*$", "", text, flags=re.M)  # tables, headings, pictures
    text = re.sub(r"`[^`]*`|\$[^$]*\$|https?://[^\s)]+", "x", text)
    starts = r"(?<=[.!?:;])\s+|\n\s*\n|\n\s*(?=[-*] )|\n\s*(?=\*{0,2}\w+(?:, \*{0,2}\w+)*: )"
    for sentence in re.split(starts, text):
        yield " ".join(sentence.split())


def long_sentences(text):
    for sentence in sentences(text):
        words = [word for word in sentence.split() if re.search(r"\w", word)]
        if len(words) > MAX_WORDS and " ".join(words[:5]) not in LONG_SENTENCES:
            yield f"{len(words)} words: {sentence}"


def test_docstrings_begin_with_a_verb_or_a_noun():
    wrong = [
        f"{name}: {text.splitlines()[0]}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if is_finished(path)
        for name, text, _ in docstrings(path)
        if FIRST_WORDS.match(text)
    ]
    assert not wrong, "\n".join(wrong)


def test_sentences_of_public_docstrings_are_short():
    wrong = [
        f"{name}: {sentence}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if is_finished(path)
        for name, text, is_public in docstrings(path)
        if is_public
        for sentence in long_sentences(text)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", ["README.md", "docs"])
def test_sentences_of_pages_are_short(path):
    pages = sorted((ROOT / path).rglob("*.md")) if (ROOT / path).is_dir() else [ROOT / path]
    wrong = [f"{page.name}: {line}" for page in pages if is_finished(page) for line in long_sentences(page.read_text())]
    assert not wrong, "\n".join(wrong)


def test_unfinished_files_exist():
    assert all((ROOT / name).exists() for name in UNFINISHED)
