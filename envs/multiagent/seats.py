"""Agents of a team, and a group of them as a vector environment: a seat is one agent in one copy.

An agent whose part is over (it died, or is not there yet) keeps its seat, marked as done, until it
acts again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy as copy_of
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from holdfast.envs.base.fitting import Beside, PadAction
from holdfast.envs.base.spaces import StreamSpaces
from holdfast.envs.envpool.single import rows
from holdfast.envs.multiagent.global_state import Parallel, States
from holdfast.envs.multiagent.parallel import ACTION_MASK, unmasked
from holdfast.envs.wrappers.action_changes import ActionMap
from holdfast.envs.wrappers.changes import RewardScale
from holdfast.errors import UsageError
from holdfast.scenarios.schema.observation_keys import MASKS, STATE

ABSENT = "holdfast.absent"
"""Key of an info: this seat did not act in the step, so that there is nothing to learn from it."""

TERMINAL_MASKS = "holdfast.terminal_masks"
"""Key of an info: the action mask beside ``terminal_observation``, where the agent shows masks."""


class Copies(Protocol):
    """The copies that seats are in, as their vector needs them; ``Teams`` is the one of its kind.

    Attributes:
        envs: The environment of each copy.
        lengths: Steps of each copy's episode.
        is_ready: Whether every group has its actions ready.
    """

    envs: list[Parallel]
    lengths: list[int]

    @property
    def is_ready(self) -> bool: ...  # noqa: D102  # above

    def start(self) -> None:
        """Begin the first episodes, once."""

    def acted(self, seats: Seats) -> None:
        """Note that a group has its actions ready."""

    def step(self) -> None:
        """Step every copy with the actions of all groups."""

    def close(self) -> None:
        """Close the copies."""


class FrozenGroup(Protocol):
    """The policy of a group that does not learn."""

    def fitted(self, described: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        """Return an agent's spaces, fitted to what the policy takes.

        Raises:
            UsageError: If the policy has not learned with such spaces.
        """

    def act(
        self, observations: Any, starts: NDArray[np.bool_], masks: NDArray[np.bool_] | None
    ) -> NDArray[Any]:
        """Return an action for each seat; ``starts`` says where an episode begins."""


class Member:
    """One agent of a team in all copies: how it is fitted to its group, and what it shows now.

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
                self._observe.insert(0, env.observation)
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


class Seats(VecEnv):
    """One group's agents in all copies, for its learner.

    The row of agent ``j`` of ``k`` in copy ``i`` is ``i * k + j``. ``step_async`` hands the actions
    in; the copies step once every group has done so. A learner that asks for results before that
    must let the others go first: ``wait`` is called for it.

    Attributes:
        wait: Returns when every group has its actions ready; None where this group is alone.
    """

    wait: Callable[[], None] | None = None

    def __init__(
        self,
        teams: Copies,
        members: Sequence[Member],
        copies: int,
        fitted: gym.Env[Any, Any],
        seed: int,
    ) -> None:
        self._teams, self.members, self._copies = teams, list(members), copies
        for place, agent in enumerate(self.members):
            agent.seats, agent.place = self, place
        # The space's generator is training's own; evaluation has other seats of the same spaces.
        actions = copy_of(fitted.action_space)
        super().__init__(copies * len(self.members), fitted.observation_space, actions)
        self.action_space.seed(seed)
        self._actions: NDArray[Any] | None = None
        self._rewards = np.zeros(self.num_envs, np.float32)
        self._dones = np.ones(self.num_envs, np.bool_)
        self._infos: list[dict[str, Any]] = []
        self.absent = np.zeros(self.num_envs, np.bool_)

    def actions_of(self, agent: Member) -> NDArray[Any]:
        """Return one agent's actions in all copies, shape (copies, ...)."""
        assert self._actions is not None
        return self._actions[agent.place :: len(self.members)]

    def act(self, partner: FrozenGroup) -> None:
        """Choose the actions by a policy that does not learn."""
        masks = self.action_masks() if self.has_attr(MASKS) else None
        self._actions = np.asarray(partner.act(self._shown(), self._dones, masks))

    def begin(self) -> None:
        """Begin a step: whoever does not act in it is absent."""
        self._rewards = np.zeros(self.num_envs, np.float32)
        self._dones = np.ones(self.num_envs, np.bool_)
        self.absent = np.ones(self.num_envs, np.bool_)
        self._infos = [{} for _ in range(self.num_envs)]

    def took(self, agent: Member, copy: int, reward: float, done: bool) -> None:
        """Take one agent's step."""
        row = self._row(agent, copy)
        self._rewards[row], self._dones[row], self.absent[row] = reward, done, False

    def ended(self, agent: Member, copy: int, episode: dict[str, Any], cut: bool) -> None:
        """Take the end of one agent's part; its last observation is there."""
        last = agent.shown([copy])  # a copy: the next episode's first observation comes here too
        info = self._infos[self._row(agent, copy)]
        info["episode"] = episode
        info["TimeLimit.truncated"] = cut
        info["terminal_observation"] = rows(last, 0)
        if agent.masks is not None:
            info[TERMINAL_MASKS] = agent.allowed()[copy].copy()

    def _row(self, agent: Member, copy: int) -> int:
        return copy * len(self.members) + agent.place

    # -- the interface of Stable-Baselines3 --------------------------------------------------------

    def reset(self) -> VecEnvObs:
        """Return the first observations; the copies begin when the first group asks."""
        self._teams.start()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return self._shown()  # type: ignore[no-any-return]  # an array, or one per key

    def step_async(self, actions: NDArray[Any]) -> None:
        """Hand the actions in."""
        self._actions = np.asarray(actions)
        self._teams.acted(self)

    def step_wait(self) -> VecEnvStepReturn:
        """Return what the step gave this group; whose part was over before has an empty one."""
        if self.wait is not None:
            self.wait()
        if self._teams.is_ready:
            self._teams.step()
        for row in np.flatnonzero(self.absent):
            self._infos[row][ABSENT] = True
        return self._shown(), self._rewards, self._dones, self._infos

    def _shown(self) -> Any:
        return _interleaved([agent.shown() for agent in self.members])

    def present(self) -> NDArray[np.bool_]:
        """Return which seats act in the next step, shape (seats,)."""
        return np.stack([agent.present for agent in self.members], axis=1).reshape(-1)

    def goes_on(self) -> NDArray[np.bool_]:
        """Return in which copies somebody of the group acts on in the same episode, (copies,)."""
        here = self.present().reshape(self._copies, -1).any(axis=1)
        goes_on: NDArray[np.bool_] = here & (np.asarray(self._teams.lengths) > 0)
        return goes_on

    def at_start(self) -> bool:
        """Return whether every copy is at the start of an episode."""
        return not any(self._teams.lengths)

    def action_masks(self) -> NDArray[np.bool_]:
        """Return the actions that each seat may take, shape (seats, actions)."""
        masks = np.stack([agent.allowed() for agent in self.members], axis=1)
        return masks.reshape(self.num_envs, -1)

    def random_actions(self) -> NDArray[Any]:
        """Return an action for each seat, drawn by the action space from what is allowed."""
        if not self.has_attr(MASKS):
            return np.stack([self.action_space.sample() for _ in range(self.num_envs)])
        masks = self.action_masks().astype(np.int8)
        return np.stack([self.action_space.sample(mask) for mask in masks])

    def has_attr(self, attr_name: str) -> bool:
        """Return whether the agents show action masks, where that is asked for."""
        return attr_name == MASKS and all(agent.masks is not None for agent in self.members)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of each seat's copy."""
        values = [getattr(env, attr_name) for env in self._teams.envs]
        return [values[row // len(self.members)] for row in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of each seat's copy."""
        for row in self._get_indices(indices):
            setattr(self._teams.envs[row // len(self.members)], attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of each seat's copy; ``action_masks`` gives the seats' own."""
        seats = list(self._get_indices(indices))
        if method_name == MASKS:
            return list(self.action_masks()[seats])
        envs = [self._teams.envs[row // len(self.members)] for row in seats]
        return [getattr(env, method_name)(*method_args, **method_kwargs) for env in envs]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Return whether episodes are counted as Stable-Baselines3's Monitor does: they are."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]

    def close(self) -> None:
        """Close the copies, for all groups."""
        self._teams.close()


def _interleaved(parts: list[Any]) -> Any:
    """Return observations of agents in all copies, row by row: all agents of the first copy first.

    Args:
        parts: For each agent, shape (copies, ...), or one such array per key.
    """
    if isinstance(parts[0], dict):
        return {key: _interleaved([part[key] for part in parts]) for key in parts[0]}
    stacked: NDArray[Any] = np.stack(parts, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])
