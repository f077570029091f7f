"""What each weight's movement gained: by hand, and from the first-order fall of a loss."""

from __future__ import annotations

import pytest
import torch

from holdfast.agents.base.parameters import Named, joined
from holdfast.agents.doors.gradients import Step
from holdfast.continual.methods.regularization.path_integral import begun, walked
from holdfast.continual.methods.regularization.rwalk import RWalk
from holdfast.continual.methods.regularization.si import SI


def _named(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor([value], dtype=torch.float64)}


def _step(before: Named, raw: Named, after: Named) -> Step:
    return Step(joined(before), joined(raw), joined(after))


def test_two_steps_by_hand() -> None:
    """-(gradient x move): -(-2 * 0.5) and -(1 * 0.25)."""
    path = walked(_step(_named(1.0), _named(-2.0), _named(1.5)), begun(_named(1.0)), {})
    path = walked(_step(_named(1.5), _named(1.0), _named(1.75)), path, {})
    assert path["gains"].item() == 0.75
    assert path["start"].item() == 1.0


def test_small_steps_gain_the_fall_of_the_loss() -> None:
    """Along a gradient flow, the gains of all weights sum to what the loss fell by."""
    torch.manual_seed(0)
    curve = torch.rand(6, dtype=torch.float64) + 0.1
    weights = {"a": torch.randn(4, dtype=torch.float64), "b": torch.randn(2, dtype=torch.float64)}

    def loss(values: dict[str, torch.Tensor]) -> torch.Tensor:
        return (curve * torch.cat([values["a"], values["b"]]).square()).sum()

    first = loss(weights)
    path = begun(weights)
    for _ in range(2000):
        gradients = {"a": 2 * curve[:4] * weights["a"], "b": 2 * curve[4:] * weights["b"]}
        after = {name: value - 1e-3 * gradients[name] for name, value in weights.items()}
        path = walked(_step(weights, gradients, after), path, {})
        weights = after
    gained = path["gains"].sum().item()
    assert gained == pytest.approx((first - loss(weights)).item(), rel=2e-3)


def test_si_by_hand() -> None:
    """Gain 0.75 over a distance of 0.75 with xi 0.1875: 0.75 / (0.5625 + 0.1875) = 1."""
    si = SI(strength=1.0, xi=0.1875)
    path = walked(_step(_named(1.0), _named(-1.0), _named(1.75)), begun(_named(1.0)), {})
    si.consolidate(_named(1.75), si.importance(path, _named(1.75)))
    assert si.penalty.importance["w"].item() == pytest.approx(1.0)
    assert si.penalty.centre["w"].item() == 1.75
    # A second task loses as much again and more: the sum is cut off at zero, not below.
    si.consolidate(_named(3.0), _named(-0.25))
    assert si.penalty.importance["w"].item() == pytest.approx(0.75)
    si.consolidate(_named(3.0), _named(-5.0))
    assert si.penalty.importance["w"].item() == 0.0


def test_rwalk_by_hand() -> None:
    """Two intervals of two steps and two weights; alpha 1/2, no damping to speak of."""
    rwalk = RWalk(alpha=0.5, interval=2, epsilon=1e-30)
    tensor = lambda *values: {"w": torch.tensor(values, dtype=torch.float64)}  # noqa: E731
    at = [tensor(0.0, 0.0), tensor(1.0, 0.0), tensor(2.0, 1.0), tensor(2.0, 1.0), tensor(3.0, 1.0)]
    slopes = [tensor(-2.0, 1.0), tensor(-1.0, 1.0), tensor(0.0, 0.0), tensor(-1.0, 0.0)]
    fisher = [(4.0, 1.0), (2.5, 1.0), (1.25, 0.5), (1.125, 0.25)]
    state = rwalk.begun(at[0])
    for number in range(4):
        step = _step(at[number], slopes[number], at[number + 1])
        state = rwalk.walk(step, state, {}, **rwalk.flags(number))
        assert state["fisher"].tolist() == list(fisher[number])
    rwalk.take(state, at[4])
    rwalk.consolidate(at[4])
    # Gains: 2 + 1 = 3 and -1 over moves of 2 and 1; then 1 and 0 over moves of 1 and 0.
    first = 3 / (0.5 * 2.5 * 4) + 1 / (0.5 * 1.125)
    second = -1 / (0.5 * 1.0 * 1)
    assert rwalk.scores["w"].tolist() == pytest.approx([first, second])
    # Fisher and scores over their largest entries; the negative score counts as zero.
    assert rwalk.penalty.importance["w"].tolist() == pytest.approx([2.0, 0.25 / 1.125])
    # After a second task the scores are averaged with the first's, and the Fisher goes on.
    assert rwalk.begun(at[0])["fisher"].tolist() == list(fisher[3])
    rwalk.take({**state, "score": tensor(0.0, 4.0)["w"]}, at[0])
    rwalk.consolidate(at[0])
    assert rwalk.scores["w"].tolist() == pytest.approx([first / 2, 1.0])
    assert rwalk.penalty.importance["w"].tolist() == pytest.approx(
        [1.0 + 1.0, 0.25 / 1.125 + 1.0 / (first / 2)]
    )
    assert rwalk.penalty.centre["w"].tolist() == [0.0, 0.0]
