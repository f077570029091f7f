"""What bounded stores keep: by hand, against plain loops, and by counting."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.continual.methods.rehearsal.selection import (
    DROPPED,
    coverage_places,
    placed,
    reservoir_places,
)


def test_a_reservoir_in_pieces_is_the_reservoir_of_the_whole() -> None:
    """Algorithm R in a plain loop, its draws taken from the same generator in two pieces."""
    rng, again = np.random.default_rng(3), np.random.default_rng(3)
    store: dict[str, np.ndarray] = {}
    expected: list[int] = []
    seen = 0
    for offered in (7, 30):
        places = reservoir_places(seen, offered, 5, rng)
        store = placed(store, {"row": np.arange(seen, seen + offered)}, places)
        drawn = again.integers(np.arange(seen, seen + offered) + 1)
        for row, j in zip(range(seen, seen + offered), drawn, strict=True):
            if len(expected) < 5:
                expected.append(row)
            elif j < 5:
                expected[j] = row
        seen += offered
    assert store["row"].tolist() == expected


def test_every_row_is_kept_equally_often() -> None:
    """5 of 40 rows: each is a member with chance 1/8; 2,000 stores, 5 standard deviations."""
    rng = np.random.default_rng(0)
    kept = np.zeros(40)
    for _ in range(2000):
        store = placed({}, {"row": np.arange(15)}, reservoir_places(0, 15, 5, rng))
        store = placed(store, {"row": np.arange(15, 40)}, reservoir_places(15, 25, 5, rng))
        kept[store["row"]] += 1
    spread = np.sqrt(2000 * (1 / 8) * (7 / 8))
    assert np.abs(kept - 250).max() < 5 * spread


def test_coverage_by_hand() -> None:
    """Two places on a line: 0, then 1, then 1.5, then 4.

    0 has distance 0, 1 has |1 - 0| = 1. The store is full. 1.5 has the median of 1.5 and 0.5, which
    is 1: it takes the place of 0. 4 has the median of 2.5 and 3, which is 2.75: it takes the place
    of the first of those with distance 1, which is 1.5 in place 0.
    """
    points = np.array([[0.0], [1.0], [1.5], [4.0]], np.float32)
    none = np.empty((0, 1), np.float32)
    rng = np.random.default_rng(0)
    places, distances = coverage_places(points, none, none[:, 0], 2, 10, rng)
    assert places.tolist() == [0, 1, 0, 0]
    assert distances.tolist() == [2.75, 1.0]
    assert placed({}, {"x": points}, places)["x"].ravel().tolist() == [4.0, 1.0]


def test_coverage_drops_a_row_that_is_no_farther_than_the_nearest_kept() -> None:
    kept, distances = np.array([[0.0], [2.0]], np.float32), np.array([1.0, 2.0], np.float32)
    near = np.array([[1.0]], np.float32)  # median of 1 and 1
    places, after = coverage_places(near, kept, distances, 2, 10, np.random.default_rng(0))
    assert places.tolist() == [DROPPED]
    assert after.tolist() == [1.0, 2.0]


def test_coverage_keeps_a_rare_corner_that_a_reservoir_would_lose() -> None:
    rng = np.random.default_rng(0)
    crowd = rng.normal(size=(500, 2)).astype(np.float32)
    corner = np.float32([[40.0, 0.0], [0.0, 40.0], [-40.0, 0.0]])
    rows = np.concatenate([crowd[:100], corner, crowd[100:]])
    none = np.empty((0, 2), np.float32)
    places, _ = coverage_places(rows, none, none[:, 0], 20, 10, rng)
    store = placed({}, {"x": rows}, places)["x"]
    assert len(store) == 20
    assert {tuple(c) for c in corner} <= {tuple(x) for x in store}


@pytest.mark.parametrize("count", [0, 3])
def test_placing_nothing_changes_nothing(count: int) -> None:
    stored = {"x": np.arange(count)}
    after = placed(stored, {"x": np.arange(4)}, np.full(4, DROPPED))
    assert after["x"].tolist() == list(range(count))
