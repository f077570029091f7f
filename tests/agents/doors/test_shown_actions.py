"""The loss on demonstrated actions by hand, and what it adds to an update."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.agents.doors.shown_actions import MARGIN, distance


def test_continuous_actions_by_hand() -> None:
    """Squashed: (tanh 0 - .5)^2 + (tanh 1 - 1)^2 and 0; as they are: .25 + 0 and 1 + 1."""
    mean = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    actions = torch.tensor([[0.5, 1.0], [0.0, 0.0]])
    squashed = {"mean": mean, "log_std": torch.zeros(2, 2)}
    by_hand = (0.25 + (np.tanh(1.0) - 1.0) ** 2) / 2
    assert distance(squashed, actions).item() == pytest.approx(by_hand)
    plain = {"mean": mean}
    assert distance(plain, torch.tensor([[0.5, 1.0], [1.0, 1.0]])).item() == (0.25 + 2.0) / 2


def test_action_values_by_hand() -> None:
    """Short of the margin by .8 - .5; above all others by more than it; the other one is better."""
    values = {"mean": torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])}
    shown = torch.tensor([[0], [1], [2]])
    lacking = [MARGIN - 0.5, 0.0, 3.0 + MARGIN]
    assert distance(values, shown).item() == pytest.approx(np.mean(lacking))
