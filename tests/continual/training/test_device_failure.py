"""A device that is absent, full or lost: said with sizes and the mend; the run goes on later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.agents.base.device import device_of
from holdfast.continual.jobs.run import run_cells
from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.results.failure import Failure
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.training.cell import run_cell
from holdfast.errors import UsageError
from holdfast.scenarios.schema.scenario import Scenario

FULL = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.89 GiB of "
    "which 1.20 GiB is free."
)
LOST = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_and_auto_does_without() -> None:
    with pytest.raises(UsageError, match=r"cuda was asked for and torch sees none; write cpu or a"):
        device_of("cuda")
    assert device_of("auto") == torch.device("cpu")
    assert device_of("cpu") == torch.device("cpu")


def test_a_gpu_beyond_those_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match=r"cuda:2 was asked for and torch sees 2, from cuda:0 on"):
        device_of("cuda:2")
    assert device_of("cuda:1") == torch.device("cuda:1")
    assert device_of("auto") == torch.device("cuda")


@pytest.fixture
def cell(tmp_path: Path) -> RunFolder:
    tasks = [{"name": name, "env": "CartPole-v1", "steps": 64} for name in ("first", "second")]
    given = {
        "name": "device",
        "tasks": tasks,
        "agent": {"algorithm": "ppo", "n_steps": 32, "batch_size": 32},
        "evaluation": {"episodes": 1},
    }
    (folder,) = prepare(tmp_path, Scenario.model_validate(given))
    return folder


def failing_in_the_second_task(
    monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception]
) -> None:
    """Make Adam's step raise inside the second task's updates, as a kernel would."""
    published, count = torch.optim.Adam.step, 0

    def step(self: Any, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == 25:  # two rollouts of ten updates, and some
            raise error()
        return published(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", step)


def failure_of(cell: RunFolder) -> Failure:
    """Run a cell that fails and is not tried again; return why."""
    (outcome,) = run_cells([cell], retries=2)
    assert (outcome.status, outcome.attempt) == ("failed", 1)
    assert cell.info()["status"] == "failed"
    assert outcome.failure is not None
    return outcome.failure


@pytest.mark.thorough
def test_a_full_gpu_ends_the_run_with_sizes_and_the_mend(
    cell: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_in_the_second_task(monkeypatch, lambda: torch.OutOfMemoryError(FULL))
    failure = failure_of(cell)
    assert failure.exit_code == UsageError.exit_code
    for part in (
        "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB",
        "agent.batch_size 32",
        "n_envs 1",
        "networks of 9,",
        "Write a smaller agent.batch_size",
        "the same command goes on",
    ):
        assert part in failure.text
    run_cell(cell, lambda progress: None)  # goes on after the first task
    assert cell.info()["status"] == "finished"
    assert {episode["stage"] for episode in cell.scores()} == {0, 1, 2}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [RuntimeError, getattr(torch, "AcceleratorError", RuntimeError)])
def test_a_lost_gpu_ends_the_run_which_goes_on_later(
    cell: RunFolder, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    failing_in_the_second_task(monkeypatch, lambda: kind(LOST))
    said = failure_of(cell).text
    assert said.startswith("the GPU failed: CUDA error: an illegal memory access was encountered.")
    assert "CUDA_LAUNCH_BLOCKING=1" in said
    assert cell.info()["reason"] == said
    run_cell(cell, lambda progress: None)
    assert cell.info()["status"] == "finished"


@pytest.mark.thorough
def test_another_failure_stays_what_it_is(cell: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_in_the_second_task(monkeypatch, lambda: RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run_cell(cell, lambda progress: None)
