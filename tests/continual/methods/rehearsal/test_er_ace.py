"""ER-ACE: by hand, against float64 autograd, and what it stores."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal

from holdfast.agents.base.parameters import Named, named_parameters, split
from holdfast.agents.doors.gradients import Step
from holdfast.agents.doors.outputs import OutputSpec
from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.continual.methods.rehearsal.episodic import all_rows
from holdfast.continual.methods.rehearsal.er_ace import ERACE
from holdfast.continual.streams.task_stream import make_stream
from holdfast.scenarios.schema.scenario import Scenario

WORLDS = {
    "ppo": ("CartPole-v1", {"n_steps": 32, "batch_size": 32, "n_epochs": 1, "max_grad_norm": 1e9}),
    "ppo-box": (
        "Pendulum-v1",
        {"n_steps": 32, "batch_size": 32, "n_epochs": 1, "max_grad_norm": 1e9},
    ),
    "sac": ("Pendulum-v1", {"learning_starts": 8, "batch_size": 16, "buffer_size": 100}),
}


class _TwoLogits:
    """A policy output of one weight: logits (w * x, 0)."""

    spec, is_coded = OutputSpec("categorical", [2]), False

    def of(self, parameters: dict[str, Tensor], observations: Tensor) -> dict[str, Tensor]:
        logit = observations @ parameters["weight"]
        return {"logits": torch.cat([logit, torch.zeros_like(logit)], -1)}


def test_gradient_by_hand() -> None:
    """d -log sigmoid(w) / dw = sigmoid(w) - 1, for the other action sigmoid(w); at w = ln 3."""
    method, weight = ERACE(strength=8.0), {"weight": torch.tensor([[math.log(3.0)]])}
    for actions, expected in (([0], -2.0), ([1], 6.0), ([0, 0, 0, 1], 0.0)):
        labels = {"actions": torch.tensor(actions)[:, None]}
        batch = {"seen": torch.ones(len(actions), 1), "labels": labels}
        gradient = method.gradient(_TwoLogits(), weight, {}, batch)
        assert gradient["weight"].item() == pytest.approx(expected, abs=1e-6)


def _log_likelihood(policy: Any, observations: Tensor, actions: Tensor) -> Tensor:
    """Return log pi(a | s) through Stable-Baselines3's own forward, before squashing."""
    if hasattr(policy, "actor"):
        mean, log_std, _ = policy.actor.get_action_dist_params(observations)
        return Normal(mean, log_std.exp()).log_prob(actions).sum(-1)
    distribution = policy.get_distribution(observations).distribution
    if isinstance(distribution, Categorical):
        return distribution.log_prob(actions[:, 0])
    return distribution.log_prob(actions).sum(-1)


@pytest.mark.parametrize("case", WORLDS)
def test_the_added_gradient_is_that_of_the_cross_entropy(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, at the first update of the second task, for the actor alone."""
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "agents")
    env, arguments = WORLDS[case]
    scenario = Scenario.model_validate(
        {
            "tasks": [{"name": n, "env": env, "steps": 64} for n in "ab"],
            "agent": {
                "algorithm": case.partition("-")[0],
                "policy_kwargs": {"features_extractor": "double:DoubleFlatten", "net_arch": [8]},
                **arguments,
            },
        }
    )
    agent, method = StableBaselinesAgent(scenario), ERACE(strength=3.0, samples=40, batch_size=16)
    first, second = make_stream(scenario, 0).train_stream
    method.pre_adapt(agent.doors(method), first)
    agent.start(first)
    agent.policy.double()
    agent.learn(first, lambda step: None, lambda scalars, step: None)
    method.post_adapt(agent.doors(method), first)

    method.pre_adapt(agent.doors(method), second)
    agent.start(second)
    agent.policy.double()
    state, _ = all_rows(method.state())
    rows = second.generator("er_ace").integers(40, size=16)
    seen = agent.policy_input({"": state["observations/"].numpy()[rows]})
    actor = named_parameters(agent.policy, "actor", "encoder")
    # SAC's critic moves first, but the actor's first step is on the weights of the start.
    loss = -3.0 * _log_likelihood(agent.policy, seen, state["label/actions"][rows]).mean()
    expected = dict(zip(actor, torch.autograd.grad(loss, list(actor.values())), strict=True))

    seen_gradients: dict[str, Tensor] = {}
    raw_gradients: dict[str, Tensor] = {}

    def project(parameters: Named, gradients: Named, *_: Any) -> Any:
        for name, gradient in gradients.items():
            seen_gradients.setdefault(name, gradient.clone())
        return {}, {}

    def watch(step: Step, like: Named, _: Any) -> Named:
        for name, gradient in split(step.raw, like).items():
            raw_gradients.setdefault(name, gradient.clone())
        return like

    agent.gradients.project(project)
    agent.gradients.watch(watch, state=dict)
    agent.learn(second, lambda step: None, lambda scalars, step: None)
    assert set(expected) < set(seen_gradients)
    for name, gradient in seen_gradients.items():
        total = raw_gradients[name] + expected.get(name, torch.zeros(()))
        torch.testing.assert_close(gradient, total, rtol=1e-6, atol=1e-12)
    assert sum(float(gradient.abs().sum()) for gradient in expected.values()) > 0


@pytest.mark.parametrize("case", ["ppo", "ppo-box", "sac"])
def test_actions_are_drawn_from_the_policy_at_the_end_of_each_task(case: str, learn: Any) -> None:
    """Their mean log-likelihood under that policy is minus its entropy, within 100 draws' error."""
    method = ERACE(samples=100)
    for stage, (agent, _) in enumerate(learn(case, method, tasks=2), start=1):
        state, _ = all_rows(method.state())
        assert {len(rows) for rows in state.values()} == {100 * stage}
        rows = slice(100 * stage - 100, 100 * stage)
        observations = state["observations/"][rows]
        # The one-hot task id stands at the end of every stored observation.
        assert (observations[:, -2:].argmax(-1) == stage - 1).all()
        with torch.no_grad():
            policy, seen = agent.policy, agent.policy_input({"": observations.numpy()})
            likelihood = _log_likelihood(policy, seen, state["label/actions"][rows])
            if hasattr(policy, "actor"):
                _, log_std, _ = policy.actor.get_action_dist_params(seen)
                entropy = Normal(torch.zeros_like(log_std), log_std.exp()).entropy().sum(-1)
            else:
                entropy = policy.get_distribution(seen).entropy()
        spread = (likelihood + entropy).std() / 10
        assert (likelihood + entropy).mean().abs() < 4 * spread + 1e-3
    if case != "sac":
        assert np.isin(state["label/actions"], [0, 1]).all() == (case == "ppo")


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_at_strength_zero_it_is_naive_bit_for_bit(algorithm: str, run: Any, weights: Any) -> None:
    naive = weights(run(algorithm, tasks=2))
    zero = weights(run(algorithm, {"er-ace": {"strength": 0.0}}, tasks=2, runs="0"))
    some = weights(run(algorithm, {"er-ace": {"strength": 1.0}}, tasks=2, runs="1"))
    assert all(torch.equal(zero[key], tensor) for key, tensor in naive.items())
    assert any(not torch.equal(some[key], tensor) for key, tensor in naive.items())


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_a_restart_changes_nothing(algorithm: str, check_restart: Any) -> None:
    check_restart(algorithm, {"er-ace": {"samples": 64, "batch_size": 32}})
