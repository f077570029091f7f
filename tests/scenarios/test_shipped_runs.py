"""Every shipped scenario starts, learns, switches task, is measured and reported.

On its real simulator, with every method and all else as it is, cut to two tasks of few steps.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from shipped_cuts import STEPS, cut, lacking, with_partners

import holdfast
from holdfast.continual.reports.report import report
from holdfast.scenarios.shipped import shipped


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped())
def test_every_shipped_scenario_runs_through_a_task_switch(name: str, tmp_path: Path) -> None:
    package = lacking(name)
    if package and os.environ.get("HOLDFAST_SHIPPED") != "required":
        pytest.skip(f"it needs {package}, which is not installed")
    scenario = cut(name)
    runs = holdfast.run(scenario, runs=tmp_path)
    if name == "partners":
        scenario = with_partners(name, tmp_path)
        runs = holdfast.run(scenario, runs=tmp_path)
    assert len(runs) == len(scenario.methods)
    for run in runs:
        assert run.folder.info()["status"] == "finished"
        assert {score["stage"] for score in run.scores} == {0, 1, 2}
        assert max(score["step"] for score in run.scores) == 2 * STEPS
        assert all(score["length"] > 0 for score in run.scores)
    made = report(tmp_path / scenario.name)
    assert all(method.label in made.overview for method in scenario.methods)
    assert (tmp_path / scenario.name / "report.html").stat().st_size > 10_000
