"""Notebooks run to their last assertion, and what is committed is what they are."""

import importlib.util
import pathlib

import jupytext
import nbclient
import nbformat
import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "notebooks"
spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
execute = importlib.util.module_from_spec(spec)
spec.loader.exec_module(execute)


def code(notebook):
    return [cell.source for cell in notebook.cells]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", execute.sources(), ids=lambda path: path.stem)
def test_it_runs_and_its_twin_is_up_to_date(source):
    notebook = execute.executed(source)
    assert "assert" in notebook.cells[-1].source
    committed = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert code(committed) == code(jupytext.read(source))
    assert all(cell.execution_count for cell in committed.cells if cell.cell_type == "code")


@pytest.mark.filterwarnings("ignore")
def test_a_descent_shows_one_line_and_its_curve():
    code = "import gdjax as gd\ngd.fit(lambda w, b: (w - 2.0) ** 2, 5.0, gd.sgd(0.1), steps=100)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, timeout=200, kernel_name="python3").execute()
    line, result = notebook.cells[0].outputs
    assert line["data"]["text/plain"].startswith("step 100 of 100  loss")
    assert "<svg" in result["data"]["text/html"]
