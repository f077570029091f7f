"""Teams: many agents in PettingZoo environments, in groups that share a policy each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast.continual.kinds.protocol import Built, Kind, Words, method_makers
from holdfast.continual.policies.meeting import Meeting
from holdfast.scenarios.schema.scenario import Scenario, Task

if TYPE_CHECKING:
    from holdfast.continual.method import Method
    from holdfast.continual.policies.exportable import Exporting
    from holdfast.continual.policies.partners import PartnerGroup
    from holdfast.continual.policies.restore import Restored
    from holdfast.continual.policies.trained_team import TaskTeam
    from holdfast.continual.run_folder.record import RunFolder
    from holdfast.envs.checks.check_result import CheckResult
    from holdfast.envs.multiagent.parallel import TeamSpaces
    from holdfast.envs.processes.pool import OnFailure


class Team(Kind):
    """Groups of agents that learn at once (``agent.policies``)."""

    learner = "holdfast.agents.teams.team:TeamAgent"
    find_spaces = "holdfast.envs.multiagent.parallel:team_spaces"
    words = Words(
        use="env = agent.make_env()\nobservations, infos = env.reset(seed=0)\n"
        "actions = agent.act({name: observations[name] for name in env.agents})",
        place=" in a team",
    )
    unprobed = f"{Kind.unprobed}; this run is of a team (agent.policies)"

    def stream(self, seed: int, spaces: Any = None, *, on_failure: OnFailure | None = None) -> Any:
        """Return the stream; see ``Kind``."""
        from holdfast.continual.streams.team_stream import make_team_stream

        return make_team_stream(self.scenario, seed, spaces, partners=partner_groups)

    def methods(self) -> list[Method]:
        """Return the mitigations, each by itself in every group."""
        from holdfast.continual.policies.per_group import PerGroup

        return [PerGroup(make) for make in method_makers(self.scenario)]

    def bring_back(self, folder: RunFolder, agent: Any, stage: int) -> None:
        """Bring back groups that are absent from a stage, as they were when they learned last."""
        from holdfast.continual.policies.restore import bring_back, unpooled

        bring_back(Team(unpooled(self.scenario)), folder, agent, stage)

    def act(self, restored: Restored, task_index: int) -> TaskTeam:
        """Return the team in one task."""
        from holdfast.continual.policies.trained_team import TaskTeam

        return TaskTeam(restored, task_index, partner_groups)

    def export(self, restored: Restored, task: int, seed: int) -> Exporting:
        """Return the policy of each group; see ``Kind``."""
        from holdfast.continual.policies.exportable import of_team

        return of_team(restored, self.act(restored, task), task, seed)

    def meeting(self, task_index: int) -> Meeting:
        """Return how teams are mixed from several policies."""
        from holdfast.continual.policies.mixed_teams import meet

        play = partial(
            meet, self.scenario, task_index, restore=self.restored, partners=partner_groups
        )
        return Meeting("episodes of each mixture", play)

    def build(self, seed: int) -> Built:
        """Build every task and every partner; see ``Kind``."""
        spaces = self.spaces()
        self._check_spaces(spaces)
        if any(task.partners for task in self.scenario.tasks):
            from holdfast.continual.policies.partners import check_partners

            check_partners(self.scenario, spaces, self.restored)
        return self.stream(seed, spaces).train_stream[0], None

    def _check_spaces(self, spaces: TeamSpaces) -> None:
        from holdfast.envs.base.compatibility import check_actions, check_policy

        for group in spaces.groups.values():
            check_actions(self.scenario, group, team=True)
            check_policy(self.scenario, group.observation)

    def check_task(self, task: Task) -> CheckResult:
        """Return what was found about a task's environment."""
        from holdfast.envs.checks.team import check_team
        from holdfast.envs.multiagent.parallel import make_parallel

        return check_team(f"task {task.name}", partial(make_parallel, self.scenario, task))

    def check_fit(self, tasks: Sequence[Task], results: Sequence[CheckResult]) -> None:
        """Raise unless all tasks fit into one stream; see ``Kind``."""
        self._check_spaces(self.spaces())

    def shortened(self, task: dict[str, Any], steps: int) -> None:
        """Do nothing: a team's episodes end as its environment says."""

    def time_limit(self) -> int:
        """Return 0: of PettingZoo's environments nothing says how long episodes last."""
        return 0


def partner_groups(scenario: Scenario, task: Task) -> Mapping[str, PartnerGroup]:
    """Return the groups of a task that do not learn; see ``policies/partners.py``."""
    from holdfast.continual.policies import partners

    return partners.partner_groups(scenario, task, Team.restored)
