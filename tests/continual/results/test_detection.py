"""Detections beside true changes: small cases done on paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from holdfast.continual.results.detection import (
    Outcome,
    Recognition,
    changes_of,
    outcome,
    recognition,
    recognition_of,
)
from holdfast.scenarios.schema.scenario import Scenario


@pytest.mark.parametrize(
    ("changes", "detected", "found"),
    [
        ([], [], Outcome([], 0, [])),
        ([], [5, 9], Outcome([], 2, [])),
        ([10], [], Outcome([None], 0, [20])),
        ([10], [10], Outcome([0], 0, [20])),  # at the change itself: nothing came before
        ([10, 20], [9, 12, 15, 20], Outcome([2, 0], 2, [10, 10])),
        ([10, 20], [19, 30], Outcome([9, 10], 0, [10, 10])),  # at the stream's last step
        ([10, 40], [12], Outcome([2], 0, [20])),  # the second is still to come
    ],
)
def test_the_first_detection_after_a_change_counts(
    changes: list[int], detected: list[int], found: Outcome
) -> None:
    assert outcome(changes, detected, 30) == found


def test_a_missed_change_counts_as_its_phase() -> None:
    found = outcome([10, 25], [12], 40)
    assert (found.missed, found.counted) == (1, [2, 15])


@pytest.mark.parametrize(
    ("tasks", "stream", "expected"),
    [
        ([{}, {"set": {"g": 1.0}}], {}, [100]),
        ([{}, {}], {}, []),  # two names of one world
        ([{}, {"set": {"g": 1.0}}], {"order": ["a", "b", "b", "a"]}, [100, 300]),
        ([{"drift": {"g": {"jumps": [1, 2]}}}], {}, [50]),
        ([{"drift": {"g": {"jumps": [1, 2, 2], "period": 50}}}], {}, [17, 50, 67]),
        ([{"drift": {"g": {"jumps": [1, 2]}}}], {"repeat": 2}, [50, 100, 150]),
        ([{"drift": {"g": {"linear": [1, 2]}}}], {}, []),
    ],
)
def test_changes_are_where_the_world_is_another(
    tasks: list[dict[str, Any]],
    stream: dict[str, Any],
    expected: list[int],
    make_scenario: Callable[..., Scenario],
) -> None:
    made = [
        {"name": name, "env": "Pendulum-v1", "steps": 100}
        | ({"changes": {"set": keys["set"]}} if "set" in keys else {})
        | {key: value for key, value in keys.items() if key == "drift"}
        for name, keys in zip("ab", tasks, strict=False)
    ]
    assert changes_of(make_scenario(tasks=made, stream=stream)) == expected


@pytest.mark.parametrize(
    ("worlds", "detected", "found"),
    [
        ("aa", [], Recognition(0, 0, 0)),
        ("abc", [(12, 1), (22, 2)], Recognition(0, 0, 0)),
        ("abab", [(12, 1), (22, 0), (32, 1)], Recognition(2, 2, 0)),
        ("abab", [(12, 1), (22, 2), (32, 1)], Recognition(2, 1, 0)),  # a new slot for a
        ("abab", [(12, 1), (22, 2), (32, 1), (39, 3)], Recognition(2, 1, 0)),  # a false alarm
        ("aba", [(12, 1), (15, 2), (22, 2)], Recognition(1, 0, 1)),  # 2 had begun in b
        ("abc", [(12, 1), (22, 0)], Recognition(0, 0, 1)),
        ("aba", [(12, 1)], Recognition(1, 0, 0)),  # missed
        ("aba", [(22, 1)], Recognition(1, 0, 0)),  # b was missed; a new slot for a
        ("aba", [(12, 1), (22, -1)], Recognition(1, 0, 0)),  # the stream ended before
        ("aba", [(12, 1), (22, 2), (26, 0)], Recognition(1, 0, 0)),  # by the second alone
        ("abac", [(12, 1), (15, 1), (22, 0), (32, 2), (40, 1)], Recognition(1, 1, 1)),
    ],
)
def test_a_world_is_recognised_by_the_first_detection_of_its_change(
    worlds: str, detected: list[tuple[int, int]], found: Recognition
) -> None:
    end = 10 * len(worlds)
    changes = [step for step in range(10, end, 10) if worlds[step // 10] != worlds[step // 10 - 1]]

    def world(step: int) -> str:
        return worlds[min(step, end - 1) // 10]

    assert recognition(changes, detected, end, world) == found


def test_the_same_changes_and_values_are_the_same_world(
    make_scenario: Callable[..., Scenario],
) -> None:
    """A name is none of them; what drifts by and by comes to no value again."""
    task = {"env": "Pendulum-v1", "steps": 100}
    named = [
        {"name": "a", **task},
        {"name": "b", **task, "changes": {"set": {"g": 1.0}}},
        {"name": "c", **task},
    ]
    found = [(110, 1), (210, 0), (310, 2)]
    scenario = make_scenario(tasks=named)
    assert recognition_of(scenario, found[:2], 300) == Recognition(1, 1, 0)
    assert recognition_of(scenario, found[:2], 200) == Recognition(0, 0, 0)
    jumps = {"g": {"jumps": [10.0, 1.0, 10.0, 2.0]}}
    scenario = make_scenario(tasks=[{"name": "a", **task, "steps": 400, "drift": jumps}])
    assert recognition_of(scenario, found, 400) == Recognition(1, 1, 0)
    sine = {"g": {"sine": [1.0, 10.0], "period": 200}}
    scenario = make_scenario(tasks=[{"name": "a", **task, "steps": 400, "drift": sine}])
    assert recognition_of(scenario, found, 400) == Recognition(0, 0, 1)
