"""A trained agent that acts in one task, on the observations of that task's own environment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from holdfast.continual.policies.restore import Restored
from holdfast.envs.base.fitting import PadAction, fit
from holdfast.envs.make import make_env
from holdfast.scenarios.schema.observation_keys import MASKS

if TYPE_CHECKING:
    from holdfast.envs.multiagent.players import FrozenPlayers


class Met(NamedTuple):
    """One step of an agent: the observation, the allowed actions if told, its action."""

    observation: Any
    masks: NDArray[np.bool_] | None
    action: Any


class TaskAgent:
    """The agent in one task; it does not learn.

    For example:

        agent = holdfast.open_run("runs/quickstart/ewc/seed-0").agent("mirrored")
        env = agent.make_env(render_mode="human")
        observation, info = env.reset(seed=1)
        action = agent.act(observation)

    Observations are those of the task's environment; what the stream adds to them (padding, the
    task id, normalisation) is added here.

    Args:
        restored: The agent and its scenario.
        task_index: Which task.
        frozen: Finds opponents that earlier runs left.

    Attributes:
        task: The task.
        unseen: Whether it has no head or column of its own.
        fitted: The layers that fit its environment to the stream, the innermost first.
    """

    def __init__(
        self, restored: Restored, task_index: int, frozen: FrozenPlayers | None = None
    ) -> None:
        self._scenario, self._spaces, self._agent = restored
        self._frozen = frozen
        self._task_index = task_index
        self.task = self._scenario.tasks[task_index]
        self._shown, self.unseen = self._agent.shown_task(task_index)
        env = self.make_env()
        env.close()
        fitted = fit(_Described(env), self._spaces, self._scenario, self._shown)
        self.fitted = fitting_layers(fitted)
        self.reset()

    def make_env(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Return the task's environment, newly made, with its changes and wrappers.

        Args:
            render_mode: For example ``human`` or ``rgb_array``; None renders nothing.
        """
        env = make_env(self._scenario, self.task, render_mode=render_mode)
        if self.task.opponents is not None:
            env.unwrapped.frozen = self._frozen  # type: ignore[attr-defined]  # of SelfPlay
        return env

    def episode(self, env: gym.Env[Any, Any], seed: int, number: int) -> Iterator[dict[str, Met]]:
        """Play an episode of evaluation, and yield what is met before each step.

        Args:
            env: As ``make_env`` returns it.
            seed: Of the episode.
            number: Of the episode; seats and opponents of a game come by turns.

        Yields:
            What is met, under the empty name; see ``TaskTeam.episode``.
        """
        is_game = self.task.opponents is not None
        observation, _ = env.reset(seed=seed, options={"measured": number} if is_game else None)
        self.reset()
        masked, is_over = env.has_wrapper_attr(MASKS), False
        while not is_over:
            masks = np.asarray(env.get_wrapper_attr(MASKS)()) if masked else None
            action = self.act(observation, action_masks=masks)
            yield {"": Met(observation, masks, action)}
            observation, _, terminated, truncated, _ = env.step(action)
            is_over = terminated or truncated

    def reset(self) -> None:
        """Forget the episode so far; needed between episodes of a recurrent policy only."""
        self._state: Any = None
        self._starts = np.ones(1, dtype=bool)

    def act(
        self,
        observation: Any,
        *,
        deterministic: bool = True,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> Any:
        """Return the action for one observation.

        Args:
            observation: As the task's environment gives it.
            deterministic: The most likely action rather than a sample.
            action_masks: Which of the task's own actions are allowed, for ``maskable_ppo``.
        """
        for layer in self.fitted:
            if isinstance(layer, gym.ObservationWrapper):
                observation = layer.observation(observation)
        masks = None if action_masks is None else np.asarray(action_masks)
        for layer in self.fitted:
            if masks is not None and isinstance(layer, PadAction):
                masks = layer.masks(masks)
        options = {"deterministic": deterministic, "action_masks": _batched(masks)}
        with self._agent.view(self._task_index) as policy:
            actions, self._state = policy(
                _batched(observation), self._state, self._starts, **options
            )
        self._starts = np.zeros(1, dtype=bool)
        action = actions[0]
        for layer in reversed(self.fitted):
            if isinstance(layer, gym.ActionWrapper):
                action = layer.action(action)
        return action


class TaskClassifier:
    """The agent of a supervised scenario in one task; it does not learn.

    For example:

        agent = holdfast.open_run("runs/split-digits/naive/seed-0").agent("0-or-1")
        classes = agent.act(inputs)

    Args:
        restored: The agent and its scenario.
        task_index: Which task.
    """

    def __init__(self, restored: Restored, task_index: int) -> None:
        self._agent, self._task_index = restored.agent, task_index
        self.task = restored.scenario.tasks[task_index]
        _, self.unseen = self._agent.shown_task(task_index)

    def act(self, inputs: Any) -> NDArray[np.int64]:
        """Return the class of each input, shape (batch,).

        Args:
            inputs: As the benchmark gives them, shape (batch, ...).
        """
        with self._agent.view(self._task_index) as answer:
            starts = np.ones(len(inputs), dtype=bool)
            classes: NDArray[np.int64]
            classes, _ = answer(inputs, None, starts, deterministic=True)
        return classes


def _batched(values: Any) -> Any:
    """Return a batch of one, of an array or of every entry of a Dict observation."""
    if isinstance(values, dict):
        return {key: np.asarray(value)[None] for key, value in values.items()}
    return None if values is None else np.asarray(values)[None]


class _Described(gym.Env[Any, Any]):
    """The spaces of an environment that is closed."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.observation_space = env.observation_space
        self.action_space = env.action_space


def fitting_layers(env: gym.Env[Any, Any]) -> list[gym.Wrapper[Any, Any, Any, Any]]:
    """Return the wrappers of an environment, the innermost first."""
    layers = []
    while isinstance(env, gym.Wrapper):
        layers.append(env)
        env = env.env
    return layers[::-1]
