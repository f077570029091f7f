"""Rewards of 1e12 and observations that never change: statistics stay finite, one warning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.training.cell import run_cell
from holdfast.scenarios.schema.scenario import Scenario

RUNNING = {"observations": "running", "rewards": "running"}

Ran = Callable[..., tuple[Path, list[str]]]


@pytest.fixture
def ran(tmp_path: Path) -> Ran:
    """Run two tasks with given changes; return the run folder and what was warned of."""

    def run(changes: dict[str, Any], **agent: Any) -> tuple[Path, list[str]]:
        world = {"env": "CartPole-v1", "steps": 64, "changes": changes}
        given = {
            "name": "odd",
            "tasks": [{"name": name, **world} for name in ("first", "second")],
            "agent": {"algorithm": "ppo", "n_steps": 32, "batch_size": 32, **agent},
            "evaluation": {"episodes": 2, "every": 32},
        }
        (folder,) = prepare(tmp_path, Scenario.model_validate(given))
        notes: list[str] = []
        run_cell(folder, lambda progress: notes.append(progress.note))
        return folder.path, [note for note in notes if note]

    return run


def all_finite(folder: Path, name: str) -> bool:
    tensors = load_file(folder / "checkpoints" / "task-1" / f"{name}.safetensors")
    return bool(tensors) and all(bool(tensor.isfinite().all()) for tensor in tensors.values())


@pytest.mark.thorough
def test_huge_rewards_are_warned_of_once(ran: Ran) -> None:
    folder, notes = ran({"reward_scale": 1e12})
    assert notes == [
        "rewards of 2 tasks are large (first: 1.0e+12 a step): scale them by agent.normalize: "
        "{rewards: running} or changes: {reward_scale: ...}"
    ]
    assert notes[0] in (folder / "log.txt").read_text()
    assert all_finite(folder, "policy")


@pytest.mark.thorough
def test_statistics_of_huge_rewards_stay_finite_and_nothing_is_warned_of(ran: Ran) -> None:
    folder, notes = ran({"reward_scale": 1e12}, normalize=RUNNING)
    assert notes == []
    assert all_finite(folder, "policy")
    assert all_finite(folder, "normalization")
    kept = load_file(folder / "checkpoints" / "task-1" / "normalization.safetensors")
    assert float(kept["rewards/var"]) > 1e22


@pytest.mark.thorough
def test_statistics_of_constant_observations_stay_finite_and_are_warned_of_once(ran: Ran) -> None:
    folder, notes = ran({"observation_mask": [0, 1, 2, 3]}, normalize=RUNNING)
    assert notes == [
        "observations of 2 tasks never change (first): its policy cannot depend on them"
    ]
    assert all_finite(folder, "policy")
    assert all_finite(folder, "normalization")


@pytest.mark.thorough
def test_usual_signals_are_not_warned_of(ran: Ran) -> None:
    assert ran({"observation_mask": [0, 1, 2]})[1] == []
