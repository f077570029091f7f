"""Every method under the compiled engine: the same weights as under Stable-Baselines3's updates."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from holdfast.continual.method import Method
from holdfast.continual.methods.regularization.bayesian import SUFFIX
from holdfast.continual.methods.regularization.vcl import VCL
from holdfast.errors import UsageError
from holdfast.registry import METHODS, NOT_COMPILED
from holdfast.scenarios.checks.methods import can_take, method_signature
from tests.continual.methods.test_contract import SETTINGS, build

# Rounding differs between the engines, and a squashed Gaussian's density amplifies it.
TOLERANCE = {"ppo": 2e-5, "sac": 2e-4, "dqn": 2e-5, "td3": 2e-4}
CASES = [
    (world, name)
    for world in TOLERANCE
    for name in METHODS
    if can_take(world, method_signature(name)) and name not in NOT_COMPILED
]


STEP = 2e-3
"""Two steps of Adam: of the penalty on a deviation at its prior, which is zero up to rounding, it
makes whole ones."""
SLOW = pytest.mark.slow
QUICK = {("ppo", "ewc"), ("sac", "si")}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("world", "name"),
    [pytest.param(*case, marks=[] if case in QUICK else [SLOW]) for case in CASES],
)
def test_weights_are_those_of_the_other_engine(
    world: str, name: str, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_the_prior = {SUFFIX: STEP} if name == "vcl" else {}
    assert_equal(world, lambda: build(name), train, monkeypatch, at_the_prior)


@pytest.mark.slow
@pytest.mark.parametrize("world", ["ppo", *(pytest.param(w, marks=SLOW) for w in ("dqn", "sac"))])
def test_weights_and_deviations_of_vcl_are_those_of_the_other_engine(
    world: str, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So weak that what rounding leaves of the penalty at its prior is small beside the loss.
    weak = {"strength": 1e-5, "first_task_kl": True}
    assert_equal(world, lambda: [VCL(**weak)], train, monkeypatch, {})


def assert_equal(
    world: str,
    make: Callable[[], list[Method]],
    train: Any,
    monkeypatch: pytest.MonkeyPatch,
    tolerances: dict[str, float],
) -> None:
    """Learn two tasks under both engines and compare all weights.

    Args:
        world: An algorithm with its environments.
        make: Makes the methods.
        train: The fixture.
        monkeypatch: The fixture.
        tolerances: By the end of a name, where it is another.
    """
    # Stable-Baselines3's own collecting in both, so that they draw the same random numbers.
    monkeypatch.setattr("holdfast.agents.compiled.collection.collecting", lambda _: nullcontext())
    ends: dict[str, dict[str, torch.Tensor]] = {}
    for engine in ("sb3", "compiled"):
        agent = train(world, make, tasks=2, agent={"engine": engine}, **SETTINGS)
        ends[engine] = {n: tensor.clone() for n, tensor in agent.policy.state_dict().items()}
    for name, expected in ends["sb3"].items():
        own = (atol for end, atol in tolerances.items() if name.endswith(end))
        atol = next(own, TOLERANCE[world])
        found = ends["compiled"][name]
        torch.testing.assert_close(found, expected, rtol=0, atol=atol, msg=name)


class Peeks(Method):
    """Looks at a tensor's value in an update."""

    doors = ("gradients",)

    def pre_adapt(self, doors: Any, experience: Any) -> None:
        doors.gradients.add(lambda parameters, state, batch: _halved(parameters))


def _halved(parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: p / 2 for name, p in parameters.items() if p.sum().item() > 0}


def test_a_method_that_looks_at_a_tensor_is_refused_with_its_line(train: Any) -> None:
    said = (
        r"^agent\.engine: compiled: an update, .* looks at the value of a tensor "
        r"\(.*test_engines\.py:\d+, in .*\).*; or write engine: sb3$"
    )
    with pytest.raises(UsageError, match=said) as refused:
        train("ppo", lambda: [Peeks()], tasks=1, agent={"engine": "compiled"})
    assert refused.value.__cause__ is None  # what torch passed through says nothing more


class Hosted(Method):
    """Keeps, on the host, what the actor's weights are after each of its updates."""

    doors = ("gradients",)

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def pre_adapt(self, doors: Any, experience: Any) -> None:
        def look() -> None:
            actor = doors.gradients.parameters("actor").values()
            self.seen.append(torch.cat([p.reshape(-1).clone() for p in actor]))

        doors.gradients.after_update(look, "actor")


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["dqn", *(pytest.param(w, marks=SLOW) for w in ("sac", "td3"))])
def test_the_host_acts_after_every_update_of_the_actor(
    world: str, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.agents.compiled.collection.collecting", lambda _: nullcontext())
    seen = {}
    for engine in ("sb3", "compiled"):
        agent, hosted = {"engine": engine, "train_freq": 4, "gradient_steps": 3}, Hosted()
        train(world, lambda hosted=hosted: [hosted], tasks=1, agent=agent)
        seen[engine] = torch.stack(hosted.seen)
    assert len(seen["sb3"]) > 6
    assert (seen["sb3"].diff(dim=0).abs().amax(1) > 0).all()
    torch.testing.assert_close(seen["compiled"], seen["sb3"], rtol=0, atol=TOLERANCE[world])


def test_the_host_cannot_act_inside_the_one_call_of_a_rollout(train: Any) -> None:
    with pytest.raises(UsageError, match=r"after_update\), and all of a rollout's are one call"):
        train("ppo", lambda: [Hosted()], tasks=1, agent={"engine": "compiled"})
