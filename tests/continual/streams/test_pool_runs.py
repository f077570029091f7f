"""Runs whose training environments are in worker processes, and in those of another interpreter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.training.cell import run_cell
from holdfast.errors import EnvironmentFailed
from holdfast.scenarios.schema.scenario import Scenario

WORLDS = Path(__file__).parents[2] / "envs"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["naive", "joint"])
def test_workers_change_no_number(run, weights, method):
    plain = run(method=method, tasks=2, runs="plain")
    pooled = run(method=method, tasks=2, runs="pooled", pool={"workers": 2})
    assert pooled.scores() == plain.scores()
    assert len(plain.scores()) > 0
    one, two = weights(plain), weights(pooled)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not list(pooled.path.glob("environment_failures*"))


def odd_scenario(once, restarts=5):
    kwargs = {"fault": "raise", "at": 20}
    task = {"name": "odd", "env": "odd_worlds:Coded", "steps": 128}
    task["kwargs"] = kwargs if once is None else {**kwargs, "once": str(once)}
    scenario = Scenario.model_validate(
        {
            "name": "odd",
            "tasks": [task],
            "agent": {"algorithm": "ppo", "n_steps": 32, "batch_size": 32},
            "n_envs": 2,
            "pool": {"workers": 2, "restarts": restarts},
            "evaluation": {"episodes": 1},
        }
    )
    scenario._folder = WORLDS
    return scenario


@pytest.mark.thorough
def test_a_crash_is_written_down_and_the_run_goes_on(tmp_path):
    notes = []
    (folder,) = prepare(tmp_path, odd_scenario(tmp_path / "once"))
    run_cell(folder, lambda progress: notes.append(progress.note))
    assert folder.info()["status"] == "finished"
    lines = (folder.path / "environment_failures.jsonl").read_text().splitlines()
    (record,) = map(json.loads, lines)
    assert (record["what"], record["place"], record["restarts"]) == ("raised", "step", 0)
    assert "ValueError: boom" in record["traceback"]
    (told,) = [note for note in notes if "boom" in note]
    assert told.endswith("environment_failures.jsonl")
    board = EventAccumulator(str(folder.path / "tb")).Reload()
    assert [event.value for event in board.Scalars("system/env_restarts")] == [1.0]


@pytest.mark.thorough
def test_too_many_crashes_fail_the_run_with_the_environments_own_words(tmp_path):
    (folder,) = prepare(tmp_path, odd_scenario(None, restarts=1))
    with pytest.raises(EnvironmentFailed, match="given up after 1 restarts"):
        run_cell(folder, lambda _: None)
    assert "ValueError: boom" in folder.info()["reason"]
    assert len((folder.path / "environment_failures.jsonl").read_text().splitlines()) == 2


def test_a_cell_may_go_on_with_another_pool(tmp_path):
    first = odd_scenario(None)
    (folder,) = prepare(tmp_path, first)
    again = first.model_copy(update={"pool": first.pool.model_copy(update={"workers": 1})})
    assert [cell.path for cell in prepare(tmp_path, again)] == [folder.path]


@pytest.mark.thorough
@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_another_interpreter_changes_no_number(tmp_path, other_python, workers):
    def scores(name, **keys):
        given = {
            "name": name,
            "tasks": [{"name": "t0", "env": "CartPole-v1", "steps": 64, **keys}],
            "agent": {"algorithm": "ppo", "n_steps": 16, "batch_size": 32},
            "n_envs": 2,
            "pool": {"workers": workers},
            "evaluation": {"episodes": 2},
        }
        (folder,) = prepare(tmp_path, Scenario.model_validate(given))
        run_cell(folder, lambda _: None)
        return folder.scores()

    assert scores("there", python=str(other_python)) == scores("here")
