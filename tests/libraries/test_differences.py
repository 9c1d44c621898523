"""Every test of Optax that must fail with gdjax in its place has a row in docs/differences_from_optax.md."""

import json
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DIFFERENCES = json.loads((HERE / "differences.json").read_text())
PAGE = (HERE.parents[1] / "docs" / "differences_from_optax.md").read_text()


@pytest.mark.parametrize(("test", "line"), DIFFERENCES.items())
def test_a_deliberate_difference_is_a_row_of_the_page(test, line):
    assert f"| {line} |" in PAGE, test
