"""Partners: groups of a team that act by the policies of earlier runs and learn no more."""

from __future__ import annotations

from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from holdfast.agents.base.agent import Act
from holdfast.continual.policies.opponents import Key, checkpoint_key
from holdfast.continual.policies.restore import Restore
from holdfast.continual.run_folder.cells import task_index
from holdfast.continual.run_folder.record import RunFolder
from holdfast.envs.base.fitting import fit
from holdfast.envs.base.spaces import StreamSpaces
from holdfast.envs.multiagent.parallel import Team, TeamSpaces, described
from holdfast.errors import ScenarioError, UsageError
from holdfast.registry import algorithm, suggestion
from holdfast.scenarios.schema.scenario import Scenario, Task


class _Frozen(NamedTuple):
    """A team that was trained, acting as in one task."""

    scenario: Scenario
    spaces: TeamSpaces
    acts: dict[str, Act]
    shown: int


class PartnerGroup:
    """A group of an earlier run; see ``FrozenGroup`` in ``envs/multiagent/seats.py``.

    It is shown the id of its own run's task, and its agents' observations and actions must be like
    those that it learned with.
    """

    def __init__(self, frozen: _Frozen, group: str, where: str, *, deterministic: bool) -> None:
        self._frozen, self._group, self._where = frozen, group, where
        self._deterministic = deterministic

    def fitted(self, described: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        """Return an agent's spaces, fitted to what the policy takes."""
        scenario, spaces, _, shown = self._frozen
        learned = [
            team.changed[name] for team in spaces.teams for name in team.groups.get(self._group, ())
        ]
        own = StreamSpaces(described.observation_space, described.action_space)
        form = own.observation.shape, own.action
        if all(form != (other.observation.shape, other.action) for other in learned):
            raise UsageError(
                f"{self._where}: its agents saw {learned[0].observation} and did "
                f"{learned[0].action}; here they see {own.observation} and do {own.action}"
            )
        return fit(described, spaces.groups[self._group], scenario, shown)

    def act(
        self, observations: Any, starts: NDArray[np.bool_], masks: NDArray[np.bool_] | None
    ) -> NDArray[Any]:
        """Return an action for each seat."""
        act = self._frozen.acts[self._group]
        # Only what trains is shown a state; it stands in the observation that actors are shown.
        beside = self._frozen.spaces.groups[self._group].beside or {}
        blank = {k: np.zeros((len(starts), *(s.shape or ())), s.dtype) for k, s in beside.items()}
        observations = {**blank, **observations} if blank else observations
        greedy = self._deterministic
        return act(observations, None, starts, deterministic=greedy, action_masks=masks)[0]


def partner_groups(scenario: Scenario, task: Task, restore: Restore) -> dict[str, PartnerGroup]:
    """Return the groups of a task that do not learn, with the policies of their runs.

    Args:
        scenario: The scenario; runs are looked for from its place.
        task: One of its tasks.
        restore: Restores a run of a team.

    Raises:
        UsageError: There is no such run, stage, task or group, or the run is no team's.
        CheckpointUnusable: If a checkpoint cannot be read.
    """
    found = {}
    for group, entry in task.partners.items():
        where = f"task '{task.name}', partners.{group}: run {entry.run}"
        key = checkpoint_key(entry, scenario.place, where)
        frozen = _frozen(key, entry.task, restore, trust_code=scenario.trusts_code)
        if "joint" in algorithm(frozen.scenario.agent.algorithm).shown:
            raise UsageError(
                f"{where}: '{frozen.scenario.agent.algorithm}' acts for all agents of its group at "
                "once and cannot be a partner; use a run of ppo, mappo or dqn"
            )
        theirs = entry.group or group
        if theirs not in frozen.acts:
            there = f"there are: {', '.join(frozen.acts)}"
            hint = suggestion(theirs, frozen.acts, otherwise=there)
            raise UsageError(f"{where}: no group '{theirs}' learned there; group: {hint}")
        found[group] = PartnerGroup(frozen, theirs, where, deterministic=entry.deterministic)
    return found


@lru_cache(maxsize=64)
def _frozen(key: Key, task: str | None, restore: Restore, *, trust_code: bool) -> _Frozen:
    path, stage, _ = key
    where, run = f"partners: run {path}", RunFolder(Path(path), trust_code=trust_code)
    if not run.scenario.agent.policies:
        raise UsageError(f"{where} is of one agent, not of a team (agent.policies)")
    scenario, spaces, agent = restore(run, stage)
    index = agent.current_task if task is None else task_index(scenario, task, where)
    shown, _ = agent.shown_task(index)
    # Never left: nobody else acts with this agent, and a view may copy all weights.
    acts = ExitStack().enter_context(agent.view(index))
    return _Frozen(scenario, spaces, acts, shown)


def check_partners(scenario: Scenario, spaces: TeamSpaces, restore: Restore) -> None:
    """Raise what is wrong with the partners of any task.

    Args:
        scenario: The scenario.
        spaces: Of its tasks.
        restore: As in ``partner_groups``.

    Raises:
        ScenarioError: See ``partner_groups``; also where their agents saw or did other things, or
            nobody is left to learn.
    """
    problems = []
    for index, (task, team) in enumerate(zip(scenario.tasks, spaces.teams, strict=True)):
        try:
            _check_partners(scenario, task, team, restore)
        except UsageError as error:
            problems.append(scenario.problem(f"tasks[{index}].partners", str(error)))
    if problems:
        raise ScenarioError(problems)


def _check_partners(scenario: Scenario, task: Task, team: Team, restore: Restore) -> None:
    partners = partner_groups(scenario, task, restore)
    for group, partner in partners.items():
        if not team.groups.get(group):
            known = ", ".join(team.groups)
            raise UsageError(f"no agent is in a group '{group}'; there are: {known}")
        for name in team.groups[group]:
            partner.fitted(described(team.spaces[name], task.changes))
    if not any(agents for group, agents in team.groups.items() if group not in partners):
        raise UsageError("every group is frozen; nobody learns")
