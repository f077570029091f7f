"""Streams whose boundaries a detector finds: what methods are told, kills that change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kills import assert_unharmed, cell, silent
from safetensors.torch import load_file

from holdfast.continual.methods.regularization.ewc import EWC
from holdfast.continual.run_folder.detections import read_detections
from holdfast.continual.training.cell import run_cell

NETS = {"policy_kwargs": {"net_arch": [16]}}
PPO = {"algorithm": "ppo", "n_steps": 24, "batch_size": 16, "n_epochs": 2, **NETS}
SAC = {
    "algorithm": "sac",
    "learning_starts": 40,
    "batch_size": 16,
    "buffer_size": 150,
    "train_freq": 3,
    **NETS,
}
# Pendulum's rewards scatter by several units: this fires again and again.
OFTEN = {
    "signal": "reward",
    "page_hinkley": {"tolerance": 0.1, "threshold": 10.0},
    "cooldown": 40,
}
DYNAMICS = {"page_hinkley": {"tolerance": 0.5, "threshold": 30.0}, "cooldown": 100}


def scenario(agent: dict[str, Any], method: Any, steps: int = 160, **more: Any) -> dict[str, Any]:
    task = {"env": "Pendulum-v1", "steps": steps}
    return {
        "name": "demo",
        "tasks": [
            {"name": "a", **task, "changes": {"time_limit": 25}},
            {"name": "b", **task, "changes": {"time_limit": 25, "set": {"g": 1.0, "m": 2.0}}},
        ],
        "stream": {"task_id": "hidden", "boundaries": "detected", "repeat": 2},
        "detector": OFTEN,
        "n_envs": 2,
        "agent": agent,
        "methods": [method],
        "evaluation": {"every": 64, "episodes": 1},
        "checkpoint": {"every": 48, "keep": "all"},
        **more,
    }


METHODS: dict[str, Any] = {
    "ewc": {"ewc": {"strength": 10.0, "samples": 32}},
    "l2": "l2",
    "mas": {"mas": {"samples": 32}},
    "si": "si",
    "rwalk": "rwalk",
    "agem": {"agem": {"samples": 32, "batch_size": 8}},
}


@pytest.mark.parametrize(
    ("agent", "method"),
    [
        (PPO, "ewc"),
        pytest.param(SAC, "ewc", marks=pytest.mark.slow),
        *(pytest.param(PPO, name, marks=pytest.mark.slow) for name in METHODS if name != "ewc"),
    ],
)
def test_killed_at_random_places(
    agent: dict[str, Any], method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside slots and tasks, at detections and at boundaries."""
    data = scenario(agent, METHODS[method])
    assert_unharmed(monkeypatch, tmp_path, data, [70, 170, 280, 470, 600])
    (folder,) = (tmp_path / "killed" / "demo").glob("*/seed-*")
    assert sum(one.begun is not None for one in read_detections(folder)) >= 3


def test_a_model_of_the_dynamics_survives_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = scenario(PPO, METHODS["ewc"], steps=800, detector=DYNAMICS)
    data |= {"checkpoint": {"every": 300, "keep": "all"}, "evaluation": {"episodes": 1}}
    assert_unharmed(monkeypatch, tmp_path, data, [700, 900, 1_700])
    (folder,) = (tmp_path / "killed" / "demo").glob("*/seed-*")
    found = [one.step for one in read_detections(folder)]
    assert [step // 800 for step in found] == [1, 2, 3]  # one in each stage after the first


@pytest.mark.parametrize("agent", [PPO, SAC], ids=["ppo", "sac"])
def test_methods_are_told_of_slots_and_see_the_rows_of_each(
    agent: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int]] = []
    slots: list[tuple[int, int]] = []
    begin, end = EWC.pre_adapt, EWC.post_adapt

    def pre_adapt(method: EWC, doors: Any, experience: Any) -> None:
        told.append(("begin", experience.stage))
        begin(method, doors, experience)

    def post_adapt(method: EWC, doors: Any, experience: Any) -> None:
        rows = doors.memory.transitions(10_000, np.random.default_rng(0))
        told.append(("end", experience.stage))
        slots.append((experience.steps, len(rows["actions"])))
        end(method, doors, experience)

    monkeypatch.setattr(EWC, "pre_adapt", pre_adapt)
    monkeypatch.setattr(EWC, "post_adapt", post_adapt)
    method = {"ewc": {"strength": 10.0, "samples": 1_000}}
    folder = cell(tmp_path, scenario(agent, method, checkpoint={"every": "off"}))
    run_cell(folder, silent)
    begun = [one.begun for one in read_detections(folder.path) if one.begun is not None]
    count = len(begun) + 1
    assert count >= 4
    assert told == [(what, slot) for slot in range(count) for what in ("begin", "end")]
    lengths = np.diff([0, *begun]).tolist()
    assert [steps for steps, _ in slots[:-1]] == lengths
    # SAC's buffer has the last 150 rows of each slot; PPO's rollouts are kept whole.
    most = 150 if agent is SAC else 10_000
    assert [rows for _, rows in slots[:-1]] == [min(steps, most) for steps in lengths]
    tensors = load_file(folder.path / "checkpoints" / "task-3" / "detector.safetensors")
    assert tensors["slot"].item() == len(begun)
