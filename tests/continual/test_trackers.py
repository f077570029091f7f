"""Trackers: what is read back from each is what scores.jsonl holds, and none costs a run."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from kills import Kills, silent

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.training import trackers
from holdfast.continual.training.cell import run_cell
from holdfast.errors import ScenarioError
from holdfast.scenarios.checks import backend
from holdfast.scenarios.load import load
from holdfast.scenarios.schema.scenario import Scenario

Returns = dict[tuple[str, int], float]
"""Mean return by tag and step."""

GIVEN = {
    "name": "demo",
    "tasks": [{"name": name, "env": "CartPole-v1", "steps": 64} for name in ("a", "b")],
    "agent": {"algorithm": "ppo", "n_steps": 16, "batch_size": 16, "n_epochs": 1},
    "methods": [{"l2": {"strength": 0.1}}],
    "evaluation": {"every": 32, "episodes": 2},
    "checkpoint": {"every": 32},
}


def cell(runs: Path, track: Any) -> RunFolder:
    (folder,) = prepare(runs, Scenario.model_validate(GIVEN | {"track": track}))
    return folder


def recorded(folder: RunFolder) -> Returns:
    """Return what ``scores.jsonl`` holds, as TensorBoard and trackers name it."""
    points = defaultdict(list)
    numbers = {task.name: index for index, task in enumerate(folder.scenario.tasks)}
    for score in folder.scores():
        tag = f"task/{numbers[score['task']]}_{score['task']}/return"
        points[tag, score["step"]].append(score["return"])
    return {key: fmean(values) for key, values in points.items()}


def of_returns(rows: Any) -> Returns:
    return {(t, s): v for t, s, v in rows if t.startswith("task/") and t.endswith("/return")}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith(("WANDB", "MLFLOW", "TRACKIO")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", "/nowhere")


# -- reading back ----------------------------------------------------------------------------------


def records(path: Path) -> Iterator[Any]:
    """Yield the records of W&B's own file: LevelDB's log format, of protocol buffers."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block has no room for a header
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def from_wandb(runs: Path) -> tuple[Returns, set[tuple[str, str, str]]]:
    rows, named = [], set()
    for path in sorted(runs.glob("tracking/wandb/wandb/offline-run-*/run-*.wandb")):
        for record in records(path):
            if record.HasField("run"):
                run = record.run
                named.add((run.project, run.run_group, run.display_name))
            if record.HasField("history"):
                found = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                rows += [(tag, found["step"], value) for tag, value in found.items()]
    return of_returns(rows), named


def from_mlflow(runs: Path) -> tuple[Returns, set[tuple[str, str, str]]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=(runs / "tracking" / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("demo")
    rows, named = [], set()
    for run in client.search_runs([experiment.experiment_id]):
        named.add(("demo", run.data.tags["method"], run.info.run_name))
        assert run.info.status == "FINISHED"
        assert run.data.params["agent.n_steps"] == "16"
        for tag in run.data.metrics:
            found = client.get_metric_history(run.info.run_id, tag)
            rows += [(tag, metric.step, metric.value) for metric in found]
    return of_returns(rows), named


_SQL = "SELECT run_name, step, metrics FROM metrics"


def from_trackio(runs: Path) -> tuple[Returns, set[tuple[str, str, str]]]:
    import sqlite3

    (database,) = (runs / "tracking" / "trackio").glob("demo*.db")
    rows, named = [], set()
    with sqlite3.connect(database) as connection:
        for name, step, metrics in connection.execute(
            "SELECT run_name, step, metrics FROM metrics"
        ):
            named.add(("demo", "l2", name.rpartition("-")[0]))
            rows += [(tag, step, value) for tag, value in json.loads(metrics).items()]
    return of_returns(rows), named


READERS: dict[str, Callable[[Path], tuple[Returns, set[tuple[str, str, str]]]]] = {
    "wandb": from_wandb,
    "mlflow": from_mlflow,
    "trackio": from_trackio,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of packages that are not ours
@pytest.mark.parametrize("name", READERS)
def test_what_is_read_back_is_what_was_recorded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that was killed inside its second task, too: it goes on in the tracker's own run."""
    if find_spec(name) is None:  # not imported here: trackio reads its settings then
        pytest.skip(f"{name} is not installed")
    folder = cell(tmp_path, name)
    kills = Kills(monkeypatch, [100])
    kills.run(folder)
    returns, named = READERS[name](tmp_path)
    wanted = recorded(folder)
    assert len(wanted) == 2 * 5  # tasks; before, two inside, two boundaries
    assert returns.keys() == wanted.keys()
    for key, value in wanted.items():
        assert returns[key] == pytest.approx(value, rel=1e-6), key
    assert named == {("demo", "l2", "l2/seed-0")}
    assert set(folder.info()["track"]) == {name}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_trackers_change_no_number(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    plain, tracked = cell(tmp_path / "plain", ()), cell(tmp_path / "tracked", ["wandb"])
    for folder in (plain, tracked):
        run_cell(folder, silent)
    assert plain.scores() == tracked.scores()
    policy = "checkpoints/task-1/policy.safetensors"
    assert (plain.path / policy).read_bytes() == (tracked.path / policy).read_bytes()
    assert not list(tracked.path.glob("*wandb*"))


# -- what goes wrong -------------------------------------------------------------------------------


class Failing:
    """A tracker whose server goes away."""

    def __init__(self, folder: RunFolder, own: str, tell: Callable[[str], None]) -> None:
        self.calls = 0

    def log(self, scalars: Any, step: int) -> None:
        self.calls += 1
        sys.stdout.write("noise")
        if self.calls == 3:
            raise ConnectionError("the server is gone")

    def finish(self, *, is_finished: bool) -> None:
        raise AssertionError("it was left alone")


@pytest.mark.thorough
def test_a_server_that_goes_away_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(trackers._TRACKERS, "wandb", Failing)
    folder, notes = cell(tmp_path, "wandb"), []
    run_cell(folder, lambda progress: notes.append(progress.note))
    assert folder.info()["status"] == "finished"
    told = [note for note in notes if note]
    assert told == ["wandb takes no more (ConnectionError: the server is gone); the run goes on"]
    assert "noise" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_server_that_does_not_answer_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    folder, notes = cell(tmp_path, "mlflow"), []
    run_cell(folder, lambda progress: notes.append(progress.note))
    assert folder.info()["status"] == "finished"
    assert [note for note in notes if note.startswith("mlflow takes no more")]


def test_a_missing_package_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    path = tmp_path / "own.yaml"
    path.write_text("tasks: [{name: a, env: CartPole-v1, steps: 64}]\nagent: {algorithm: ppo}\n"
                    "track: [trackio]\n")  # fmt: skip
    with pytest.raises(ScenarioError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert problem.message.startswith('trackio needs its package: pip install "holdfast[trackio]"')
    assert problem.line == 3


@pytest.mark.parametrize("given", ["wandbb", "[wandb, neptune]", "3"])
def test_only_trackers_are_taken(given: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    head = "tasks: [{name: a, env: CartPole-v1, steps: 64}]\nagent: {algorithm: ppo}\n"
    path.write_text(f"{head}track: {given}\n", "utf-8")
    with pytest.raises(ScenarioError) as caught:
        load(path)
    assert [problem.path.partition("[")[0] for problem in caught.value.problems] == ["track"]


@pytest.mark.thorough
def test_a_run_goes_on_with_another_tracker_or_none(tmp_path: Path) -> None:
    folder = cell(tmp_path, ())
    run_cell(folder, silent)
    again = cell(tmp_path, ["wandb"])  # not refused as another scenario
    assert again.path == folder.path
    assert "track" not in Scenario.model_validate(GIVEN).to_yaml()
