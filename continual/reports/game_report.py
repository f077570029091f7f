"""Sections of a report on turn-based games: win rates at the end, ratings of the stages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from holdfast.continual.reports.tables import head, over
from holdfast.continual.results.document import Paragraph, Section, Table, given, words
from holdfast.continual.results.elo import elo, games_of
from holdfast.continual.results.study import Results
from holdfast.continual.run_folder.episodes import Episode
from holdfast.scenarios.schema.opponents import RANDOM
from holdfast.scenarios.schema.scenario import Scenario

_LEARNER = "stage"


def boundary_games(scores: Sequence[Episode], scenario: Scenario, task: str) -> list[Episode]:
    """Return a task's games of evaluation at task boundaries, without those inside tasks."""
    ends = [0, *accumulate(scenario.stage_steps)]
    return [
        row
        for row in scores
        if row["task"] == task and "opponent" in row and row["step"] == ends[row["stage"]]
    ]


def win_rates(games: Sequence[Episode], stage: int) -> dict[str, float]:
    """Return the mean score at the end of a stage, by opponent.

    >>> rows = [{"stage": 1, "opponent": "random", "success": score} for score in (1.0, 0.5)]
    >>> win_rates(rows, 1)
    {'random': 0.75}
    """
    found: dict[str, list[float]] = {}
    for row in games:
        if row["stage"] == stage and row["success"] is not None:
            found.setdefault(row["opponent"], []).append(row["success"])
    return {opponent: float(np.mean(scores)) for opponent, scores in found.items()}


def stage_ratings(games: Sequence[Episode], stages: int) -> list[float]:
    """Return the Elo rating before learning and after each stage; random's is 0.

    It is that of the games against all opponents; one drawn game of each player against random is
    added. NaN where nobody played against random.
    """
    played = games_of(games, _LEARNER)
    if not any(game.opponent == RANDOM for game in played):
        return [float("nan")] * (stages + 1)
    rated = elo(played, anchor=RANDOM, prior=1.0)
    return [rated.get(f"{_LEARNER}-{stage}", float("nan")) for stage in range(stages + 1)]


def game_sections(results: Results) -> list[Section]:
    """Return the sections of a report on games; none where the scenario has none."""
    scenario = results.scenario
    stages = len(scenario.stream_tasks)
    rates, rated = [], []
    for method in results.methods:
        for task in scenario.tasks if method.cells else ():
            if task.opponents is None:
                continue
            names = (given(method.label), given(task.name))
            games = [boundary_games(c.scores, c.folder.scenario, task.name) for c in method.cells]
            at_end = [win_rates(own, stages) for own in games]
            rates += [(*names, given(who), over([r[who] for r in at_end])) for who in at_end[0]]
            columns = np.array([stage_ratings(own, stages) for own in games]).T  # (stages + 1, n)
            rated.append((*names, *map(over, columns)))
    if not rated:
        return []
    after = [f"after {stage + 1}" for stage in range(stages)]
    counted = Paragraph(words("A win counts 1, a draw 0.5."))
    told = words(
        "By maximum likelihood from the games of evaluation at task boundaries, random at 0; one "
        "drawn game of each against random is added. `holdfast cross-play` lets the policies of "
        "stages and seeds play each other."
    )
    won = Table(head("method", "task", "opponent", "win rate"), tuple(rates))
    elos = Table(head("method", "task", "at the start", *after), tuple(rated))
    return [
        Section("Win rates at the end", (counted, won)),
        Section("Elo of the stages", (Paragraph(told), elos)),
    ]
