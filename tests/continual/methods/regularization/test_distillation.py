"""Distillation: its gradient against float64 autograd, and under which ids it asks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from all_doors import reader
from torch.distributions import Categorical, Normal, kl_divergence

from holdfast.agents.base.observations import restated, with_task_ids
from holdfast.agents.base.parameters import named_parameters
from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.continual.methods.regularization.distillation import Distillation


def _distribution(policy: Any, observations: Any) -> Any:
    if hasattr(policy, "actor"):
        mean, log_std, _ = policy.actor.get_action_dist_params(observations)
        return Normal(mean, log_std.exp())
    return policy.get_distribution(observations).distribution


@pytest.mark.parametrize("task_id", ["observed", "heads"])
@pytest.mark.parametrize("world", ["ppo", "ppo-box", "sac"])
def test_the_gradient_is_that_of_the_divergence_under_old_ids(
    world: str, task_id: str, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One term of the third task, recomputed through the published forward in float64."""
    method = Distillation(strength=3.0, batch_size=32)
    agent: StableBaselinesAgent = train(world, lambda: [method], stream={"task_id": task_id})
    parameters = named_parameters(agent.policy, "actor", "encoder")
    with torch.no_grad():
        for parameter in parameters.values():
            parameter += 0.1 * torch.randn_like(parameter)
    observations = agent.memory.batch_observations(32, np.random.default_rng(0)).double()
    observations = with_task_ids(observations, np.random.default_rng(1).integers(2, size=32), 3)
    agent.policy.double()
    method.old.tensors = {n: tensor.double() for n, tensor in method.old.tensors.items()}
    # Stable-Baselines3 turns observations into float32 on their way into the network.
    monkeypatch.setattr(
        "stable_baselines3.common.policies.preprocess_obs", lambda obs, *_, **__: obs
    )

    now = {name: p.detach().clone() for name, p in parameters.items()}
    agent.policy.load_state_dict(method.old.tensors, strict=False)
    with torch.no_grad():
        teacher = _distribution(agent.policy, observations)
    teacher = (
        Categorical(logits=teacher.logits)
        if isinstance(teacher, Categorical)
        else Normal(teacher.mean, teacher.stddev)
    )
    agent.policy.load_state_dict(now, strict=False)
    student = _distribution(agent.policy, observations)
    loss = 3.0 * kl_divergence(teacher, student).reshape(32, -1).sum(-1).mean()
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    expected = dict(zip(parameters, gradients, strict=True))

    state, batch = {"old": method.old.tensors}, {"now": observations, "then": observations}
    seen = method.gradient(reader(agent), now, state, batch)
    assert sum(g.abs().sum().item() for g in expected.values()) > 0
    for name, gradient in expected.items():
        torch.testing.assert_close(seen[name], gradient, rtol=1e-6, atol=1e-12)


def test_rows_are_asked_under_the_ids_of_finished_tasks(train: Any) -> None:
    """And never under that of the task that is being learned, also where it comes again."""
    asked: list[tuple[int, set[int]]] = []
    method = Distillation(batch_size=64)
    published = method.old.seen

    def spy(doors: Any, observations: Any) -> Any:
        ids = observations[:, -2:].argmax(-1)
        asked.append((doors.facts.current_task, set(ids.tolist())))
        return published(doors, observations)

    method.old.seen = spy  # type: ignore[method-assign]
    train("ppo", lambda: [method], tasks=2, stream={"repeat": 2})
    assert {task for task, _ in asked} == {0, 1}
    assert all(ids == {1 - task} for task, ids in asked)


@pytest.mark.parametrize("world", ["ppo", "sac", "dqn"])
def test_at_strength_zero_it_equals_naive(world: str, train: Any, same: Any) -> None:
    same(train(world), train(world, lambda: [Distillation(strength=0.0, batch_size=16)]))


@pytest.mark.parametrize("world", ["ppo", "sac"])
def test_restarted_after_the_first_task_it_ends_the_same(world: str, train: Any, same: Any) -> None:
    def build() -> list[Distillation]:
        return [Distillation(batch_size=16)]

    keys = {"agent": {"normalize": {"observations": "running"}}}
    same(train(world, build, **keys), train(world, build, restart_after=0, **keys))


def test_the_old_policy_sees_observations_as_it_did(train: Any) -> None:
    """Normalised by statistics A, restated under B: as if raw ones were normalised by B."""
    agent = train("sac", tasks=2, agent={"normalize": {"observations": "running"}})
    normalizer = agent.normalizer
    raw = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    raw[:, 3:] = [0.0, 1.0]
    other = {
        name: t + 0.5 if name.endswith(("mean", "var")) else t
        for name, t in normalizer.tensors().items()
    }
    restated_rows = restated(normalizer, torch.as_tensor(normalizer.normalize_obs(raw)), other)
    normalizer.load_tensors(other)
    expected = torch.as_tensor(normalizer.normalize_obs(raw))
    torch.testing.assert_close(restated_rows, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(restated_rows[:, 3:], torch.as_tensor(raw[:, 3:]))
