"""Cross-play: the policies of runs and of their stages, each with or against each other.

In turn-based games they play against each other, a random player and those that they are measured
against: win rates, and Elo. In teams they are mixed: one part of the team acts by one policy, all
others by another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.policies.meeting import Plan, Policy
from holdfast.continual.policies.trust import vouch
from holdfast.continual.results.document import Paragraph, Run, Section, saved, words
from holdfast.continual.results.markdown_page import markdown
from holdfast.continual.run_folder import checkpoint
from holdfast.continual.run_folder.cells import find_cells, task_index
from holdfast.continual.run_folder.files import csv_table, write_whole
from holdfast.continual.run_folder.record import CROSS_PLAY, CROSS_PLAY_PAGE, RunFolder
from holdfast.errors import UsageError

Stages = Literal["last", "all"]
TABLE = "cross-play.csv"


class CrossPlay(NamedTuple):
    """Results, as the page and the table that were written into ``folder``."""

    markdown: str
    csv: str
    folder: Path


def cross_play(
    path: Path,
    plan: Plan | None = None,
    *,
    stages: Stages = "last",
    task: str | None = None,
    trust_code: bool = False,
) -> CrossPlay:
    """Play policies of runs with each other, and write page, table and record into their folder.

    The runs are only read. The same plan gives the same numbers.

    Args:
        path: A scenario's, a method's or a cell's folder of games with ``opponents``, or of teams.
        plan: How they meet.
        stages: The policies of the last stage of each run, or of all that have a checkpoint.
        task: The task in which they meet; by default the last one of the stream.
        trust_code: As of ``open_run``.

    Raises:
        UsageError: There are no such runs, policies or task, or they cannot meet.
        CheckpointUnusable: If a checkpoint cannot be read.
    """
    plan = plan or Plan()
    cells = find_cells(path, trust_code=trust_code)
    for cell in cells:
        vouch(cell)
    scenario = cells[0].scenario
    index = _task(path, cells, task)
    meeting = kind_of(scenario).meeting(index)
    if meeting is None:
        raise UsageError(
            f"{path}: task '{scenario.tasks[index].name}' is neither a game with opponents: nor a "
            "team's (agent.policies), so that policies cannot meet in it"
        )
    sections, rows = meeting.play(_policies(path, cells, stages), plan)
    choice = "most likely" if plan.deterministic else "sampled"
    setting = words(
        "Task ",
        Run(scenario.tasks[index].name),
        f"; {plan.games} {meeting.counted}, {choice} actions, seed {plan.seed}. A policy is named "
        "by its method, its seed and its stage, from 0.",
    )
    page = Section(f"Cross-play: {scenario.name}", (Paragraph(setting),), tuple(sections))
    table = [[f"{v:.4f}" if isinstance(v, float) else v for v in row.values()] for row in rows]
    made = CrossPlay(markdown([page]), csv_table(rows[0], table), path)
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
        saved = checkpoint.named_stages(cell.path / checkpoint.FOLDER)  # damaged ones are told
        if saved:
            checkpoint.newest_stage(cell)
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
