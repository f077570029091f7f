"""Detections beside true changes: small cases done on paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from holdfast.continual.results.detection import Outcome, changes_of, outcome
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
