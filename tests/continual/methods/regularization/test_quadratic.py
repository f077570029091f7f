"""The parabola per weight: by hand, and against autograd of the sum over tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from holdfast.continual.methods.regularization.quadratic import Kind, Quadratic


def _named(value: float) -> dict[str, Tensor]:
    return {"w": torch.tensor([value], dtype=torch.float64)}


BY_HAND: list[tuple[Kind, float, float, float]] = [
    # Importance 1 at weight 0, then 3 at weight 2; the gradient is measured at 2.5.
    ("separate", 4.0, 1.5, 80.0),  # 2 * 10 * (1 * (2.5 - 0) + 3 * (2.5 - 2))
    ("summed", 4.0, 2.0, 40.0),  # 2 * 10 * 4 * (2.5 - 2)
    ("online", 3.5, 2.0, 35.0),  # 2 * 10 * (0.5 * 1 + 3) * (2.5 - 2)
]


@pytest.mark.parametrize(("kind", "importance", "centre", "gradient"), BY_HAND)
def test_two_tasks_by_hand(kind: Kind, importance: float, centre: float, gradient: float) -> None:
    penalty = Quadratic(10.0, kind, decay=0.5)
    penalty.consolidate(_named(0.0), _named(1.0))
    penalty.consolidate(_named(2.0), _named(3.0))
    assert penalty.importance["w"].item() == importance
    assert penalty.centre["w"].item() == centre
    assert penalty.gradient(_named(2.5))["w"].item() == pytest.approx(gradient)


def test_a_weight_that_no_task_cares_for_is_free() -> None:
    penalty = Quadratic(1e4)
    penalty.consolidate(_named(1.0), _named(0.0))
    penalty.consolidate(_named(2.0), _named(0.0))
    assert penalty.gradient(_named(9.0))["w"].item() == 0.0


def test_the_optimizer_of_other_weights_gets_nothing() -> None:
    penalty = Quadratic(1e4)
    penalty.consolidate(_named(1.0), _named(1.0))
    assert penalty.gradient({"other": torch.ones(1)}) == {}


@pytest.mark.parametrize("kind", ["separate", "summed", "online"])
def test_the_gradient_is_that_of_the_penalty_over_all_tasks(kind: Any) -> None:
    rng = np.random.default_rng(0)
    anchors, roots = (
        [torch.as_tensor(rng.normal(size=(2, 6))) for _ in range(3)] for _ in range(2)
    )
    theta = torch.as_tensor(rng.normal(size=(2, 6))).requires_grad_()
    penalty = Quadratic(3.0, kind, decay=0.9)
    total = torch.zeros((), dtype=torch.float64)
    for task, (anchor, root) in enumerate(zip(anchors, roots, strict=True)):
        penalty.consolidate({"w": anchor}, {"w": root.square()})
        weight = 0.9 ** (2 - task) if kind == "online" else 1.0
        held = anchor if kind == "separate" else anchors[-1]
        total = total + 3.0 * weight * (root.square() * (theta - held).square()).sum()
    (expected,) = torch.autograd.grad(total, theta)
    gradient = penalty.gradient({"w": theta.detach()})["w"]
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-12)


def test_state_is_taken_back() -> None:
    penalty, again = Quadratic(2.0), Quadratic(2.0)
    penalty.consolidate(_named(1.0), _named(3.0))
    again.load(penalty.state() | {"fisher/w": torch.zeros(1)}, torch.device("cpu"))
    assert again.importance == penalty.importance
    assert again.centre == penalty.centre
