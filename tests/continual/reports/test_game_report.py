"""Win rates and ratings from a record of games, worked by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from game_runs import games

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.reports.game_report import (
    boundary_games,
    game_sections,
    stage_ratings,
    win_rates,
)
from holdfast.continual.results.markdown_page import markdown
from holdfast.continual.results.study import gather


def played(stage: int, step: int, scores: dict[str, list[float]]) -> list[Any]:
    kept = {"task": "first", "return": 0.0, "length": 9, "unseen": False, "seat": "player_1"}
    return [
        {**kept, "stage": stage, "step": step, "episode": n, "success": s, "opponent": opponent}
        for opponent, own in scores.items()
        for n, s in enumerate(own)
    ]


BEFORE = played(0, 0, {"random": [0, 0, 0.5, 1]})
INSIDE = played(0, 32, {"random": [0, 0, 0, 0]})
AFTER = played(1, 64, {"random": [1, 1, 1, 0.5], "minimax-1": [0.5, 0.5, 0.5, 0.5]})
LAST = played(2, 128, {"random": [1, 1, 1, 1], "minimax-1": [1, 0.5, 0.5, 1]})


def test_games_inside_tasks_and_of_other_tasks_do_not_count(tmp_path: Path) -> None:
    scenario = games(tmp_path, "random")
    other = [{**row, "task": "second"} for row in AFTER]
    rows = [*BEFORE, *INSIDE, *AFTER, *other, *LAST]
    assert boundary_games(rows, scenario, "first") == [*BEFORE, *AFTER, *LAST]
    assert win_rates([*BEFORE, *AFTER], 1) == {"random": 0.875, "minimax-1": 0.5}


def test_ratings_of_stages_by_hand() -> None:
    start, once = stage_ratings([*BEFORE, *AFTER], 1)
    assert start == pytest.approx(400 * math.log10(2 / 3))  # 1.5 of 4 and a draw: 2 of 5
    # Stage 1 took 4 of 5 points from random, the draw included. Half of the four games against
    # minimax, and half of its own draw with random: rated by all of them together.
    assert 100 < once < 400 * math.log10(4)
    assert stage_ratings(played(0, 0, {"minimax-1": [1.0]}), 0) == [
        pytest.approx(math.nan, nan_ok=True)
    ]


def test_the_report_has_a_row_for_each_task_and_opponent(tmp_path: Path) -> None:
    for folder in prepare(tmp_path, games(tmp_path, "random", seeds=(0, 1))):
        for rows in (BEFORE, INSIDE, AFTER, LAST):
            folder.append([*rows, *({**row, "task": "second"} for row in rows)])
        folder.update(status="finished")
    text = markdown(game_sections(gather(tmp_path / "games")))
    assert "| naive | first | minimax-1 | 0.75 ± 0.00 |" in text
    assert "| naive | second | random | 1.00 ± 0.00 |" in text
    start, *_ = stage_ratings([*BEFORE, *AFTER, *LAST], 2)
    assert f"| naive | first | {start:,.1f} ± 0.00 |" in text
