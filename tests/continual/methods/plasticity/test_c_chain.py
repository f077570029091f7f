"""C-CHAIN: churn and coefficient by hand, gradients by autograd, the network before the last."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from holdfast.agents.base.parameters import Named, named_parameters
from holdfast.agents.doors.outputs import OutputSpec
from holdfast.continual.methods.plasticity.c_chain import CChain, begun, churn

QUICK = {"warmup": 3, "batch_size": 8, "window": 4}


def test_churn_by_hand() -> None:
    """Probabilities 1/4 and 3/4 before, 1/2 each now: the cross entropy is log 2, twice."""
    spec = OutputSpec("categorical", [2, 2])
    old = torch.tensor([[0.0, math.log(3.0)] * 2])
    found = churn(spec, {"logits": old}, {"logits": torch.zeros(1, 4)})
    assert found.item() == pytest.approx(2 * math.log(2))
    found = churn(spec, {"logits": torch.zeros(1, 4)}, {"logits": old})
    assert found.item() == pytest.approx(-math.log(1 / 4) - math.log(3 / 4))
    on = {"logits": torch.tensor([[math.log(3.0)]])}
    found = churn(OutputSpec("bernoulli"), on, on)
    assert found.item() == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    means = (
        {"mean": torch.tensor(m)} for m in ([[1.0, 2.0], [0.0, 0.0]], [[2.0, 0.0], [0.0, 1.0]])
    )
    assert churn(OutputSpec("gaussian"), *means).item() == pytest.approx((1 + 4 + 0 + 1) / 4)


def test_the_coefficient_by_hand() -> None:
    """Losses of mean 3 (half known) and churn of mean .5: 2 x 3 / .5 is 12."""
    spec = OutputSpec("gaussian")
    zero = begun({"w": torch.zeros(1, dtype=torch.float64)})

    def coefficient(updates: float, **given: float) -> float:
        known = {"updates": torch.tensor(updates), "loss": torch.tensor([1.5, 0.5])}
        state = zero | known | {"churn": torch.tensor([0.4, 0.8])}
        return float(CChain(warmup=10, **given).coefficient(spec, state))

    assert coefficient(10.0, scale=2.0) == pytest.approx(12.0)
    assert coefficient(9.0, scale=2.0) == 100.0
    assert coefficient(9.0, initial=7.0) == 7.0
    assert coefficient(10.0) == pytest.approx(0.05 * 6)
    assert coefficient(9.0, scale=0.0) == coefficient(10.0, scale=0.0) == 0.0
    discrete = CChain(warmup=1).coefficient(
        OutputSpec("categorical", [2]),
        zero
        | {"updates": torch.tensor(1.0), "loss": torch.tensor([1e-9, 1.0])}
        | {"churn": torch.tensor([0.6, 1.0])},
    )
    assert discrete == 1.0  # at least
    unknown = CChain(warmup=1).coefficient(spec, zero | {"updates": torch.tensor(5.0)})
    assert unknown == 100.0


def test_means_by_hand() -> None:
    """A window of 2 halves what is known at every update; the first has no churn."""

    class Output:
        spec = OutputSpec("unit_gaussian")

        def of(self, parameters: Named, seen: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"mean": parameters["w"] * seen}

    method, state = CChain(window=2), begun({"w": torch.tensor([1.0])})
    known = ([0.0, 0.0], [4.0, 1.0], [8.0, 1.0])
    for weight, loss in zip((1.0, 3.0, 4.0), known, strict=True):
        batch = {"seen": torch.ones(1, 1), "loss": torch.tensor(loss)}
        gradients, state = method.gradient(Output(), {"w": torch.tensor([weight])}, state, batch)
    # The last one: from 3 to 4, with the first coefficient for action values.
    assert gradients["w"].item() == pytest.approx(50 * 2 * (4 - 3))
    assert state["old"]["w"].item() == 4.0
    assert state["updates"].item() == 3.0
    assert state["churn"].tolist() == pytest.approx([4 / 4 + 1 / 2, 1 / 4 + 1 / 2])
    assert state["loss"].tolist() == pytest.approx([4 / 4 + 8 / 2, 1 / 4 + 1 / 2])


@pytest.mark.parametrize("world", ["ppo", "ppo-box", "dqn", "sac", "td3"])
def test_the_gradient_is_autograds(world: str, train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, of the loss as it is written for each kind of output."""
    # Stable-Baselines3 turns observations into float32 on their way into the network.
    monkeypatch.setattr(
        "stable_baselines3.common.policies.preprocess_obs", lambda obs, *_, **__: obs
    )
    agent = train(world, tasks=1, steps=32)
    policy = agent.policy.double()
    reader = agent.doors(CChain()).output.actor
    parameters = {n: p.detach().clone() for n, p in named_parameters(policy, "actor").items()}
    rng = np.random.default_rng(0)
    width = policy.observation_space.shape[0]
    seen = torch.as_tensor(rng.normal(size=(16, width)))
    old = {n: p + 0.1 * torch.as_tensor(rng.normal(size=p.shape)) for n, p in parameters.items()}
    leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    with torch.no_grad():
        then = reader.of(old, seen)
    now = reader.of(leaves, seen)
    if world == "ppo":
        then, now = then["logits"].softmax(-1), now["logits"].softmax(-1)
        loss = -3.0 * (then * now.log()).sum(-1).mean()
    else:
        loss = 3.0 * (then["mean"] - now["mean"]).pow(2).mean()
    expected = torch.autograd.grad(
        loss, list(leaves.values()), materialize_grads=True, allow_unused=True
    )
    state = begun(parameters) | {"old": old}
    batch = {"seen": seen, "loss": torch.zeros(2, dtype=torch.float64)}
    found, _ = CChain(initial=3.0).gradient(reader, parameters, state, batch)
    assert max(float(g.abs().max()) for g in expected) > 1e-3
    for name, gradient in zip(leaves, expected, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("world", ["ppo", "sac"])
def test_it_compares_with_the_network_before_the_last_update(world: str, train: Any) -> None:
    method, given = CChain(**QUICK), []
    published = method.gradient

    def gradient(output: Any, parameters: Named, state: Any, batch: Any) -> Any:
        names = sorted(parameters)
        copies = [torch.cat([p[n].flatten() for n in names]) for p in (parameters, state["old"])]
        given.append(
            (*copies, float(batch["loss"][0]), float(method.coefficient(output.spec, state)))
        )
        return published(output, parameters, state, batch)

    method.gradient = gradient  # type: ignore[method-assign]
    train(world, lambda: [method], tasks=1, steps=160)
    assert len(given) > 6
    for (now, *_), (later, old, *_) in itertools.pairwise(given):
        assert torch.equal(old, now)
        assert not torch.equal(later, old)
    losses = [loss for _, _, loss, _ in given]
    assert losses[0] == 0.0
    assert len(set(losses)) > 2  # a new one after each round
    coefficients = [coefficient for *_, coefficient in given]
    assert len(set(coefficients[:3])) == 1
    assert len(set(coefficients)) > 3


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", "ppo-box", "dqn", "sac"])
def test_at_scale_0_it_equals_naive(world: str, train: Any, same: Any) -> None:
    naive = train(world)
    same(naive, train(world, lambda: [CChain(**QUICK, scale=0.0)]))
    with pytest.raises(AssertionError):
        same(naive, train(world, lambda: [CChain(**QUICK)]))


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", "sac"])
def test_a_restart_changes_nothing(world: str, check_restart: Any) -> None:
    check_restart(world, {"c-chain": QUICK})


@pytest.mark.thorough
def test_it_lowers_the_churn(train: Any) -> None:
    """Mean squared difference of actions, from one update to the next, at a large rate."""
    ends = []
    for scale in (0.0, 10.0):
        method, seen = CChain(scale=scale, initial=10 * scale, batch_size=32, window=50), []
        published = method.gradient

        def gradient(*args: Any, published: Any = published, seen: Any = seen) -> Any:
            gradients, after = published(*args)
            seen.append(after["churn"])
            return gradients, after

        method.gradient = gradient  # type: ignore[method-assign]
        train(
            "ppo-box",
            lambda method=method: [method],
            tasks=1,
            steps=256,
            agent={"learning_rate": 0.01},
        )
        ends.append(float(seen[-1][0] / seen[-1][1]))
    assert ends[1] < 0.8 * ends[0]
