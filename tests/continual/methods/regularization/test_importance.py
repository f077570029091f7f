"""Importances against plain autograd, one backward pass per observation, and by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from all_doors import reader
from torch import Tensor
from torch.distributions import Categorical

from holdfast.agents.base.parameters import Named, named_parameters
from holdfast.agents.doors.outputs import PolicyOutput, ValueOutput, draw, log_likelihood
from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.continual.methods.regularization.ewc import EWC
from holdfast.continual.methods.regularization.importance import (
    analytic_fisher,
    fisher_information,
    measured,
    sensitivity,
)
from holdfast.continual.streams.task_stream import make_stream
from holdfast.errors import UsageError
from holdfast.scenarios.schema.scenario import Scenario

OFF_POLICY = {"buffer_size": 100}
PPO = {"algorithm": "ppo", "n_steps": 32, "batch_size": 32}
POLICIES: dict[str, tuple[dict[str, Any], str]] = {
    "ppo": (PPO, "CartPole-v1"),
    "ppo-box": (PPO, "Pendulum-v1"),
    "ppo-discrete-observations": (PPO, "FrozenLake-v1"),
    "sac": ({"algorithm": "sac"} | OFF_POLICY, "Pendulum-v1"),
    "tqc": ({"algorithm": "tqc"} | OFF_POLICY, "Pendulum-v1"),
    "td3": ({"algorithm": "td3"} | OFF_POLICY, "Pendulum-v1"),
    "dqn": ({"algorithm": "dqn"} | OFF_POLICY, "CartPole-v1"),
}
ROWS = 12

Make = Callable[[str], tuple[StableBaselinesAgent, Any]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Return an agent of a small network, and some observations."""
    opened: list[StableBaselinesAgent] = []

    def make_one(name: str) -> tuple[StableBaselinesAgent, Any]:
        arguments, env = POLICIES[name]
        scenario = Scenario.model_validate(
            {
                "tasks": [{"name": "a", "env": env, "steps": 64}],
                "stream": {"task_id": "hidden"},
                "agent": arguments | {"policy_kwargs": {"net_arch": [8]}},
            }
        )
        agent = StableBaselinesAgent(scenario)
        opened.append(agent)
        (experience,) = make_stream(scenario, 0).train_stream
        agent.start(experience)
        space = agent.policy.observation_space
        space.seed(3)
        return agent, agent.policy_input({"": np.stack([space.sample() for _ in range(ROWS)])})

    yield make_one
    for agent in opened:
        agent.close()


def _detached(agent: StableBaselinesAgent, group: str = "actor") -> Named:
    return {n: p.detach() for n, p in named_parameters(agent.policy, group).items()}


def _one_by_one(
    live: dict[str, Any], per_row: Callable[[int], list[tuple[Any, Tensor]]], power: int
) -> Named:
    """Return the mean over rows of weight x |gradient|^power, by one backward pass each."""
    expected = {name: torch.zeros_like(p) for name, p in live.items()}
    for row in range(ROWS):
        for weight, value in per_row(row):
            gradients = torch.autograd.grad(
                value, list(live.values()), retain_graph=True, allow_unused=True
            )
            for name, gradient in zip(live, gradients, strict=True):
                if gradient is not None:
                    expected[name] += weight * gradient.abs() ** power / ROWS
    return expected


def _check(found: Named, expected: Named) -> None:
    assert found.keys() == expected.keys()
    assert sum(value.sum().item() for value in expected.values()) > 0
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", POLICIES)
def test_the_sampled_fisher_is_the_mean_of_squared_per_sample_gradients(
    name: str, make: Make
) -> None:
    agent, observations = make(name)
    output = PolicyOutput(agent.policy)
    rng = np.random.default_rng(7)
    fisher = fisher_information(reader(agent), _detached(agent), observations, rng)

    # The same draws, then one backward per observation through the live policy.
    seed = int(np.random.default_rng(7).integers(2**63))
    with torch.no_grad():
        actions = draw(output.spec, output(observations), torch.Generator().manual_seed(seed))

    def likelihood(i: int) -> list[tuple[Any, Tensor]]:
        rows = slice(i, i + 1)
        return [(1.0, log_likelihood(output.spec, output(observations[rows]), actions[rows])[0])]

    _check(fisher, _one_by_one(named_parameters(agent.policy, "actor"), likelihood, 2))


@pytest.mark.parametrize("name", POLICIES)
def test_the_analytic_fisher_takes_the_expectation_over_actions_exactly(
    name: str, make: Make
) -> None:
    agent, observations = make(name)
    output = PolicyOutput(agent.policy)

    def terms(i: int) -> list[tuple[Any, Tensor]]:
        said = output(observations[i : i + 1])
        if "logits" in said:
            p = Categorical(logits=said["logits"][0])
            return [(p.probs[a].detach(), p.logits[a]) for a in range(len(p.probs))]
        if "log_std" not in said:
            return [(1.0, mean) for mean in said["mean"][0]]
        std = said["log_std"][0].exp()
        scale = 1 / (std.detach().square() + 1e-6)
        return [
            term
            for mean, deviation, weight in zip(said["mean"][0], std, scale, strict=True)
            for term in ((weight, mean), (2 * weight, deviation))
        ]

    fisher = analytic_fisher(reader(agent), _detached(agent), observations)
    _check(fisher, _one_by_one(named_parameters(agent.policy, "actor"), terms, 2))


@pytest.mark.parametrize("name", POLICIES)
def test_sensitivity_is_the_mean_absolute_gradient_of_the_squared_output(
    name: str, make: Make
) -> None:
    agent, observations = make(name)
    output = PolicyOutput(agent.policy)

    def length(i: int) -> list[tuple[Any, Tensor]]:
        said = output(observations[i : i + 1])
        return [(1.0, torch.stack([v.square().sum() for v in said.values()]).sum())]

    found = sensitivity(reader(agent), _detached(agent), observations)
    _check(found, _one_by_one(named_parameters(agent.policy, "actor"), length, 1))


@pytest.mark.parametrize("name", ["ppo", "ppo-box"])
def test_weights_of_observations_weigh_their_squared_gradients(name: str, make: Make) -> None:
    """Beside the mean over observations, each measured alone."""
    agent, observations = make(name)
    own, weights = _detached(agent), torch.linspace(0.1, 1.0, ROWS)
    analytic = partial(analytic_fisher, reader(agent), own)
    each = [analytic(observations[i : i + 1]) for i in range(ROWS)]
    expected = {n: sum(w * f[n] for w, f in zip(weights, each, strict=True)) / ROWS for n in own}
    _check(analytic(observations, weights=weights), expected)
    # One action in all draws: the sampled one is weighed as the analytic one is.
    drawn = partial(fisher_information, reader(agent), own, observations)
    unweighed, half = (
        drawn(np.random.default_rng(7), weights=given) for given in (None, torch.full((ROWS,), 0.5))
    )
    _check(half, {n: value / 2 for n, value in unweighed.items()})


def test_many_draws_approach_the_analytic_fisher(make: Make) -> None:
    agent, observations = make("ppo")
    parameters = _detached(agent)
    exact = analytic_fisher(reader(agent), parameters, observations)
    many = observations.repeat(400, 1)
    drawn = fisher_information(reader(agent), parameters, many, np.random.default_rng(0))
    for name, value in exact.items():
        torch.testing.assert_close(drawn[name], value, rtol=0.15, atol=1e-6)


CRITICS = {"ppo": "ppo", "sac": "sac", "tqc": "tqc", "td3": "td3"}


@pytest.mark.parametrize("name", CRITICS)
def test_a_critic_counts_as_a_unit_gaussian_around_its_values(name: str, make: Make) -> None:
    agent, observations = make(name)
    policy = agent.policy

    def values(i: int) -> list[tuple[Any, Tensor]]:
        seen = observations[i : i + 1]
        if name == "ppo":
            return [(1.0, policy.predict_values(seen)[0, 0])]
        actions = policy._predict(seen, deterministic=True).detach()
        judged = policy.critic(seen, actions)
        each = judged if isinstance(judged, tuple) else judged.mean(-1).unbind(1)
        return [(1.0, value.sum()) for value in each]

    measure = analytic_fisher
    parameters, fisher = measured(agent.doors(EWC()), "critic", observations, measure)
    expected = _one_by_one(named_parameters(policy, "critic"), values, 2)
    _check(fisher, expected)
    assert parameters.keys() == expected.keys()

    _, both = measured(agent.doors(EWC()), "both", observations, measure)
    _, actor = measured(agent.doors(EWC()), "actor", observations, measure)
    assert both.keys() == fisher.keys() | actor.keys()
    assert all(torch.equal(both[n], value) for n, value in (fisher | actor).items())
    assert {n.shape for n in [ValueOutput(policy)(observations)["mean"]]} == {
        (ROWS, 1 if name == "ppo" else 2)
    }


def test_dqn_has_no_critic(make: Make) -> None:
    from holdfast.continual.methods.regularization.quadratic import check_critic

    agent, observations = make("dqn")
    _, actor = measured(agent.doors(EWC()), "actor", observations, analytic_fisher)
    _, both = measured(agent.doors(EWC()), "both", observations, analytic_fisher)
    assert actor.keys() == both.keys()
    with pytest.raises(UsageError, match=r"l2\.regularize: critic: dqn has no critic"):
        check_critic(agent.doors(EWC()), "l2", "critic")


def _flat(agent: StableBaselinesAgent) -> None:
    with torch.no_grad():
        agent.policy.action_net.weight.zero_()
        agent.policy.action_net.bias.zero_()


def test_uniform_logits_by_hand(make: Make) -> None:
    """Both actions at 1/2: a bias has the squared gradient (1 - 1/2)^2, whatever is drawn."""
    agent, observations = make("ppo")
    _flat(agent)
    for measure in (partial(fisher_information, rng=np.random.default_rng(0)), analytic_fisher):
        fisher = measure(reader(agent), _detached(agent), observations)
        torch.testing.assert_close(fisher["action_net.bias"], torch.full((2,), 0.25))


def test_the_floor_is_per_observation_and_for_every_weight(make: Make) -> None:
    """With a head of zeros no gradient gets below it: there the floor stands."""
    agent, observations = make("ppo")
    _flat(agent)
    fisher = analytic_fisher(reader(agent), _detached(agent), observations, floor=0.3)
    biases = [value for value in fisher.values() if value.ndim == 1]
    assert len(biases) == 2
    assert all(torch.equal(value, torch.full_like(value, 0.3)) for value in biases)
    assert fisher["action_net.weight"].min() >= 0.3


def test_a_gaussian_by_hand(make: Make) -> None:
    """Deviation 1: the mean's bias has 1 / (1 + 1e-6), the logarithm of the deviation twice that.

    MAS: |d mu^2 / d bias| = 2 |mu|, and |d log(sigma)^2 / d log(sigma)| = 0 at sigma = 1.
    """
    agent, observations = make("ppo-box")
    parameters = _detached(agent)
    fisher = analytic_fisher(reader(agent), parameters, observations)
    assert fisher["action_net.bias"].item() == pytest.approx(1 / (1 + 1e-6))
    assert fisher["log_std"].item() == pytest.approx(2 / (1 + 1e-6))
    omega = sensitivity(reader(agent), parameters, observations)
    mean = PolicyOutput(agent.policy)(observations)["mean"].abs().mean().item()
    assert omega["action_net.bias"].item() == pytest.approx(2 * mean)
    assert omega["log_std"].item() == 0.0
