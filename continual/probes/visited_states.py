"""States of a task, met in evaluation episodes, and what policies make of their observations.

What is explained is a vector, or a picture: alone, or beside other entries of a Dict, which stay as
they were met.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from torch import Tensor

from holdfast import seeding
from holdfast.agents.base.greedy_action import most_likely
from holdfast.agents.base.parameters import is_actor_critic
from holdfast.agents.doors.outputs import Output, as_evaluated
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.probes.attack import (
    check_memoryless,
    is_vector,
    own_entries,
    seen_by_policy,
)
from holdfast.continual.probes.rollouts import Player, Rows, World, copied
from holdfast.continual.results.curves import Array
from holdfast.continual.run_folder.record import RunFolder
from holdfast.envs.vector import task_env
from holdfast.errors import UsageError


class Point(NamedTuple):
    """Where a state is: an evaluation episode, and a step of it, both from 0."""

    episode: int
    step: int


class Seen(NamedTuple):
    """Observations of states of a task, as tensors that gradients can be taken by.

    Attributes:
        values: What is explained, float32: vectors of shape (states, entries), or pictures of shape
            (states, channels, height, width), from 0 to 255 as they were met.
        own: Entries that are the task's own, which come first; of pictures, pixels.
        key: Entry of the Dict that the pictures are in; None where they are all that is observed.
        beside: The other entries of the Dict, shape (states, ...) each.
    """

    values: Tensor
    own: int
    key: str | None
    beside: dict[str, Tensor]

    @property
    def is_picture(self) -> bool:
        """Whether pictures are explained."""
        return self.values.ndim == 4

    def with_values(self, values: Tensor) -> Any:
        """Return observations of the stream that have other values.

        Args:
            values: Shape (n x states, ...): copies of all states, after each other.
        """
        if self.key is None:
            return values
        times = len(values) // len(self.values)
        beside = {k: v.repeat(times, *[1] * (v.ndim - 1)) for k, v in self.beside.items()}
        return {self.key: values, **beside}


class Met(NamedTuple):
    """States of a task.

    Attributes:
        seen: What was observed in them.
        points: Where they are.
        rest: Return from there on, shape (states,).
        actions: Taken in each episode.
        seeds: Of each episode.
        is_drawn: Whether the environment says that it draws frames.
    """

    seen: Seen
    points: list[Point]
    rest: Array
    actions: list[list[Any]]
    seeds: list[int]
    is_drawn: bool

    @property
    def steps(self) -> Array:
        """Step of the episode of each state."""
        return np.array([point.step for point in self.points], dtype=np.float64)


def meet(cell: RunFolder, restored: Any, task: int, count: int) -> Met:
    """Play evaluation episodes by the policy of a task's end, and return states of them.

    Args:
        cell: The run.
        restored: It, at the end of the task.
        task: Index of the task.
        count: How many states, at even distances over the episodes.

    Raises:
        UsageError: If its policy cannot be explained in this task; the text says why.
    """
    from holdfast.continual.streams.task_stream import MOST_COPIES

    scenario, agent = restored.scenario, restored.agent
    check_explainable(cell, agent, scenario.tasks[task])
    numbers = range(min(MOST_COPIES, scenario.evaluation.episodes))
    seeds = [seeding.derive(cell.seed, "evaluation", task, number) for number in numbers]
    world = World(scenario, task, restored.spaces, seeds, agent.shown_task(task)[0])
    stream = kind_of(scenario).stream(cell.seed, restored.spaces)
    experience = stream.eval_stream[task]
    most = experience.most_steps
    experience.close()
    rows = _Watched(world.envs, world.begun(), [0] * len(seeds), most)
    Player(agent, task, cell.seed).play(rows, most)
    own = own_entries(world.envs[0])
    is_drawn = "rgb_array" in world.envs[0].metadata.get("render_modes", ())
    world.close()
    points = [Point(row, step) for row, seen in enumerate(rows.seen) for step in range(len(seen))]
    rest = [value for row in rows.rewards for value in np.cumsum(row[::-1])[::-1]]
    chosen = np.unique(np.linspace(0, len(points) - 1, min(count, len(points))).round().astype(int))
    points = [points[place] for place in chosen]
    seen = _tensors(agent, [rows.seen[row][step] for row, step in points], own)
    return Met(seen, points, np.array(rest)[chosen], rows.actions, seeds, is_drawn)


class _Watched(Rows):
    """Rows that keep all that is seen."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.seen: list[list[Any]] = [[] for _ in self.envs]

    def before(self, row: int) -> None:
        self.seen[row].append(copied(self._latest[row]))


def check_explainable(cell: RunFolder, agent: Any, task: Any) -> None:
    """Raise unless a policy can be explained in a task.

    Raises:
        UsageError: If it cannot; the text says why.
    """
    where = f"{cell.path}: task '{task.name}'"
    if task.opponents is not None:
        raise UsageError(f"{where} is a game; explanations are for environments without opponents")
    if cell.scenario.backend == "envpool":
        raise UsageError(f"{where} is in EnvPool; explanations need environments of Gymnasium")
    try:
        check_memoryless(agent)
    except UsageError as error:
        raise UsageError(f"{where} cannot be explained: {error}") from error
    _explained(agent.policy.observation_space, where)


def _explained(space: gym.Space[Any], where: str) -> str | None:
    """Return the entry of a Dict that is explained; None where that is the whole observation."""
    if is_image_space(space) or is_vector(space):
        return None
    entries = space.spaces if isinstance(space, gym.spaces.Dict) else {}
    pictures = [key for key, entry in entries.items() if is_image_space(entry)]
    if len(pictures) != 1:
        raise UsageError(
            f"{where} cannot be explained: it needs observations in a vector of fractions, or one "
            f"picture (uint8, from 0 to 255, with channels), but they are {space}"
        )
    return pictures[0]


def _tensors(agent: Any, observed: Sequence[Any], own: int) -> Seen:
    """Return observations of the stream as tensors, pictures with channels first.

    Stable-Baselines3 divides pictures by 255 inside the policy; bytes have no gradients, so they
    are handed over as fractions, of the same values.
    """
    space, device = agent.policy.observation_space, agent.device
    key = _explained(space, "the observation")
    beside: dict[str, Tensor] = {}
    if key is not None:
        others = [name for name in space.spaces if name != key]
        for name in others:
            beside[name] = torch.as_tensor(np.stack([one[name] for one in observed]), device=device)
        space, observed = space[key], [one[key] for one in observed]
    values = torch.as_tensor(np.stack(observed), dtype=torch.float32, device=device)
    if is_vector(space):
        return Seen(values, own, None, {})
    if tuple(values.shape[1:]) != space.shape:
        values = values.permute(0, 3, 1, 2).contiguous()  # (states, channels, height, width)
    return Seen(values, values.shape[2] * values.shape[3], key, beside)


class View:
    """A policy as a function of what is explained, in the view of a task.

    Args:
        agent: The agent.
        task: The task.
        seen: The observations that are explained.
    """

    def __init__(self, agent: Any, task: int, seen: Seen) -> None:
        self.agent, self._task, self._seen = agent, task, seen

    def of(self, ask: Callable[[Callable[[Tensor], Output]], Any]) -> Any:
        """Return what ``ask`` makes of the policy's output, as a function of values."""
        with self.agent.view(self._task), as_evaluated(self.agent.policy):
            output = self.agent.output()
            return ask(lambda values: output(self._taken(values)))

    def actions(self) -> NDArray[Any]:
        """Return the most likely actions, shape (states, ...)."""
        with self.agent.view(self._task), as_evaluated(self.agent.policy), torch.no_grad():
            found = most_likely(self.agent.policy, self._taken(self._seen.values))
        return np.asarray(found.cpu())

    def features(self) -> Array:
        """Return what the actor's features extractor makes of the states, (states, features)."""
        policy = self.agent.policy
        with self.agent.view(self._task), as_evaluated(policy), torch.no_grad():
            taken = self._taken(self._seen.values)
            if is_actor_critic(policy):
                extractor = policy.pi_features_extractor
                found = BasePolicy.extract_features(policy, taken, extractor)
            else:
                names = ("q_net", "quantile_net", "actor")
                net = next(getattr(policy, name) for name in names if hasattr(policy, name))
                found = net.extract_features(taken, net.features_extractor)
        return np.asarray(found.double().cpu())

    def _taken(self, values: Tensor) -> Any:
        return seen_by_policy(self.agent, self._seen.with_values(values))


# -- frames ----------------------------------------------------------------------------------------


class Unseen(Exception):
    """No frame can be had of a state; the text says why."""


def rendered(restored: Any, task: int, met: Met, place: int) -> NDArray[np.uint8]:
    """Return a frame of a state, which is reached again from its episode's seed by its actions.

    Args:
        restored: The run at the end of the task.
        task: Index of the task.
        met: The states.
        place: Of the state among them.

    Returns:
        Shape (height, width, 3).

    Raises:
        Unseen: If the environment draws none, or is elsewhere after the same actions.
    """
    try:
        # A new one for each frame: MuJoCo's camera may stay where it looked when it first drew.
        env = task_env(restored.scenario, task, restored.spaces, render_mode="rgb_array")
        try:
            picture = _drawn(env, met, place)
        except Exception:
            with suppress(Exception):  # what cannot draw may fail again here
                env.close()
            raise
        env.close()
    except Unseen:
        raise
    except Exception as error:
        raise Unseen(f"{type(error).__name__}: {error}"[:500]) from error
    return picture


def _drawn(env: gym.Env[Any, Any], met: Met, place: int) -> NDArray[np.uint8]:
    episode, step = met.points[place]
    shown, _ = env.reset(seed=met.seeds[episode])
    for action in met.actions[episode][:step]:
        shown = env.step(action)[0]
    own = met.seen.own
    there = met.seen.values[place, :own].cpu().numpy()
    if not np.array_equal(np.asarray(shown, dtype=np.float32)[:own], there):
        raise Unseen("the same actions led to another state")
    picture = np.asarray(env.render())
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
        raise Unseen("render() returned no picture, (height, width, 3) of uint8")
    return picture
