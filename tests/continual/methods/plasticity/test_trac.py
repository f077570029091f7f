"""TRAC: the tuner by the authors' formulas, its state over tasks, and erfi."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special

from holdfast.agents.base.parameters import named_parameters
from holdfast.agents.doors.gradients import Move, Work, Works
from holdfast.agents.sb3.updates import Updates
from holdfast.continual.methods.plasticity.trac import BETAS, TRAC, begun, erfi

STEPS = 300


def test_erfi_is_scipys() -> None:
    x = np.array([-18.0, -3.0, -1e-7, 0.0, 1e-12, 0.3, 1.0, 2.0, 5.0, 9.0])
    np.testing.assert_allclose(erfi(torch.as_tensor(x)), special.erfi(x), rtol=2e-14)
    single = np.array([-8.0, 1e-3, 0.7, 3.0], dtype=np.float32)
    np.testing.assert_allclose(erfi(torch.as_tensor(single)), special.erfi(single), rtol=2e-5)


def test_by_hand() -> None:
    """One weight from 1, at 1.5, S of .5: delta is 1, the gradient 2 makes h of 2."""
    method = TRAC(scale=0.5)
    state = begun({"w": torch.tensor([1.0], dtype=torch.float64)})
    state = {**state, "scales": torch.full((6,), 0.5 / 6, dtype=torch.float64)}
    tensors = ({"w": torch.tensor([v], dtype=torch.float64)} for v in (1.5, 2.0, 1.2))
    values, after = method.revised(Move(*tensors, torch.tensor(0.1)), state, {})
    assert after["variance"].tolist() == pytest.approx([4.0] * 6)
    assert after["sigma"].tolist() == pytest.approx([-2.0] * 6)
    # sigma / sqrt(2 v) is -1 / sqrt(2): each scale is -.5, and the weight goes back to the start.
    assert after["scales"].tolist() == pytest.approx([-0.5] * 6)
    assert values["w"].tolist() == [1.0]
    # The other way round S is 3, and 1 + 3 (1 + (1.2 - 1.5)) is 3.1.
    tensors = ({"w": torch.tensor([v], dtype=torch.float64)} for v in (1.5, -2.0, 1.2))
    values, _ = method.revised(Move(*tensors, torch.tensor(0.1)), state, {})
    assert values["w"].item() == pytest.approx(3.1)


def _target(step: int) -> float:
    return 1.0 if step < STEPS / 2 else -0.5


def _authors(start: list[Any], scale: float) -> list[Any]:
    """Return the weights after each step of Adam wrapped by the authors' code, in float64."""
    weights = [torch.nn.Parameter(torch.as_tensor(w).clone()) for w in start]
    adam = torch.optim.Adam(weights, 1e-2)
    betas, after = np.array(BETAS), []
    variance, sigma, scales = np.zeros(6), np.full(6, 1e-8), np.zeros(6)
    for step in range(STEPS):
        adam.zero_grad()
        sum(((w - _target(step)) ** 2).sum() for w in weights).backward()
        old = [w.detach().numpy().copy() for w in weights]
        adam.step()
        deltas = [(o - s) / (scales.sum() + 1e-8) for o, s in zip(old, start, strict=True)]
        h = sum((d * w.grad.numpy()).sum() for d, w in zip(deltas, weights, strict=True))
        variance = betas**2 * variance + h**2
        sigma = betas * sigma - h
        factor = scale / special.erfi(1 / math.sqrt(2))
        scales = factor * special.erfi(sigma / (math.sqrt(2) * np.sqrt(variance) + 1e-8))
        for w, o, d, s in zip(weights, old, deltas, start, strict=True):
            moved = d + w.detach().numpy() - o
            w.data = torch.as_tensor(s + moved * max(scales.sum(), 0.0))
        after.append([w.detach().numpy().copy() for w in weights])
    return after


@pytest.mark.thorough
@pytest.mark.parametrize(("scale", "bound"), [(1e-8, 1e-3), (1e-2, 1e-10)])
def test_it_is_the_authors_optimizer(scale: float, bound: float) -> None:
    """Of a distance of 1e-8 from the start double precision has 8 digits, and what grows from it
    as an exponential loses more.
    """
    rng = np.random.default_rng(0)
    start = [rng.normal(size=(3, 2)), rng.normal(size=3)]
    expected = _authors(start, scale)
    method = TRAC(scale=scale)
    weights = {str(i): torch.nn.Parameter(torch.as_tensor(w).clone()) for i, w in enumerate(start)}
    adam = torch.optim.Adam(weights.values(), 1e-2)
    Updates().attach(Works(revisions=[Work(method.revised, begun)]), weights, [adam])
    for step in range(STEPS):
        adam.zero_grad()
        sum(((w - _target(step)) ** 2).sum() for w in weights.values()).backward()
        adam.step()
        for weight, known in zip(weights.values(), expected[step], strict=True):
            np.testing.assert_allclose(weight.detach(), known, rtol=bound, atol=bound)
    distances = [sum(np.abs(w - s).sum() for w, s in zip(e, start, strict=True)) for e in expected]
    assert max(distances) > 0.1  # it has left the start by far


@pytest.mark.parametrize("world", ["ppo", "sac"])
def test_it_starts_from_the_weights_before_any_learning(world: str, train: Any) -> None:
    still = {"learning_rate": 0.0}
    start = named_parameters(train(world, tasks=2, agent=still).policy)
    method, sigmas = TRAC(scale=0.1), []

    def watch(agent: Any, _: Any) -> None:
        kept = method.state()
        starts = {path.split("/start/")[1]: t for path, t in kept.items() if "/start/" in path}
        assert starts.keys() == start.keys()
        assert all(torch.equal(value, start[name].detach()) for name, value in starts.items())
        sigmas.append(torch.cat([t for path, t in kept.items() if path.endswith("/sigma")]))

    train(world, lambda: [method], tasks=2, watch=watch)
    assert not torch.equal(*sigmas)
    assert len(sigmas[0]) == 6 * (1 if world == "ppo" else 2)


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", "sac", "dqn"])
def test_a_restart_changes_nothing(world: str, check_restart: Any) -> None:
    check_restart(world, {"trac": {"scale": 0.1}})


def test_at_the_papers_scale_weights_hardly_move_at_first(train: Any) -> None:
    start = named_parameters(train("ppo", tasks=1, agent={"learning_rate": 0.0}).policy)
    end = named_parameters(train("ppo", lambda: [TRAC()], tasks=1).policy)
    moved = max((end[name] - value).detach().abs().max() for name, value in start.items())
    assert 0 < moved < 1e-5
