"""Which tasks are measured at an evaluation point, from the scenario and the seed alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from holdfast.continual.streams.rotation import Rotation
from holdfast.scenarios.schema.scenario import Scenario


def scenario_of(tasks: int, plan: Any, *, every: int | None = None, **stream: Any) -> Scenario:
    return Scenario.model_validate(
        {
            "tasks": [{"name": f"t{i}", "env": "CartPole-v1", "steps": 40} for i in range(tasks)],
            "agent": {"algorithm": "ppo"},
            "stream": stream,
            "evaluation": {"tasks": plan, "every": every},
        }
    )


def points(scenario: Scenario) -> list[tuple[int, int]]:
    """Return every evaluation point of a stream of tasks of 40 steps, as the loop makes them."""
    found, every = [(0, 0)], scenario.evaluation.every or 40
    for stage in range(len(scenario.stream_tasks)):
        found += [(stage, 40 * stage + step) for step in range(every, 40, every)]
        found.append((stage + 1, 40 * stage + 40))
    return found


def test_a_sample_holds_the_current_task_and_others_by_turns() -> None:
    scenario = scenario_of(20, {"sample": 5}, every=10)
    rotation, counts = Rotation(scenario, 3), Counter[int]()
    for stages, step in points(scenario)[:-1]:
        measured = rotation.at(stages, step)
        current = max(stages - 1, 0) if step == 40 * stages else stages
        assert len(set(measured)) == 5
        assert measured == sorted(measured)
        assert current in measured
        counts.update(task for task in measured if task != current)
    # 80 points give 320 turns to 20 tasks. Where a task's turn comes while it is the current one,
    # another one has one more.
    assert set(counts) == set(range(20))
    assert max(counts.values()) - min(counts.values()) <= 3


def test_the_end_of_the_stream_measures_all_and_boundaries_do_where_that_is_asked_for() -> None:
    by_turns, whole = scenario_of(9, {"sample": 3}), {"sample": 3, "boundaries": "all"}
    assert Rotation(by_turns, 0).at(9, 360) == list(range(9))
    assert len(Rotation(by_turns, 0).at(8, 320)) == 3
    assert len(Rotation(by_turns, 0).at(0, 0)) == 3
    at_each = Rotation(scenario_of(9, whole, every=10), 0)
    assert at_each.at(0, 0) == at_each.at(4, 160) == list(range(9))
    assert len(at_each.at(4, 170)) == 3


def test_it_depends_on_the_point_and_the_seed_and_on_nothing_before() -> None:
    scenario = scenario_of(30, {"sample": 4}, every=20)
    straight = [Rotation(scenario, 1).at(*point) for point in points(scenario)]
    rotation = Rotation(scenario, 1)
    again = [rotation.at(*point) for point in reversed(points(scenario))]
    assert straight == again[::-1]
    assert straight != [Rotation(scenario, 2).at(*point) for point in points(scenario)]


@pytest.mark.parametrize(
    ("plan", "inside", "end"), [("all", [0, 1, 2], [0, 1, 2]), ("seen", [0, 1], [0, 1])]
)
def test_all_and_seen_are_what_they_say(plan: str, inside: list[int], end: list[int]) -> None:
    rotation = Rotation(scenario_of(3, plan, every=10), 0)
    assert rotation.at(1, 50) == inside
    assert rotation.at(2, 80) == end
    assert Rotation(scenario_of(3, "seen"), 0).at(0, 0) == [0]


def test_a_sample_larger_than_the_stream_is_all_of_it() -> None:
    assert Rotation(scenario_of(3, {"sample": 10}), 0).at(1, 40) == [0, 1, 2]
    assert Rotation(scenario_of(3, {"sample": 1}), 0).at(1, 40) == [0]


@pytest.mark.parametrize("every", [None, 7, 10, 40, 41])
@pytest.mark.parametrize("plan", ["all", "seen", {"sample": 2}, {"sample": 2, "boundaries": "all"}])
def test_the_total_is_what_the_points_come_to(plan: Any, every: int | None) -> None:
    scenario = scenario_of(5, plan, every=every, repeat=2)
    inside = list(range(every or 40, 40, every or 40))
    at = [(0, 0)]
    for stage in range(10):
        at += [(stage, 40 * stage + step) for step in inside] + [(stage + 1, 40 * stage + 40)]
    rotation = Rotation(scenario, 0)
    assert rotation.total() == sum(len(rotation.at(*point)) for point in at)
