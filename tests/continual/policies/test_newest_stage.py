"""The newest checkpoint is meant: whoever reads is never given an older one in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import run_all
from game_runs import games

from holdfast.continual.jobs.run_handle import open_run
from holdfast.continual.kinds.single import frozen_player
from holdfast.continual.policies.restore import initial_files
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.tools.cross_play import cross_play
from holdfast.continual.tools.export import export
from holdfast.continual.tools.measure import Plan, measure
from holdfast.continual.tools.video import scenes
from holdfast.continual.training.cell import run_cell
from holdfast.errors import CheckpointUnusable, UsageError
from holdfast.scenarios.schema.opponents import OpponentSpec
from holdfast.scenarios.schema.scenario import Scenario


def _flip(newest: Path) -> None:
    content = bytearray((newest / "policy.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "policy.safetensors").write_bytes(bytes(content))


def _lose(name: str) -> Callable[[Path], None]:
    return lambda newest: (newest / name).unlink()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a bit of the policy": _flip,
    "no manifest": _lose("MANIFEST.json"),
    "no state": _lose("state.json"),
    "no policy": _lose("policy.safetensors"),
    "no folder": shutil.rmtree,
}


def _init(folder: RunFolder) -> Any:
    given = folder.scenario.model_dump()
    given["agent"] = {**given["agent"], "init": str(folder.path)}
    return initial_files(Scenario.model_validate(given))


READERS: dict[str, Callable[[RunFolder], Any]] = {
    "agent": lambda folder: open_run(folder.path).agent(),
    "eval": lambda folder: measure(folder.path, Plan(episodes=1)),
    "export": lambda folder: next(export(folder.path, "torch-export")),
    "init": _init,
}


@pytest.fixture
def finished(run: Any) -> RunFolder:
    folder: RunFolder = run(tasks=2, steps=64)
    return RunFolder(folder.path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_readers_refuse_a_damaged_newest_one(damage: str, finished: RunFolder) -> None:
    newest = finished.path / "checkpoints" / "task-1"
    DAMAGES[damage](newest)
    for reader in READERS.values():
        with pytest.raises(CheckpointUnusable) as refused:
            reader(finished)
        assert refused.value.exit_code == 5
        assert str(newest) in str(refused.value)
        assert "asked for by its stage; there are: 0" in str(refused.value)
    if damage == "no folder":
        with pytest.raises(CheckpointUnusable, match="task-1 is missing"):
            scenes(finished)


def test_an_older_one_is_had_by_its_number_and_said(finished: RunFolder) -> None:
    _flip(finished.path / "checkpoints" / "task-1")
    made = measure(finished.path, Plan(episodes=1, stage=0))
    assert "after stage 0" in made.setting
    opened = open_run(finished.path)
    agent: Any = opened.agent(stage=0)
    weights = agent._agent.policy.state_dict()
    files = _files(finished.path / "checkpoints" / "task-0")
    assert all(torch.equal(weights[name], files[name]) for name in weights)
    with pytest.raises(UsageError, match="no checkpoint of stage 7; there are: 0, 1"):
        opened.agent(stage=7)


def _files(stage: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(stage / "policy.safetensors")


def test_an_unfinished_run_knows_its_stages_by_run_json_or_by_its_scores(
    finished: RunFolder,
) -> None:
    finished.update(status="stopped")
    shutil.rmtree(finished.path / "checkpoints" / "task-1")
    with pytest.raises(CheckpointUnusable, match="has finished stage 1"):
        measure(finished.path, Plan(episodes=1))
    finished.update(stages=1)
    assert "after stage 0" in measure(finished.path, Plan(episodes=1)).setting
    # A folder of an older version: scores after the end of stage 0 say that it has ended.
    info = finished.info()
    del info["stages"]
    (finished.path / "run.json").write_text(json.dumps(info), "utf-8")
    assert "after stage 0" in measure(finished.path, Plan(episodes=1)).setting
    shutil.rmtree(finished.path / "checkpoints")
    with pytest.raises(CheckpointUnusable, match="has finished stage 0"):
        measure(finished.path, Plan(episodes=1))


@pytest.mark.thorough
@pytest.mark.parametrize("damage", ["a bit of the policy", "no manifest", "no folder"])
def test_a_run_alone_goes_on_from_the_older_and_writes_it_down(
    damage: str, run: Any, weights: Any
) -> None:
    straight, folder = run(tasks=2, steps=64, runs="a"), run(tasks=2, steps=64, runs="b")
    DAMAGES[damage](folder.path / "checkpoints" / "task-1")
    folder.update(status="failed")
    notes: list[str] = []
    run_cell(folder, lambda progress: notes.append(progress.note))
    written = folder.info().get("fallbacks", [])
    assert [one["to_stage"] for one in written] == [0]
    assert "task-1" in written[0]["damage"][0]
    (told,) = filter(None, notes)
    assert "task-1" in told
    assert told.endswith("fell back to the end of stage 0")
    assert folder.info()["stages"] == 2
    ended, expected = weights(folder), weights(straight)
    assert all(torch.equal(ended[name], expected[name]) for name in expected)


def test_a_cell_killed_after_its_last_checkpoint_is_finished_with_its_costs(run: Any) -> None:
    folder = run(tasks=1, steps=64)
    known = folder.info()
    folder.update(status="running", parameters=None, stored_bytes=None)
    run_cell(folder, lambda progress: None)
    assert folder.info()["status"] == "finished"
    for name in ("parameters", "stored_bytes", "wall_s", "steps_per_s"):
        assert folder.info()[name] == known[name]


@pytest.mark.thorough
def test_opponents_and_cross_play_refuse_it_too(tmp_path: Path) -> None:
    (folder,) = run_all(games(tmp_path, "random"), tmp_path / "runs")
    _flip(folder.path / "checkpoints" / "task-1")
    with pytest.raises(CheckpointUnusable, match=r"policy\.safetensors: its hash differs"):
        frozen_player(OpponentSpec(run=str(folder.path)), None)
    assert frozen_player(OpponentSpec(run=str(folder.path), stage=0), None)
    with pytest.raises(CheckpointUnusable, match=r"policy\.safetensors: its hash differs"):
        cross_play(folder.path)
    (folder.path / "checkpoints" / "task-1" / "MANIFEST.json").unlink()
    with pytest.raises(CheckpointUnusable, match=r"MANIFEST\.json"):
        frozen_player(OpponentSpec(run=str(folder.path)), None)


@pytest.mark.thorough
def test_what_a_method_stores_of_outputs_is_not_taken_for_weights(tmp_path: Path) -> None:
    """The policy has a weight called ``log_std``, and says one for each stored observation."""
    tasks = [{"name": name, "env": "Pendulum-v1", "steps": 32} for name in ("first", "second")]
    agent = {"algorithm": "ppo", "n_steps": 16, "batch_size": 16}
    method = {"cloning": {"samples": 8}}
    given = {"name": "swing", "tasks": tasks, "agent": agent, "methods": [method], "seeds": [0]}
    made = Scenario.model_validate(given | {"evaluation": {"episodes": 1}})
    (cell,) = run_all(made, tmp_path)
    trained = open_run(cell.path).agent("first", stage=0)
    assert trained.act(np.array([1.0, 0.0, 0.0], np.float32)).shape == (1,)
