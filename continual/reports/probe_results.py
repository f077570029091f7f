"""What probes found, gathered from the records of the cells of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from holdfast.continual.results.document import Run, Text, words
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import CheckpointUnusable


class Found(NamedTuple):
    """What a probe found in one cell."""

    label: str
    cell: RunFolder
    results: Sequence[Any]


def gathered(
    cells: Sequence[RunFolder], record_of: Callable[[RunFolder], Any], first: Any = None
) -> tuple[Any, list[Found], tuple[Text, ...]]:
    """Return the plan of the first cell on file, what was found by it, and what is left out."""
    found, notes = [], []
    for cell in cells:
        try:
            known = record_of(cell).shown([task.name for task in cell.scenario.tasks])
        except CheckpointUnusable as error:
            notes.append(words("Not in these numbers: ", Run(str(error))))
            continue
        if known is None or not known[1]:
            continue
        first = first or known[0]
        if known[0] == first:
            found.append(Found(cell.label, cell, known[1]))
        else:
            notes.append(words("Not in these numbers, of another plan: ", Run(str(cell.path))))
    return first, found, tuple(notes)


def labels(found: Sequence[Found]) -> list[str]:
    """Return the labels of the methods, in the order of the cells."""
    return list(dict.fromkeys(one.label for one in found))
