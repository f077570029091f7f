"""Reptile between tasks: where each one starts, and nothing at a step of one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from holdfast.continual.methods.regularization.reptile import Reptile


def test_by_hand() -> None:
    """From 1 to 5, a fourth of the way: 2. What is new or of another shape is carried."""
    method = Reptile(step_size=0.25)
    assert method.blended({"w": torch.tensor([5.0])}) == {}
    method.starts = {"w": torch.tensor([1.0]), "grown": torch.zeros(2), "seen": torch.tensor(3)}
    ends = {"w": torch.tensor([5.0]), "grown": torch.zeros(3), "new": torch.ones(1)}
    found = method.blended(ends | {"seen": torch.tensor(7)})
    assert found.keys() == {"w"}
    assert found["w"].tolist() == [2.0]


@pytest.mark.parametrize("world", ["ppo", "dqn", "sac"])
def test_each_task_starts_a_part_of_the_way_from_the_last_start(world: str, train: Any) -> None:
    method = Reptile(step_size=0.25)
    starts: list[dict[str, Any]] = []
    ends: list[dict[str, Any]] = []

    def watch(agent: Any, _: Any) -> None:
        starts.append(dict(method.starts))
        ends.append({n: t.clone() for n, t in agent.policy.state_dict().items()})

    train(world, lambda: [method], watch=watch)
    fresh = train(world, agent={"learning_rate": 0.0}).policy.state_dict()
    for name, value in fresh.items():  # targets that follow what stays still do it to rounding
        torch.testing.assert_close(starts[0][name], value, msg=name)
    for task in (1, 2):
        for name, begun in starts[task].items():
            if name not in ends[0]:
                continue  # the entropy coefficient
            before, after = starts[task - 1][name], ends[task - 1][name]
            torch.testing.assert_close(begun, before + 0.25 * (after - before), msg=name)
        moved = [name for name, end in ends[task].items() if not end.equal(starts[task][name])]
        assert len(moved) > 4


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", "dqn", "sac"])
def test_a_step_of_one_equals_naive(world: str, train: Any, same: Any) -> None:
    naive = train(world)
    same(naive, train(world, lambda: [Reptile(step_size=1.0)]))
    with pytest.raises(AssertionError):
        same(naive, train(world, lambda: [Reptile()]))


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", "sac"])
def test_a_restart_changes_nothing(world: str, check_restart: Any) -> None:
    check_restart(world, "reptile")
