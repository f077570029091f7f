"""One group of agents as a vector environment: a seat is one agent in one copy.

An agent whose part is over (it died, or is not there yet) keeps its seat, marked as done, until it
acts again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy as copy_of
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from holdfast.envs.multiagent.member import Member
from holdfast.scenarios.schema.observation_keys import MASKS

if TYPE_CHECKING:
    from holdfast.envs.multiagent.teams import FrozenGroup, Teams

ABSENT = "holdfast.absent"
"""Key of an info: this seat did not act in the step, so that there is nothing to learn from it."""

TERMINAL_MASKS = "holdfast.terminal_masks"
"""Key of an info: the action mask beside ``terminal_observation``, where the agent shows masks."""


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
        teams: Teams,
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
        """Let a policy that does not learn choose the actions."""
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
        info["terminal_observation"] = _row_of(last, 0)
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
        rows = self._get_indices(indices)
        return [values[row // len(self.members)] for row in rows]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of each seat's copy."""
        for row in self._get_indices(indices):
            setattr(self._teams.envs[row // len(self.members)], attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of each seat's copy; ``action_masks`` gives the seats' own."""
        rows = list(self._get_indices(indices))
        if method_name == MASKS:
            return list(self.action_masks()[rows])
        envs = [self._teams.envs[row // len(self.members)] for row in rows]
        return [getattr(env, method_name)(*method_args, **method_kwargs) for env in envs]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Return whether episodes are counted as Stable-Baselines3's Monitor does: they are."""
        from stable_baselines3.common.monitor import Monitor  # here: only this asks for it

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


def _row_of(batch: Any, row: int) -> Any:
    if isinstance(batch, dict):
        return {key: value[row] for key, value in batch.items()}
    return batch[row]
