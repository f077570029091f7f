"""UPGD: AdaUPGD by the authors' formulas, gates by hand, its state over tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from holdfast.agents.doors.gradients import Move, Work, Works
from holdfast.agents.sb3.updates import Updates
from holdfast.continual.methods.plasticity.upgd import UPGD, begun


def _doubles(*values: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(values, dtype=torch.float64)}


def test_by_hand() -> None:
    """Utilities are -g theta: 2, -2 and 0; the largest is 2, so gates are sigmoid(-1, 1, 0)."""
    method = UPGD(beta=0.0, sigma=3.0, weight_decay=0.5)
    before, after = _doubles(1.0, 1.0, 0.0), _doubles(0.8, 0.8, -0.2)
    move = Move(before, _doubles(-2.0, 2.0, 5.0), after, torch.tensor(0.1, dtype=torch.float64))
    values, state = method.revised(move, begun(before), _doubles(0.0, 0.0, 1.0))
    low, high = 1 / (1 + np.e), 1 / (1 + np.exp(-1))
    assert state["utility"]["w"].tolist() == pytest.approx([2.0, -2.0, 0.0])
    # A decay of .1 x .5; steps of -.2; and noise of -.1 x 3 for the last one.
    expected = [0.95 - 0.4 * low, 0.95 - 0.4 * high, -0.2 - 0.3]
    assert values["w"].tolist() == pytest.approx(expected)


def test_without_any_gradient_nothing_is_undefined() -> None:
    move = Move(_doubles(1.0), _doubles(0.0), _doubles(0.9), torch.tensor(0.1))
    values, _ = UPGD(sigma=0.0, weight_decay=0.0).revised(move, begun(_doubles(1.0)), {})
    assert values["w"].item() == pytest.approx(0.9)


def _authors(start: dict[str, Any], gradients: list[Any], noise: list[Any]) -> list[Any]:
    """Return the weights after each step of the authors' AdaUPGD; a rate of .01, halved later."""
    weights = {name: w.copy() for name, w in start.items()}
    utility, first, second = ({n: np.zeros_like(w) for n, w in start.items()} for _ in range(3))
    after = []
    for step, (g, xi) in enumerate(zip(gradients, noise, strict=True), start=1):
        rate = 0.01 if step <= 100 else 0.005
        for n, w in weights.items():
            utility[n] = 0.99 * utility[n] + 0.01 * (-g[n] * w)
            first[n] = 0.9 * first[n] + 0.1 * g[n]
            second[n] = 0.999 * second[n] + 0.001 * g[n] ** 2
        largest = max(u.max() for u in utility.values())
        for n, w in weights.items():
            scaled = 1 / (1 + np.exp(-utility[n] / (1 - 0.99**step) / largest))
            mean, square = first[n] / (1 - 0.9**step), second[n] / (1 - 0.999**step)
            direction = mean * (1 - scaled) / (np.sqrt(square) + 1e-5)
            direction = direction + xi[n] * 0.1 * (1 - scaled)
            weights[n] = w * (1 - rate * 0.02) - 2 * rate * direction
        after.append({n: w.copy() for n, w in weights.items()})
    return after


def test_it_is_the_authors_optimizer() -> None:
    rng = np.random.default_rng(0)
    start = {"w": rng.normal(size=(3, 2)), "b": rng.normal(size=3)}
    drawn = [{n: rng.normal(size=w.shape) for n, w in start.items()} for _ in range(400)]
    gradients, noise = drawn[:200], drawn[200:]
    expected = _authors(start, gradients, noise)
    method = UPGD(beta=0.99, sigma=0.1, weight_decay=0.02)
    weights = {n: torch.nn.Parameter(torch.as_tensor(w).clone()) for n, w in start.items()}
    adam = torch.optim.Adam(weights.values(), 0.01, eps=1e-5)
    steps = iter(noise)

    def draw(_: Any) -> dict[str, Any]:
        return {name: torch.as_tensor(xi) for name, xi in next(steps).items()}

    Updates().attach(Works(revisions=[Work(method.revised, begun, draw)]), weights, [adam])
    for step, g in enumerate(gradients):
        adam.param_groups[0]["lr"] = 0.01 if step < 100 else 0.005
        adam.zero_grad()
        sum((w * torch.as_tensor(g[n])).sum() for n, w in weights.items()).backward()
        adam.step()
        for name, weight in weights.items():
            np.testing.assert_allclose(weight.detach(), expected[step][name], 1e-9, 1e-9)


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", "sac", "dqn"])
def test_a_restart_changes_nothing(world: str, check_restart: Any) -> None:
    check_restart(world, {"upgd": {"beta": 0.9, "sigma": 0.5}})


@pytest.mark.parametrize("world", ["ppo", "sac"])
def test_utilities_outlive_tasks(world: str, train: Any) -> None:
    method, updates = UPGD(), []

    def watch(agent: Any, _: Any) -> None:
        counts = [t.item() for path, t in method.state().items() if path.endswith("/updates")]
        updates.append(counts)

    train(world, lambda: [method], tasks=2, watch=watch)
    assert len(updates[0]) == (1 if world == "ppo" else 2)
    assert updates[0][0] > 4
    assert updates[1] == [2 * count for count in updates[0]]
