"""The part of a report about detected changes of task, beside the true ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from holdfast.continual.reports.tables import by_method, over
from holdfast.continual.results import document as doc
from holdfast.continual.results.detection import Outcome, changes_of, outcome
from holdfast.continual.results.study import CellResults, MethodResults, Results
from holdfast.continual.run_folder.detections import read_detections

_TITLES = (
    "changes",
    "missed",
    "false alarms",
    "median delay (steps)",
    "the same, missed ones counted",
)


def detection_sections(results: Results) -> list[doc.Section]:
    """Return a table of detections; none where boundaries were not detected."""
    done = [method for method in results.methods if method.cells]
    if not results.scenario.detects_boundaries or not done:
        return []
    legend = doc.words(
        "Mean ± standard deviation over seeds. The first detection after a change of the world and "
        "before the next has the delay; all others are false alarms. In the last column a missed "
        "change counts with the length of its phase. Every detection is in the run folder's "
        "`detections.json`."
    )
    table = by_method(done, _TITLES, _cells)
    return [doc.Section("Detected changes", (doc.Paragraph(legend), table))]


def outcome_of(cell: CellResults) -> Outcome:
    """Return what the detector of a finished cell made of its changes."""
    scenario = cell.folder.scenario
    detected = [found.step for found in read_detections(cell.folder.path)]
    return outcome(changes_of(scenario), detected, scenario.total_steps)


def _cells(method: MethodResults) -> Iterator[doc.Cell]:
    found = [outcome_of(cell) for cell in method.cells]
    yield over([len(one.delays) for one in found], _whole)
    yield over([one.missed for one in found], _whole)
    yield over([one.false_alarms for one in found], _whole)
    yield over([_median([d for d in one.delays if d is not None]) for one in found], _whole)
    yield over([_median(one.counted) for one in found], _whole)


def _median(values: list[int]) -> float:
    """Return the median; NaN of none."""
    return float(np.median(values)) if values else float("nan")


def _whole(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"
