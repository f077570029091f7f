"""Meetings of policies from several runs: in games against each other, in teams mixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.continual.results.document import Section
from holdfast.continual.results.record import RunFolder
from holdfast.errors import UsageError
from holdfast.scenarios.schema.opponents import OpponentSpec
from holdfast.scenarios.schema.scenario import Scenario

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.continual.policies.restore import Restore
    from holdfast.continual.streams.team_stream import Partners
    from holdfast.envs.multiagent.players import PolicyPlayer

Tell = Callable[[int, int], None]
"""Takes how many matches or mixtures were played, and of how many."""

Sections = tuple[list[Section], list[dict[str, Any]]]
"""The sections of a page, and the rows of a table."""


def _quietly(done: int, total: int) -> None:
    """Tell nobody."""


class Policy(NamedTuple):
    """The policy of a run at the end of a stage."""

    run: RunFolder
    stage: int

    @property
    def name(self) -> str:
        """Its name in tables, and in the record of games against it."""
        return self.run.policy_name(self.stage)


class Plan(NamedTuple):
    """How policies meet.

    Attributes:
        games: Games of each two in a game, episodes of each mixture of a team.
        deterministic: The most likely action of each policy rather than a sample.
        seed: Of everything that is drawn.
        tell: Takes how far it is.
    """

    games: int = 100
    deterministic: bool = False
    seed: int = 0
    tell: Tell = _quietly


class Meeting(NamedTuple):
    """How policies meet in one task.

    Attributes:
        counted: What a plan's ``games`` are, in words.
        play: Returns what came of it.
    """

    counted: str
    play: Callable[[Sequence[Policy], Plan], Sections]


def play_matches(
    scenario: Scenario,
    task_index: int,
    policies: Sequence[Policy],
    plan: Plan,
    *,
    frozen: Callable[[OpponentSpec, Path | None], PolicyPlayer],
) -> Sections:
    """Play a game with policies against each other, and return the results.

    Args:
        scenario: That all policies learned by.
        task_index: The game.
        policies: Those that meet.
        plan: How they meet.
        frozen: Returns the player that a run left.
    """
    from holdfast.continual.policies import matches  # here: PettingZoo is an extra
    from holdfast.envs.multiagent.players import PolicyPlayer

    task = scenario.tasks[task_index]
    env = matches.game_of(scenario, task)
    env.frozen = frozen
    try:
        players: dict[str, Any] = {}
        for policy in policies:
            run = str(policy.run.path.resolve())
            player = frozen(OpponentSpec(run=run, stage=policy.stage, task=task.name), None)
            players[policy.name] = PolicyPlayer(
                policy.name, player.chances, deterministic=plan.deterministic
            )
        players |= matches.fixed_players(env, scenario)
        played = matches.play_matches(env, players, plan.games, plan.seed, plan.tell)
        tables = matches.match_tables(played, list(players), deterministic=plan.deterministic)
        return tables, matches.match_rows(played, env.seats)
    finally:
        env.close()


def play_mixtures(
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
        plan: How they meet.
        restore: Restores a run of a team.
        partners: Finds the groups that do not learn.

    Raises:
        UsageError: There is one policy alone.
    """
    from holdfast.continual.policies import mixed_teams  # here: PettingZoo is an extra

    if len(policies) < 2:
        raise UsageError(
            f"{policies[0].name} is the only policy, and there is no other to mix it with; name a "
            "folder of several seeds or methods, or take all stages: --stages all"
        )
    teams = mixed_teams.MixedTeams(scenario, task_index, plan.games, partners)
    agents = {policy.name: restore(policy.run, policy.stage).agent for policy in policies}
    played = teams.play(agents, plan.seed, deterministic=plan.deterministic, tell=plan.tell)
    tables = mixed_teams.mixture_tables(
        played, list(agents), teams.parts, are_peers=teams.are_peers
    )
    return tables, mixed_teams.mixture_rows(played)
