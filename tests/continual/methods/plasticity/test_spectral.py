"""Spectral regularisation: by hand, by autograd of singular values, and what it does to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from holdfast.agents.base.parameters import named_parameters
from holdfast.continual.methods.plasticity.spectral import Spectral


def _converged(method: Spectral, parameters: dict[str, Any], updates: int = 1) -> dict[str, Any]:
    """Return the gradient after so many updates that did not move the weights."""
    state: Any = method.begun(parameters)
    for _ in range(updates):
        found, state = method.gradient(parameters, state, {})
    return found


def test_by_hand() -> None:
    """W = diag(3, 2), b = (3, 4), k = 2: 2 (9 - 1) 2 * 3 = 96 at the first entry; 4 * 25 b."""
    parameters = {"w": torch.diag(torch.tensor([3.0, 2.0])), "b": torch.tensor([3.0, 4.0])}
    found = _converged(Spectral(strength=1.0), parameters)
    torch.testing.assert_close(found["w"], torch.tensor([[96.0, 0.0], [0.0, 0.0]]))
    assert found["b"].tolist() == [300.0, 400.0]
    found = _converged(Spectral(strength=0.5, exponent=1), parameters)
    torch.testing.assert_close(found["w"], torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
    assert found["b"].tolist() == [3.0, 4.0]


def test_weights_of_zero_give_nothing_undefined() -> None:
    for exponent in (1, 2):
        zeros = {"w": torch.zeros(3, 2), "b": torch.zeros(3)}
        method = Spectral(exponent=exponent)
        found, state = method.gradient(zeros, method.begun(zeros), {})
        assert found["w"].abs().sum() == found["b"].abs().sum() == 0
        grown = {"w": torch.ones(3, 2), "b": torch.ones(3)}
        assert _last(method, grown, state)["w"].abs().min() > 0


def _last(method: Spectral, parameters: Any, state: Any) -> Any:
    for _ in range(3):
        found, state = method.gradient(parameters, state, {})
    return found


@pytest.mark.parametrize("exponent", [1, 2, 3])
@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (5, 3), (4, 2, 3, 3)])
def test_the_gradient_is_autograds(shape: tuple[int, ...], exponent: int) -> None:
    rng = np.random.default_rng(0)
    weight = torch.as_tensor(rng.normal(size=shape)).requires_grad_()
    bias = torch.as_tensor(rng.normal(size=shape[0])).requires_grad_()
    sigma = torch.linalg.matrix_norm(weight.flatten(1), 2)
    penalty = 0.7 * ((sigma**exponent - 1).square() + bias.norm() ** (2 * exponent))
    expected = torch.autograd.grad(penalty, (weight, bias))
    parameters = {"w": weight.detach(), "b": bias.detach()}
    found = _converged(Spectral(strength=0.7, exponent=exponent), parameters)
    for one, other in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_one_step_of_power_iteration_per_update_follows_the_weights() -> None:
    """The vectors of other weights lead to those of these within some updates."""
    rng = np.random.default_rng(0)
    weights = [{"w": torch.as_tensor(rng.normal(size=(6, 4)))} for _ in range(2)]
    method = Spectral(strength=1.0)
    state: Any = method.begun(weights[0])
    expected = _converged(method, weights[1])["w"]
    gaps = []
    for _ in range(100):
        found, state = method.gradient(weights[1], state, {})
        gaps.append(float((found["w"] - expected).abs().max()))
    assert gaps[0] > 1e-2
    assert gaps[-1] < 1e-6


@pytest.mark.thorough
@pytest.mark.parametrize("task_id", ["observed", "heads"])
@pytest.mark.parametrize("world", ["ppo", "dqn", "sac"])
def test_it_brings_singular_values_to_one(world: str, task_id: str, train: Any) -> None:
    """Of all layers but heads of tasks."""
    more = {"n_epochs": 10} if world == "ppo" else {}
    keys = {"agent": {"learning_rate": 3e-3, **more}, "stream": {"task_id": task_id}}
    gaps = []
    for strength in (0.0, 100.0):
        method = Spectral(strength=strength)
        agent = train(world, lambda method=method: [method], tasks=1, steps=256, **keys)
        live = named_parameters(agent.policy)
        weights = [p.detach() for n, p in live.items() if ".heads." not in n and p.ndim == 2]
        norms = torch.stack([torch.linalg.matrix_norm(weight, 2) for weight in weights])
        gaps.append(float((norms - 1).abs().mean()))
        assert any(".heads." in name for name in live) == (task_id == "heads")
    assert gaps[1] < 0.5 * gaps[0]


@pytest.mark.parametrize("world", ["ppo", "sac", "dqn"])
def test_at_strength_zero_it_equals_naive(world: str, train: Any, same: Any) -> None:
    naive = train(world, tasks=2)
    same(naive, train(world, lambda: [Spectral(strength=0.0)], tasks=2))
    with pytest.raises(AssertionError):
        same(naive, train(world, lambda: [Spectral(strength=0.1)], tasks=2))


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", "sac"])
def test_a_restart_changes_nothing(world: str, check_restart: Any) -> None:
    check_restart(world, {"spectral": {"strength": 0.1}})


def test_it_is_refused_by_name_where_it_cannot_work(refusal: Any) -> None:
    assert refusal("spectral") == refusal("spectral", "sac") == ""
    assert "spectral" in refusal("spectral", "trpo")
