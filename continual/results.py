"""Results: the cells of a folder, read and measured; the unfinished are named, never averaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.continual import metrics
from holdfast.continual.metrics import Array, Curves
from holdfast.continual.plasticity_record import Point, read_points
from holdfast.continual.record import Episode, RunFolder, find_cells
from holdfast.errors import CheckpointUnusable
from holdfast.scenarios.cells import pointed
from holdfast.scenarios.schema import Scenario

REFERENCE = "isolated"
"""The method whose cells are the single-task reference of forward transfer."""


@dataclass(frozen=True)
class CellResults:
    """One finished cell.

    Attributes:
        folder: Its run folder.
        info: Its ``run.json``.
        scores: Its record.
        curves: The record as curves, in scores.
        reference: The curves of ``isolated`` with the same seed, or None.
        points: Its record of plasticity.
    """

    folder: RunFolder
    info: dict[str, Any]
    scores: list[Episode]
    curves: Curves
    reference: Curves | None
    points: tuple[Point, ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric under its full name; NaN where it is n/a."""
        return metrics.summary(self.curves, self.reference)


@dataclass(frozen=True)
class MethodResults:
    """All cells of one method.

    Attributes:
        label: The method's label.
        cells: The finished ones, which alone enter averages; all have the same evaluation points.
        missing: Why each of the others does not, by the name of its folder.
    """

    label: str
    cells: tuple[CellResults, ...]
    missing: dict[str, str]

    def over_seeds(self, measure: Callable[[CellResults], Any]) -> NDArray[np.float64]:
        """Return a measure of every finished cell, stacked along a first axis of seeds."""
        return np.array([measure(cell) for cell in self.cells], dtype=np.float64)


@dataclass(frozen=True)
class Results:
    """What a folder of results holds, methods in the order of the scenario.

    Attributes:
        scenario: Of the first cell.
        methods: The methods.
    """

    scenario: Scenario
    methods: tuple[MethodResults, ...]

    @property
    def has_one_order(self) -> bool:
        """Whether the tasks come in the same order in every cell: they may be shuffled by seed."""
        cells = [cell for method in self.methods for cell in method.cells]
        return len({cell.folder.scenario.stream_tasks for cell in cells}) < 2


def gather(path: Path) -> Results:
    """Return the results in a scenario's, a method's or a cell's folder.

    Raises:
        UsageError: If there are none.
        CheckpointUnusable: If no cell's scenario can be read.
    """
    cells = find_cells(path)
    groups: dict[str, list[RunFolder]] = {}
    for cell in cells:
        groups.setdefault(cell.label, []).append(cell)
    methods = tuple(_method(label, group) for label, group in groups.items())
    return Results(_readable_scenario(cells), methods)


def spread(values: Array) -> tuple[Array, Array]:
    """Return mean and standard deviation over the first axis, without its NaN.

    The mean of nothing is NaN. The standard deviation is that of a sample (n - 1), NaN for fewer
    than two values.

    >>> spread(np.array([[0.5, np.nan], [0.7, 1.0]]))[0]
    array([0.6, 1. ])
    """
    counts = np.isfinite(values).sum(axis=0)
    total = np.nansum(values, axis=0)
    mean = np.divide(total, counts, out=np.full(counts.shape, np.nan), where=counts > 0)
    squares = np.nansum((values - mean) ** 2, axis=0)
    variance = np.divide(squares, counts - 1, out=np.full(counts.shape, np.nan), where=counts > 1)
    return mean, np.sqrt(variance)


def _method(label: str, folders: list[RunFolder]) -> MethodResults:
    found: dict[str, CellResults] = {}
    missing: dict[str, str] = {}
    for folder in folders:
        try:
            why = _unfinished(folder.info())
            if not why:
                found[folder.path.name] = _measure(folder)
        except CheckpointUnusable as error:
            why = str(error)
        if why:
            missing[folder.path.name] = why
    names = [task.name for task in folders[0].scenario.tasks] if found else []
    for name, cell in list(found.items()):
        if [task.name for task in cell.folder.scenario.tasks] != names:
            missing[name] = "it drew other tasks than the first seed; report its folder by itself"
            del found[name]
    most = max((len(cell.curves.steps) for cell in found.values()), default=0)
    for name, cell in list(found.items()):
        points = len(cell.curves.steps)
        if points < most or np.isnan(metrics.matrix(cell.curves)).all(axis=1).any():
            missing[name] = f"finished, but evaluation points are missing (it has {points})"
            del found[name]
    return MethodResults(label, tuple(found.values()), missing)


def _measure(folder: RunFolder) -> CellResults:
    scores = folder.scores()
    curves = metrics.curves(scores, folder.scenario)
    points = tuple(read_points(folder.path))
    return CellResults(folder, folder.info(), scores, curves, _reference(folder), points)


def _reference(folder: RunFolder) -> Curves | None:
    """Return the curves of the isolated cell with the same seed, where it is finished.

    In a sweep it is that of the same point.
    """
    path = folder.path.absolute()
    try:
        label = pointed(REFERENCE, folder.info().get("point", ""))
        isolated = RunFolder(path.parent.parent / label / path.name)
        if isolated.info().get("status") != "finished":
            return None
        scenario = isolated.scenario.model_copy(
            update={
                "methods": folder.scenario.methods,
                "description": folder.scenario.description,
                "tuned": folder.scenario.tuned,
            }
        )
        # A cell that was moved here from elsewhere is no reference.
        if scenario != folder.scenario:
            return None
        return metrics.curves(isolated.scores(), isolated.scenario)
    except CheckpointUnusable:  # reported where the isolated cell itself is read
        return None


def _unfinished(info: dict[str, Any]) -> str:
    """Return why a cell is not finished, empty if it is."""
    status, reason = info.get("status", "pending"), info.get("reason")
    if status == "finished":
        return ""
    if status == "pending":
        return "not started"
    if status == "running":
        return "running, or killed; running the scenario again continues it"
    return f"{status}: {reason}" if reason else str(status)


def _readable_scenario(cells: list[RunFolder]) -> Scenario:
    for cell in cells[:-1]:
        try:
            return cell.scenario
        except CheckpointUnusable:
            continue
    return cells[-1].scenario
