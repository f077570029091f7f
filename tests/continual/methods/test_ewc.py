"""Elastic weight consolidation: by hand, and its Fisher information against plain autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from holdfast.agents.gradients import named_parameters
from holdfast.agents.outputs import PolicyOutput, draw, log_likelihood
from holdfast.agents.stable_baselines import StableBaselinesAgent
from holdfast.continual.methods.ewc import EWC, fisher_information
from holdfast.continual.stream import make_stream
from holdfast.scenarios.schema import Scenario


def _named(value: float) -> dict[str, Tensor]:
    return {"w": torch.tensor([value], dtype=torch.float64)}


def test_two_tasks_by_hand() -> None:
    """F 1 at weight 0, then F 3 at weight 2: one parabola of importance 4 around 1.5."""
    ewc = EWC(strength=10.0)
    ewc.consolidate(_named(0.0), _named(1.0))
    ewc.consolidate(_named(2.0), _named(3.0))
    assert ewc.importance["w"].item() == 4.0
    assert ewc.centre["w"].item() == 1.5
    # At 2.5, by hand: 2 * 10 * (1 * (2.5 - 0) + 3 * (2.5 - 2)) = 80.
    assert ewc.penalty_gradient(_named(2.5))["w"].item() == pytest.approx(80.0)


def test_online_decays_and_anchors_at_the_latest_weights() -> None:
    ewc = EWC(strength=10.0, kind="online", decay=0.5)
    ewc.consolidate(_named(0.0), _named(1.0))
    ewc.consolidate(_named(2.0), _named(3.0))
    assert ewc.importance["w"].item() == 3.5
    # 2 * 10 * 3.5 * (2.5 - 2) = 35.
    assert ewc.penalty_gradient(_named(2.5))["w"].item() == pytest.approx(35.0)


def test_a_weight_that_no_task_cares_for_is_free() -> None:
    ewc = EWC()
    ewc.consolidate(_named(1.0), _named(0.0))
    ewc.consolidate(_named(2.0), _named(0.0))
    assert ewc.penalty_gradient(_named(9.0))["w"].item() == 0.0


def test_the_gradient_is_that_of_the_penalty_over_all_tasks() -> None:
    rng = np.random.default_rng(0)
    tensors = [torch.as_tensor(rng.normal(size=(2, 6))) for _ in range(6)]
    ewc, penalty = EWC(strength=3.0), torch.zeros((), dtype=torch.float64)
    theta = torch.as_tensor(rng.normal(size=(2, 6))).requires_grad_()
    for anchor, root in zip(tensors[:3], tensors[3:], strict=True):
        ewc.consolidate({"w": anchor}, {"w": root.square()})
        penalty = penalty + 3.0 * (root.square() * (theta - anchor).square()).sum()
    (expected,) = torch.autograd.grad(penalty, theta)
    torch.testing.assert_close(
        ewc.penalty_gradient({"w": theta.detach()})["w"], expected, rtol=1e-6, atol=1e-12
    )


OFF_POLICY = {"buffer_size": 100}
POLICIES = {
    "ppo": ({"algorithm": "ppo", "n_steps": 32, "batch_size": 32}, "CartPole-v1"),
    "ppo-box": ({"algorithm": "ppo", "n_steps": 32, "batch_size": 32}, "Pendulum-v1"),
    "ppo-discrete-observations": (
        {"algorithm": "ppo", "n_steps": 32, "batch_size": 32},
        "FrozenLake-v1",
    ),
    "sac": ({"algorithm": "sac"} | OFF_POLICY, "Pendulum-v1"),
    "td3": ({"algorithm": "td3"} | OFF_POLICY, "Pendulum-v1"),
    "dqn": ({"algorithm": "dqn"} | OFF_POLICY, "CartPole-v1"),
}


@pytest.mark.parametrize("name", POLICIES)
def test_fisher_information_is_the_mean_of_squared_per_sample_gradients(name: str) -> None:
    arguments, env = POLICIES[name]
    scenario = Scenario.model_validate(
        {
            "tasks": [{"name": "a", "env": env, "steps": 64}],
            "stream": {"task_id": "hidden"},
            "agent": arguments | {"policy_kwargs": {"net_arch": [8]}},
        }
    )
    agent = StableBaselinesAgent(scenario)
    (experience,) = make_stream(scenario, 0).train_stream
    agent.start(experience)
    space = agent.policy.observation_space
    batch = np.stack([space.sample() for _ in range(12)])
    observations = agent.policy_input({"": batch})
    output = PolicyOutput(agent.policy)
    parameters = {n: p.detach() for n, p in named_parameters(agent.policy, "actor").items()}
    fisher = fisher_information(output, parameters, observations, np.random.default_rng(7))

    # The same draws, then one backward per observation through the live policy.
    seed = int(np.random.default_rng(7).integers(2**63))
    with torch.no_grad():
        actions = draw(output.spec, output(observations), torch.Generator().manual_seed(seed))
    live = named_parameters(agent.policy, "actor")
    expected = {name: torch.zeros_like(p) for name, p in live.items()}
    for i in range(12):
        likelihood = log_likelihood(
            output.spec, output(observations[i : i + 1]), actions[i : i + 1]
        )
        gradients = torch.autograd.grad(likelihood.sum(), list(live.values()))
        for parameter, gradient in zip(live, gradients, strict=True):
            expected[parameter] += gradient.square() / 12
    assert sum(value.sum().item() for value in expected.values()) > 0
    for parameter in live:
        torch.testing.assert_close(fisher[parameter], expected[parameter], rtol=1e-4, atol=1e-9)
    agent.close()


def test_uniform_logits_by_hand(make_cartpole_agent: Any) -> None:
    """Both actions at 1/2: a bias has the squared gradient (1 - 1/2)^2, whatever is drawn."""
    agent = make_cartpole_agent
    with torch.no_grad():
        agent.policy.action_net.weight.zero_()
        agent.policy.action_net.bias.zero_()
    parameters = {n: p.detach() for n, p in named_parameters(agent.policy, "actor").items()}
    observations = torch.randn(10, 4)
    fisher = fisher_information(agent.output(), parameters, observations, np.random.default_rng(0))
    torch.testing.assert_close(fisher["action_net.bias"], torch.full((2,), 0.25))


@pytest.fixture
def make_cartpole_agent() -> Any:
    scenario = Scenario.model_validate(
        {
            "tasks": [{"name": "a", "env": "CartPole-v1", "steps": 64}],
            "stream": {"task_id": "hidden"},
            "agent": {"algorithm": "ppo", "n_steps": 64, "batch_size": 64},
        }
    )
    agent = StableBaselinesAgent(scenario)
    agent.start(next(iter(make_stream(scenario, 0).train_stream)))
    yield agent
    agent.close()
