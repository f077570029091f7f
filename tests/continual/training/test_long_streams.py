"""A stream of many short tasks: what is measured, logged, opened and kept is bounded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cells import finish, interrupting
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.reports.report import report
from holdfast.continual.results.curves import curves
from holdfast.continual.results.metrics import summary
from holdfast.continual.streams import task_stream
from holdfast.continual.streams.rotation import Rotation
from holdfast.continual.training.cell import run_cell
from holdfast.scenarios.schema.scenario import Scenario

TASKS = 40
BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "long_streams.py"


@pytest.fixture
def scenario() -> Scenario:
    return Scenario.model_validate(
        {
            "name": "long",
            "tasks": [
                {
                    "name": f"t{number}",
                    "env": "CartPole-v1",
                    "steps": 16,
                    "changes": {"set": {"length": 0.3 + 0.01 * number}, "time_limit": 10},
                }
                for number in range(TASKS)
            ],
            "agent": {
                "algorithm": "ppo",
                "n_steps": 16,
                "batch_size": 16,
                "n_epochs": 1,
                "policy_kwargs": {"net_arch": [8]},
            },
            "methods": ["ewc"],
            "score": {"random": 0.0, "reference": 10.0},
            "evaluation": {"episodes": 1, "tasks": {"sample": 3}},
        }
    )


@pytest.mark.slow
def test_many_tasks_are_measured_by_turns_with_few_open_and_nothing_drawn(
    scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_open, most = set[int](), [0]
    published = task_stream.EvalExperience.close

    def opened(self: Any, experience: Any) -> None:
        open_now(self, experience)
        is_open.add(experience.task_index)
        most[0] = max(most[0], len(is_open))

    def closed(self: Any) -> None:
        published(self)
        is_open.discard(self.task_index)

    open_now = task_stream.OpenTasks.opened
    monkeypatch.setattr(task_stream, "MOST_OPEN", 8)
    monkeypatch.setattr(task_stream.OpenTasks, "opened", opened)
    monkeypatch.setattr(task_stream.EvalExperience, "close", closed)
    (folder,) = prepare(tmp_path, scenario)
    run_cell(folder, lambda progress: None)
    rotation, measured = Rotation(folder.scenario, 0), dict[int, set[str]]()
    for episode in folder.scores():
        measured.setdefault(episode["stage"], set()).add(episode["task"])
    expected = [{f"t{i}" for i in rotation.at(stage, 16 * stage)} for stage in range(TASKS + 1)]
    assert [measured[stage] for stage in range(TASKS + 1)] == expected
    assert most[0] <= 9  # one more while it is opened
    events = EventAccumulator(str(folder.path / "tb")).Reload()
    assert events.Tags()["images"] == []
    assert len(events.Scalars("continual/average_performance")) > TASKS // 2
    assert sum(file.stat().st_size for file in (folder.path / "tb").iterdir()) < 200_000
    found = summary(curves(folder.scores(), folder.scenario))
    assert 0 < found["average_performance/cw"] <= 1  # all are known at the end
    assert found["forgetting/cw"] == found["forgetting/cw"]
    names = {path.name for path in (folder.path / "checkpoints" / "task-5").iterdir()}
    assert names == {"MANIFEST.json", "state.json", "dropped.json", "policy.safetensors"}


@pytest.mark.slow
def test_fault_47_by_default_little_is_drawn_and_old_stages_keep_their_policies(
    scenario: Scenario, tmp_path: Path
) -> None:
    given = scenario.model_dump() | {"evaluation": {"episodes": 1, "tasks": "seen"}}
    given["tasks"] = given["tasks"][:32]
    (folder,) = prepare(tmp_path, Scenario.model_validate(given))
    run_cell(folder, lambda progress: None)
    events = EventAccumulator(str(folder.path / "tb")).Reload()
    assert events.Tags()["images"] == []
    assert sum(file.stat().st_size for file in (folder.path / "tb").iterdir()) < 600_000
    old, newest = (folder.path / "checkpoints" / f"task-{n}" for n in (5, 31))
    assert sorted(path.name for path in old.glob("*.safetensors")) == ["policy.safetensors"]
    assert len([*newest.glob("*.safetensors")]) > 1


@pytest.mark.thorough
def test_a_run_that_is_continued_measures_what_it_would_have(
    scenario: Scenario, tmp_path: Path
) -> None:
    short = scenario.model_copy(update={"tasks": scenario.tasks[:8]})
    (straight,) = prepare(tmp_path / "straight", short)
    run_cell(straight, lambda progress: None)
    (cut,) = prepare(tmp_path / "cut", short)
    assert finish(cut, interrupting(40, 90)) == 3
    assert cut.scores() == straight.scores()


@pytest.mark.slow
def test_the_report_says_how_many_points_stand_behind_a_number(
    scenario: Scenario, tmp_path: Path
) -> None:
    plan = scenario.evaluation.model_copy(update={"every": 8})
    tasks = tuple(task.model_copy(update={"steps": 160}) for task in scenario.tasks[:6])
    short = scenario.model_copy(update={"tasks": tasks, "evaluation": plan})
    (folder,) = prepare(tmp_path, short)
    run_cell(folder, lambda progress: None)
    made = report(tmp_path / "long")
    assert "1 episode of 3 tasks by turns, and of all at the end of the stream" in made.markdown
    assert "Tasks took turns in being measured" in made.markdown
    lines = (tmp_path / "long" / "report.csv").read_text().splitlines()
    points = [line.split(",") for line in lines if ",points," in line]
    assert len(points) == 6
    assert {line[3] for line in points} == {f"t{i}" for i in range(6)}
    assert {int(line[6]) for line in points} == {1, 2}
    assert (
        sum(int(line[6]) for line in points) == 6 + 3
    )  # a window of two: all at the end, three inside


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ewc", "cloning", "packnet"])
def test_the_rest_is_below_a_quarter_and_grows_linearly(method: str, tmp_path: Path) -> None:
    sizes = ["--tasks", "120", "--runs", str(tmp_path), "--cell", method, "sample"]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *sizes], check=True, stdout=subprocess.PIPE, text=True
    )
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["share"] < 0.25
    assert row["growth"] < 1.6
    assert row["disk_mb"] < 40
