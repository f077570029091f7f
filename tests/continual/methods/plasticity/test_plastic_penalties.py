"""Penalties that keep networks plastic, L2 to the start and Parseval: by hand and by autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from holdfast.agents.base.parameters import named_parameters
from holdfast.continual.methods.plasticity.l2_init import L2Init
from holdfast.continual.methods.plasticity.parseval import Parseval, hidden_layers


def test_l2_init_by_hand() -> None:
    """From 1 to 3: the gradient of 0.5 (w - 1)^2 at 3 is 2."""
    method = L2Init(strength=0.5)
    state = method.begun({"w": torch.tensor([1.0])})
    assert method.gradient({"w": torch.tensor([1.0])}, state, {})["w"].item() == 0.0
    assert method.gradient({"w": torch.tensor([3.0])}, state, {})["w"].item() == 2.0
    assert method.begun({"w": torch.tensor([3.0])})["w"].item() == 1.0
    assert method.begun({}) == {}


def test_l2_init_pulls_to_the_weights_before_any_learning(train: Any) -> None:
    idle = train("sac", tasks=2, agent={"learning_starts": 500})
    start = {n: p.detach() for n, p in named_parameters(idle.policy).items()}
    method = L2Init(strength=1.0)

    def watch(agent: Any, experience: Any) -> None:
        assert method.initial.keys() == start.keys()
        assert all(torch.equal(method.initial[n], value) for n, value in start.items())

    train("sac", lambda: [method], tasks=2, watch=watch)


@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (5, 3)])
def test_the_gradient_of_parseval_is_autograds(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    weight = torch.as_tensor(rng.normal(size=shape)).requires_grad_()
    penalty = 0.7 * (weight @ weight.T - 2.0 * torch.eye(shape[0])).square().sum()
    (expected,) = torch.autograd.grad(penalty, weight)
    weights = {"w": weight.detach()}
    found = Parseval(strength=0.7, scale=2.0).gradient(weights, weights, {})["w"]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_parseval_by_hand() -> None:
    """W = diag(1, 2), scale 1: 4 (W W^T - I) W = diag(0, 4 * 3 * 2)."""
    weights = {"w": torch.diag(torch.tensor([1.0, 2.0]))}
    found = Parseval(strength=1.0, scale=1.0).gradient(weights, weights, {})
    assert Parseval().gradient(weights, {}, {}) == {}
    assert found["w"].tolist() == [[0.0, 0.0], [0.0, 24.0]]


def test_the_orthogonal_start_of_ppo_costs_nothing(train: Any) -> None:
    agent = train("ppo", tasks=1, agent={"learning_rate": 0.0})
    live = named_parameters(agent.policy)
    names = hidden_layers(n for n, p in live.items() if p.ndim == 2)
    square = [n for n in names if live[n].shape[0] <= live[n].shape[1]]
    assert square
    found = Parseval(strength=1.0).gradient(dict(live), {n: live[n] for n in square}, {})
    assert set(found) == set(square)
    for name, gradient in found.items():
        assert gradient.abs().max() < 1e-4, name


HIDDEN = {
    "ppo": {"mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2"}
    | {"mlp_extractor.value_net.0", "mlp_extractor.value_net.2"},
    "dqn": {"q_net.q_net.0", "q_net.q_net.2"},
    "sac": {"actor.latent_pi.0", "actor.latent_pi.2"}
    | {f"critic.qf{i}.{j}" for i in (0, 1) for j in (0, 2)},
    "td3": {"actor.mu.0", "actor.mu.2"} | {f"critic.qf{i}.{j}" for i in (0, 1) for j in (0, 2)},
}
HIDDEN_WITH_HEADS = {
    "ppo": {
        f"mlp_extractor.{net}.trunk.{i}" for net in ("policy_net", "value_net") for i in (0, 2)
    },
    "dqn": {"q_net.q_net.0.trunk.0", "q_net.q_net.0.trunk.2"},
    "sac": {"actor.latent_pi.trunk.0", "actor.latent_pi.trunk.2"}
    | {f"critic.qf{i}.0.trunk.{j}" for i in (0, 1) for j in (0, 2)},
}


@pytest.mark.parametrize(
    ("world", "task_id", "expected"),
    [(world, "observed", names) for world, names in HIDDEN.items()]
    + [(world, "heads", names) for world, names in HIDDEN_WITH_HEADS.items()],
)
def test_parseval_leaves_the_last_layers_alone(
    world: str, task_id: str, expected: set[str], train: Any
) -> None:
    agent = train(world, tasks=1, steps=2, stream={"task_id": task_id})
    live = named_parameters(agent.policy)
    found = hidden_layers(n for n, p in live.items() if p.ndim == 2)
    assert found == {f"{name}.weight" for name in expected}


def test_parseval_makes_rows_orthogonal(train: Any) -> None:
    distances = []
    for strength in (0.0, 1e-1):
        method = Parseval(strength=strength)
        agent = train("sac", lambda method=method: [method], tasks=1, agent={"learning_rate": 0.01})
        weight = agent.policy.actor.latent_pi[2].weight.detach()
        distances.append((weight @ weight.T - 2.0 * torch.eye(len(weight))).square().sum())
    assert distances[1] < 0.8 * distances[0]
