"""The summary of results: every number of a report, computed once for all its forms.

Markdown, CSV, LaTeX and the page read from one frozen :class:`Summary`, and compute nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from holdfast.continual.results import metrics, statistics
from holdfast.continual.results.costs import COSTS, cost
from holdfast.continual.results.curves import Array, measured_at_end, window
from holdfast.continual.results.study import CellResults, MethodResults, Results
from holdfast.continual.run_folder.scenario_diff import setting, undrawn
from holdfast.scenarios.schema.sections import Sample

BASELINE = "naive"
"""The method that others are compared with."""

COMPARED = "average_performance/cw"
"""The metric that they are compared by."""

TRANSFER = "forward_transfer/cw"
"""The metric that is a ratio of means over seeds, not a mean over seeds of the task means."""

_THRESHOLDS = 101
_NONE = np.empty(0)


@dataclass(frozen=True)
class Measure:
    """One metric of one method.

    Attributes:
        values: Shape (seeds, tasks); NaN where it is n/a. Seeds that train different tasks have one
            column, their mean over tasks.
        tasks: Name of each column; empty where there is one column of means.
        estimate: The mean over seeds, with its interval.
        middle: The interquartile mean over seeds, with its interval.
    """

    values: Array
    tasks: tuple[str, ...]
    estimate: statistics.Estimate
    middle: statistics.Estimate

    @property
    def per_seed(self) -> Array:
        """Mean over the tasks, shape (seeds,); NaN where one is n/a."""
        return np.asarray(self.values.mean(axis=1))


@dataclass(frozen=True)
class MethodSummary:
    """The numbers of one method.

    Attributes:
        label: The method's label.
        seeds: Of its finished cells, in the order of every array below.
        missing: Why each of the others is not in these numbers, by the name of its folder.
        measures: Every metric by its full name, in the order of ``metrics.FORMULAS``; empty where
            no cell is finished.
        costs: Shape (seeds,) each, by the names of ``costs.COSTS``; NaN where it was not recorded.
        comparison: With the baseline, by average performance; None for the baseline itself, and
            where one of the two has no finished cell.
        optimality_gap: Mean over seeds of the scores at the end below 1; None where they are no
            scores.
        profile: Share of the scores at the end that is above ``Summary.thresholds``; None where
            they are n/a.
        points: How many points stand behind the performance at the end, shape (seeds, tasks); None
            where every task was measured at all of them.
        without_reference: Its seeds that have no single-task reference of their own.
    """

    label: str
    seeds: tuple[int, ...]
    missing: Mapping[str, str]
    measures: Mapping[str, Measure]
    costs: Mapping[str, Array]
    comparison: statistics.Comparison | None = None
    optimality_gap: statistics.Estimate | None = None
    profile: statistics.Profile | None = None
    points: Array | None = None
    without_reference: tuple[int, ...] = ()


@dataclass(frozen=True)
class Summary:
    """The numbers of one scenario.

    Attributes:
        name: Of the scenario.
        tasks: Their names.
        unit: What the numbers are: ``score`` (0 to 1), ``return`` (raw) or ``mixed``.
        methods: In the order of the scenario.
        thresholds: Shape (thresholds,), of the performance profiles.
        is_windowed: True where "at the end" is of more than one evaluation point somewhere: then
            what was measured at the boundaries alone is another number.
    """

    name: str
    tasks: tuple[str, ...]
    unit: str
    methods: tuple[MethodSummary, ...]
    thresholds: Array
    is_windowed: bool = False

    @property
    def done(self) -> tuple[MethodSummary, ...]:
        """The methods with finished cells."""
        return tuple(method for method in self.methods if method.measures)

    @property
    def tested(self) -> tuple[statistics.Comparison, ...]:
        """The comparisons with a p-value, which Holm's correction is for."""
        found = [method.comparison for method in self.methods]
        return tuple(one for one in found if one is not None and np.isfinite(one.p))

    def known(self, names: Sequence[str]) -> list[str]:
        """Return those of the metrics that some method has a number for, each number once."""
        return [
            name
            for name in names
            if (self.is_windowed or not name.endswith("/boundary"))
            and any(np.isfinite(method.measures[name].estimate.value) for method in self.done)
        ]


def summarize(results: Results) -> Summary:
    """Return every number of the report of one scenario."""
    cells = [cell for method in results.methods for cell in method.cells]
    columns = {name: _columns(name, cells) for name in metrics.FORMULAS}
    names = tuple(task.name for task in results.scenario.tasks)
    methods = [_method(method, columns, names) for method in results.methods]
    methods = _compared(methods, results.methods)
    unit = cells[0].curves.unit if cells else "score"
    thresholds = _thresholds(methods)
    methods = [_profiled(method, thresholds, unit) for method in methods]
    widest = max((window(c.curves, span) for c in cells for span in c.curves.spans), default=0)
    return Summary(
        results.scenario.name, names, unit, tuple(methods), thresholds, is_windowed=widest > 1
    )


def _columns(name: str, cells: Sequence[CellResults]) -> tuple[int, ...] | None:
    """Return the tasks that a metric averages over; None where they differ between the cells."""
    found = {tuple(sorted(metrics.averaged(name, cell.curves))) for cell in cells}
    return found.pop() if len(found) == 1 else None


def _method(
    method: MethodResults, columns: Mapping[str, tuple[int, ...] | None], names: Sequence[str]
) -> MethodSummary:
    if not method.cells:
        return MethodSummary(method.label, (), method.missing, {}, dict.fromkeys(COSTS, _NONE))
    per_task, averages = zip(*((cell.per_task, cell.metrics) for cell in method.cells), strict=True)
    measures = {}
    for name, tasks in columns.items():
        values = np.array([[found[name]] for found in averages])  # (seeds, 1)
        if tasks:
            values = np.array([found[name][list(tasks)] for found in per_task])  # (seeds, tasks)
            if any(cell.curves.unit == "mixed" for cell in method.cells):
                values = np.full_like(values, np.nan)
        of_seeds = values.mean(axis=1)
        found = statistics.estimate(of_seeds)
        if name == TRANSFER and tasks:
            found = _transfer(method.cells, of_seeds, list(tasks))
        middle = statistics.estimate(of_seeds, statistics.interquartile_mean)
        columns_of = tuple(names[task] for task in tasks or ())
        measures[name] = Measure(values, columns_of, found, middle)
    return MethodSummary(
        method.label,
        tuple(cell.folder.seed for cell in method.cells),
        method.missing,
        measures,
        {name: np.array([cost(cell.info, name) for cell in method.cells]) for name in COSTS},
        points=points_behind(method.cells),
        without_reference=tuple(
            cell.folder.seed for cell in method.cells if cell.folder.seed not in cell.references
        ),
    )


def _transfer(
    cells: Sequence[CellResults], of_seeds: Array, tasks: list[int]
) -> statistics.Estimate:
    """Return forward transfer over seeds, whose interval is of the references' seeds, too."""
    known = [cell for cell, value in zip(cells, of_seeds, strict=True) if np.isfinite(value)]
    references = {seed: one for cell in known for seed, one in cell.references.items()}
    return statistics.ratio_of_means(
        {cell.folder.seed: metrics.auc(cell.curves)[tasks] for cell in known},
        {seed: metrics.auc(one)[tasks] for seed, one in references.items()},
    )


def points_behind(cells: Sequence[CellResults]) -> Array | None:
    """Return how many points stand behind each trained task's performance at the end.

    Returns:
        Shape (seeds, tasks), tasks as ``metrics.averaged`` lists them; None where tasks do not take
        turns, or the cells train different ones.
    """
    plans = [cell.folder.scenario.evaluation.tasks for cell in cells]
    trained = {tuple(sorted(metrics.averaged(COMPARED, cell.curves))) for cell in cells}
    if len(trained) != 1 or not all(isinstance(plan, Sample) for plan in plans):
        return None
    columns = list(trained.pop())
    counts = [measured_at_end(cell.curves, cell.curves.spans[-1])[columns] for cell in cells]
    return np.array(counts, dtype=np.float64)


def _compared(
    methods: Sequence[MethodSummary], gathered: Sequence[MethodResults]
) -> list[MethodSummary]:
    """Return the methods with their comparison to the baseline, over the seeds that both have.

    Where a sweep goes over the keys of the scenario, it is the baseline with the same values.
    """
    baselines = [
        (_setting(results), summary)
        for summary, results in zip(methods, gathered, strict=True)
        if results.cells and _parts(results) == [BASELINE]
    ]
    found: dict[str, statistics.Comparison] = {}
    for method, results in zip(methods, gathered, strict=True):
        if not results.cells or _parts(results) == [BASELINE]:
            continue
        wanted = _setting(results)
        baseline = next((one for setting, one in baselines if setting == wanted), None)
        if baseline is not None:
            found[method.label] = _comparison(method, baseline)
    corrected = dict(zip(found, statistics.holm([one.p for one in found.values()]), strict=True))
    return [
        replace(method, comparison=found[method.label]._replace(p_holm=corrected[method.label]))
        if method.label in found
        else method
        for method in methods
    ]


def _comparison(method: MethodSummary, baseline: MethodSummary) -> statistics.Comparison:
    ours, theirs = (
        dict(zip(one.seeds, one.measures[COMPARED].per_seed.tolist(), strict=True))
        for one in (method, baseline)
    )
    both = [seed for seed in ours if seed in theirs]
    sides = (np.array([side[seed] for seed in both], dtype=np.float64) for side in (ours, theirs))
    return statistics.compare(*sides)


def _parts(results: MethodResults) -> list[str]:
    return [part.name for part in results.cells[0].folder.scenario.methods[0].parts]


def _setting(results: MethodResults) -> dict[str, Any]:
    return undrawn(setting(results.cells[0].folder.scenario))


def _thresholds(methods: Sequence[MethodSummary]) -> Array:
    """Return the grid of the profiles: 0 to 1, or more where scores reach further."""
    values = [method.measures[COMPARED].values for method in methods if method.measures]
    known = np.concatenate([value[np.isfinite(value)] for value in values] or [np.empty(0)])
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    return np.linspace(min(0.0, low), max(1.0, high), _THRESHOLDS)


def _profiled(method: MethodSummary, thresholds: Array, unit: str) -> MethodSummary:
    if not method.measures or np.isnan(method.measures[COMPARED].estimate.value):
        return method
    values = method.measures[COMPARED].values
    gap = statistics.estimate(statistics.optimality_gap(values)) if unit == "score" else None
    profile = statistics.performance_profile(values, thresholds)
    return replace(method, optimality_gap=gap, profile=profile)
