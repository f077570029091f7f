"""The streams of shifted sensors: what each seed draws, and that methods of a seed share it."""

from __future__ import annotations

from typing import Any

import numpy as np

from holdfast.scenarios.load import load


def offsets(name: str, seed: int) -> list[Any]:
    scenario = load(name, [f"seeds=[{seed}]"])
    drawn = [scenario.only(cell).tasks for cell in scenario.cells()]
    assert all(tasks == drawn[0] for tasks in drawn)  # the same for every method
    first, *others = [task.changes for task in drawn[0]]
    assert first.observation_offset is None
    assert first == others[0].model_copy(update={"observation_offset": None})
    return [change.observation_offset for change in others]


def test_the_first_task_is_plain_and_every_seed_shifts_the_others_its_own_way() -> None:
    found = np.array([offsets("continual-control", seed) for seed in range(10)])
    assert found.shape == (10, 4, 4)  # seeds, shifted tasks, entries of CartPole
    assert len(np.unique(found)) == found.size
    assert abs(found.mean()) < 4 * 2 / np.sqrt(found.size)
    assert abs(found.std() - 2) < 4 * 2 / np.sqrt(2 * found.size)


def test_its_tuning_is_of_the_same_stream_and_agent() -> None:
    shipped, tuning = load("continual-control"), load("continual-control-tuning")
    for key in ("tasks", "stream", "carry", "agent", "n_envs", "evaluation", "score"):
        assert getattr(shipped, key) == getattr(tuning, key), key
    assert set(tuning.seeds).isdisjoint(range(10))
