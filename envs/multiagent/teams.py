"""Copies of a PettingZoo environment, stepped together, with its agents in groups.

The groups' learners each see a vector environment of Stable-Baselines3's, ``Seats``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast import seeding
from holdfast.envs.base.fitting import fit
from holdfast.envs.multiagent.global_state import Parallel, States
from holdfast.envs.multiagent.parallel import Team, TeamSpaces, described, unmasked
from holdfast.envs.multiagent.seats import FrozenGroup, Member, Seats
from holdfast.envs.wrappers.at_work import AT_WORK
from holdfast.envs.wrappers.guard import LARGEST, beyond
from holdfast.envs.wrappers.monitor import episode
from holdfast.errors import EnvironmentFailed, HoldfastError
from holdfast.scenarios.schema.observation_keys import STATE
from holdfast.scenarios.schema.scenario import Scenario

_DICTS = ("observations", "rewards", "terminations", "truncations")
"""Of what a step returns, those that must hold everybody who acted."""


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
        task = scenario.tasks[task_index]
        self._task = task.name
        self._note = sys.intern(f"task '{task.name}'")
        shown = task_index if shown is None else shown
        self._agents: dict[str, Member] = {}
        self.seats: dict[str, Seats] = {}
        self._frozen: list[tuple[Seats, FrozenGroup]] = []
        copies = len(self.envs)
        self._states: States | None = None
        if team.state is not None:
            state = next(iter(spaces.groups.values())).beside[STATE]  # type: ignore[index]  # shown
            self._states = States(self.envs[0], team.spaces, state, copies)
        for number, (group, names) in enumerate(team.groups.items()):
            partner = (partners or {}).get(group)
            for name in names:
                own, states = described(team.spaces[name], task.changes), self._states
                if partner is not None:
                    fitted, states = partner.fitted(own), None
                else:
                    fitted = fit(own, spaces.groups[group], scenario, shown)
                self._agents[name] = Member(team.spaces[name], fitted, copies, states)
            if names:
                members = [self._agents[name] for name in names]
                seed = seeding.group_seed(self._seeds[0], number, group)
                seats = Seats(self, members, copies, fitted, seed)
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
        """True once every group has its actions ready."""
        return len(self._waiting) == len(self.seats)

    def step(self) -> None:
        """Step every copy with the actions of all groups."""
        assert self.is_ready
        self._waiting.clear()
        own = self.actions()
        for seats in self._everyone:
            seats.begin()
        for copy in np.flatnonzero(~self.halted):
            self._step(int(copy), self.envs[copy], own)

    def actions(self) -> dict[str, NDArray[Any]]:
        """Return what each agent does, as its environment takes it, shape (copies, ...).

        Learners have handed their actions in; partners choose now.
        """
        for seats, partner in self._frozen:
            seats.act(partner)
        members = self._agents.items()
        return {name: agent.own(agent.seats.actions_of(agent)) for name, agent in members}

    def look(self, observations: Mapping[str, Any]) -> None:
        """Take what agents see in the only copy, which somebody else resets and steps."""
        self._started = True
        for name, agent in self._agents.items():
            agent.present[0] = name in observations
            if name in observations:
                agent.take(0, observations[name])

    @property
    def _everyone(self) -> list[Seats]:
        return [*self.seats.values(), *(seats for seats, _ in self._frozen)]

    # -- one copy ----------------------------------------------------------------------------------

    def _reset(self, copy: int, seed: int | None) -> None:
        env = self.envs[copy]
        place = f"reset(seed={seed})"
        result: Any = self._called(place, lambda: env.reset(seed=seed))
        AT_WORK.check(f"task '{self._task}', {place}")
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], dict)):
            raise EnvironmentFailed(
                f"task '{self._task}': reset() returned a {type(result).__name__}, not "
                "(observations, infos)"
            )
        if not env.agents:
            raise EnvironmentFailed(
                f"task '{self._task}': after reset() there are no agents: the environment's "
                "`agents` is empty; reset() must fill it (`holdfast check-env` tells more)"
            )
        for agent in self._agents.values():
            agent.present[copy] = False
        self._take_state(copy, env, result[0], env.agents)
        self._appear(copy, env, result[0], "reset()")
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
            if name not in observations:
                raise self._lacking(at, "observations", [name])
            agent.take(copy, observations[name])
            if not agent.present[copy]:
                agent.present[copy] = True
                agent.totals[copy], agent.lengths[copy] = 0.0, 0

    def _take_state(
        self, copy: int, env: Parallel, observations: Mapping[str, Any], present: Sequence[str]
    ) -> None:
        states = self._states
        if states is not None:
            seen = {name: unmasked(observations[name]) for name in present}
            self._called("state()", lambda: states.take(copy, env, seen, present))

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
        for what, found in zip(_DICTS, result, strict=False):
            if lacking := [name for name in acting if name not in found]:
                raise self._lacking("step()", what, lacking)
        self.lengths[copy] += 1
        # The last state of an episode is of those who saw it; else of those who go on.
        self._take_state(copy, env, observations, env.agents or acting)
        for name in acting:
            agent = self._agents[name]
            if np.ndim(rewards[name]):
                raise EnvironmentFailed(
                    f"task '{self._task}', step(): the reward of {name} is {rewards[name]!r}, an "
                    f"array of shape {np.shape(rewards[name])}; it must be one number"
                )
            reward = float(rewards[name]) * agent.scale
            if not abs(reward) <= LARGEST:  # NaN is not
                raise EnvironmentFailed(
                    f"task '{self._task}', step(): reward of {name} is {reward}{beyond(reward)}"
                )
            agent.totals[copy] += reward
            self.returns[name][copy] += reward
            agent.lengths[copy] += 1
            over = bool(terminations[name] or truncations[name]) or name not in env.agents
            agent.seats.took(agent, copy, reward, over)
            if over:
                agent.take(copy, observations[name])
                cut = bool(truncations[name] and not terminations[name])
                began = float(self._began[copy])
                told = episode(agent.totals[copy], agent.lengths[copy], began)
                agent.seats.ended(agent, copy, told, cut)
                agent.present[copy] = False
        if env.agents:
            self._appear(copy, env, observations, "step()")
        elif not self._autoreset:
            self.halted[copy] = True
        else:
            self._reset(copy, None)
            self._began[copy] = time.time()

    def _lacking(self, place: str, what: str, names: Sequence[str]) -> EnvironmentFailed:
        """Return the error of an agent that a dict of the environment leaves out."""
        return EnvironmentFailed(
            f"task '{self._task}', {place}: the {what} lack {', '.join(names)}; whoever acts, its "
            "last step included, must be in all dicts (`holdfast check-env` tells more)"
        )

    def _called(self, place: str, function: Callable[[], Any]) -> Any:
        if AT_WORK.note is not self._note:
            AT_WORK.enter(self._note)
        try:
            return function()
        except HoldfastError:
            raise
        except (Exception, SystemExit) as error:
            AT_WORK.end_copy()
            raise EnvironmentFailed(
                f"task '{self._task}', {place}: {type(error).__name__}: {error}"
            ) from error

    def close(self) -> None:
        """Close the copies."""
        for env in self.envs:
            env.close()
        self.envs = []
