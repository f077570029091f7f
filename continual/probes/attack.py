"""The worst small perturbation of observations, as seen by the policy that acts on them.

Source: Zhang et al. 2020, "Robust Deep Reinforcement Learning against Adversarial Perturbations on
State Observations" (arXiv:2003.08938), the maximal action difference attack: projected gradient
ascent (Madry et al. 2018, arXiv:1706.06083) on KL(policy(s) || policy(s + d)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.agents.doors.outputs import (
    Output,
    OutputSpec,
    as_evaluated,
    divergence,
    softmax_divergence,
)
from holdfast.continual.policies.policy_module import normalized
from holdfast.envs.base.fitting import PadAction, PadObservation, TaskId
from holdfast.errors import UsageError

STEPS, GUESSES = 10, 4
"""Gradient steps of an attack, and points that they begin at."""

_STRIDE = 2.5
"""Length of all steps together, in radii; Madry et al. 2018, section 4."""

SCALE_STEPS = 1000
"""Environment steps of random actions from which the scale of each entry is taken."""


class Ball(NamedTuple):
    """Perturbed observations that an attack may choose from.

    Attributes:
        radius: Shape (entries,): how far each entry may be moved, in its own units.
        low: Shape (entries,), of the observation space.
        high: As ``low``.
    """

    radius: Tensor
    low: Tensor
    high: Tensor


def worst(
    distance: Callable[[Tensor], Tensor],
    observations: Tensor,
    ball: Ball,
    generator: torch.Generator,
    *,
    steps: int = STEPS,
    guesses: int = GUESSES,
) -> Tensor:
    """Return the perturbed observations that change the policy's output most, of those tried.

    Args:
        distance: From the output of the true observations to that of others, (guesses x batch,).
        observations: The true ones, shape (batch, entries).
        ball: Where others may lie.
        generator: Of the first guesses: at the true ones the gradient is zero.
        steps: Gradient steps.
        guesses: Where the steps begin, an even number: every second one is opposite to the one
            before.

    Returns:
        Shape (batch, entries).
    """
    batch = observations.shape
    noise = torch.rand((guesses // 2, *batch), generator=generator, dtype=observations.dtype)
    noise = torch.cat([noise, 1 - noise]).flatten(0, 1)  # (guesses x batch, entries)
    observations = observations.repeat(guesses, 1)
    low = torch.maximum(observations - ball.radius, torch.minimum(ball.low, observations))
    high = torch.minimum(observations + ball.radius, torch.maximum(ball.high, observations))
    found = low + noise.to(observations.device) * (high - low)
    best, most = observations, torch.zeros(len(observations), device=observations.device)
    for step in range(steps + 1):
        found = found.detach().requires_grad_()
        with torch.enable_grad():
            distances = distance(found)  # (batch,)
            (slope,) = torch.autograd.grad(distances.sum(), found)
        is_better = distances.detach() > most
        best = torch.where(is_better[:, None], found.detach(), best)
        most = torch.where(is_better, distances.detach(), most)
        if step < steps:
            moved = found + _STRIDE / steps * ball.radius * slope.sign()
            found = torch.minimum(torch.maximum(moved, low), high)
    chosen = most.reshape(guesses, -1).argmax(0)  # (batch,)
    return best.reshape(guesses, *batch)[chosen, torch.arange(batch[0])]


def gap(spec: OutputSpec, policy: Any, old: Output, new: Output) -> Tensor:
    """Return how far one output is from another, shape (batch,); of action values, as softmax."""
    if hasattr(policy, "q_net") or hasattr(policy, "quantile_net"):
        return softmax_divergence(old, new, 1.0)
    return divergence(spec, old, new)


class Attacked:
    """An agent whose observations are perturbed before its policy sees them.

    It is measured as the agent itself would be.

    Args:
        agent: The agent of Stable-Baselines3's.
        radius: Shape (entries,), of the observations of the stream; zero where nothing is moved.
        space: Of the observations of the stream.
        seed: Of the first guesses.

    Raises:
        UsageError: If its output is no function of one observation in a vector; the text says why.
    """

    def __init__(
        self, agent: Any, radius: NDArray[np.float64], space: gym.spaces.Box, seed: int
    ) -> None:
        self._agent, self._generator = agent, torch.Generator().manual_seed(seed)
        self._output = attackable(agent)
        ends = (radius, space.low, space.high)
        parts = (torch.as_tensor(end, dtype=torch.float32, device=agent.device) for end in ends)
        self._ball = Ball(*parts)

    @property
    def random_spaces(self) -> tuple[Any, ...]:
        """The spaces whose generators training draws from."""
        spaces: tuple[Any, ...] = self._agent.random_spaces
        return spaces

    def shown_task(self, task_index: int) -> tuple[int, bool]:
        """Return the task whose id the policy is shown, and whether its own view is missing."""
        shown: tuple[int, bool] = self._agent.shown_task(task_index)
        return shown

    @contextmanager
    def view(self, task_index: int) -> Iterator[Any]:
        """Act as for that task, on the worst observations."""
        with self._agent.view(task_index) as act:

            def attacked(observations: Any, *rest: Any, **options: Any) -> Any:
                return act(self.perturbed(observations), *rest, **options)

            yield attacked

    def perturbed(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Return the worst observations, shape (batch, entries), for the view that is open."""
        true = torch.as_tensor(observations, dtype=torch.float32, device=self._agent.device)
        policy = self._agent.policy
        with as_evaluated(policy):
            with torch.no_grad():
                old = self._said(true.repeat(GUESSES, 1))
            found = worst(
                lambda seen: gap(self._output.spec, policy, old, self._said(seen)),
                true,
                self._ball,
                self._generator,
            )
        return found.cpu().numpy().astype(observations.dtype)

    def _said(self, observations: Tensor) -> Output:
        said: Output = self._output(seen_by_policy(self._agent, observations))
        return said


def seen_by_policy(agent: Any, observations: Tensor) -> Tensor:
    """Return vectors of the stream as an agent's policy takes them: normalised, in tensors."""
    normalizer = agent.normalizer
    if normalizer is None or not normalizer.norm_obs:
        return observations
    seen: Tensor = normalized(normalizer, observations)
    return seen


def attackable(agent: Any) -> Any:
    """Return an agent's output as a module, where it can be attacked through its observations.

    Raises:
        UsageError: If it cannot; the text says why.
    """
    check_memoryless(agent)
    space = agent.policy.observation_space
    if not is_vector(space):
        raise UsageError(f"it needs observations in a vector of fractions, but they are {space}")
    return agent.output()


def check_memoryless(agent: Any) -> None:
    """Raise UsageError unless an agent acts on one observation alone."""
    if agent.scenario.agent.algorithm == "recurrent_ppo":
        raise UsageError("recurrent_ppo acts on all it has seen, not on one observation")


def is_vector(space: gym.Space[Any]) -> bool:
    """Return whether observations are vectors of fractions."""
    is_flat = isinstance(space, gym.spaces.Box) and len(space.shape) == 1
    return is_flat and np.issubdtype(space.dtype, np.floating)


def own_entries(env: gym.Env[Any, Any]) -> int:
    """Return how many of a vector's entries are a task's own: neither padding nor the task id."""
    while isinstance(env, PadObservation | PadAction | TaskId):
        env = env.env
    return gym.spaces.flatdim(env.observation_space)


def scales(env: gym.Env[Any, Any], seed: int) -> NDArray[np.float64]:
    """Return the standard deviation of each own entry of a task under random actions.

    That is the same for every policy, and so are perturbations that are told in it.

    Args:
        env: The task's environment in the stream's spaces.
        seed: Of the actions and of the first episode.

    Returns:
        Shape (entries,); zero for padding and the task id.
    """
    count = own_entries(env)
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    seen = []
    for _ in range(SCALE_STEPS):
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        seen.append(observation)
        if terminated or truncated:
            observation, _ = env.reset()
    found: NDArray[np.float64] = np.std(np.array(seen, dtype=np.float64), axis=0)
    found[count:] = 0.0
    return found
