"""Weight clipping: bounds of each layer, the authors' optimizer, and nothing where none is met."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from holdfast.agents.base.parameters import named_parameters
from holdfast.agents.modules.initialisation import layer_names
from holdfast.continual.methods.plasticity.weight_clipping import WeightClipping, initial_bound


def test_by_hand() -> None:
    """A fan-in of 4 bounds by 1/2; kappa of 3 by 3/2."""
    weights = {"q.weight": torch.tensor([[-2.0, 1.0, 1.6, 0.0]]), "q.bias": torch.tensor([9.0])}
    other = {"log_std": torch.tensor([5.0])}
    names = {name: torch.zeros(0) for name in weights}
    values, renewed, *_ = WeightClipping(kappa=3.0).clipped(weights | other, names, {})
    assert values["q.weight"].tolist() == [[-1.5, 1.0, 1.5, 0.0]]
    assert values["q.bias"].tolist() == [1.5]
    assert values.keys() == weights.keys()
    assert not renewed


@pytest.mark.parametrize("layer", [nn.Linear(7, 300), nn.Conv2d(3, 300, 4), nn.LSTM(5, 100)])
def test_the_bound_is_that_of_torchs_initialisation(layer: Any) -> None:
    """Of so many numbers, the largest is near the bound."""
    torch.manual_seed(0)
    layer.reset_parameters()
    parameters = {f"net.{name}": p.detach() for name, p in layer.named_parameters()}
    for name, values in parameters.items():
        bound = initial_bound(name, parameters)
        assert 0.9 * bound < values.abs().max() <= bound, name


@pytest.mark.thorough
def test_it_is_the_authors_optimizer(
    train: Any, same: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their wrapper takes Adam's step, then clips each weight, and its bias by the same bound."""
    clipped = train("ppo", lambda: [WeightClipping(kappa=0.7)], agent={"learning_rate": 0.01})
    step = torch.optim.Adam.step

    def wrapped(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        result = step(optimizer, *args, **kwargs)
        own = optimizer.param_groups[0]["params"]
        for weight, bias in zip(own[::2], own[1::2], strict=True):
            bound = 1.0 / math.sqrt(weight.shape[1])
            for parameter in (weight, bias):
                parameter.data.clamp_(-0.7 * bound, 0.7 * bound)
        return result

    naive = train("ppo", agent={"learning_rate": 0.01})
    monkeypatch.setattr(torch.optim.Adam, "step", wrapped)
    same(clipped, train("ppo", agent={"learning_rate": 0.01}))
    with pytest.raises(AssertionError):
        same(clipped, naive)


@pytest.mark.parametrize(
    ("world", "task_id"),
    [
        *((world, "observed") for world in ("ppo-box", "dqn", "sac", "td3", "crossq")),
        *((world, "heads") for world in ("ppo-box", "dqn", "sac", "td3")),  # CrossQ takes none
    ],
)
def test_every_layer_is_inside_its_bounds_and_reaches_them(
    world: str, task_id: str, train: Any
) -> None:
    keys = {"agent": {"learning_rate": 0.1}, "stream": {"task_id": task_id}}
    agent = train(world, lambda: [WeightClipping(kappa=1.0)], **keys)
    live = {name: p.detach() for name, p in named_parameters(agent.policy).items()}
    names = layer_names(agent.policy) & live.keys()
    assert len(names) >= 6
    peaks = {name: live[name].abs().max() / initial_bound(name, live) for name in names}
    assert max(peaks.values()) == pytest.approx(1.0, abs=1e-6)
    assert sum(peak > 0.999 for peak in peaks.values()) > len(peaks) / 2
    if world == "ppo-box":
        assert "log_std" in live.keys() - names


@pytest.mark.parametrize("world", ["ppo", "dqn", "sac"])
def test_where_no_bound_is_met_it_equals_naive(world: str, train: Any, same: Any) -> None:
    same(train(world), train(world, lambda: [WeightClipping(kappa=1e6)]))


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", "sac"])
def test_a_restart_changes_nothing(world: str, check_restart: Any) -> None:
    check_restart(world, {"weight-clipping": {"kappa": 0.7}})
