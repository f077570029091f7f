"""Tensors of a policy in the place of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from shapes import Shapes
from stable_baselines3 import PPO, SAC
from torch import Tensor, nn
from torch.func import functional_call

from holdfast.agents.algorithms import losses
from holdfast.agents.base.parameters import named_parameters, replaced
from holdfast.agents.doors.outputs import PolicyOutput, Reader


class Tied(nn.Module):
    """One layer under two names, and one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.again = self.first
        self.last = nn.Linear(2, 2)
        self.last.weight = self.first.weight
        self.register_buffer("scale", torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.last(self.again(self.first(x))) * self.scale
        return scaled


def test_replaced_gives_what_torch_gives_and_leaves_the_module_as_it_was() -> None:
    tied, x = Tied(), torch.randn(3, 2)
    own = {**dict(tied.named_parameters(remove_duplicate=False)), "scale": tied.scale}
    others = {"first.weight": torch.randn(2, 2), "scale": torch.randn(2)}
    with replaced(tied, others):
        found = tied(x)
    now = {**dict(tied.named_parameters(remove_duplicate=False)), "scale": tied.scale}
    assert all(now[name] is value for name, value in own.items())
    once = {**dict(tied.named_parameters()), **others}
    assert found.equal(functional_call(Tied(), once, (x,)))


def test_replaced_puts_back_after_an_error() -> None:
    tied, zeros = Tied(), torch.zeros(2, 2)
    weight = tied.last.weight
    with pytest.raises(RuntimeError, match="shapes"), replaced(tied, {"last.weight": zeros}):
        tied(torch.zeros(1, 5))
    assert tied.first.weight is weight
    assert tied.again.weight is weight


@pytest.mark.parametrize(
    ("algorithm", "taken", "keys"),
    [
        (PPO, "discrete", {"n_steps": 8, "batch_size": 4}),
        (SAC, "box", {"buffer_size": 9, "policy_kwargs": {"share_features_extractor": True}}),
    ],
)
def test_a_shared_features_extractor_goes_on_learning(
    algorithm: Any, taken: str, keys: dict[str, Any]
) -> None:
    """An optimizer moves what it holds; the policy must go on with the very same tensors."""
    model = algorithm("CnnPolicy", Shapes("picture", taken), device="cpu", **keys)
    own = dict(model.policy.named_parameters(remove_duplicate=False))
    picture = torch.zeros(2, *model.observation_space.shape)
    parameters = {
        n: p.detach() for n, p in named_parameters(model.policy, "actor", "encoder").items()
    }
    Reader(type("Learner", (), {"policy": model.policy}), PolicyOutput).of(parameters, picture)
    if algorithm is PPO:
        rows = {name: torch.zeros(2) for name in ("advantages", "returns", "old_log_prob")}
        batch = {"observations": picture, "actions": torch.zeros(2, 1), **rows}
        inputs = losses.inputs_of(model, parameters, batch, torch.Generator())
        assert losses.loss_gradient(model, parameters, inputs)
    now = dict(model.policy.named_parameters(remove_duplicate=False))
    assert [name for name, value in own.items() if now[name] is not value] == []
