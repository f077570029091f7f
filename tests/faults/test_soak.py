"""The soak suite in small, and that it notices what goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import soak.lanes

    return soak


def test_it_notices_what_raises_hangs_dies_and_touches(tmp_path: Path, soak: Any) -> None:
    import soak_faults  # here: it imports soak

    found = soak.lanes.run(soak_faults.make, (tmp_path,), range(8), lanes=1, limit_s=0.5)
    ended = {one.case: one for one in found}
    words = [ended[case].word for case in range(8)]
    assert words == ["fine", "raised", "hung", "died", "touched", "touched", "touched", "touched"]
    assert "ValueError: raw" in ended[1].text
    assert "soak_faults.py" in ended[2].text  # where it hung
    assert "ended with 0" in ended[3].text
    assert "outside.txt" in ended[4].text
    assert "os.system" in ended[6].text


@pytest.mark.thorough
def test_the_same_number_makes_the_same_case(soak: Any) -> None:
    from soak import scenarios

    files = [scenarios.mutated(case) for case in range(50)]
    assert files == [scenarios.mutated(case) for case in range(50)]
    assert len(set(files)) == 50
    assert [scenarios.overrides(case) for case in range(9)] == [
        scenarios.overrides(case) for case in range(9)
    ]


def _soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "soak", *arguments],
        cwd=BENCHMARKS,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("part", "cases"),
    [
        ("scenarios", 40),
        pytest.param("scenarios", 1_000, marks=pytest.mark.slow),
        pytest.param("overrides", 200, marks=pytest.mark.slow),
        pytest.param("hostile", 1, marks=pytest.mark.slow),
        pytest.param("folders", 200, marks=pytest.mark.slow),
        pytest.param("deaths", 60, marks=pytest.mark.slow),
        pytest.param("kills", 12, marks=pytest.mark.slow),
        pytest.param("disk", 2, marks=pytest.mark.slow),
        pytest.param("two", 1, marks=pytest.mark.slow),
    ],
)
def test_nothing_is_lost_run_or_wrong(part: str, cases: int) -> None:
    ended = _soak(part, "--cases", str(cases))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    name, _, tried, *_, faults, _ = ended.stdout.splitlines()[-1].split(" | ")
    assert (name, faults) == (part, "0")
    assert int(tried) >= cases
