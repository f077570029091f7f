"""Teams mixed from policies that were not trained together, and what they reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast import seeding
from holdfast.agents.base.agent import Act, Agent, Observations
from holdfast.agents.teams.team import Acts
from holdfast.continual.policies.meeting import Plan, Policy, Sections
from holdfast.continual.policies.restore import Restore
from holdfast.continual.results import document as doc
from holdfast.continual.results.formatting import number
from holdfast.continual.streams.experience import Played
from holdfast.continual.streams.team_stream import Partners, TeamEvalExperience, no_partners
from holdfast.envs.multiagent.parallel import team_spaces
from holdfast.errors import UsageError
from holdfast.registry import algorithm
from holdfast.scenarios.schema.observation_keys import TASK_ID
from holdfast.scenarios.schema.scenario import Scenario

Row = dict[str, Any]
Returns = NDArray[np.float64]


class Part(NamedTuple):
    """Part of a team that acts by one policy while all others act by another.

    Attributes:
        name: Of the group, or of the agent.
        group: Whose policy it acts by.
        agents: Its agents.
        place: Where the only one of them stands in the group; None where the part is the group.
    """

    name: str
    group: str
    agents: tuple[str, ...]
    place: int | None = None


class Mixture(NamedTuple):
    """Episodes in which one part acts by one policy, and all others by another.

    Attributes:
        team: Each episode's mean return over all agents, shape (episodes,).
        own: The same over the part's agents.
    """

    team: Returns
    own: Returns


Mixtures = dict[tuple[str, str, str], Mixture]
"""By the part's name, its policy, and that of the others."""


class MixedTeams:
    """One task of a team, in which any part may act by any policy.

    The parts are the groups that learn; where there is just one, its agents.

    Args:
        scenario: That all policies learned by.
        task_index: Which of its tasks.
        episodes: Of each mixture.
        partners: Finds the groups that do not learn.

    Attributes:
        parts: The parts.
        are_peers: Whether they have no roles, so that their average is what counts.

    Raises:
        UsageError: A single agent learns, so that nobody could be exchanged.
    """

    def __init__(
        self, scenario: Scenario, task_index: int, episodes: int, partners: Partners = no_partners
    ) -> None:
        plan = scenario.evaluation.model_copy(update={"episodes": episodes})
        scenario = scenario.model_copy(update={"evaluation": plan})
        spaces = team_spaces(scenario)
        self._scenario, self._index, self._episodes = scenario, task_index, episodes
        self._experience = TeamEvalExperience(scenario, task_index, spaces, partners)
        task = scenario.tasks[task_index]
        found = spaces.teams[task_index].groups.items()
        groups = {name: agents for name, agents in found if agents and name not in task.partners}
        self.parts = [Part(name, name, agents) for name, agents in groups.items()]
        self.are_peers = len(groups) == 1 or not isinstance(scenario.agent.policies, Mapping)
        if len(groups) == 1:
            (group, agents), *_ = groups.items()
            self.parts = [Part(agent, group, (agent,), at) for at, agent in enumerate(agents)]
        if len(self.parts) < 2:
            raise UsageError(f"task '{task.name}': one agent learns, and nobody can be exchanged")

    def play(self, agents: Mapping[str, Agent], plan: Plan) -> Mixtures:
        """Return what all mixtures of each two policies reach, in episodes from the same seeds.

        Args:
            agents: Teams that were trained, by name.
            plan: Settings of the meeting; the number of episodes is that of this object.
        """
        mixtures = list(product(self.parts, agents, agents))
        casts = {self._cast(*mixture): mixture for mixture in mixtures}
        numbers = range(self._episodes)
        seeds = [seeding.derive(plan.seed, "cross-play", number) for number in numbers]
        played: dict[tuple[str, ...], list[Played]] = {}
        with ExitStack() as opened:
            acts = {
                name: self._shown(agent, opened.enter_context(agent.view(self._index)))
                for name, agent in agents.items()
            }
            for done, (cast, (part, own, others)) in enumerate(casts.items()):
                plan.tell(done, len(casts))
                mixed = acts[own] if own == others else self._mixed(part, acts[own], acts[others])
                with seeding.isolated(seeding.derive(plan.seed, "cross-play", *cast)):
                    played[cast] = self._experience.play(mixed, seeds, plan.deterministic)
        plan.tell(len(casts), len(casts))
        found = {}
        for part, own, others in mixtures:
            episodes = played[self._cast(part, own, others)]
            paid = [[(one.agents or {})[agent] for agent in part.agents] for one in episodes]
            returns = np.array([one.total for one in episodes])
            found[part.name, own, others] = Mixture(returns, np.mean(paid, axis=1))
        return found

    def _cast(self, part: Part, own: str, others: str) -> tuple[str, ...]:
        """Return by which policy each part acts."""
        return tuple(own if one == part else others for one in self.parts)

    def _mixed(self, part: Part, own: Acts, others: Acts) -> Acts:
        if part.place is None:
            mixed = {group: act for group, act in others.items() if group != part.group}
            return mixed | {group: act for group, act in own.items() if group == part.group}
        joint = "joint" in algorithm(self._scenario.agent.algorithm).shown
        return {
            group: replaced(act, own[group], part.place, len(self.parts), joint=joint)
            for group, act in others.items()
            if group in own
        }

    def _shown(self, agent: Agent, acts: Acts) -> Acts:
        """Return acts that are shown the id of the task whose head they act by."""
        shown, _ = agent.shown_task(self._index)
        if shown == self._index:
            return acts
        width = self._scenario.id_width
        return {group: shown_as(act, shown, width) for group, act in acts.items()}


def meet(
    scenario: Scenario,
    task_index: int,
    policies: Sequence[Policy],
    plan: Plan,
    *,
    restore: Restore,
    partners: Partners,
) -> Sections:
    """Play with teams mixed from policies, and return the results.

    Args:
        scenario: That all policies learned by.
        task_index: The task.
        policies: Those that meet.
        plan: Settings of the meeting.
        restore: Restores a run of a team.
        partners: Finds the groups that do not learn.

    Raises:
        UsageError: There is one policy alone.
    """
    if len(policies) < 2:
        raise UsageError(
            f"{policies[0].name} is the only policy, and there is no other to mix it with; name a "
            "folder of several seeds or methods, or take all stages: --stages all"
        )
    teams = MixedTeams(scenario, task_index, plan.games, partners)
    agents = {policy.name: restore(policy.run, policy.stage).agent for policy in policies}
    played, names = teams.play(agents, plan), list(agents)
    tables = mixture_tables(played, names, teams.parts, are_peers=teams.are_peers)
    return tables, mixture_rows(played)


def replaced(act: Act, by: Act, place: int, agents: int, *, joint: bool) -> Act:
    """Return a group's policy, but that one of its agents acts by another.

    Args:
        act: The group's.
        by: The one agent's.
        place: Where it stands in the group.
        agents: How many there are.
        joint: Whether a row of actions is that of all agents of a copy; else it is one agent's,
            all of the first copy before those of the second (see ``Seats``).
    """

    def choose(observations: Observations, *rest: Any, **options: Any) -> tuple[Any, Any]:
        actions, _ = act(observations, *rest, **options)
        others, _ = by(observations, *rest, **options)
        actions = np.array(actions)
        where: Any = (slice(None), place) if joint else slice(place, None, agents)
        actions[where] = others[where]
        return actions, None

    return choose


def shown_as(act: Act, task: int, width: int) -> Act:
    """Return a policy that is shown the id of this task, whatever the observations say.

    Args:
        act: The policy.
        task: Number of the task.
        width: Of the one-hot: the last entries of a vector, or the entry ``task_id`` of a Dict.
    """
    one_hot = np.eye(width, dtype=np.float32)[task]

    def choose(observations: Observations, *rest: Any, **options: Any) -> tuple[Any, Any]:
        if isinstance(observations, dict):
            shown = np.broadcast_to(one_hot, observations[TASK_ID].shape)
            return act({**observations, TASK_ID: shown}, *rest, **options)
        observations = observations.copy()
        observations[..., -width:] = one_hot
        return act(observations, *rest, **options)

    return choose


def mixture_rows(mixtures: Mixtures) -> list[Row]:
    """Return a row for each mixture: mean returns and their standard errors over episodes."""
    rows = []
    for (part, policy, others), found in mixtures.items():
        row: Row = {"part": part, "policy": policy, "others": others, "episodes": len(found.team)}
        row["return"], row["standard_error"] = _mean(found.team)
        row["part_return"], row["part_standard_error"] = _mean(found.own)
        rows.append(row)
    return rows


def gap(mixtures: Mixtures) -> tuple[float, float]:
    """Return the mean return of teams as they were trained, and that of mixed ones.

    Their difference is how much worse policies are with others than with those they know:
    self-play against cross-play in Hu et al. 2020, "Other-Play" for Zero-Shot Coordination
    (arXiv:2003.02979).
    """
    own = [found.team.mean() for (_, one, other), found in mixtures.items() if one == other]
    mixed = [found.team.mean() for (_, one, other), found in mixtures.items() if one != other]
    return float(np.mean(own)), float(np.mean(mixed))


def mixture_tables(
    mixtures: Mixtures, names: Sequence[str], parts: Sequence[Part], *, are_peers: bool
) -> list[doc.Section]:
    """Return the sections of a page on mixed teams: a matrix of returns, and the gap.

    Agents without roles are one matrix, the mean over which of them acts by the row's policy. Of
    groups each has its own; of two groups, one is the other's transpose and left out. Where the
    agents of a group are paid otherwise than the team, their returns are shown, too.
    """
    sections = []
    if are_peers:
        told = doc.paragraph(
            "One agent by the policy of the row, all others by that of the column; the mean over "
            "which agent it is."
        )
        matrix = _matrix(names, _over_parts(mixtures))
        sections.append(doc.Section("Team returns", (told, matrix)))
    for part in () if are_peers else parts:
        own = {key[1:]: found for key, found in mixtures.items() if key[0] == part.name}
        rest = " by the policy of the row, all others by that of the column."
        told = doc.paragraph(doc.Run(part.name), rest)
        if part is parts[0] or len(parts) > 2:
            matrix = _matrix(names, {key: found.team for key, found in own.items()})
            sections.append(doc.Section(f"Team returns, exchanging {part.name}", (told, matrix)))
        if not all(np.allclose(found.own, found.team) for found in own.values()):
            matrix = _matrix(names, {key: found.own for key, found in own.items()})
            sections.append(doc.Section(f"Returns of {part.name}", (told, matrix)))
    trained, mixed = gap(mixtures)
    said = doc.paragraph(
        "After ± stands the standard error over episodes. Mean return of teams as they were "
        f"trained (the diagonal): {number(trained)}; of mixed teams: {number(mixed)}. The gap "
        "between self-play and cross-play (Hu et al. 2020, arXiv:2003.02979): "
        f"{number(trained - mixed)}."
    )
    return [*sections[:-1], replace(sections[-1], blocks=(*sections[-1].blocks, said))]


def _over_parts(mixtures: Mixtures) -> dict[tuple[str, str], Returns]:
    """Return each episode's mean over parts, by policy and others' policy; all share its seeds."""
    of_parts: dict[tuple[str, str], list[Returns]] = {}
    for (_, own, others), found in mixtures.items():
        of_parts.setdefault((own, others), []).append(found.team)
    return {pair: np.mean(returns, axis=0) for pair, returns in of_parts.items()}


def _matrix(names: Sequence[str], returns: Mapping[tuple[str, str], Returns]) -> doc.Table:
    """Return a table of means and standard errors; rows are the part's policy."""
    rows = []
    for own in names:
        cells = [_mean(returns[own, others]) for others in names]
        shown = (doc.Cell(f"{number(mean)} ± {number(error)}", mean) for mean, error in cells)
        rows.append((doc.given(own), *shown))
    return doc.Table((doc.EMPTY, *map(doc.given, names)), tuple(rows))


def _mean(returns: Returns) -> tuple[float, float]:
    """Return the mean and its standard error; the error of one episode is NaN."""
    count = len(returns)
    error = float(returns.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
    return float(returns.mean()), error
