"""Elastic weight consolidation: what its arguments choose."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from all_doors import reader

from holdfast.agents.base.parameters import named_parameters
from holdfast.continual.methods.regularization.ewc import EWC
from holdfast.continual.methods.regularization.importance import analytic_fisher


@pytest.mark.parametrize("world", ["ppo", "sac", "dqn"])
def test_the_form_of_continual_world(world: str, train: Any) -> None:
    """Analytic, clipped from below per observation, summed over tasks, one anchor: the latest."""
    ewc = EWC(kind="summed", fisher="analytic", floor=1e-5, samples=50)
    total: dict[str, Any] = {}

    def watch(agent: Any, experience: Any) -> None:
        rows = agent.memory.observations(50, experience.generator("ewc"))
        live = {n: p.detach() for n, p in named_parameters(agent.policy, "actor").items()}
        fisher = analytic_fisher(reader(agent), live, agent.policy_input(rows), floor=1e-5)
        total.update({n: total.get(n, 0) + value for n, value in fisher.items()})
        assert ewc.penalty.importance.keys() == total.keys()
        for name, value in live.items():
            assert torch.equal(ewc.penalty.centre[name], value)
            torch.testing.assert_close(ewc.penalty.importance[name], total[name])
            assert ewc.penalty.importance[name].min() >= (experience.stage + 1) * 0.99e-5

    train(world, lambda: [ewc], tasks=2, watch=watch)


@pytest.mark.parametrize(
    ("regularize", "groups"), [("critic", ("critic",)), ("both", ("actor", "critic"))]
)
@pytest.mark.parametrize("world", ["ppo", "sac"])
def test_a_critic_is_held_where_asked(
    world: str, regularize: Any, groups: tuple[str, ...], train: Any
) -> None:
    ewc = EWC(regularize=regularize, samples=20)
    agent = train(world, lambda: [ewc], tasks=1)
    assert ewc.penalty.importance.keys() == named_parameters(agent.policy, *groups).keys()
    assert all(value.max() > 0 for n, value in ewc.penalty.importance.items() if "bias" in n)
