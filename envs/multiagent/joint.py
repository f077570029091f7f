"""A group of agents as one learner's environment: a row is a copy, an action is that of everybody.

What trains a team by the value of joint actions (VDN, QMIX) is given this in place of the group's
seats.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from holdfast.envs.multiagent.parallel import TeamSpaces
from holdfast.envs.multiagent.seats import ABSENT, TERMINAL_MASKS, Seats
from holdfast.envs.wrappers.monitor import episode
from holdfast.errors import UsageError
from holdfast.registry import algorithm
from holdfast.scenarios.schema.observation_keys import MASKS, OBSERVATION, PRESENT
from holdfast.scenarios.schema.scenario import Scenario


def learner_vectors(
    scenario: Scenario, spaces: TeamSpaces, seats: Mapping[str, Seats]
) -> dict[str, Any]:
    """Return what each group's learner steps: its seats, or all of them as one row of a copy.

    Raises:
        UsageError: See ``JointSeats``.
    """
    if "joint" not in algorithm(scenario.agent.algorithm).shown:
        return dict(seats)
    sizes = {
        group: max(len(team.groups.get(group, ())) for team in spaces.teams) for group in seats
    }
    return {group: JointSeats(own, sizes[group]) for group, own in seats.items()}


class JointSeats(VecEnv):
    """The seats of a group, those of a copy as one row.

    An observation is a Dict: ``observation`` (agents, features), ``present`` (agents,) says who
    acts next, ``action_masks`` (agents, actions), all ones where agents show none, and what stands
    beside the observation of each seat: the state, the task id. Rows of absent agents are zeros.
    The reward is the sum over the agents that acted. A row is done when nobody of the group acts on
    in this episode; the last observation of a truncated one has those present who were cut off.
    ``r`` of a finished episode is the mean of its agents' returns, as an evaluation counts it.

    Args:
        seats: Of the group; each shows a Dict.
        width: Agents of the group in the largest team of the stream; a smaller one leaves the last
            places empty.

    Raises:
        UsageError: The agents' actions are not Discrete, or their observations are no vectors.
    """

    def __init__(self, seats: Seats, width: int) -> None:
        self._seats, self._agents, self._width = seats, len(seats.members), width
        self._copies = seats.num_envs // self._agents
        seen, actions = seats.observation_space, seats.action_space
        assert isinstance(seen, spaces.Dict)
        own = seen[OBSERVATION]
        if not isinstance(actions, spaces.Discrete):
            raise UsageError(
                f"a joint value is over Discrete actions, and the agents' are {actions}; use "
                "algorithm: mappo or ppo"
            )
        if not isinstance(own, spaces.Box) or len(own.shape) != 1:
            raise UsageError(
                f"a joint value is over agents that observe vectors, and these observe {own}; use "
                "algorithm: mappo or dqn"
            )
        self._choices = int(actions.n)
        entries: dict[str, gym.Space[Any]] = {
            OBSERVATION: spaces.Box(
                np.tile(own.low, (width, 1)), np.tile(own.high, (width, 1)), dtype=own.dtype.type
            ),
            PRESENT: spaces.MultiBinary(width),
            MASKS: spaces.MultiBinary([width, self._choices]),
        }
        beside = {key: space for key, space in seen.spaces.items() if key != OBSERVATION}
        joint = spaces.MultiDiscrete([self._choices] * width)
        super().__init__(self._copies, spaces.Dict({**entries, **beside}), joint)
        # The seats' generator is seeded, and nobody else draws from it.
        self.action_space.seed(int(actions.np_random.integers(2**31)))
        self._returns, self._lengths = np.zeros(self._copies), np.zeros(self._copies, np.int64)
        self._began = np.full(self._copies, time.time())

    @property
    def wait(self) -> Callable[[], None] | None:
        """Called before a step's results are taken; see ``Seats``."""
        return self._seats.wait

    @wait.setter
    def wait(self, value: Callable[[], None] | None) -> None:
        self._seats.wait = value

    @property
    def absent(self) -> NDArray[np.bool_]:
        """For each copy, true where nobody of the group acted in the last step."""
        absent: NDArray[np.bool_] = np.all(self._by_copy(self._seats.absent), axis=1)
        return absent

    def present(self) -> NDArray[np.bool_]:
        """Return which agents act in the next step, shape (copies, width)."""
        return self._placed(self._by_copy(self._seats.present()))

    def at_start(self) -> bool:
        """Return whether every copy is at the start of an episode."""
        return self._seats.at_start()

    # -- the interface of Stable-Baselines3 --------------------------------------------------------

    def reset(self) -> VecEnvObs:
        """Return the first observations."""
        seen = self._seats.reset()
        self.reset_infos = [{} for _ in range(self._copies)]
        return self._joint(seen)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Hand the joint actions in, shape (copies, width)."""
        self._seats.step_async(np.asarray(actions)[:, : self._agents].reshape(-1))

    def step_wait(self) -> VecEnvStepReturn:
        """Return what the step gave the group."""
        seen, rewards, _, infos = self._seats.step_wait()
        totals = self._by_copy(rewards).sum(axis=1)  # absent seats have none
        dones, absent = ~self._seats.goes_on(), self.absent
        joint = self._joint(seen)
        told: list[dict[str, Any]] = []
        for copy in range(self._copies):
            own = infos[copy * self._agents : (copy + 1) * self._agents]
            if absent[copy]:
                told.append({ABSENT: True})
                continue
            self._returns[copy] += totals[copy]
            self._lengths[copy] += 1
            told.append(self._ended(copy, own) if dones[copy] else {})
        return joint, totals.astype(np.float32), dones, told

    def _ended(self, copy: int, infos: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the info of a copy in which the group's episode is over."""
        assert isinstance(self.observation_space, spaces.Dict)
        entries = self.observation_space.spaces.items()
        last = {key: np.zeros(space.shape or (), space.dtype) for key, space in entries}
        last[MASKS][:] = 1
        for place, info in enumerate(infos):
            seen = info.get("terminal_observation")
            if seen is None:
                continue
            last |= {key: value for key, value in seen.items() if key != OBSERVATION}
            last[OBSERVATION][place] = seen[OBSERVATION]
            last[PRESENT][place] = info["TimeLimit.truncated"]
            last[MASKS][place] = info.get(TERMINAL_MASKS, 1)
        mean, length = float(self._returns[copy]) / self._agents, int(self._lengths[copy])
        told = episode(mean, length, float(self._began[copy]))
        self._returns[copy], self._lengths[copy], self._began[copy] = 0.0, 0, time.time()
        return {
            "episode": told,
            "TimeLimit.truncated": bool(last[PRESENT].any()),
            "terminal_observation": last,
        }

    def _joint(self, seen: Any) -> dict[str, NDArray[Any]]:
        shown = {key: self._by_copy(value)[:, 0] for key, value in seen.items()}  # alike in a copy
        present = self.present().astype(np.int8)
        own = self._placed(self._by_copy(seen[OBSERVATION]))
        return {
            **shown,
            OBSERVATION: np.where(present[..., None] > 0, own, 0).astype(own.dtype),
            PRESENT: present,
            MASKS: self._masks(present),
        }

    def _masks(self, present: NDArray[Any]) -> NDArray[np.int8]:
        masks = np.ones((self._copies, self._width, self._choices), np.int8)
        if self._seats.has_attr(MASKS):
            masks[:, : self._agents] = self._by_copy(self._seats.action_masks())
        masks[present == 0] = 1
        return masks

    def _by_copy(self, rows: NDArray[Any]) -> NDArray[Any]:
        return rows.reshape(self._copies, self._agents, *rows.shape[1:])

    def _placed(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return (copies, agents, ...) as (copies, width, ...), zeros at the end."""
        placed = np.zeros((self._copies, self._width, *values.shape[2:]), values.dtype)
        placed[:, : self._agents] = values
        return placed

    def random_actions(self) -> NDArray[Any]:
        """Return a joint action for each copy, drawn by the action space from what is allowed."""
        masks = self._masks(self.present())
        return np.stack([self.action_space.sample(tuple(own)) for own in masks])

    def has_attr(self, attr_name: str) -> bool:
        """Return False for action masks: they are in the observation."""
        return attr_name != MASKS and self._seats.has_attr(attr_name)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of each copy."""
        return self._seats.get_attr(attr_name, self._first_seats(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of each copy."""
        self._seats.set_attr(attr_name, value, self._first_seats(indices))

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of each copy."""
        rows = self._first_seats(indices)
        return self._seats.env_method(method_name, *method_args, indices=rows, **method_kwargs)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Return whether episodes are counted as Stable-Baselines3's Monitor does: they are."""
        return self._seats.env_is_wrapped(wrapper_class, self._first_seats(indices))

    def _first_seats(self, indices: Any) -> list[int]:
        return [copy * self._agents for copy in self._get_indices(indices)]

    def close(self) -> None:
        """Close the copies, for all groups."""
        self._seats.close()
