"""Updates per second of processor time: streaming learners beside plain torch.

The other side is the algorithm as its pseudocode and the authors' code have it, written here in
torch: modules, autograd, one trace for each parameter, statistics in NumPy, Gymnasium's environment
without anything around it. Both learn with the same settings, in this process, on one core, in
turns; each prints the median of its turns. Ours has Stable-Baselines3's vector environment and the
callbacks of the loop in its time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from overhead import header, write_table
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn
from torch.distributions import Categorical, Normal
from torch.nn import functional as F  # noqa: N812  # its usual name

from holdfast.agents.sb3.budget import Watching, learn_on_policy
from holdfast.agents.streaming.networks import sparse_
from holdfast.agents.streaming.stream_ac import StreamAC
from holdfast.agents.streaming.stream_q import StreamQ

RESULTS = Path(__file__).parents[1] / "results" / "engines-streaming.csv"
GAMMA, LAMBDA = 0.99, 0.8


class Case(NamedTuple):
    """What is learned in a turn.

    Attributes:
        algorithm: Ours.
        env: Gymnasium's id.
        width: Of both hidden layers.
        steps: Of a turn.
        wanted: Least ratio to plain torch.
    """

    algorithm: type[Any]
    env: str
    width: int
    steps: int
    wanted: float = 3.0


CASES = {
    "stream_q": Case(StreamQ, "CartPole-v1", 32, 500),
    "stream_ac": Case(StreamAC, "CartPole-v1", 128, 250),
    "stream_ac-box": Case(StreamAC, "Pendulum-v1", 128, 250),
}


class Row(NamedTuple):
    """Medians of one case, in updates per second of processor time, and their ratio."""

    case: str
    torch: float
    streaming: float
    ratio: float
    wanted: float


class Network(nn.Module):
    """Linear, LayerNorm, LeakyReLU, twice; then linear."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        sizes = [(inputs, width), (width, width), (width, outputs)]
        layers = [nn.Linear(*size) for size in sizes]
        self.layers = nn.ModuleList(layers)
        for layer in layers:
            sparse_(layer.weight, 0.9)
            nn.init.zeros_(layer.bias)

    def forward(self, seen: Tensor) -> Tensor:
        """Return the outputs for one observation, shape (outputs,)."""
        for layer in self.layers[:-1]:
            seen = layer(seen)
            seen = F.leaky_relu(F.layer_norm(seen, seen.size()))
        outputs: Tensor = self.layers[-1](seen)
        return outputs


class Descent(torch.optim.Optimizer):
    """ObGD with a trace for each parameter."""

    def __init__(self, network: nn.Module, kappa: float) -> None:
        super().__init__(network.parameters(), {"kappa": kappa})
        self.traces = [torch.zeros_like(p) for p in network.parameters()]

    def step(self, delta: float, *, reset: bool) -> None:  # type: ignore[override]  # takes the error
        """Move along the traces of what ``backward`` gave."""
        (group,) = self.param_groups
        length = 0.0
        for parameter, trace in zip(group["params"], self.traces, strict=True):
            trace.mul_(GAMMA * LAMBDA).add_(parameter.grad)
            length += trace.abs().sum().item()
        bound = group["kappa"] * max(abs(delta), 1.0) * length
        size = 1.0 / max(bound, 1.0)
        for parameter, trace in zip(group["params"], self.traces, strict=True):
            parameter.data.add_(trace, alpha=size * delta)
            if reset:
                trace.zero_()


class Scale:
    """Running mean and variance."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean, self.squares, self.count = np.zeros(shape), np.zeros(shape), 0

    def deviation(self, sample: Any) -> Any:
        """Take a sample, and return the standard deviation of all."""
        self.count += 1
        gap = sample - self.mean
        self.mean = self.mean + gap / self.count
        self.squares = self.squares + gap * (sample - self.mean)
        variance = self.squares / (self.count - 1) if self.count > 1 else np.ones_like(self.mean)
        return np.sqrt(variance + 1e-8)


class Plain:
    """The other side; it goes on from turn to turn."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        self.env: Any = gym.make(case.env)
        space: Any = self.env.action_space
        self.is_box = isinstance(space, gym.spaces.Box)
        observed: Any = self.env.observation_space
        (inputs,) = observed.shape
        outputs = 2 * space.shape[0] if self.is_box else int(space.n)
        self.is_q = case.algorithm is StreamQ
        self.actor = Network(inputs, case.width, outputs)
        self.policy = Descent(self.actor, 2.0 if self.is_q else 3.0)
        self.critic = Network(inputs, case.width, 1)
        self.value = Descent(self.critic, 2.0)
        self.seen_scale, self.reward_scale, self.total = Scale((inputs,)), Scale(()), 0.0
        self.rng = np.random.default_rng(0)
        self.seen = self._normalized(self.env.reset(seed=0)[0])

    def _normalized(self, observation: NDArray[Any]) -> Tensor:
        deviation = self.seen_scale.deviation(observation)
        return torch.tensor((observation - self.seen_scale.mean) / deviation, dtype=torch.float)

    def turn(self, steps: int) -> None:
        """Learn from so many steps."""
        for _ in range(steps):
            action, is_greedy = self._act()
            taken = action
            if self.is_box:
                taken = np.clip(action, self.env.action_space.low, self.env.action_space.high)
            observation, reward, terminated, truncated, _ = self.env.step(taken)
            done = terminated or truncated
            self.total = GAMMA * self.total * (1 - done) + float(reward)
            scaled = float(reward / self.reward_scale.deviation(self.total))
            following = self._normalized(observation)
            learn = self._learn_values if self.is_q else self._learn_both
            learn(action, scaled, following, terminated, done or not is_greedy)
            self.seen = self._normalized(self.env.reset()[0]) if done else following

    def _act(self) -> tuple[Any, bool]:
        if self.is_q:
            if self.rng.random() < 0.05:
                return int(self.rng.integers(self.env.action_space.n)), False
            return int(self.actor(self.seen).argmax()), True
        with torch.no_grad():
            return self._chosen(self.actor(self.seen)).sample().numpy(), True

    def _chosen(self, outputs: Tensor) -> Any:
        if not self.is_box:
            return Categorical(logits=outputs)
        mean, spread = outputs.chunk(2)
        return Normal(mean, F.softplus(spread))

    def _learn_values(
        self, action: int, reward: float, following: Tensor, terminated: bool, reset: bool
    ) -> None:
        value, after = self.actor(self.seen)[action], self.actor(following).max()
        delta = (reward + GAMMA * (not terminated) * after - value).item()
        self.policy.zero_grad()
        value.backward()
        self.policy.step(delta, reset=reset)

    def _learn_both(
        self, action: Any, reward: float, following: Tensor, terminated: bool, reset: bool
    ) -> None:
        value, after = self.critic(self.seen)[0], self.critic(following)[0]
        delta = (reward + GAMMA * (not terminated) * after - value).item()
        chosen = self._chosen(self.actor(self.seen))
        likelihood = chosen.log_prob(torch.as_tensor(action)).sum()
        self.policy.zero_grad()
        self.value.zero_grad()
        value.backward()
        (likelihood + 0.01 * np.sign(delta) * chosen.entropy().sum()).backward()
        self.policy.step(delta, reset=reset)
        self.value.step(delta, reset=reset)


class Ours:
    """Our side; it goes on from turn to turn."""

    def __init__(self, case: Case) -> None:
        networks = {"net_arch": [case.width, case.width]}
        self.model = case.algorithm("MlpPolicy", gym.make(case.env), seed=0, policy_kwargs=networks)
        self.model.set_logger(Logger(None, []))

    def turn(self, steps: int) -> None:
        """Learn from so many steps, as the loop does."""
        learn_on_policy(self.model, steps, Watching(lambda _: None, None), lambda _: None)


def measure(name: str, turns: int) -> Row:
    """Return the medians of a case after one turn of each side that does not count."""
    case = CASES[name]
    sides: tuple[Plain | Ours, ...] = (Plain(case), Ours(case))
    rates: tuple[list[float], ...] = ([], [])
    for turn in range(turns + 1):
        for side, found in zip(sides, rates, strict=True):
            begun = time.process_time()
            side.turn(case.steps)
            if turn:
                found.append(case.steps / (time.process_time() - begun))
    plain, ours = map(statistics.median, rates)
    return Row(name, plain, ours, ours / plain, case.wanted)


def main() -> None:
    """Measure, print a line per case, and write ``results/engines-streaming.csv``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="write the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.case:
        row = measure(name, options.turns)
        rows.append(row)
        print(
            f"{name}: torch {row.torch:,.0f}, streaming {row.streaming:,.0f} updates per second; "
            f"ratio {row.ratio:.2f}, at least {row.wanted:g} wanted: {row.ratio >= row.wanted}"
        )
    if options.keep:
        write_table(RESULTS, header("engines.streaming"), rows)


if __name__ == "__main__":
    main()
