"""The stream of a team: experiences whose environments are PettingZoo's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from copy import copy
from functools import partial
from typing import Any

import numpy as np
from avalanche.benchmarks.scenarios.generic_scenario import CLScenario, EagerCLStream
from numpy.typing import NDArray

from holdfast.agents.base.agent import Act
from holdfast.agents.base.pauses import Again
from holdfast.agents.teams.team import Acts
from holdfast.continual.streams.experience import MeasuredExperience, Played, StageExperience
from holdfast.envs.multiagent.joint import learner_vectors
from holdfast.envs.multiagent.parallel import TeamSpaces, make_parallel, team_spaces
from holdfast.envs.multiagent.seats import ABSENT, FrozenGroup
from holdfast.envs.multiagent.teams import Teams
from holdfast.scenarios.schema.observation_keys import MASKS
from holdfast.scenarios.schema.scenario import Scenario, Task
from holdfast.seeding import derive

MOST_COPIES = 16
"""Evaluation environments of one task that are open at once; more episodes take turns."""


Partners = Callable[[Scenario, Task], Mapping[str, FrozenGroup]]
"""Finds the groups of a task that do not learn, with the policies of their runs."""


def no_partners(scenario: Scenario, task: Task) -> Mapping[str, FrozenGroup]:  # noqa: ARG001  # see Partners
    """Return no group: what finds partners is handed in by ``continual/kinds``."""
    assert not task.partners
    return {}


class TeamExperience(StageExperience):
    """One task of a team at one place of the stream.

    Attributes:
        groups: The groups that have agents in this task, and learn.
        seats: Agents of each of them.
    """

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        stage: int,
        spaces: TeamSpaces,
        partners: Partners = no_partners,
    ) -> None:
        super().__init__(scenario, seed, stage)
        self._partners = partial(partners, scenario, self.task)
        groups = spaces.teams[self.task_index].groups
        self._scenario, self._spaces = scenario, spaces
        learning = [
            name for name, agents in groups.items() if agents and name not in self.task.partners
        ]
        self.seats = {name: len(groups[name]) for name in learning}
        self.groups = tuple(self.seats)

    def part(self, group: str) -> TeamExperience:
        """Return the experience as a group's method is told of it, in steps of its agents."""
        own = copy(self)
        own.steps = self.steps * self.seats[group]
        return own

    def make_seats(self, again: Again | None = None) -> Mapping[str, Any]:
        """Return the vector environment of each group, newly built and seeded.

        Args:
            again: Where inside the task they go on; None at its start.
        """
        seed = self.seed if again is None else derive(self.seed, "checkpoint", again.number)
        seeds = [seed + copy for copy in range(self._scenario.n_envs)]
        envs = [make_parallel(self._scenario, self.task) for _ in seeds]
        place = self._scenario, self._scenario.stream_tasks[self.stage], self._spaces, seeds
        teams = Teams(envs, *place, partners=self._partners())
        return learner_vectors(self._scenario, self._spaces, teams.seats)

    @staticmethod
    def is_absent(info: Any) -> bool:
        """Return whether an info says that its seat did not act."""
        return ABSENT in info


class TeamEvalExperience(MeasuredExperience):
    """One task of a team to be measured on."""

    def __init__(
        self,
        scenario: Scenario,
        task_index: int,
        spaces: TeamSpaces,
        partners: Partners = no_partners,
    ) -> None:
        super().__init__(scenario, task_index)
        self._scenario, self._spaces, self._shown = scenario, spaces, task_index
        self._partners = partial(partners, scenario, self.task)
        self._copies = min(scenario.evaluation.episodes, MOST_COPIES)

    def _built(self, seeds: list[int]) -> Teams:
        envs = [make_parallel(self._scenario, self.task) for _ in seeds]
        place = self._scenario, self.task_index, self._spaces, seeds
        partners = self._partners()
        return Teams(envs, *place, shown=self._shown, autoreset=False, partners=partners)

    def open(self) -> int:
        """Return how many episodes are played side by side."""
        return self._copies

    def show_task(self, task_index: int) -> None:
        """Put the id of ``task_index`` into the observations from the next episode on."""
        self._shown = task_index

    def play(self, acts: Acts, seeds: Sequence[int], deterministic: bool) -> list[Played]:
        """Return one episode per seed, in copies side by side."""
        played: list[Played] = []
        for start in range(0, len(seeds), self._copies):
            with closing(self._built(list(seeds[start : start + self._copies]))) as teams:
                vectors = learner_vectors(self._scenario, self._spaces, teams.seats)
                most = self.most_steps
                played += play_teams(
                    teams, vectors, acts, deterministic=deterministic, most_steps=most
                )
        return played

    def time_limit(self) -> int:
        """Return how long episodes last by the argument that PettingZoo's environments have."""
        cycles = self.task.kwargs.get("max_cycles")
        return super().time_limit() or (cycles if isinstance(cycles, int) else 0)


def play_teams(
    teams: Teams,
    vectors: Mapping[str, Any],
    acts: Acts,
    *,
    deterministic: bool,
    most_steps: int,
) -> list[Played]:
    """Return one episode of each copy; groups that have no policy yet act at random.

    The return of an episode is the mean over its agents.

    Args:
        teams: The copies.
        vectors: What each group's policy is shown of them.
        acts: The policies.
        deterministic: Whether the likeliest action is taken.
        most_steps: Steps after which an episode is cut.
    """
    observations: dict[str, Any] = {group: seats.reset() for group, seats in vectors.items()}
    states: dict[str, Any] = dict.fromkeys(vectors)
    starts = {group: np.ones(seats.num_envs, np.bool_) for group, seats in vectors.items()}
    for _ in range(most_steps):
        for group, seats in vectors.items():
            shown = observations[group], states[group], starts[group]
            actions, states[group] = choose_actions(
                seats, acts.get(group), *shown, deterministic=deterministic
            )
            seats.step_async(actions)
        for group, seats in vectors.items():
            observations[group], _, starts[group], _ = seats.step_wait()
        if teams.halted.all():
            break
    totals = np.mean(list(teams.returns.values()), axis=0)
    found = []
    for place, length in enumerate(teams.lengths):
        own = {name: returns[place] for name, returns in teams.returns.items()}
        is_cut = not teams.halted[place]
        found.append(Played(float(totals[place]), length, None, own, is_cut=is_cut))
    return found


def choose_actions(
    seats: Any,
    act: Act | None,
    observations: Any,
    state: Any,
    starts: NDArray[np.bool_],
    *,
    deterministic: bool,
) -> tuple[NDArray[Any], Any]:
    """Return a group's actions among the allowed ones, and the state for the next call.

    Args:
        seats: What the policy is shown.
        act: The policy; None acts at random.
        observations: Of all seats.
        state: Of the policy.
        starts: Which seats begin an episode, shape (seats,).
        deterministic: Whether the likeliest action is taken.
    """
    if act is None:
        return seats.random_actions(), state
    masks = seats.action_masks() if seats.has_attr(MASKS) else None
    return act(observations, state, starts, deterministic=deterministic, action_masks=masks)


def make_team_stream(
    scenario: Scenario,
    seed: int,
    spaces: TeamSpaces | None = None,
    *,
    partners: Partners = no_partners,
) -> CLScenario[Any]:
    """Return an Avalanche scenario with the streams ``train`` and ``eval`` of a team.

    Args:
        scenario: Of a team.
        seed: The cell's seed.
        spaces: What ``team_spaces`` returned, where that is known already.
        partners: Finds the groups that do not learn.

    Raises:
        ScenarioError: See ``team_spaces``.
    """
    spaces = spaces or team_spaces(scenario)
    stages, tasks = range(len(scenario.stream_tasks)), range(len(scenario.tasks))
    train = [TeamExperience(scenario, seed, stage, spaces, partners) for stage in stages]
    measured = [TeamEvalExperience(scenario, index, spaces, partners) for index in tasks]
    return CLScenario([EagerCLStream("train", train), EagerCLStream("eval", measured)])
