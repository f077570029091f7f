"""Sweeps in run folders: kept, refused, compared at the same point."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.reports.report import report
from holdfast.continual.results.study import gather
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import UsageError

RATES = {"agent.learning_rate": [1e-4, 3e-4]}


def finish(folders: list[RunFolder], make_scores, level) -> None:
    """Give each cell the scores of a run whose returns are ``level(folder)``."""
    for folder in folders:
        for stage, step in ((0, 0), (1, 10), (2, 20)):
            returns = level(folder) if stage else 0
            folder.append(make_scores(stage, step, left=returns, right=returns))
        folder.update(status="finished")


def test_a_cell_says_its_point(tmp_path: Path, make_scenario) -> None:
    scenario = make_scenario(methods=["naive", "ewc"], sweep=RATES | {"methods.ewc.strength": [5]})
    folders = prepare(tmp_path, scenario)
    assert [folder.label for folder in folders] == [
        f"{method}-learning_rate={rate}"
        for rate in ("0.0001", "0.0003")
        for method in ("naive", "ewc-strength=5")
    ]
    info = folders[1].info()
    assert info["method"] == "ewc-strength=5-learning_rate=0.0001"
    assert info["sweep"] == {"agent.learning_rate": 1e-4, "methods.ewc.strength": 5}
    assert info["point"] == "learning_rate=0.0001"
    assert [folder.info()["position"] for folder in folders] == [0, 1, 2, 3]
    alone = RunFolder(folders[1].path).scenario
    assert alone.agent.arguments == {"learning_rate": 1e-4}
    assert alone.methods[0].parts[0].arguments == {"strength": 5}
    assert "sweep" not in (folders[1].path / "scenario.yaml").read_text("utf-8")


def test_what_is_swept_may_grow_and_shrink(tmp_path: Path, make_scenario) -> None:
    prepare(tmp_path, make_scenario())  # before anything was swept
    prepare(tmp_path, make_scenario(sweep=RATES))
    grown = {"agent.learning_rate": [3e-4, 1e-3], "agent.gamma": [0.9]}
    folders = prepare(tmp_path, make_scenario(sweep=grown))
    assert [folder.label for folder in folders] == [
        "naive-learning_rate=0.0003-gamma=0.9",
        "naive-learning_rate=0.001-gamma=0.9",
    ]
    assert len(prepare(tmp_path, make_scenario())) == 1
    assert len(list(tmp_path.glob("demo/*/seed-0/scenario.yaml"))) == 5


def test_another_scenario_is_refused_at_every_point(tmp_path: Path, make_scenario) -> None:
    prepare(tmp_path, make_scenario(sweep=RATES))
    changed = make_scenario(sweep={"agent.learning_rate": [1e-4]}, n_envs=2)
    with pytest.raises(UsageError) as caught:
        prepare(tmp_path, changed)
    assert "and 1 more cells) is of a different scenario" in str(caught.value)
    changes = re.findall(r"^[-+][a-z].*", str(caught.value), re.MULTILINE)
    assert changes == ["-n_envs: 1", "+n_envs: 2"]


def test_forward_transfer_is_over_isolated_at_the_same_point(
    tmp_path: Path, make_scenario, make_scores
) -> None:
    own = {"methods.ewc.strength": [1, 10]}
    scenario = make_scenario(methods=["ewc", "isolated"], sweep=RATES | own)
    folders = prepare(tmp_path, scenario)
    # Worked out: (0.8 - 0.6) / (1 - 0.6) at one rate, (0.8 - 0.2) / (1 - 0.2) at the other.
    alone = {"learning_rate=0.0001": 60, "learning_rate=0.0003": 20}

    def level(folder: RunFolder) -> float:
        return alone[folder.info()["point"]] if "isolated" in folder.label else 80

    finish(folders, make_scores, level)
    gained = {
        method.label: method.cells[0].metrics["forward_transfer/cw"]
        for method in gather(tmp_path / "demo").methods
    }
    assert gained == pytest.approx(
        {
            "ewc-strength=1-learning_rate=0.0001": 0.5,
            "ewc-strength=10-learning_rate=0.0001": 0.5,
            "isolated-learning_rate=0.0001": 0.0,
            "ewc-strength=1-learning_rate=0.0003": 0.75,
            "ewc-strength=10-learning_rate=0.0003": 0.75,
            "isolated-learning_rate=0.0003": 0.0,
        }
    )


def test_a_report_has_a_row_for_each_point(tmp_path: Path, make_scenario, make_scores) -> None:
    scenario = make_scenario(methods=["naive", "ewc"], sweep=RATES, tuned={"ewc": "on seed 9"})
    finish(prepare(tmp_path, scenario), make_scores, lambda folder: 50)
    text = report(tmp_path / "demo").markdown
    results = text[text.index("## Results") :]
    rows = re.findall(r"^\| (\S+-learning_rate=\S+) \| 1 \| 0\.50", results, re.MULTILINE)
    assert rows[:4] == [
        f"{method}-learning_rate={rate}"
        for rate in ("0.0001", "0.0003")
        for method in ("naive", "ewc")
    ]
    assert "Tuned: ewc: on seed 9" in text
