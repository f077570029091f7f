"""The table of faults: every row has tests, and they are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (\d+) \| .+ \| .+ \| (.+) \|$", re.MULTILINE)


def test_every_row_names_tests_that_are_there() -> None:
    found = ROW.findall((ROOT / "docs" / "faults.md").read_text("utf-8"))
    assert [int(number) for number, _ in found] == list(range(1, 56))
    for number, tests in found:
        named = re.findall(r"`(tests/\S+\.py)(?:::(\w+))?`", tests)
        assert named, number
        for file, function in named:
            text = (ROOT / file).read_text("utf-8")
            assert f"def {function or 'test_'}" in text, (number, file, function)
