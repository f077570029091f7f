"""A head per task: which rows train which head, and what evaluation shows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from holdfast.agents.doors.networks import slots
from holdfast.agents.doors.outputs import PolicyOutput
from holdfast.agents.modules.heads import TaskHead, TaskTrunk

OFF = {"buffer_size": 100}
CASES = {
    "ppo": ({"algorithm": "ppo", "n_steps": 64}, "CartPole-v1"),
    "ppo-box": ({"algorithm": "ppo", "n_steps": 64}, "Pendulum-v1"),
    "dqn": ({"algorithm": "dqn"} | OFF, "CartPole-v1"),
    "sac": ({"algorithm": "sac"} | OFF, "Pendulum-v1"),
    "td3": ({"algorithm": "td3"} | OFF, "Pendulum-v1"),
    "no-hidden": (
        {"algorithm": "ppo", "n_steps": 64, "policy_kwargs": {"net_arch": []}},
        "CartPole-v1",
    ),
}


def test_by_hand() -> None:
    """The trunk sees 2 of 4 inputs; head 1 of two gives w1 * (x0 + x1) + b1."""
    trunk, head = nn.Linear(2, 1, bias=False), nn.Linear(1, 1)
    nn.init.ones_(trunk.weight)
    heads = TaskHead(head, tasks=2)
    with torch.no_grad():
        heads.heads.weight.copy_(torch.tensor([[10.0], [100.0]]))
        heads.heads.bias.copy_(torch.tensor([1.0, 2.0]))
    inputs = torch.tensor([[3.0, 4.0, 1.0, 0.0], [3.0, 4.0, 0.0, 1.0]])
    outputs = heads(TaskTrunk(trunk, start=2, tasks=2)(inputs))
    assert outputs.tolist() == [[71.0], [702.0]]
    outputs[0].sum().backward()
    assert heads.heads.weight.grad is not None
    assert heads.heads.weight.grad.tolist() == [[7.0], [0.0]]


@pytest.mark.parametrize("case", CASES)
def test_each_row_is_answered_by_the_head_of_its_task(case: str, make_agent: Any) -> None:
    arguments, env = CASES[case]
    agent, (experience, _) = make_agent(arguments, env, stream={"task_id": "heads"})
    agent.start(experience)
    agent.policy.set_training_mode(False)
    width = agent.policy.observation_space.shape[0]
    rows = torch.randn(6, width)
    rows[:, -2:] = torch.eye(2).repeat(3, 1)
    twins = rows.clone()
    twins[:, -2:] = rows[:, -2:].flip(-1)
    output = PolicyOutput(agent.policy)
    with torch.no_grad():
        first, second = output(rows), output(twins)
        for key in first:  # all heads start equal, and the trunk does not see the task id
            torch.testing.assert_close(first[key], second[key])
        for slot in slots_of_actor(agent.policy):
            slot.heads.bias[: slot.out] += 1.0  # head of task 0
        moved = output(rows)
    for key in ("logits", "mean"):
        if key in first:
            changed = (moved[key] != first[key]).any(-1)
            assert changed.tolist() == [True, False] * 3
    agent.close()


def slots_of_actor(policy: Any) -> list[TaskHead]:
    found = [module for module in policy.modules() if isinstance(module, TaskHead)]
    actor = getattr(policy, "actor", None)
    if actor is not None:
        inside = set(actor.modules())
        return [module for module in found if module in inside]
    if hasattr(policy, "action_net"):
        return [policy.action_net]
    return found


def test_slots_are_found_again_after_no_change(make_agent: Any) -> None:
    agent, (experience, _) = make_agent({"algorithm": "sac"} | OFF, "Pendulum-v1")
    agent.start(experience)
    roles = [slot.role for slot in slots(agent.policy)]
    assert roles == ["actor", "critic", "target", "critic", "target"]
    assert list(slots(agent.policy)[0].heads) == ["mu", "log_std"]
    agent.close()


def test_ppo_learns_one_deviation_per_task(make_agent: Any) -> None:
    arguments, env = CASES["ppo-box"]
    agent, (experience, _) = make_agent(arguments, env, stream={"task_id": "heads"})
    agent.start(experience)
    before = agent.policy.log_std.detach().clone()
    assert before.shape == (2, 1)
    agent.learn(experience, lambda step: None, lambda scalars, step: None)
    moved = (agent.policy.log_std.detach() != before).any(-1)
    assert moved.tolist() == [True, False]
