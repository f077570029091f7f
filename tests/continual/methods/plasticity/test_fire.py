"""FIRE: the nearest isometry by singular values, at task starts, and nothing without iterations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from holdfast.agents.modules.initialisation import layer_names
from holdfast.continual.methods.plasticity.fire import FIRE, newton_schulz


def _polar(weight: torch.Tensor) -> torch.Tensor:
    """Return U V^T of the singular value decomposition, times sqrt(out / in)."""
    u, _, v = torch.linalg.svd(weight, full_matrices=False)
    return u @ v * (weight.shape[0] / weight.shape[1]) ** 0.5


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3)])
def test_it_is_the_nearest_isometry(shape: tuple[int, int]) -> None:
    weight = torch.as_tensor(np.random.default_rng(0).normal(size=shape))
    found = FIRE(iterations=40).isometry(weight)
    torch.testing.assert_close(found, _polar(weight), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(FIRE(iterations=3).isometry(weight), found, atol=1e-3)


def test_iterations_by_hand() -> None:
    """Singular values 3 and 4 over their norm are .6 and .8; 1.5 x - .5 x^3 of each."""
    weight = torch.diag(torch.tensor([3.0, 4.0], dtype=torch.float64))
    found = FIRE(iterations=1).isometry(weight)
    assert found.diagonal().tolist() == pytest.approx([0.9 - 0.108, 1.2 - 0.256])
    assert newton_schulz(torch.zeros(1, 2, 3), 5).abs().sum() == 0


def test_each_place_of_a_kernel_is_an_isometry() -> None:
    kernel = torch.as_tensor(np.random.default_rng(0).normal(size=(5, 3, 2, 4)))
    found = FIRE(iterations=40).isometry(kernel)
    assert found.shape == kernel.shape
    for i in range(2):
        for j in range(4):
            expected = _polar(kernel[:, :, i, j]) / 8
            torch.testing.assert_close(found[:, :, i, j], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("task_id", ["observed", "heads"])
@pytest.mark.parametrize("world", ["ppo-box", "dqn", "sac"])
def test_at_task_starts_it_projects_what_is_carried(world: str, task_id: str, train: Any) -> None:
    """The second task has a learning rate of zero, as far as its policy goes: no update."""
    ends: list[dict[str, Any]] = []

    def watch(agent: Any, _: Any) -> None:
        ends.append({n: t.clone() for n, t in agent.policy.state_dict().items()})
        agent.model.learning_rate = 0.0

    method = FIRE()
    keys = {"stream": {"task_id": task_id}, "agent": {"learning_rate": 0.0}}
    agent = train(world, lambda: [method], tasks=2, watch=watch, **keys)
    names = {n for n in layer_names(agent.policy) if n.endswith(".weight")}
    projected = 0
    for name, tensor in ends[1].items():
        owner, _, rest = name.partition(".")
        followed = f"{owner.removesuffix('_target')}.{rest}"  # the target takes what it follows
        if name in names and ".heads." not in name and "_target" not in owner:
            torch.testing.assert_close(tensor, method.isometry(ends[0][name]))
            projected += not torch.equal(tensor, ends[0][name])
        elif name in names and ".heads." not in name:
            torch.testing.assert_close(tensor, ends[1][followed])  # averaged by steps to rounding
        else:
            assert torch.equal(tensor, ends[0][name]), name
    assert projected >= 2


@pytest.mark.parametrize("world", ["ppo", "dqn", "sac"])
def test_without_iterations_it_equals_naive(world: str, train: Any, same: Any) -> None:
    naive = train(world, tasks=2)
    same(naive, train(world, lambda: [FIRE(iterations=0)], tasks=2))
    with pytest.raises(AssertionError):
        same(naive, train(world, lambda: [FIRE()], tasks=2))


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", "sac"])
def test_a_restart_changes_nothing(world: str, check_restart: Any) -> None:
    check_restart(world, "fire")
