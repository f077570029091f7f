"""The numbers of a report as CSV: one observation a line, n/a an empty field."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from holdfast.continual.reports.summary import COMPARED, TRANSFER, MethodSummary, Summary
from holdfast.continual.results.study import Results
from holdfast.continual.run_folder.files import csv_cell

NUMBERS = ("scenario", "method", "seed", "task", "metric", "statistic", "value", "low", "high")
POINTS = ("scenario", "method", "seed", "step", "task", "score", "return", "success")

Row = Sequence[str | int | float]


def numbers_csv(summaries: Iterable[Summary]) -> str:
    """Return every number of the summaries.

    Lines with a seed are of one cell: its metric at one task, or averaged (no task), or a cost.
    Where tasks took turns in being measured, ``points`` says how many points are behind a value.
    Those without are over all seeds of a method: ``statistic`` says which, ``low`` and ``high`` are
    its 95% interval. An unfinished cell has one line, ``missing``, without a value; a finished one
    without a single-task reference of its own has one, ``no reference``.
    """
    rows = (
        (summary.name, method.label, *row)
        for summary in summaries
        for method in summary.methods
        for row in (*_of_cells(method), *_over_seeds(method))
    )
    return _text(NUMBERS, rows)


def points_csv(gathered: Iterable[Results]) -> str:
    """Return every evaluation point of every finished cell, mean over its episodes."""
    return _text(POINTS, _points(gathered))


def _of_cells(method: MethodSummary) -> Iterator[Row]:
    for index, seed in enumerate(method.seeds):
        for name, measure in method.measures.items():
            yield seed, "", name, "value", measure.per_seed[index], "", ""
            for task, value in zip(measure.tasks, measure.values[index], strict=False):
                yield seed, task, name, "value", value, "", ""
        if method.points is not None:
            tasks = method.measures[COMPARED].tasks
            for task, count in zip(tasks, method.points[index].tolist(), strict=False):
                yield seed, task, COMPARED, "points", int(count), "", ""
        for name, values in method.costs.items():
            yield seed, "", name, "value", values[index], "", ""
        if seed in method.without_reference:
            yield seed, "", TRANSFER, "no reference", "", "", ""
    for name in method.missing:
        yield name.removeprefix("seed-"), "", "", "missing", "", "", ""


def _over_seeds(method: MethodSummary) -> Iterator[Row]:
    for name, measure in method.measures.items():
        yield "", "", name, "mean", *measure.estimate[:3]
        yield "", "", name, "interquartile mean", *measure.middle[:3]
    if method.optimality_gap is not None:
        yield "", "", "optimality gap", "mean", *method.optimality_gap[:3]
    if (found := method.comparison) is not None:
        name = "against the baseline"
        yield "", "", name, "probability of improvement", *found.probability[:3]
        yield "", "", name, "difference of means", *found.difference[:3]
        yield "", "", name, "p", found.p, "", ""
        yield "", "", name, "p (Holm)", found.p_holm, "", ""


def _points(gathered: Iterable[Results]) -> Iterator[Row]:
    for results in gathered:
        names = [task.name for task in results.scenario.tasks]
        for method in results.methods:
            for cell in method.cells:
                start = results.scenario.name, method.label, cell.folder.seed
                curves = (cell.curves, cell.returns, cell.successes)
                values = np.stack([one.values for one in curves], axis=-1)  # (points, tasks, 3)
                for step, row in zip(cell.curves.steps.tolist(), values.tolist(), strict=True):
                    for name, of_task in zip(names, row, strict=True):
                        yield *start, step, name, *of_task


def _text(head: Sequence[str], rows: Iterable[Row]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([_field(name) for name in head])
    writer.writerows([_field(value) for value in row] for row in rows)
    return file.getvalue()


def _field(value: str | float) -> str | int | float:
    """Return a number in ten digits, and n/a as nothing."""
    if isinstance(value, str):
        return str(csv_cell(value))
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else float(f"{value:.10g}")
