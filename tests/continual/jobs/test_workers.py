"""What workers cost."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.mark.slow
def test_ten_small_cells_pay_the_heavy_imports_once_for_each_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from jobs import importing_processes

    assert importing_processes(jobs=2, cells=10) == 2
