"""Streaming learners beside the pseudocode in plain torch, step for step in float64.

Nothing of the agents is used in ``Reference``: gradients are autograd's, layers torch's functions,
statistics are computed from the list of all samples, and traces are one tensor for each parameter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor
from torch.distributions import Categorical, Normal
from torch.nn import functional as F  # noqa: N812  # its usual name

from holdfast.agents.sb3.budget import Watching, learn_on_policy
from holdfast.agents.streaming.stream_ac import StreamAC
from holdfast.agents.streaming.stream_q import StreamQ
from holdfast.errors import Diverged

Weights = list[Tensor]
"""Weight and bias of each layer, in turn."""


def outputs(weights: Weights, seen: Tensor) -> Tensor:
    """Return a network's outputs for one observation."""
    for place in range(0, len(weights) - 2, 2):
        seen = F.linear(seen, *weights[place : place + 2])
        seen = F.leaky_relu(F.layer_norm(seen, seen.size()))
    return F.linear(seen, *weights[-2:])


class Descent:
    """ObGD with one trace for each parameter."""

    def __init__(self, weights: Weights, gamma: float, trace_lambda: float, kappa: float) -> None:
        self.weights, self.kappa, self.decay = weights, kappa, gamma * trace_lambda
        self.traces = [torch.zeros_like(w) for w in weights]

    def step(self, wanted: Tensor, delta: float) -> None:
        """Make ``wanted`` more where delta is positive."""
        gradients = torch.autograd.grad(wanted, self.weights)
        self.traces = [self.decay * z + g for z, g in zip(self.traces, gradients, strict=True)]
        length = sum(float(z.abs().sum()) for z in self.traces)
        size = min(1.0, 1.0 / (self.kappa * max(abs(delta), 1.0) * length))
        with torch.no_grad():
            for weight, trace in zip(self.weights, self.traces, strict=True):
                weight += size * delta * trace

    def reset(self) -> None:
        self.traces = [torch.zeros_like(w) for w in self.weights]


class Reference:
    """A learner in an environment of its own.

    Args:
        env: The environment, new.
        seed: Of its first episode.
        networks: Weights of the network of values; or of the actor, and of the critic.
        rng: What actions are drawn from.
        steps: That it will take.
    """

    gamma, trace_lambda = 0.99, 0.8

    def __init__(
        self,
        env: gym.Env[Any, Any],
        seed: int,
        networks: Mapping[str, Weights],
        rng: np.random.RandomState,
        steps: int,
    ) -> None:
        self.env, self.rng, self.steps = env, rng, steps
        self.networks = {
            name: [w.clone().requires_grad_() for w in weights]
            for name, weights in networks.items()
        }
        kappas = {"q_net": 2.0, "actor": 3.0, "critic": 2.0}
        self.descents = {
            name: Descent(weights, self.gamma, self.trace_lambda, kappas[name])
            for name, weights in self.networks.items()
        }
        self.samples: list[Any] = []
        self.returns: list[float] = []
        self.taken, self.running = 0, 0.0
        self.terminations = self.truncations = self.explorations = 0
        self.seen = self.normalized(env.reset(seed=seed)[0])

    def normalized(self, observation: Any) -> Tensor:
        """Count an observation, and scale it by all that were counted."""
        self.samples.append(np.asarray(observation, np.float64))
        rows = np.stack(self.samples)
        variance = rows.var(axis=0, ddof=1) if len(rows) > 1 else np.ones(rows.shape[1])
        return torch.tensor((rows[-1] - rows.mean(axis=0)) / np.sqrt(variance + 1e-8))

    def scaled(self, reward: float, done: bool) -> float:
        self.running = self.gamma * self.running * (1 - done) + reward
        self.returns.append(self.running)
        variance = np.var(self.returns, ddof=1) if len(self.returns) > 1 else 1.0
        return float(reward / np.sqrt(variance + 1e-8))

    def step(self) -> float:
        """Take a step, learn from it, and return its temporal-difference error."""
        action, is_greedy = self.act()
        space = self.env.action_space
        taken: Any = action
        if isinstance(space, gym.spaces.Box):
            taken = np.clip(action.numpy(), space.low, space.high).astype(np.float32)
        observation, reward, terminated, truncated, _ = self.env.step(taken)
        done = terminated or truncated
        scaled = self.scaled(float(np.float32(reward)), done)
        following = self.normalized(observation)
        delta = self.learn(action, scaled, following, terminated)
        if done or not is_greedy:
            for descent in self.descents.values():
                descent.reset()
        self.terminations += terminated
        self.truncations += done and not terminated
        self.explorations += not is_greedy
        self.seen = self.normalized(self.env.reset()[0]) if done else following
        return delta

    def act(self) -> tuple[Any, bool]:
        self.taken += 1
        if "q_net" in self.networks:
            values = outputs(self.networks["q_net"], self.seen)
            greedy = int(values.argmax())
            epsilon = max(1.0 + (0.01 - 1.0) / (0.05 * self.steps) * self.taken, 0.01)
            if self.rng.random_sample() >= epsilon:
                return greedy, True
            action = int(self.rng.randint(len(values)))
            return action, action == greedy
        with torch.no_grad():
            told = outputs(self.networks["actor"], self.seen)
            if isinstance(self.env.action_space, gym.spaces.Box):
                mean, spread = told.chunk(2)
                noise = torch.tensor(self.rng.standard_normal(len(mean)))
                return mean + F.softplus(spread) * noise, True
            chances = told.softmax(0).cumsum(0)
            return int((chances < self.rng.random_sample()).sum()), True

    def learn(self, action: Any, reward: float, following: Tensor, terminated: bool) -> float:
        if "q_net" in self.networks:
            weights = self.networks["q_net"]
            value = outputs(weights, self.seen)[action]
            after = outputs(weights, following).max()
            delta = (reward + self.gamma * (1 - terminated) * after - value).item()
            self.descents["q_net"].step(value, delta)
            return delta
        critic = self.networks["critic"]
        value, after = outputs(critic, self.seen)[0], outputs(critic, following)[0]
        delta = (reward + self.gamma * (1 - terminated) * after - value).item()
        told = outputs(self.networks["actor"], self.seen)
        if isinstance(self.env.action_space, gym.spaces.Box):
            mean, spread = told.chunk(2)
            chosen: Any = Normal(mean, F.softplus(spread))
            likelihood = chosen.log_prob(action).sum()
        else:
            chosen = Categorical(logits=told)
            likelihood = chosen.log_prob(torch.tensor(action))
        wanted = likelihood + 0.01 * np.sign(delta) * chosen.entropy().sum()
        self.descents["actor"].step(wanted, delta)
        self.descents["critic"].step(value, delta)
        return delta


@pytest.fixture
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


SEED = 3
CASES = {
    "q": (StreamQ, "CartPole-v1", 9, {}),
    "q dense": (StreamQ, "CartPole-v1", 9, {"sparsity": 0.5, "net_arch": [8, 12, 8]}),
    "ac": (StreamAC, "CartPole-v1", 15, {"net_arch": [32, 32]}),
    "ac box": (StreamAC, "Pendulum-v1", 60, {}),
    "ac box dense": (StreamAC, "Pendulum-v1", 60, {"sparsity": 0.5, "net_arch": [16]}),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", CASES)
def test_equals_the_pseudocode(name: str, in_float64: None) -> None:
    """Weights and errors at each of 300 steps, over terminations, truncations and exploration."""
    algorithm, env, limit, networks = CASES[name]
    make = partial(gym.make, env, max_episode_steps=limit)
    steps = 300
    model = algorithm("MlpPolicy", DummyVecEnv([make]), seed=SEED, policy_kwargs=networks)
    model.set_logger(Logger(None, []))
    parts = ("q_net",) if algorithm is StreamQ else ("actor", "critic")
    weights = {part: [*getattr(model.policy, part).layers.parameters()] for part in parts}
    rng = np.random.RandomState()
    rng.set_state(np.random.get_state())
    reference = Reference(make(), SEED, weights, rng, steps)
    errors: list[float] = []
    told = model._learn

    def learned(*given: Any) -> float:
        errors.append(told(*given))
        return errors[-1]

    model._learn = learned

    def updated(step: int) -> None:
        assert errors[-1] == pytest.approx(reference.step(), abs=1e-9), step
        for part in parts:
            for ours, theirs in zip(weights[part], reference.networks[part], strict=True):
                assert torch.allclose(ours, theirs, rtol=0, atol=1e-9), (step, part)

    learn_on_policy(model, steps, Watching(lambda _: None, None), updated)
    assert len(errors) == model.num_timesteps == reference.taken == steps
    assert reference.truncations > 1
    assert reference.terminations > 3 or env == "Pendulum-v1"
    assert reference.explorations > 3 or name[0] != "q"


def test_what_is_not_finite_stops_before_weights_are_written_to_a_checkpoint() -> None:
    class Broken(gym.RewardWrapper[Any, Any]):
        def reward(self, reward: Any) -> float:
            return float("nan")

    make = lambda: Broken(gym.make("CartPole-v1"))  # noqa: E731
    model = StreamQ("MlpPolicy", DummyVecEnv([make]), seed=SEED)
    model.set_logger(Logger(None, []))
    with pytest.raises(Diverged, match="error of step 1 is not finite"):
        model.learn(10)
