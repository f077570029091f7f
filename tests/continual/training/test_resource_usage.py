"""What a cell spends: updates by phase, memory, energy where codecarbon is there."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from holdfast.continual.training import resource_usage
from holdfast.continual.training.resource_usage import Spent


@pytest.fixture
def count() -> Any:
    made: list[Spent] = []

    def make(before: dict[str, Any] | None = None) -> Spent:
        made.append(Spent(before))
        return made[-1]

    yield make
    for one in made:
        one.close()


def steps(number: int) -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for _ in range(number):
        weight.grad = torch.ones(1)
        optimizer.step()


def test_updates_count_by_who_makes_them_and_go_on_after_a_resume(count: Any) -> None:
    one = count()
    one.learning = True
    steps(3)
    one.learning = False
    steps(2)
    found = one.so_far()
    assert (found["updates"], found["extra_updates"]) == (3, 2)
    one.close()
    steps(1)
    assert one.so_far()["extra_updates"] == 2
    again = count(found)
    again.learning = True
    steps(1)
    assert again.so_far()["updates"] == 4
    assert again.so_far()["peak_memory_bytes"] >= found["peak_memory_bytes"]


def test_the_peak_is_the_cells_own(count: Any) -> None:
    block = bytearray(200_000_000)
    before = count().so_far()["peak_memory_bytes"]
    del block
    after = count().so_far()["peak_memory_bytes"]
    assert 50_000_000 < after <= before - 100_000_000


def test_energy_is_null_without_codecarbon(count: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource_usage, "find_spec", lambda name: None)
    assert count().so_far()["energy_kwh"] is None


class Tracker:
    """Uses 0.5 kWh in each task; the third one fails."""

    def __init__(self, **keys: Any) -> None:
        assert keys["save_to_file"] is False
        self.tasks = 0

    def start_task(self) -> None:
        self.tasks += 1

    def stop_task(self) -> Any:
        if self.tasks > 2:
            raise RuntimeError("no sensor")
        return SimpleNamespace(energy_consumed=0.5)

    def stop(self) -> None:
        self.tasks = 0


@pytest.fixture
def codecarbon(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("codecarbon")
    module.OfflineEmissionsTracker = Tracker  # type: ignore[attr-defined]  # made up
    monkeypatch.setitem(sys.modules, "codecarbon", module)
    monkeypatch.setattr(resource_usage, "find_spec", lambda name: module)


@pytest.mark.usefixtures("codecarbon")
def test_energy_adds_up_and_never_fails_a_run(count: Any) -> None:
    one = count()
    assert one.so_far()["energy_kwh"] == 0.5
    found = one.so_far()
    assert found["energy_kwh"] == 1.0
    assert one.so_far()["energy_kwh"] is None  # it failed: not known any more, and not 1.0
    assert one.so_far()["energy_kwh"] is None
    assert count(found).so_far()["energy_kwh"] == 1.5
    assert count({"updates": 3}).so_far()["energy_kwh"] is None  # not measured before the resume
