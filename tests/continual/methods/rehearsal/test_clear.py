"""CLEAR: the gradient of its loss, what its reservoir holds, and its silence at ratio zero."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence

from holdfast.agents.base.parameters import named_parameters
from holdfast.agents.doors.outputs import log_likelihood
from holdfast.continual.methods.rehearsal.clear import Clear
from holdfast.continual.methods.rehearsal.vtrace import vtrace

WORLDS = ["ppo", "ppo-box", "a2c"]


@pytest.mark.parametrize("world", WORLDS)
def test_what_is_stored_is_what_the_acting_policy_said(world: str, train: Any) -> None:
    """The likelihood of each action under the stored output is the one that the rollout noted."""
    method, noted = Clear(unroll=5, share=1.0), []

    def look(agent: Any, _: Any) -> None:
        likelihoods = agent.memory.rollouts()[-1]["old_log_prob"]  # (steps, n_envs)
        length = min(5, agent.model.n_steps - 1)
        starts = range(0, len(likelihoods) - length, length)
        noted.append(np.concatenate([likelihoods[s : s + length + 1].T for s in starts]))

    agent = train(world, lambda: [method], tasks=1, steps=160, watch=look)
    stored = {name: torch.as_tensor(rows[-len(noted[0]) :]) for name, rows in _segments(method)}
    outputs = {n.partition("/")[2]: rows for n, rows in stored.items() if n.startswith("output/")}
    found = log_likelihood(agent.output().spec, outputs, stored["actions"])
    if world == "ppo-box":
        found -= 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(found, torch.as_tensor(noted[0]), rtol=1e-4, atol=1e-5)


def _segments(method: Clear) -> Any:
    return [(name, rows[: method._stored]) for name, rows in method._store.items()]


@pytest.mark.parametrize("world", WORLDS)
def test_the_gradient_is_that_of_the_replay_loss(
    world: str, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against autograd through the published ``evaluate_actions``, in float64."""
    agent = train(world, tasks=1, agent={"ent_coef": 0.1, "vf_coef": 0.7})
    policy, rng = agent.policy.double(), np.random.default_rng(0)
    monkeypatch.setattr(
        "stable_baselines3.common.policies.preprocess_obs", lambda obs, *_, **__: obs
    )
    monkeypatch.setattr(
        agent, "policy_input", lambda arrays: torch.as_tensor(arrays[""], dtype=torch.float64)
    )
    count, length = 6, 5
    box = world == "ppo-box"
    shape = (count, length)
    chosen: dict[str, Any] = {
        "observations": rng.normal(size=(*shape, policy.observation_space.shape[0])),
        "actions": rng.normal(size=(*shape, 1)) if box else rng.integers(2, size=(*shape, 1)) * 1.0,
        "rewards": rng.normal(size=shape),
        "episode_starts": rng.integers(2, size=shape) * 1.0,
        "old_values": rng.normal(size=shape),
    }
    if box:
        outputs = {"mean": rng.normal(size=(*shape, 1)), "log_std": rng.normal(size=(*shape, 1))}
    else:
        outputs = {"logits": rng.normal(size=(*shape, 2))}
    chosen |= {f"output/{name}": values for name, values in outputs.items()}
    method = Clear(ratio=2.0, policy_strength=3.0, value_strength=5.0)
    parameters = named_parameters(policy)
    detached = {name: p.detach() for name, p in parameters.items()}
    found = _gradient(method, agent, detached, chosen)

    loss = 2.0 * _replay_loss(agent, chosen, 3.0, 5.0)
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    assert sum(gradient.abs().sum().item() for gradient in gradients) > 0
    for name, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-10)


def _gradient(method: Clear, agent: Any, parameters: Any, chosen: Any) -> Any:
    doors = agent.doors(method)
    readers = doors.output.actor, doors.output.critic
    batch = method.batch(doors, chosen)
    return method.gradient(*readers, doors.facts.settings, parameters, {}, batch)


def _replay_loss(agent: Any, chosen: Any, policy_strength: float, value_strength: float) -> Tensor:
    """The loss of the class docstring, segment by segment."""
    policy, model = agent.policy, agent.model
    rows = {name: torch.as_tensor(values) for name, values in chosen.items()}
    advantages, losses = [], []
    for i in range(len(chosen["rewards"])):
        one = {name: values[i] for name, values in rows.items()}
        actions = one["actions"] if "output/mean" in one else one["actions"].long().flatten()
        values, log_prob, entropy = policy.evaluate_actions(one["observations"], actions)
        values = values.flatten()
        if "output/mean" in one:
            acted = Normal(one["output/mean"], one["output/log_std"].exp())
        else:
            acted = Categorical(logits=one["output/logits"])
        likelihood = acted.log_prob(actions).reshape(len(values), -1).sum(-1)
        ratios = (log_prob.detach() - likelihood).exp()[:-1, None]
        discounts = (model.gamma * (1 - one["episode_starts"][1:]))[:, None]
        found = vtrace(ratios, one["rewards"][:-1, None], discounts, values.detach()[:, None])
        student = policy.get_distribution(one["observations"]).distribution
        advantages.append((found.errors.flatten(), found.rho.flatten(), log_prob[:-1]))
        cloning = kl_divergence(acted, student).reshape(len(values), -1).sum(-1).mean()
        losses.append(
            model.vf_coef * (found.targets.flatten() - values[:-1]).square().mean()
            - model.ent_coef * entropy.mean()
            + policy_strength * cloning
            + value_strength * (one["old_values"] - values).square().mean()
        )
    gains, rho, likelihoods = (torch.cat(parts) for parts in zip(*advantages, strict=True))
    if model.normalize_advantage:
        gains = (gains - gains.mean()) / (gains.std() + 1e-8)
    return torch.stack(losses).mean() - (rho * gains * likelihoods).mean()


def test_an_action_that_is_not_taken_any_more_is_left_alone(train: Any) -> None:
    """Its ratio is 0: it is not pushed on, though others that are taken have advantages."""
    agent = train("ppo", tasks=1)
    parameters = {n: p.detach().clone() for n, p in named_parameters(agent.policy).items()}
    parameters["action_net.weight"].zero_()
    parameters["action_net.bias"].copy_(torch.tensor([60.0, -60.0]))  # always action 0
    shape, rng = (4, 5), np.random.default_rng(0)
    chosen = {
        "observations": rng.normal(size=(*shape, agent.policy.observation_space.shape[0])),
        "actions": np.arange(20.0).reshape(*shape, 1) % 2,  # every other one is action 1
        "rewards": rng.normal(size=shape),
        "episode_starts": np.zeros(shape),
        "old_values": np.zeros(shape),
        "output/logits": np.zeros((*shape, 2)),
    }
    method = Clear(policy_strength=0.0)
    chosen = {name: values.astype(np.float32) for name, values in chosen.items()}
    found = _gradient(method, agent, parameters, chosen)
    assert float(found["action_net.bias"].abs().max()) < 1e-6


@pytest.mark.parametrize("world", WORLDS)
def test_at_ratio_zero_it_equals_naive(world: str, train: Any, same: Any) -> None:
    same(train(world), train(world, lambda: [Clear(ratio=0.0, unroll=4)]))


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", "ppo-box", "a2c"])
def test_restarted_after_the_first_task_it_ends_the_same(world: str, train: Any, same: Any) -> None:
    def build() -> list[Clear]:
        return [Clear(unroll=4, samples=40)]

    keys = {"agent": {"normalize": {"observations": "running"}}}
    same(train(world, build, **keys), train(world, build, restart_after=0, **keys))


def test_the_store_is_bounded_and_holds_whole_segments_of_all_tasks(train: Any) -> None:
    """Rollouts of 16 steps in 2 environments give 2 x 3 segments of 4 steps; 2 rollouts a task."""
    method = Clear(unroll=4, share=1.0, samples=40)
    train("ppo", lambda: [method])
    stored = dict(_segments(method))
    assert method._seen == 3 * 2 * 2 * 3
    assert stored["actions"].shape == (10, 5, 1)
    tasks = stored["observations"][..., -3:].argmax(-1)
    assert (tasks == tasks[:, :1]).all()
    assert set(tasks.ravel().tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, 24),  # as in the paper: half of the 48 segments of 4 steps that 192 steps give
        ({"share": 1.0}, 36),  # all that there are: 4 steps of a rollout of 16 fill no segment
        ({"share": 0.125}, 6),
        ({"share": 1.0, "samples": 40}, 10),
        ({"samples": 40}, 10),
        ({"share": 0.0}, 1),
    ],
)
def test_the_store_is_a_share_of_the_stream(options: Any, kept: int, train: Any) -> None:
    method = Clear(unroll=4, **options)
    train("ppo", lambda: [method])
    assert method.state()["segments/rewards"].shape == (kept, 5)


@pytest.mark.thorough
def test_the_reservoir_is_the_one_of_the_original() -> None:
    """Each segment of the stream is in the store with the same chance, whenever it came.

    CORA draws a number for each and keeps those of the largest; here by algorithm R. Of 30
    segments offered by threes, 12 are kept: each in 40% of 2,000 draws, give or take 5 deviations.
    """
    counts, rng = np.zeros(30), np.random.default_rng(0)
    for _ in range(2000):
        method = Clear()
        for start in range(0, 30, 3):
            rows = np.repeat(np.arange(start, start + 3.0)[:, None], 5, axis=1)
            method.offer({"rewards": rows}, 12 * 4, rng)
        stored = method.state()["segments/rewards"]
        assert stored.shape == (12, 5)
        counts[stored[:, 0].int().numpy()] += 1
    assert counts.sum() == 12 * 2000
    assert np.abs(counts / 2000 - 0.4).max() < 5 * math.sqrt(0.4 * 0.6 / 2000)


def test_a_segment_is_consecutive_steps_of_one_environment(train: Any) -> None:
    method = Clear(unroll=4, share=1.0)
    rollouts: list[Any] = []
    train(
        "ppo",
        lambda: [method],
        tasks=1,
        watch=lambda a, _: rollouts.append(a.memory.rollouts()[-1]),
    )
    newest = dict(_segments(method))["observations"][-6:]
    observations = rollouts[0]["observations"]  # (steps, n_envs, ...)
    expected = [observations[s : s + 5, env] for s in (0, 4, 8) for env in range(2)]
    assert np.array_equal(newest, expected)
