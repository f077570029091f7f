"""Cross-play: the policies of runs and of their stages, each with or against each other.

In turn-based games they play against each other, a random player and those that they are measured
against: win rates, and Elo. In teams they are mixed: one part of the team acts by one policy, all
others by another.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from holdfast.continual.policies.run_handle import task_index
from holdfast.continual.results import checkpoint
from holdfast.continual.results.document import Paragraph, Run, Section, saved, words
from holdfast.continual.results.markdown import markdown
from holdfast.continual.results.record import (
    CROSS_PLAY,
    CROSS_PLAY_PAGE,
    RunFolder,
    find_cells,
    write_whole,
)
from holdfast.errors import UsageError
from holdfast.scenarios.schema.opponents import OpponentSpec
from holdfast.scenarios.schema.scenario import Scenario

Stages = Literal["last", "all"]
Tell = Callable[[int, int], None]
"""Takes how many matches or mixtures were played, and of how many."""


def _quietly(done: int, total: int) -> None:
    """Tell nobody."""


TABLE = "cross-play.csv"


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


class CrossPlay(NamedTuple):
    """What came of it, as the page and the table that were written into ``folder``."""

    markdown: str
    csv: str
    folder: Path


def cross_play(
    path: Path, plan: Plan | None = None, *, stages: Stages = "last", task: str | None = None
) -> CrossPlay:
    """Let policies meet, and write ``cross-play.md``, its tables and a record into a folder.

    The runs are only read. The same plan gives the same numbers.

    Args:
        path: A scenario's, a method's or a cell's folder of games with ``opponents``, or of teams.
        plan: How they meet.
        stages: The policies of the last stage of each run, or of all that have a checkpoint.
        task: The task in which they meet; by default the last one of the stream.

    Raises:
        UsageError: There are no such runs, policies or task, or they cannot meet.
        CheckpointUnusable: If a checkpoint cannot be read.
    """
    plan = plan or Plan()
    cells = find_cells(path)
    scenario = cells[0].scenario
    index = _task(path, cells, task)
    is_team = scenario.agent.policies is not None
    if not is_team and scenario.tasks[index].opponents is None:
        raise UsageError(
            f"{path}: task '{scenario.tasks[index].name}' is neither a game with opponents: nor a "
            "team's (agent.policies), so that policies cannot meet in it"
        )
    policies = _policies(path, cells, stages)
    if is_team:
        sections, rows = _mixed(scenario, index, policies, plan)
    else:
        sections, rows = _matched(scenario, index, policies, plan)
    choice = "most likely" if plan.deterministic else "sampled"
    meeting = "episodes of each mixture" if is_team else "games of each two"
    setting = words(
        "Task ",
        Run(scenario.tasks[index].name),
        f"; {plan.games} {meeting}, {choice} actions, seed {plan.seed}. A policy is named by its "
        "method, its seed and its stage, from 0.",
    )
    page = Section(f"Cross-play: {scenario.name}", (Paragraph(setting),), tuple(sections))
    made = CrossPlay(markdown([page]), _as_csv(rows), path)
    try:
        write_whole(path / CROSS_PLAY_PAGE, made.markdown.encode())
        write_whole(path / CROSS_PLAY, saved(page))
        write_whole(path / TABLE, made.csv.encode())
    except OSError as error:
        raise UsageError(f"{path} cannot be written to: {error.strerror}") from error
    return made


def _task(path: Path, cells: Sequence[RunFolder], task: str | None) -> int:
    scenario = cells[0].scenario
    last = {cell.scenario.stream_tasks[-1] for cell in cells}
    if task is None and len(last) > 1:
        names = ", ".join(entry.name for entry in scenario.tasks)
        raise UsageError(f"{path}: the runs end with different tasks; name one (--task): {names}")
    return min(last) if task is None else task_index(scenario, task, str(path))


def _policies(path: Path, cells: Sequence[RunFolder], stages: Stages) -> list[Policy]:
    """Return the policies that meet.

    Raises:
        UsageError: A run has no checkpoint, or not that of its last stage.
    """
    found, missing = [], []
    for cell in cells:
        saved = checkpoint.stages(cell.path / "checkpoints")
        wanted = saved if stages == "all" else [len(cell.scenario.stream_tasks) - 1]
        found += [Policy(cell, stage) for stage in wanted]
        if not wanted or not set(wanted) <= set(saved):
            missing.append(f"{cell.label}/{cell.path.name}")
    if missing:
        what = "stage was finished yet" if stages == "all" else "checkpoint of the last stage"
        hint = "" if stages == "all" else ", or take the stages that are there: --stages all"
        raise UsageError(
            f"{path}: no {what} in {', '.join(missing)}; run the scenario to its end, name the "
            f"folder of one method or run{hint}"
        )
    return found


def _matched(
    scenario: Scenario, index: int, policies: Sequence[Policy], plan: Plan
) -> tuple[list[Section], list[dict[str, Any]]]:
    from holdfast.continual.policies.opponents import frozen_player
    from holdfast.continual.tools import matches  # here: PettingZoo is an extra
    from holdfast.envs.multiagent.players import PolicyPlayer

    task = scenario.tasks[index]
    env = matches.game_of(scenario, task)
    try:
        players: dict[str, Any] = {}
        for policy in policies:
            run = str(policy.run.path.resolve())
            entry = OpponentSpec(run=run, stage=policy.stage, task=task.name)
            player = frozen_player(entry, None)
            players[policy.name] = PolicyPlayer(
                policy.name, player.chances, deterministic=plan.deterministic
            )
        players |= matches.fixed_players(env, scenario)
        played = matches.play_matches(env, players, plan.games, plan.seed, plan.tell)
        tables = matches.match_tables(played, list(players), deterministic=plan.deterministic)
        return tables, matches.match_rows(played, env.seats)
    finally:
        env.close()


def _mixed(
    scenario: Scenario, index: int, policies: Sequence[Policy], plan: Plan
) -> tuple[list[Section], list[dict[str, Any]]]:
    from holdfast.continual.policies.restore import restore
    from holdfast.continual.tools import mixed_teams  # here, as above

    if len(policies) < 2:
        raise UsageError(
            f"{policies[0].name} is the only policy, and there is no other to mix it with; name a "
            "folder of several seeds or methods, or take all stages: --stages all"
        )
    teams = mixed_teams.MixedTeams(scenario, index, plan.games)
    agents = {policy.name: restore(policy.run, policy.stage).agent for policy in policies}
    played = teams.play(agents, plan.seed, deterministic=plan.deterministic, tell=plan.tell)
    tables = mixed_teams.mixture_tables(
        played, list(agents), teams.parts, are_peers=teams.are_peers
    )
    return tables, mixed_teams.mixture_rows(played)


def _as_csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()
