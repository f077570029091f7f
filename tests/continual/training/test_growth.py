"""What grows beyond the memory stops the run at the task that breaks the limit, and not before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.training import memory_budget
from holdfast.continual.training.cell import run_cell
from holdfast.continual.training.memory_budget import check_growth
from holdfast.errors import UsageError

Run = Callable[..., RunFolder]


@pytest.mark.parametrize(
    ("kept", "stages", "warning"),
    [
        ([90], 5, ""),  # one task says nothing about growth
        ([90, 90], 5, ""),
        ([90, 80], 5, ""),
        ([10, 20], 10, ""),  # 20 + 8 x 10 = 100
        ([10, 20], 11, "task 11 of 11 will not fit"),
        ([10, 60, 95], 3, ""),  # it was the last
    ],
)
def test_growth_by_hand(kept: list[int], stages: int, warning: str) -> None:
    assert check_growth(kept, stages, memory=100).endswith(warning)
    assert bool(check_growth(kept, stages, memory=100)) == bool(warning)


def test_the_next_task_does_not_fit() -> None:
    with pytest.raises(UsageError, match=r"task 3 of 5 does not fit into 100 B"):
        check_growth([40, 80], 5, memory=100)


@pytest.mark.slow
def test_a_run_that_outgrows_the_memory_can_go_on_where_there_is_more(
    run: Run, weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = run("ppo", "cloning", tasks=4)
    told: list[Any] = []
    monkeypatch.setattr(memory_budget, "memory_bytes", lambda: 70_000)
    with pytest.raises(UsageError, match=r"keep .* after \d tasks and grow by .* does not fit"):
        run("ppo", "cloning", tasks=4, runs="small", tell=told.append)
    folder = RunFolder(straight.path.parents[3] / "small" / "small" / "cloning" / "seed-0")
    info = folder.info()
    assert info["status"] == "failed"
    assert "does not fit into 70.0 kB" in info["reason"]
    done = len(list((folder.path / "checkpoints").iterdir()))
    assert 2 <= done < 4

    monkeypatch.undo()
    run_cell(folder, lambda progress: None)
    assert folder.info()["status"] == "finished"
    assert folder.scores() == straight.scores()
    first, second = weights(straight), weights(folder)
    assert all(torch.equal(first[name], second[name]) for name in first)
