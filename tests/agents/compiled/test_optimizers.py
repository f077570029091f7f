"""Steps of optimizers as pure functions, against torch's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer, RMSprop

from holdfast.agents.compiled.optimizers import Stepper, clipped
from holdfast.errors import UsageError

SHAPES = {"weight": (3, 2), "bias": (3,), "log_std": (1,)}
MADE: dict[str, Callable[[Any], Optimizer]] = {
    "adam": lambda of: Adam(of, lr=0.1, eps=1e-5),
    "adam betas": lambda of: Adam(of, lr=0.1, betas=(0.0, 0.9)),
    "adam decay": lambda of: Adam(of, lr=0.1, weight_decay=0.3),
    "adam that is adamw": lambda of: AdamW(of, lr=0.1, weight_decay=0.3),
    "adamw": lambda of: AdamW(of, lr=0.1),
    "rmsprop": lambda of: RMSprop(of, lr=0.1, alpha=0.8, eps=1e-3),
    "rmsprop momentum": lambda of: RMSprop(of, lr=0.1, momentum=0.7, weight_decay=0.2),
    "tensorflow": lambda of: RMSpropTFLike(of, lr=0.1, alpha=0.8, eps=1e-3),
    "tensorflow momentum": lambda of: RMSpropTFLike(of, lr=0.1, momentum=0.7, weight_decay=0.2),
    "sgd": lambda of: SGD(of, lr=0.1),
    "sgd decay": lambda of: SGD(of, lr=0.1, weight_decay=0.3),
}


def drawn(seed: int, kind: torch.dtype) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {n: torch.randn(shape, generator=rng, dtype=kind) for n, shape in SHAPES.items()}


def parameters_of(kind: torch.dtype) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(value) for name, value in drawn(0, kind).items()}


def take(optimizer: Optimizer, parameters: dict[str, nn.Parameter], seed: int) -> None:
    """Take a step of torch's."""
    gradients = drawn(seed, parameters["bias"].dtype)
    for name, parameter in parameters.items():
        parameter.grad = gradients[name]
    optimizer.step()


def remembered(
    optimizer: Optimizer, parameters: dict[str, nn.Parameter]
) -> dict[str, dict[str, Tensor]]:
    """Return torch's moments, copied, by quantity and name."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, parameter in parameters.items():
        for quantity, value in optimizer.state[parameter].items():
            if quantity != "step" and value is not None:
                found.setdefault(quantity, {})[name] = value.detach().clone()
    return found


@pytest.mark.parametrize("name", MADE)
def test_twenty_steps_from_moments_are_torchs(name: str) -> None:
    parameters = parameters_of(torch.float64)
    optimizer = MADE[name]([*parameters.values()])
    stepper = Stepper(optimizer, parameters)
    assert not any(map(stepper.remembers, SHAPES))
    for seed in range(1, 4):
        take(optimizer, parameters, seed)
    values = {n: p.detach().clone() for n, p in parameters.items()}
    moments = remembered(optimizer, parameters)
    assert moments.keys() == stepper.quantities.keys()
    for number in range(4, 24):
        rate = 0.1 / number  # as a schedule gives it
        optimizer.param_groups[0]["lr"] = rate
        take(optimizer, parameters, number)
        count, rates = (torch.tensor(float(n), dtype=torch.float64) for n in (number, rate))
        given = drawn(number, torch.float64)
        values, moments = stepper.step(values, given, moments, count, [rates])
        _close(values, {n: p.detach() for n, p in parameters.items()}, 1e-12)
    for quantity, named in remembered(optimizer, parameters).items():
        _close(moments[quantity], named, 1e-12)
    assert all(map(stepper.remembers, SHAPES))


@pytest.mark.parametrize("name", MADE)
def test_what_is_remembered_at_first_is_what_torch_begins_with(name: str) -> None:
    parameters = parameters_of(torch.float64)
    optimizer = MADE[name]([*parameters.values()])
    stepper = Stepper(optimizer, parameters)
    values = {n: p.detach().clone() for n, p in parameters.items()}
    rate, count = torch.tensor(0.1, dtype=torch.float64), torch.ones((), dtype=torch.float64)
    take(optimizer, parameters, 1)
    values, moments = stepper.step(
        values, drawn(1, torch.float64), stepper.initial(values), count, [rate]
    )
    _close(values, {n: p.detach() for n, p in parameters.items()}, 1e-12)
    for quantity, named in remembered(optimizer, parameters).items():
        _close(moments[quantity], named, 1e-12)


def test_groups_have_their_own_rates_and_decay() -> None:
    parameters = parameters_of(torch.float64)
    groups: list[dict[str, Any]] = [
        {"params": [parameters["weight"]], "weight_decay": 0.5, "lr": 0.1},
        {"params": [parameters["bias"], parameters["log_std"]], "lr": 0.02},
    ]
    optimizer = Adam(groups)
    stepper = Stepper(optimizer, parameters)
    assert stepper.groups == [["weight"], ["bias", "log_std"]]
    values = {n: p.detach().clone() for n, p in parameters.items()}
    moments = stepper.initial(values)
    rates = [torch.tensor(rate, dtype=torch.float64) for rate in (0.1, 0.02)]
    for number in range(1, 4):
        take(optimizer, parameters, number)
        count = torch.tensor(float(number), dtype=torch.float64)
        values, moments = stepper.step(values, drawn(number, torch.float64), moments, count, rates)
    _close(values, {n: p.detach() for n, p in parameters.items()}, 1e-12)


def test_a_parameter_without_a_gradient_stays_and_is_not_remembered() -> None:
    parameters = parameters_of(torch.float64)
    stepper = Stepper(AdamW([*parameters.values()], lr=0.1, weight_decay=0.3), parameters)
    values = {n: p.detach().clone() for n, p in parameters.items()}
    gradients = drawn(1, torch.float64)
    del gradients["bias"]
    one = torch.ones((), dtype=torch.float64)
    after, moments = stepper.step(values, gradients, stepper.initial(values), one, [one])
    assert after["bias"].equal(values["bias"])
    assert not moments["exp_avg_sq"]["bias"].any()
    assert not after["weight"].equal(values["weight"])
    assert [name for name in SHAPES if stepper.remembers(name)] == ["weight", "log_std"]


@pytest.mark.parametrize("first", [1, 2, 3, 4, 5, 10**5])
def test_adam_in_float32_is_torchs_to_the_last_digits(first: int) -> None:
    """Where 1 - 0.999**step is computed in float32, the step is off by some 1e-5 of itself."""
    parameters = parameters_of(torch.float32)
    optimizer = Adam([*parameters.values()], lr=1.0, eps=1e-8)
    stepper = Stepper(optimizer, parameters)
    moments = {"exp_avg": drawn(5, torch.float32), "exp_avg_sq": drawn(6, torch.float32)}
    moments["exp_avg_sq"] = {n: m.square() for n, m in moments["exp_avg_sq"].items()}
    values = {n: p.detach().clone() for n, p in parameters.items()}
    for name, parameter in parameters.items():
        own = {quantity: named[name].clone() for quantity, named in moments.items()}
        optimizer.state[parameter] = {"step": torch.tensor(float(first - 1)), **own}
    take(optimizer, parameters, 1)
    after, _ = stepper.step(
        values, drawn(1, torch.float32), moments, torch.tensor(float(first)), [torch.tensor(1.0)]
    )
    for name, parameter in parameters.items():
        step, wanted = after[name] - values[name], parameter.detach() - values[name]
        # A step of size s near a weight of size w is known to w * 6e-8 only.
        spacing = 2e-7 * torch.maximum(values[name].abs(), parameter.detach().abs())
        assert ((step - wanted).abs() <= 5e-7 * wanted.abs() + spacing).all(), name


@pytest.mark.parametrize("norm", [1e-3, 0.5, 100.0])
def test_clipping_is_torchs(norm: float) -> None:
    gradients, parameters = drawn(1, torch.float64), parameters_of(torch.float64)
    for name, parameter in parameters.items():
        parameter.grad = gradients[name].clone()
    clip_grad_norm_(parameters.values(), norm)
    found = clipped(gradients, norm)
    _close(found, {n: p.grad for n, p in parameters.items() if p.grad is not None}, 1e-14)
    assert found["weight"].equal(gradients["weight"]) == (norm == 100.0)


class Lion(Optimizer):
    """Some other optimizer."""

    def __init__(self, of: Any) -> None:
        super().__init__(of, {})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda of: Adam(of, amsgrad=True), ("Adam", "amsgrad")),
        (lambda of: AdamW(of, amsgrad=True), ("AdamW", "amsgrad")),
        (lambda of: Adam(of, maximize=True), ("Adam", "maximize")),
        (lambda of: RMSprop(of, centered=True), ("RMSprop", "centered")),
        (lambda of: RMSpropTFLike(of, centered=True), ("RMSpropTFLike", "centered")),
        (lambda of: SGD(of, momentum=0.9), ("SGD", "without momentum")),
        (NAdam, ("NAdam", "engine: sb3")),
        (Lion, ("Lion", "engine: sb3")),
    ],
)
def test_others_are_refused_by_name(
    make: Callable[[Any], Optimizer], words: tuple[str, ...]
) -> None:
    parameters = parameters_of(torch.float64)
    with pytest.raises(UsageError) as caught:
        Stepper(make([*parameters.values()]), parameters)
    assert all(word in str(caught.value) for word in words)


def _close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance, msg=name)
