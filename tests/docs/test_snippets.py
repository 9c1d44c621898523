"""README and docs are true: every snippet runs as it stands, every command parses, every link leads somewhere."""

import re
import shlex
import textwrap
from pathlib import Path

import pytest
import typer

from gdjax.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROSE = [*PAGES, *(ROOT / name for name in ("CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md"))]


def blocks(page, language):
    """Yield the fenced blocks of a language, each with its line."""
    text = page.read_text()
    for found in re.finditer(rf"^ *```{language}\n(.*?)^ *```", text, re.S | re.M):
        yield text.count("\n", 0, found.start(1)), textwrap.dedent(found[1])


def commands():
    """Yield the `gdjax` commands of all pages."""
    for page in PAGES:
        for _, block in blocks(page, "bash"):
            yield from (line for line in block.splitlines() if line.startswith("gdjax "))


def anchors(page):
    """Return the anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "python"))], ids=lambda page: page.stem)
def test_the_snippets_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}
    for line, block in blocks(page, "python"):
        exec(compile("\n" * line + block, str(page), "exec"), namespace)


@pytest.mark.parametrize("line", dict.fromkeys(commands()))
def test_a_command_parses(line):
    _, name, *arguments = shlex.split(line, comments=True)
    if "--help" not in arguments:
        typer.main.get_command(app).commands[name].make_context(name, arguments)


def test_there_are_snippets_and_commands():
    assert sum(1 for page in PAGES for _ in blocks(page, "python")) > 20
    assert sum(1 for _ in commands()) > 10


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.S)):
        path, _, anchor = link.partition("#")
        if not path.startswith(("http:", "https:")):
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_the_readme_fits_on_few_screens():
    assert len(PAGES[0].read_text().splitlines()) <= 140
