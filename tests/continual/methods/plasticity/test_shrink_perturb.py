"""Shrink and perturb: its formula, at task starts and inside tasks, and nothing at factor one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from holdfast.agents.base.parameters import named_parameters
from holdfast.agents.modules.initialisation import fresh_weights, layer_names
from holdfast.continual.methods.plasticity.shrink_perturb import ShrinkPerturb
from holdfast.errors import UsageError


def test_by_hand() -> None:
    method = ShrinkPerturb(shrink=0.5, perturb=0.1)
    (value,) = method.shrunk(
        {"w": torch.tensor([2.0, -4.0])}, {"w": torch.tensor([3.0, 0.0])}
    ).values()
    assert value.tolist() == pytest.approx([1.3, -2.0])


@pytest.mark.parametrize("world", ["ppo", "ppo-box", "dqn", "sac"])
def test_at_task_starts_it_blends_what_is_carried_with_the_new_network(
    world: str, train: Any
) -> None:
    """Both tasks have a learning rate of zero, so only the start of the second moves weights."""
    starts: list[dict[str, Any]] = []

    def watch(agent: Any, task: Any) -> None:
        starts.append({n: t.clone() for n, t in agent.policy.state_dict().items()})

    method = ShrinkPerturb(shrink=0.5, perturb=0.25)
    agent = train(world, lambda: [method], tasks=2, watch=watch, agent={"learning_rate": 0.0})
    fresh = train(world, tasks=2, agent={"learning_rate": 0.0}, carry={"weights": False})
    first, second = starts
    names = layer_names(agent.policy)
    assert len(names) >= 12
    new = fresh.policy.state_dict()
    for name, tensor in second.items():
        if name in names:
            torch.testing.assert_close(tensor, 0.5 * first[name] + 0.25 * new[name])
        else:  # PPO's log_std is no weight of a layer
            assert torch.equal(tensor, first[name]), name
    assert {name for name in second if name not in names} <= {"log_std"}


@pytest.mark.parametrize(("world", "updates"), [("ppo", 8), ("dqn", 12), ("sac", 12)])
def test_inside_a_task_it_shrinks_every_period(world: str, updates: int, train: Any) -> None:
    method = ShrinkPerturb(shrink=0.5, perturb=0.0, period=3)
    before = train(world, tasks=1, agent={"learning_rate": 0.0})
    after = train(world, lambda: [method], tasks=1, agent={"learning_rate": 0.0})
    assert updates in (after.model._n_updates, 2 * after.model._n_updates)  # PPO counts epochs
    old = named_parameters(before.policy)
    names = layer_names(after.policy)
    for name, parameter in named_parameters(after.policy).items():
        factor = 0.5 ** (updates // 3) if name in names else 1.0
        torch.testing.assert_close(parameter, factor * old[name])


@pytest.mark.parametrize("period", [None, 1])
@pytest.mark.parametrize("world", ["ppo", "sac"])
def test_at_factor_one_without_noise_it_equals_naive(
    world: str, period: int | None, train: Any, same: Any
) -> None:
    none = {"shrink": 1.0, "perturb": 0.0, "period": period}
    same(train(world), train(world, lambda: [ShrinkPerturb(**none)]))


@pytest.mark.thorough
@pytest.mark.parametrize("period", [None, 3])
@pytest.mark.parametrize("world", ["ppo", "sac", "dqn"])
def test_a_restart_changes_nothing(world: str, period: int | None, train: Any, same: Any) -> None:
    build = lambda: [ShrinkPerturb(perturb=0.2, period=period)]  # noqa: E731
    keys = {"stream": {"task_id": "heads"}}
    same(train(world, build, **keys), train(world, build, restart_after=0, **keys))


@pytest.mark.thorough
def test_fresh_weights_are_drawn_as_layers_are_built(train: Any) -> None:
    """Over many draws, the same spread as of Stable-Baselines3's own; PPO's are orthogonal."""
    for world in ("ppo", "sac", "recurrent"):
        agent = train("ppo" if world == "recurrent" else world, tasks=1, agent=_agent(world))
        policy, rng = agent.policy, np.random.default_rng(0)
        state = torch.get_rng_state()
        names = layer_names(policy) & named_parameters(policy).keys()
        draws = [fresh_weights(policy, names, rng) for _ in range(40)]
        assert torch.equal(state, torch.get_rng_state())
        assert draws[0].keys() == names
        built = [train("ppo" if world == "recurrent" else world, tasks=1, agent=_agent(world))]
        for name, parameter in named_parameters(built[0].policy).items():
            if name not in names:
                continue
            drawn = torch.stack([draw[name] for draw in draws])
            spread = drawn.std() if drawn.abs().max() > 0 else torch.tensor(0.0)
            if name.endswith("bias") and spread == 0:
                assert not parameter.any()
            elif parameter.numel() > 30:
                torch.testing.assert_close(spread, parameter.std(), rtol=0.35, atol=1e-3)
        if world == "ppo":
            weight = draws[0]["mlp_extractor.policy_net.2.weight"]
            torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(8))
            head = draws[0]["action_net.weight"]
            torch.testing.assert_close(head @ head.T, 1e-4 * torch.eye(2))


def _agent(world: str) -> dict[str, Any]:
    if world == "recurrent":
        kwargs = {"net_arch": [8], "lstm_hidden_size": 8}
        return {"algorithm": "recurrent_ppo", "learning_rate": 0.0, "policy_kwargs": kwargs}
    return {"learning_rate": 0.0}


def test_task_starts_that_are_hidden_are_refused(train: Any) -> None:
    with pytest.raises(UsageError, match="period"):
        train("ppo", lambda: [ShrinkPerturb()], stream={"boundaries": "hidden"})
