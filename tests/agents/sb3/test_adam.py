"""Renewed weights step as those of an optimizer that has just begun; all others as they did."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from holdfast.agents.doors.gradients import Rewritten, Work, Works
from holdfast.agents.sb3.updates import Updates

RENEWED_AFTER, UPDATES = 50, 400


def step(optimizer: torch.optim.Optimizer, weight: torch.Tensor, gradient: torch.Tensor) -> None:
    optimizer.zero_grad()
    (weight * gradient).sum().backward()
    optimizer.step()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.Adam, {}),
        (torch.optim.Adam, {"betas": (0.0, 0.9), "eps": 1e-3, "maximize": True}),
        (torch.optim.Adam, {"amsgrad": True, "weight_decay": 0.1}),
        (torch.optim.AdamW, {"weight_decay": 0.1}),
    ],
)
@pytest.mark.parametrize("restarts", [True, False])
def test_a_renewed_weight_is_one_of_a_new_optimizer(
    optimizer: Any, options: dict[str, Any], restarts: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(UPDATES, 3, dtype=torch.float64, generator=generator)
    mask, done = torch.tensor([True, False, False]), 0

    def rewrite(parameters: dict[str, torch.Tensor], *_: Any) -> Rewritten | None:
        if done != RENEWED_AFTER:
            return None
        values = {"w": torch.where(mask, 2.0, parameters["w"])}
        return Rewritten(values, {"w": mask}, restarts_steps=restarts)

    weight, plain = (torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    alone = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    ours, theirs, new = (optimizer([w], 1e-2, **options) for w in (weight, plain, alone))
    works = Works(rewrites=[Work(rewrite)])
    Updates().attach(works, {"w": weight}, [ours])
    for done in range(UPDATES):
        step(ours, weight, gradients[done])
        step(theirs, plain, gradients[done])
        assert torch.equal(weight[1:], plain[1:])
        if done > RENEWED_AFTER:
            step(new, alone, gradients[done, :1])
            if restarts:
                torch.testing.assert_close(weight[:1], alone, rtol=1e-12, atol=1e-12)
    if not restarts:  # as ReDo's original does: moments of zero, corrected for 50 steps
        assert (weight[0] - alone).abs().item() > 1e-4


def test_a_weight_that_no_gradient_reached_stays() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([weight], 0.1)
    mask = torch.tensor([True, False])
    again = Work(lambda *_: Rewritten({}, {"w": mask}, restarts_steps=True))
    Updates().attach(Works(rewrites=[again]), {"w": weight}, [optimizer])
    step(optimizer, weight, torch.ones(2))
    kept = weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()  # the gradient is None now
        optimizer.step()
    assert torch.equal(weight, kept)
