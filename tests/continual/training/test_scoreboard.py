"""A long stream costs the same for each task: what is logged and drawn is bounded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from holdfast.continual.results.curves import curves
from holdfast.continual.results.heat_map import MOST_DRAWN
from holdfast.continual.run_folder.episodes import Episode
from holdfast.continual.training import scoreboard
from holdfast.continual.training.dashboard import layout
from holdfast.continual.training.scoreboard import Scoreboard
from holdfast.scenarios.schema.scenario import Scenario


class Board:
    """Takes what TensorBoard would."""

    def __init__(self) -> None:
        self.values: dict[int, dict[str, float]] = {}
        self.images: list[tuple[int, int, int]] = []

    def scalars(self, values: dict[str, float], step: int) -> None:
        self.values.setdefault(step, {}).update(values)

    def image(self, tag: str, encoded: bytes, width: int, height: int, step: int) -> None:
        self.images.append((step, width, height))


Filled = tuple[Scoreboard, Board, list[Episode]]


@pytest.fixture
def filled(
    make_scenario: Callable[..., Scenario], make_scores: Callable[..., list[Episode]]
) -> Callable[..., Filled]:
    """Return a scoreboard after a stream whose boundaries measured given tasks."""

    def fill(tasks: int, measured: Callable[[int], Iterable[int]], **keys: Any) -> Filled:
        own = [{"name": f"t{i}", "env": "CartPole-v1", "steps": 10} for i in range(tasks)]
        scenario = make_scenario(tasks=own, **keys)
        board, record = Board(), list[Episode]()
        scores = Scoreboard(scenario, [])
        for stage in range(len(scenario.stream_tasks) + 1):
            point = make_scores(stage, 10 * stage, **{f"t{i}": 50.0 + i for i in measured(stage)})
            record += point
            scores.add(point, 10 * stage, board)  # type: ignore[arg-type]  # a board that tells
            scores.log_metrics(stage, 10 * stage, board)  # type: ignore[arg-type]
        return scores, board, record

    return fill


def test_it_holds_what_the_record_holds(filled: Callable[..., Filled]) -> None:
    scores, _, record = filled(4, lambda stage: range(4))
    again = Scoreboard(scores._scenario, record)
    expected = curves(record, scores._scenario)
    for one in (scores, again):
        np.testing.assert_array_equal(one.curves.values, expected.values)
        np.testing.assert_array_equal(one.curves.steps, expected.steps)
        assert one.latest == {"t0": 0.5, "t1": 0.51, "t2": 0.52, "t3": 0.53}


@pytest.mark.slow
def test_no_matrix_is_drawn_of_many_tasks_and_only_so_many_of_many_stages(
    filled: Callable[..., Filled],
) -> None:
    _, board, _ = filled(MOST_DRAWN, lambda stage: [0, 29])
    assert len(board.images) == MOST_DRAWN + 1
    _, board, _ = filled(MOST_DRAWN + 1, lambda stage: [0, 30])
    assert board.images == []
    _, board, _ = filled(2, lambda stage: [0, 1], stream={"repeat": 50})
    steps, _, heights = zip(*board.images, strict=True)
    assert len(steps) <= MOST_DRAWN + 1
    assert steps[-1] == 1000
    assert max(heights) < 34 * (MOST_DRAWN + 4)


@pytest.mark.slow
def test_metrics_are_logged_at_so_many_boundaries_and_the_last(
    filled: Callable[..., Filled],
) -> None:
    _, board, _ = filled(1, lambda stage: [0], stream={"repeat": 350})
    logged = [step for step, values in board.values.items() if "continual/auc" in values]
    assert len(logged) <= scoreboard.MOST_LOGGED
    assert logged[-1] == 3500
    _, board, _ = filled(1, lambda stage: [0], stream={"repeat": 90})
    logged = [step for step, values in board.values.items() if "continual/auc" in values]
    assert logged == list(range(10, 901, 10))


def test_only_what_was_measured_is_logged_and_how_many_tasks_stand_behind_a_metric(
    filled: Callable[..., Filled],
) -> None:
    def measured(stage: int) -> list[int]:
        return list(range(40)) if stage == 40 else sorted({max(stage - 1, 0), 7 * stage % 40})

    plan = {"tasks": {"sample": 2}}
    scores, board, _ = filled(40, measured, evaluation=plan)
    third = board.values[30]
    assert {tag for tag in third if tag.endswith("/score")} == {
        "task/2_t2/score",
        "task/21_t21/score",
    }
    assert third["continual/tasks_measured"] == 1.0
    assert np.isnan(third["continual/average_performance"])  # of tasks 0 and 1 nothing is known
    assert board.values[400]["continual/tasks_measured"] == 40.0
    last = board.values[400]["continual/average_performance"]
    assert last == pytest.approx(0.5 + 0.01 * np.mean(range(40)))
    assert scores.latest["t21"] == pytest.approx(0.71)


def test_the_dashboard_shows_thirty_of_many_tasks(make_scenario: Callable[..., Scenario]) -> None:
    own = [{"name": f"t{i}", "env": "CartPole-v1", "steps": 10} for i in range(300)]
    charts = layout(make_scenario(tasks=own), has_success=False)["Tasks"]
    assert list(charts) == ["score of 30 of 300 tasks", "return of 30 of 300 tasks"]
    (pattern,) = charts["score of 30 of 300 tasks"]
    shown = [i for i in range(300) if re.fullmatch(pattern, f"task/{i}_t{i}/score")]
    assert len(shown) == 30
    assert (shown[0], shown[-1]) == (0, 299)
    few = layout(make_scenario(tasks=own[:30]), has_success=False)["Tasks"]
    assert few["score of every task"] == (r"task/[^/]+/score$",)


def test_what_is_measured_at_the_boundary_has_a_tag_of_its_own(
    make_scenario: Callable[..., Scenario], make_scores: Callable[..., list[Episode]]
) -> None:
    """Twenty points in the one task: the mean of the last two, and the last."""
    board, tasks = Board(), [{"name": "t0", "env": "CartPole-v1", "steps": 200}]
    scores = Scoreboard(make_scenario(tasks=tasks), [])
    for point in range(21):
        taken = make_scores(point // 20, 10 * point, t0=float(point))
        scores.add(taken, 10 * point, board)  # type: ignore[arg-type]  # a board that tells
    scores.log_metrics(1, 200, board)  # type: ignore[arg-type]
    assert board.values[200]["continual/average_performance"] == pytest.approx(0.195)
    assert board.values[200]["continual/average_performance_boundary"] == pytest.approx(0.2)
