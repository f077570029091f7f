"""Copies of a PettingZoo environment, stepped together; each group of agents is a vector of seats.

A seat is one agent in one copy. The groups' learners each see a vector environment of
Stable-Baselines3's, ``Seats``: an agent whose part is over (it died, or is not there yet) keeps its
seat, marked as done, until it acts again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy as copy_of
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from holdfast.envs.parallel import ACTION_MASK, Parallel, Team, TeamSpaces
from holdfast.envs.spaces import MASKS, PadAction, StreamSpaces, fit
from holdfast.errors import EnvironmentFailed, HoldfastError, UsageError
from holdfast.scenarios.schema import Scenario

ABSENT = "holdfast.absent"
"""Key of an info: this seat did not act in the step, so that there is nothing to learn from it."""


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


def described(own: StreamSpaces) -> gym.Env[Any, Any]:
    """Return the spaces of one agent, to which the wrappers of the stream are fitted."""
    env: gym.Env[Any, Any] = gym.Env()
    env.observation_space, env.action_space = own.observation, own.action
    return env


class _Agent:
    """One agent in all copies: how it is fitted to its group, and what it shows now.

    Attributes:
        seen: Its observations as the environment gave them, shape (copies, ...).
        present: Whether it acts in the next step, for each copy.
        totals: Sum of rewards since it appeared, for each copy.
        lengths: Its steps, for each copy.
        masks: The actions that it may take, shape (copies, actions); None where no copy says so.
        seats: Its group's.
        place: Its number in the group.
    """

    seats: Seats
    place: int

    def __init__(self, own: StreamSpaces, env: gym.Env[Any, Any], copies: int) -> None:
        self._observe: list[Callable[[Any], Any]] = []
        self._act: list[Callable[[Any], Any]] = []
        self._pad: PadAction | None = None
        while isinstance(env, gym.Wrapper):
            if isinstance(env, gym.ObservationWrapper):
                batch = getattr(env, "batch", None)  # of the task id
                shown = (lambda seen, add=batch: add(seen, (len(seen),))) if batch else None
                self._observe.insert(0, shown or env.observation)
            if isinstance(env, PadAction):
                self._act.append(env.action)
                self._pad = env
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
            observation = observation["observation"]
        self.seen[copy] = observation

    def shown(self, seen: NDArray[Any]) -> Any:
        """Return observations as its group's policy takes them."""
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
        return self.masks if self._pad is None else np.stack([*map(self._pad.masks, self.masks)])


class Teams:
    """Copies of one task's environment.

    Autoreset is same-step: a copy whose agents are all gone begins its next episode at once. Seeds
    are those of Stable-Baselines3: copy ``i`` begins with ``seed + i``, later resets give none.

    Args:
        envs: The copies.
        scenario: The scenario.
        task_index: Which of its tasks.
        spaces: What ``team_spaces`` returned.
        seeds: Of each copy's first episode.
        shown: The task whose id the policies are shown; by default the task itself.
        autoreset: Whether a copy goes on after its episode; else it halts.
        partners: The groups that do not learn.

    Attributes:
        seats: The vector environment of each group that has agents in this task, and learns.
        halted: Which copies have come to the end of their only episode.
        lengths: Steps of each copy's running, or only, episode, shape (copies,).
        returns: Sum of rewards of each agent in that episode, for each copy.
    """

    def __init__(
        self,
        envs: Sequence[Parallel],
        scenario: Scenario,
        task_index: int,
        spaces: TeamSpaces,
        seeds: Sequence[int],
        *,
        shown: int | None = None,
        autoreset: bool = True,
        partners: Mapping[str, FrozenGroup] | None = None,
    ) -> None:
        team: Team = spaces.teams[task_index]
        self.envs, self._seeds, self._autoreset = list(envs), list(seeds), autoreset
        self._task = scenario.tasks[task_index].name
        shown = task_index if shown is None else shown
        self._agents: dict[str, _Agent] = {}
        self.seats: dict[str, Seats] = {}
        self._frozen: list[tuple[Seats, FrozenGroup]] = []
        copies = len(self.envs)
        for group, names in team.groups.items():
            partner = (partners or {}).get(group)
            for name in names:
                own = described(team.spaces[name])
                if partner is not None:
                    fitted = partner.fitted(own)
                else:
                    fitted = fit(own, spaces.groups[group], scenario, shown)
                self._agents[name] = _Agent(team.spaces[name], fitted, copies)
            if names:
                members = [self._agents[name] for name in names]
                seats = Seats(self, members, copies, fitted, self._seeds[0])
                if partner is not None:
                    self._frozen.append((seats, partner))
                else:
                    self.seats[group] = seats
        self.halted = np.zeros(copies, np.bool_)
        self.lengths = [0] * copies
        self.returns = {name: [0.0] * copies for name in self._agents}
        self._began: NDArray[np.float64] = np.full(copies, time.time())
        self._started = False
        self._waiting: set[Seats] = set()

    # -- what the groups' vectors ask for ----------------------------------------------------------

    def start(self) -> None:
        """Begin the first episodes, once."""
        if self._started:
            return
        self._started = True
        for copy in range(len(self.envs)):
            self._reset(copy, self._seeds[copy])

    def acted(self, seats: Seats) -> None:
        """Note that a group has its actions ready."""
        self._waiting.add(seats)

    @property
    def is_ready(self) -> bool:
        """Whether every group has."""
        return len(self._waiting) == len(self.seats)

    def step(self) -> None:
        """Step every copy with the actions of all groups."""
        assert self.is_ready
        self._waiting.clear()
        for seats, partner in self._frozen:
            seats.act(partner)
        everyone = [*self.seats.values(), *(seats for seats, _ in self._frozen)]
        for seats in everyone:
            seats.begin()
        own = {
            name: agent.own(seats.actions_of(agent))
            for seats in everyone
            for name, agent in self._members(seats)
        }
        for copy in np.flatnonzero(~self.halted):
            self._step(int(copy), self.envs[copy], own)

    def _members(self, seats: Seats) -> list[tuple[str, _Agent]]:
        return [(name, agent) for name, agent in self._agents.items() if agent in seats.members]

    # -- one copy ----------------------------------------------------------------------------------

    def _reset(self, copy: int, seed: int | None) -> None:
        env = self.envs[copy]
        result: Any = self._called(f"reset(seed={seed})", lambda: env.reset(seed=seed))
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], dict)):
            raise EnvironmentFailed(
                f"task '{self._task}': reset() returned a {type(result).__name__}, not "
                "(observations, infos)"
            )
        if not env.agents:
            raise EnvironmentFailed(f"task '{self._task}': after reset() there are no agents")
        for agent in self._agents.values():
            agent.present[copy] = False
        self._appear(copy, env, result[0], "reset()")
        for agent in self._agents.values():
            agent.totals[copy], agent.lengths[copy] = 0.0, 0
        self.lengths[copy] = 0
        for returns in self.returns.values():
            returns[copy] = 0.0

    def _appear(self, copy: int, env: Parallel, observations: Mapping[str, Any], at: str) -> None:
        """Take what the agents see that act next."""
        for name in env.agents:
            agent = self._agents.get(name)
            if agent is None:
                raise EnvironmentFailed(
                    f"task '{self._task}', {at}: agent '{name}' is not among possible_agents"
                )
            agent.take(copy, observations[name])
            if not agent.present[copy]:
                agent.present[copy] = True
                agent.totals[copy], agent.lengths[copy] = 0.0, 0

    def _step(self, copy: int, env: Parallel, own: Mapping[str, Any]) -> None:
        acting = list(env.agents)
        actions = {name: own[name][copy] for name in acting}
        result: Any = self._called("step()", lambda: env.step(actions))
        try:
            observations, rewards, terminations, truncations, _infos = result
        except (TypeError, ValueError) as error:
            raise EnvironmentFailed(
                f"task '{self._task}': step() returned no five dicts, as PettingZoo's parallel "
                "environments do"
            ) from error
        self.lengths[copy] += 1
        for name in acting:
            agent = self._agents[name]
            reward = float(rewards[name])
            if not math.isfinite(reward):
                raise EnvironmentFailed(
                    f"task '{self._task}', step(): reward of {name} is {reward}"
                )
            agent.totals[copy] += reward
            self.returns[name][copy] += reward
            agent.lengths[copy] += 1
            over = bool(terminations[name] or truncations[name]) or name not in env.agents
            agent.seats.took(agent, copy, reward, over)
            if over:
                agent.take(copy, observations[name])
                cut = bool(truncations[name] and not terminations[name])
                agent.seats.ended(agent, copy, self._episode(agent, copy), cut)
                agent.present[copy] = False
        if env.agents:
            self._appear(copy, env, observations, "step()")
        elif not self._autoreset:
            self.halted[copy] = True
        else:
            self._reset(copy, None)
            self._began[copy] = time.time()

    def _episode(self, agent: _Agent, copy: int) -> dict[str, Any]:
        return {
            "r": round(agent.totals[copy], 6),
            "l": agent.lengths[copy],
            "t": round(time.time() - float(self._began[copy]), 6),
        }

    def _called(self, place: str, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except HoldfastError:
            raise
        except (Exception, SystemExit) as error:
            raise EnvironmentFailed(
                f"task '{self._task}', {place}: {type(error).__name__}: {error}"
            ) from error

    def close(self) -> None:
        """Close the copies."""
        for env in self.envs:
            env.close()
        self.envs = []


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
        members: Sequence[_Agent],
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

    def actions_of(self, agent: _Agent) -> NDArray[Any]:
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

    def took(self, agent: _Agent, copy: int, reward: float, done: bool) -> None:
        """Take one agent's step."""
        row = self._row(agent, copy)
        self._rewards[row], self._dones[row], self.absent[row] = reward, done, False

    def ended(self, agent: _Agent, copy: int, episode: dict[str, Any], cut: bool) -> None:
        """Take the end of one agent's part; its last observation is there."""
        last = agent.shown(agent.seen[copy : copy + 1].copy())  # what is seen next comes there
        info = self._infos[self._row(agent, copy)]
        info["episode"] = episode
        info["TimeLimit.truncated"] = cut
        info["terminal_observation"] = _row_of(last, 0)

    def _row(self, agent: _Agent, copy: int) -> int:
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
        return _interleaved([agent.shown(agent.seen) for agent in self.members])

    def action_masks(self) -> NDArray[np.bool_]:
        """Return the actions that each seat may take, shape (seats, actions)."""
        masks = np.stack([agent.allowed() for agent in self.members], axis=1)
        return masks.reshape(self.num_envs, -1)

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
