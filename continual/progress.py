"""Progress of a cell, as whoever runs it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Progress(NamedTuple):
    """Progress of a cell: told after every evaluation and about once a second while it learns.

    Attributes:
        cell: ``<method label>/seed-<k>``.
        task: Name of the task being trained.
        step: Environment steps of the stream so far.
        total: Environment steps of the whole stream.
        steps_per_s: Environment steps per second of training; NaN where none was timed yet.
        scores: Latest score of every task, by name; NaN where not measured.
        note: Anything worth a line, such as a damaged checkpoint.
    """

    cell: str
    task: str
    step: int
    total: int
    steps_per_s: float
    scores: dict[str, float]
    note: str = ""


Tell = Callable[[Progress], None]
