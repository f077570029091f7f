"""Streams whose boundaries a detector finds: what methods are told, kills that change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kills import assert_unharmed, cell, silent
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from holdfast.agents.detection.detector import Detector
from holdfast.continual.methods.regularization.ewc import EWC
from holdfast.continual.reports.stream_report import detection_sections
from holdfast.continual.results.document import Table
from holdfast.continual.results.study import gather
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
    "cloning": {"cloning": {"samples": 32, "batch_size": 8}},
}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("agent", "method"),
    [
        (PPO, "ewc"),
        pytest.param(SAC, "ewc", marks=pytest.mark.slow),
        pytest.param(SAC, "cloning", marks=pytest.mark.slow),
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


@pytest.mark.slow
def test_a_model_of_the_dynamics_survives_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = scenario(PPO, METHODS["ewc"], steps=800, detector=DYNAMICS)
    data |= {"checkpoint": {"every": 300, "keep": "all"}, "evaluation": {"episodes": 1}}
    assert_unharmed(monkeypatch, tmp_path, data, [700, 900, 1_700])
    (folder,) = (tmp_path / "killed" / "demo").glob("*/seed-*")
    found = [one.step for one in read_detections(folder)]
    assert [step // 800 for step in found] == [1, 2, 3]  # one in each stage after the first
    (section,) = detection_sections(gather(folder))
    table = section.blocks[1]
    assert isinstance(table, Table)
    delays = [step % 800 for step in found]
    told = ["ewc", "3", "0", "0", *[f"{np.median(delays):,.0f}"] * 2]
    assert [cell.text for cell in table.rows[0]] == told
    view = EventAccumulator(str(folder / "tb")).Reload()
    names = ("false_alarms", "missed", "median_delay")
    last = [view.Scalars(f"detector/{name}")[-1].value for name in names]
    assert last == [0.0, 0.0, np.median(delays)]
    assert [point.value for point in view.Scalars("detector/slot")] == [1.0, 2.0, 3.0]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "kills",
    [[1_900], pytest.param([700, 1_100, 1_750, 2_300], marks=pytest.mark.slow)],
    ids=["one", "many"],
)
def test_a_slot_that_comes_again_survives_kills(
    kills: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Methods keep what is of its newest visit; the evaluation knows that it was recognised."""
    data = comes_again(PPO, METHODS["cloning"])
    assert_unharmed(monkeypatch, tmp_path, data, kills)
    (folder,) = (tmp_path / "killed" / "demo").glob("*/seed-*")
    found = read_detections(folder)
    assert [one.step // 800 for one in found] == [1, 2]
    assert [one.slot for one in found] == [1, 0]
    kept = load_file(folder / "checkpoints" / "task-2" / "method-0.safetensors")
    assert kept["slots"].tolist() == [1, 0]
    assert kept["dropped"].item() == 2  # as many blocks were numbered again
    (section,) = detection_sections(gather(folder))
    table = section.blocks[1]
    assert isinstance(table, Table)
    assert [cell.text for cell in table.rows[0][-3:]] == ["1", "1", "0"]
    view = EventAccumulator(str(folder / "tb")).Reload()
    assert [point.value for point in view.Scalars("detector/slot")] == [1.0, 0.0]
    assert [point.value for point in view.Scalars("detector/recognised")] == [1.0]
    assert [point.value for point in view.Scalars("detector/false_recognitions")][-1] == 0.0


def comes_again(agent: dict[str, Any], method: Any) -> dict[str, Any]:
    """Return a scenario of a world, another, and the first again."""
    test = {"tolerance": 0.5, "threshold": 100.0}
    detector = {"page_hinkley": test, "cooldown": 100, "recurring": True}
    data = scenario(agent, method, steps=800, detector=detector)
    data["stream"] = {"task_id": "hidden", "boundaries": "detected", "order": ["a", "b", "a"]}
    return data | {"checkpoint": {"every": 200, "keep": "all"}, "evaluation": {"episodes": 1}}


@pytest.mark.slow
def test_replay_of_a_slot_that_comes_again_survives_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = comes_again(SAC, {"replay": {"samples": 64}})
    assert_unharmed(monkeypatch, tmp_path, data, [1_100, 1_750, 2_300])
    (folder,) = (tmp_path / "killed" / "demo").glob("*/seed-*")
    assert [one.slot for one in read_detections(folder)] == [1, 0]
    kept = load_file(folder / "checkpoints" / "task-2" / "method-0.safetensors")
    assert kept["choice/slots"].tolist() == [1, 0]
    assert kept["choice/ends"].tolist() == [64, 128]


@pytest.mark.thorough
@pytest.mark.parametrize("agent", [PPO, SAC], ids=["ppo", "sac"])
def test_methods_are_told_of_slots_and_see_the_rows_of_each(
    agent: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int]] = []
    slots: list[tuple[int, int]] = []
    changes: list[int] = []
    begin, end, begin_slot = EWC.pre_adapt, EWC.post_adapt, Detector.begin_slot

    def pre_adapt(method: EWC, doors: Any, experience: Any) -> None:
        told.append(("begin", experience.stage))
        begin(method, doors, experience)

    def post_adapt(method: EWC, doors: Any, experience: Any) -> None:
        rows = doors.memory.transitions(10_000, np.random.default_rng(0))
        told.append(("end", experience.stage))
        slots.append((experience.steps, len(rows["actions"])))
        end(method, doors, experience)

    def noted(detector: Detector) -> None:
        changes.append(detector.changed)
        begin_slot(detector)

    monkeypatch.setattr(Detector, "begin_slot", noted)
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
    assert [rows for _, rows in slots[:-1]] == [
        _rows_before(change, start, end, agent)
        for change, start, end in zip(changes, [0, *begun], begun, strict=False)
    ]
    tensors = load_file(folder.path / "checkpoints" / "task-3" / "detector.safetensors")
    assert tensors["slot"].item() == len(begun)


def _rows_before(change: int, start: int, end: int, agent: dict[str, Any]) -> int:
    """Return how many rows of a slot a method may see: those from before the change, if any are.

    SAC's buffer has the last 150 rows of each slot; PPO's rollouts are whole ones of 24 steps of
    two environments, the newest at least until the change.
    """
    if agent is SAC:
        kept, late = min(end - start, 150), (end - change) // 2 * 2  # of two environments
        return kept - late if late < kept else kept
    ends = range(start + 48, end + 1, 48)
    return 48 * max(1, sum(last <= change for last in ends))


TAKEN: dict[str, list[Any]] = {
    "ppo": [
        *METHODS.values(),
        {"gem": {"samples": 32, "batch_size": 8}},
        {"pcgrad": {"samples": 32, "batch_size": 8}},
        "distillation",
        {"clear": {"samples": 64}},
        {"redo": {"period": 7, "samples": 8}},
        "parseval",
        "l2-init",
        {"continual-backprop": {"maturity": 5, "samples": 8}},
        "naive",
    ],
    "sac": [
        {"replay": {"samples": 64}},
        {"er-ace": {"samples": 32}},
        {"agem": {"samples": 32, "batch_size": 8}},
        ["si", {"redo": {"period": 7, "samples": 8}}],
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method"), [(name, method) for name, methods in TAKEN.items() for method in methods]
)
def test_every_method_that_is_taken_lives_over_slots(
    name: str, method: Any, tmp_path: Path
) -> None:
    agent = {"ppo": PPO, "sac": SAC}[name]
    folder = cell(tmp_path, scenario(agent, method, checkpoint={"every": "off"}))
    run_cell(folder, silent)
    assert folder.info()["status"] == "finished"
    assert sum(one.begun is not None for one in read_detections(folder.path)) >= 3


@pytest.mark.thorough
def test_a_line_says_that_no_more_is_looked_for(tmp_path: Path) -> None:
    notes: list[str] = []
    data = scenario(PPO, "naive", detector={**OFTEN, "most": 2}, checkpoint={"every": "off"})
    folder = cell(tmp_path, data)
    run_cell(folder, lambda progress: notes.append(progress.note))
    told = [note for note in notes if "was detected" in note]
    first, second = (one.step for one in read_detections(folder.path))
    assert told == [
        f"a change was detected at step {first}",
        f"a change was detected at step {second}; detector.most: 2 ends the search here",
    ]
