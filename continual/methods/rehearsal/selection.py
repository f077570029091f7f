"""Selection of what a store of bounded size keeps, as functions of arrays.

A store has ``size`` places. Each offered row is given a place, or ``DROPPED``; a row that is given
a place of an earlier one replaces it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.agents.base.buffers import Arrays

Places = NDArray[np.int64]
DROPPED = -1


def reservoir_places(seen: int, offered: int, size: int, rng: np.random.Generator) -> Places:
    """Return the place of each offered row such that all rows ever seen are kept equally likely.

    The first ``size`` rows fill the store; row i after them, counted from 0, draws j from 0..i and
    takes place j where there is one. Source: Vitter 1985, Random Sampling with a Reservoir,
    algorithm R.

    Args:
        seen: Rows offered before these.
        offered: Number of rows.
        size: Places of the store.
        rng: Draws.

    >>> reservoir_places(0, 3, 5, np.random.default_rng(0))
    array([0, 1, 2])
    """
    rows = np.arange(seen, seen + offered)
    drawn = rng.integers(rows + 1)  # j in 0..i for each row i
    return np.where(rows < size, rows, np.where(drawn < size, drawn, DROPPED))


def coverage_places(
    points: NDArray[np.float32],
    kept: NDArray[np.float32],
    distances: NDArray[np.float32],
    size: int,
    comparisons: int,
    rng: np.random.Generator,
) -> tuple[Places, NDArray[np.float32]]:
    """Return the place of each offered row such that rows far from the others are kept.

    A row's distance is the median of the Euclidean distances between its point and those of
    ``comparisons`` rows drawn from the store when it is offered (all, where there are fewer). While
    there is room it is kept; then, of it and the rows of the store, the one with the least distance
    goes. The first row of all has distance 0.

    Source: Kessler et al. 2022, The Effectiveness of World Models for Continual Reinforcement
    Learning (arXiv:2211.15944), coverage maximisation, whose rows are episodes and whose points are
    states of a random recurrent network.

    Args:
        points: Of the offered rows, shape (offered, features).
        kept: Of the rows in the store, shape (count, features).
        distances: Of the rows in the store, as they were when they were offered, shape (count,).
        size: Places of the store.
        comparisons: Rows of the store that each offered row is compared with.
        rng: Draws them.

    Returns:
        The places, shape (offered,), and the distances of all rows that are now in the store.
    """
    count, places = len(kept), np.full(len(points), DROPPED)
    store = np.empty((min(size, count + len(points)), points.shape[1]), points.dtype)
    ranks = np.empty(len(store), np.float32)
    store[:count], ranks[:count] = kept, distances
    for row, point in enumerate(points):
        distance = _median_distance(point, store[:count], comparisons, rng)
        if count < size:
            place, count = count, count + 1
        else:
            place = int(ranks.argmin())
            if distance <= ranks[place]:
                continue
        places[row], store[place], ranks[place] = place, point, distance
    return places, ranks


def _median_distance(
    point: NDArray[np.float32],
    store: NDArray[np.float32],
    comparisons: int,
    rng: np.random.Generator,
) -> float:
    if not len(store):
        return 0.0
    if len(store) > comparisons:
        store = store[rng.choice(len(store), comparisons, replace=False, shuffle=False)]
    return float(np.median(np.linalg.norm(store - point, axis=1)))


def placed(stored: Arrays, offered: Arrays, places: Places) -> Arrays:
    """Return a store after the offered rows went to their places.

    Args:
        stored: Rows by name, each of shape (count, ...); empty at first.
        offered: Rows by the same names, each of shape (offered, ...).
        places: As above; new ones follow those in use without a gap.
    """
    after: Arrays = {}
    for name, rows in offered.items():
        old = stored.get(name, rows[:0])
        count = max(len(old), int(places.max(initial=DROPPED)) + 1)
        after[name] = np.concatenate(
            [old, np.empty((count - len(old), *rows.shape[1:]), rows.dtype)]
        )
    put(after, offered, places)
    return after


def put(store: Arrays, offered: Arrays, places: Places) -> None:
    """Write the offered rows into their places of a store that has room for them.

    Args:
        store: Rows by name, each of shape (room, ...); written into.
        offered: Rows by the same names, each of shape (offered, ...).
        places: As above.
    """
    last = {int(place): row for row, place in enumerate(places) if place != DROPPED}
    into = np.fromiter(last.keys(), np.int64, len(last))
    source = np.fromiter(last.values(), np.int64, len(last))
    for name, rows in offered.items():
        store[name][into] = rows[source]


def with_room(rows: NDArray[Any], count: int) -> NDArray[Any]:
    """Return rows with room for ``count`` of them; doubled where that is more, so that few copy.

    >>> with_room(np.zeros(4), 5).shape
    (8,)
    """
    if count <= len(rows):
        return rows
    room = np.empty((max(count, 2 * len(rows)), *rows.shape[1:]), rows.dtype)
    room[: len(rows)] = rows
    return room
