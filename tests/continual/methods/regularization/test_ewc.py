"""Elastic weight consolidation: what its arguments choose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from all_doors import reader

from holdfast.agents.base.parameters import named_parameters
from holdfast.continual.methods.regularization.ewc import EWC
from holdfast.continual.methods.regularization.importance import (
    analytic_fisher,
    fisher_information,
)


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


@pytest.mark.parametrize("kind", ["summed", "online"])
@pytest.mark.parametrize("fisher", ["sampled", "analytic"])
def test_free_weights_have_no_gradient_in_any_task_whatever_the_floor(
    kind: Any, fisher: Any, train: Any
) -> None:
    """Beside a backward pass per observation and action value, and over a restart."""
    ewc = [EWC(kind=kind, fisher=fisher, floor=floor, samples=40) for floor in (0.0, 1e-5)]
    free: dict[str, torch.Tensor] = {}

    def watch(agent: Any, experience: Any) -> None:
        for row in agent.policy_input(agent.memory.observations(40, experience.generator("ewc"))):
            for value in agent.policy.q_net(row[None])[0]:
                parameters = named_parameters(agent.policy, "actor", "encoder")
                found = torch.autograd.grad(value, [*parameters.values()], retain_graph=True)
                for name, gradient in zip(parameters, found, strict=True):
                    free[name] = free.get(name, True) & (gradient == 0)

    agent = train("dqn", lambda: ewc, tasks=2, watch=watch, stream={"task_id": "hidden"})
    total = sum(int(mask.sum()) for mask in free.values())
    assert total > 0
    for method in ewc:
        assert all(torch.equal(mask, free[name]) for name, mask in method.free().items())
        assert method.free().keys() == free.keys()
        again = EWC(kind=kind, fisher=fisher, floor=method.floor)
        again.load_state(agent.doors(again), method.state())
        assert all(torch.equal(mask, free[name]) for name, mask in again.free().items())
        assert again.free().keys() == free.keys()
    assert min(float(value.min()) for value in ewc[1].penalty.importance.values()) > 0
    older = {n: t for n, t in ewc[1].state().items() if not n.startswith("mattered/")}
    again.load_state(agent.doors(again), older)
    assert again.free() == {}


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


@pytest.mark.parametrize("fisher", ["sampled", "analytic"])
def test_by_cost_unsafe_steps_count_less(fisher: Any, train: Any) -> None:
    """Costs are those of each row's own step; the weights are 1 / (1 + c) of them."""
    ewc, seen = EWC(fisher=fisher, samples=60, by_cost=True), []

    def watch(agent: Any, experience: Any) -> None:
        rng = experience.generator("ewc")
        for rollout in agent.memory.rollouts():
            angle = np.abs(rollout["observations"][1:, :, 2])
            goes_on = rollout["episode_starts"][1:] == 0
            wanted = np.where(angle > 0.15, 3.0, 0.0)
            assert (rollout["costs"][:-1][goes_on] == wanted[goes_on]).all()
        rows = agent.memory.transitions(60, rng, costs=True)
        weights = torch.as_tensor(1 / (1 + rows["costs"]))
        seen.append(weights.unique().tolist())
        live = {n: p.detach() for n, p in named_parameters(agent.policy, "actor").items()}
        observations = agent.policy_input({"": rows["observations"]})
        how = {"weights": weights}
        if fisher == "analytic":
            found = analytic_fisher(reader(agent), live, observations, **how)
        else:
            found = fisher_information(reader(agent), live, observations, rng, **how)
        for name, value in found.items():
            torch.testing.assert_close(ewc.penalty.importance[name], value)

    terms = [{"observation": 2, "above": 0.15, "below": -0.15, "weight": 3.0}]
    train("ppo", lambda: [ewc], tasks=1, watch=watch, cost={"limit": 5, "terms": terms})
    assert seen == [[0.25, 1.0]]
