"""One agent of a team, in all copies of its environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from holdfast.envs.base.fitting import Beside, PadAction
from holdfast.envs.base.spaces import StreamSpaces
from holdfast.envs.multiagent.global_state import States
from holdfast.envs.multiagent.parallel import ACTION_MASK
from holdfast.envs.wrappers.action_changes import ActionMap
from holdfast.envs.wrappers.changes import RewardScale
from holdfast.errors import UsageError
from holdfast.scenarios.schema.observation_keys import STATE

if TYPE_CHECKING:
    from holdfast.envs.multiagent.seats import Seats


def unmasked(observation: Any) -> Any:
    """Return an observation without the action mask that stands beside it in a dict."""
    return observation["observation"] if isinstance(observation, dict) else observation


class Member:
    """One agent in all copies: how it is fitted to its group, and what it shows now.

    Attributes:
        seen: Its observations as the environment gave them, shape (copies, ...).
        present: Whether it acts in the next step, for each copy.
        totals: Sum of rewards since it appeared, for each copy.
        lengths: Its steps, for each copy.
        scale: Factor on its rewards.
        masks: The actions that it may take, shape (copies, actions); None where no copy says so.
        seats: Its group's.
        place: Its number in the group.
    """

    seats: Seats
    place: int

    def __init__(
        self, own: StreamSpaces, env: gym.Env[Any, Any], copies: int, states: States | None
    ) -> None:
        self._states = states
        self._beside: Beside | None = None
        self._observe: list[Callable[[Any], Any]] = []
        self._act: list[Callable[[Any], Any]] = []
        self._allow: list[Callable[[NDArray[np.bool_]], NDArray[np.bool_]]] = []
        self.scale = 1.0
        while isinstance(env, gym.Wrapper):
            if isinstance(env, gym.ObservationWrapper):
                batch = getattr(env, "batch", None)  # of the task id
                shown = (lambda seen, add=batch: add(seen, (_rows(seen),))) if batch else None
                self._observe.insert(0, shown or env.observation)
            if isinstance(env, Beside):
                self._beside = env
            if isinstance(env, gym.ActionWrapper):
                self._act.append(env.action)
            if isinstance(env, ActionMap | PadAction):
                self._allow.insert(0, env.masks)
            if isinstance(env, RewardScale):
                self.scale = env.scale
            env = env.env
        if not isinstance(own.observation, gym.spaces.Box | gym.spaces.Discrete):
            raise UsageError(f"agents cannot observe {own.observation} yet; give them a Box")
        self.seen = np.zeros((copies, *(own.observation.shape or ())), own.observation.dtype)
        # Lists: single numbers of an array take three times as long to read and write.
        self.present = [False] * copies
        self.totals, self.lengths = [0.0] * copies, [0] * copies
        self.masks: NDArray[np.bool_] | None = None

    def take(self, copy: int, observation: Any) -> None:
        """Keep what it sees in one copy, its action mask apart."""
        if isinstance(observation, dict):
            mask = np.asarray(observation[ACTION_MASK], np.bool_)
            if self.masks is None:
                self.masks = np.ones((len(self.seen), len(mask)), np.bool_)
            self.masks[copy] = mask
            observation = unmasked(observation)
        self.seen[copy] = observation

    def shown(self, copies: Sequence[int] | slice = slice(None)) -> Any:
        """Return what it sees in some copies, as its group's policy takes it."""
        seen = self.seen[copies]
        if self._beside is not None and self._states is not None:
            self._beside.shown = {STATE: self._states.values[copies]}
        for layer in self._observe:
            seen = layer(seen)
        return seen

    def own(self, actions: NDArray[Any]) -> Any:
        """Return the group's actions as its own."""
        for layer in self._act:
            actions = layer(actions)
        return actions

    def allowed(self) -> NDArray[np.bool_]:
        """Return the masks of the group's actions."""
        assert self.masks is not None
        masks = self.masks
        for layer in self._allow:
            masks = np.stack([*map(layer, masks)])
        return masks


def _rows(batch: Any) -> int:
    """Return how many observations there are, one array or one per key."""
    return len(next(iter(batch.values())) if isinstance(batch, dict) else batch)
