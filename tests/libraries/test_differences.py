"""Every test of Optax that must fail with gdjax in its place has its line in the README."""

import json
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DIFFERENCES = json.loads((HERE / "differences.json").read_text())
README = (HERE.parents[1] / "README.md").read_text()


@pytest.mark.parametrize(("test", "line"), DIFFERENCES.items())
def test_a_deliberate_difference_is_a_line_of_the_readme(test, line):
    assert f"| {line} |" in README.split("## What differs from Optax")[1], test
