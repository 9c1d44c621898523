"""Execute every notebook (`.py`, jupytext percent) and write it as `.ipynb`: `python notebooks/execute.py`."""

import pathlib

import jupytext
import nbclient
import nbformat

HERE = pathlib.Path(__file__).parent


def sources() -> list[pathlib.Path]:
    """Return the paths of the notebooks as plain text."""
    return sorted(path for path in HERE.glob("*.py") if path.name != pathlib.Path(__file__).name)


def executed(source: pathlib.Path) -> nbformat.NotebookNode:
    """Execute a notebook; a cell that fails raises."""
    notebook = jupytext.read(source)
    nbclient.NotebookClient(notebook, timeout=200, kernel_name="python3").execute()
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell.metadata.pop("execution", None)
    return notebook


if __name__ == "__main__":
    for path in sources():
        nbformat.write(executed(path), path.with_suffix(".ipynb"))
        print(path.with_suffix(".ipynb").name)
