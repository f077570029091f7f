"""Every task's curve and the score matrices, as parts of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import numpy as np

from holdfast.continual.reports import charts
from holdfast.continual.reports.charts import Bounds, Line
from holdfast.continual.reports.heat_table import heat_table, scale
from holdfast.continual.reports.page import Part, figure, swatch
from holdfast.continual.reports.report_text import per_task_rows
from holdfast.continual.reports.summary import Summary
from holdfast.continual.reports.svg import bounds, element
from holdfast.continual.results.curves import Array, Span, matrix, trained
from holdfast.continual.results.formatting import number, plural
from holdfast.continual.results.statistics import LEVEL, mean_band
from holdfast.continual.results.study import CellResults, MethodResults, Results, spread

BANDS = 4
"""In a frame with more methods than this, bands would hide each other and are left out."""


def stream_parts(results: Results, summary: Summary) -> Iterator[Part]:
    """Return every task's curve: a figure for each method, then one for each task."""
    lines = _lines(results, lambda cell: cell.curves.values)
    if not lines:
        return
    done = next(method for method in results.methods if method.cells)
    spans = done.cells[0].curves.spans if results.has_one_order else ()
    stream = _Stream(summary.tasks, spans, _ranges(lines, summary.unit))
    yield "## Every task over the stream"
    text = f"Mean over seeds; band: {LEVEL:.0%} bootstrap interval of the mean. "
    if spans:
        yield f"{text}Each task has a strip, shaded while it is trained."
    else:
        yield f"{text}Each task has a strip; the seeds learn the tasks in different orders."
    yield _legend(results)
    drawn = [_of_method(results.methods[line.index], line, stream) for line in lines]
    yield element("div", *drawn, class_="grid")
    yield "### Methods compared"
    if len(lines) > BANDS:
        yield "Without bands, which would hide each other; press a method above to follow it."
    compared = [_of_task(lines, task, stream, summary.unit) for task in range(len(stream.tasks))]
    if summary.unit == "score":
        compared.insert(0, _of_all(_lines(results, _overall), stream))
    yield element("div", *compared, class_="grid")


@dataclass(frozen=True)
class _Stream:
    """What the curves are drawn before.

    Attributes:
        tasks: Their names.
        spans: When each is trained; empty where that differs between seeds.
        ranges: Lowest and highest number of each task's axis.
    """

    tasks: Sequence[str]
    spans: Sequence[Span]
    ranges: Sequence[Bounds]

    @property
    def switches(self) -> list[int]:
        """The steps at which one task ends and the next begins."""
        return [span.end for span in self.spans[:-1]]


def _of_method(method: MethodResults, line: Line, stream: _Stream) -> Element:
    drawn = charts.stream(
        line,
        title=f"{line.name}: every task over the stream",
        tasks=stream.tasks,
        spans=stream.spans,
        ranges=stream.ranges,
    )
    done, cells = len(method.cells), len(method.cells) + len(method.missing)
    seeds = f"{done} of {plural(cells, 'seed')}" if method.missing else plural(done, "seed")
    return figure(line.name, drawn, note=seeds, index=line.index)


def _of_task(lines: Sequence[Line], task: int, stream: _Stream, unit: str) -> Element:
    drawn = charts.curves(
        [line.of(task) for line in lines],
        title=f"{stream.tasks[task]}: all methods",
        axes=(charts.STEPS, "return" if unit == "return" else "score"),
        y=stream.ranges[task],
        spans=[span for span in stream.spans if span.task == task],
        switches=stream.switches,
        with_bands=len(lines) <= BANDS,
    )
    return figure(stream.tasks[task], drawn)


def _of_all(lines: Sequence[Line], stream: _Stream) -> Element:
    title = "Mean of all tasks"
    drawn = charts.curves(
        lines,
        title=f"{title}: all methods",
        axes=(charts.STEPS, "score"),
        y=stream.ranges[0],
        switches=stream.switches,
        with_bands=len(lines) <= BANDS,
    )
    return figure(title, drawn)


def matrix_parts(results: Results, summary: Summary) -> Iterator[Part]:
    """Return the score matrix of each method as a heat map."""
    if not results.has_one_order:
        return
    done = [(index, method) for index, method in enumerate(results.methods) if method.cells]
    found = [spread(m.over_seeds(lambda cell: matrix(cell.curves)))[0] for _, m in done]
    if summary.unit == "score":
        ranges = [bounds(*found, least=(0, 1))] * len(summary.tasks)
        ends = f"{number(ranges[0][0])} ", f" {number(ranges[0][1])}"
    else:
        ranges = [
            bounds(*(scores[:, task] for scores in found)) for task in range(len(summary.tasks))
        ]
        ends = "lowest of the task ", " highest of the task"
    yield (
        "Mean over seeds at the task boundaries. A frame marks the task that was just trained; in "
        "parentheses: the task had no head or column of its own yet; hatched: not measured."
    )
    yield element("p", ends[0], scale(), ends[1], class_="soft")
    tables = [
        element("figure", _heat(index, method, scores, summary.tasks, ranges))
        for (index, method), scores in zip(done, found, strict=True)
    ]
    yield element("div", *tables, class_="heats")


def _heat(
    index: int, method: MethodResults, scores: Array, tasks: Sequence[str], ranges: Sequence[Bounds]
) -> Element:
    first = method.cells[0]
    trained = [None, *(span.task for span in first.curves.spans)]
    rows = [
        "at the start" if task is None else f"after {stage}: {tasks[task]}"
        for stage, task in enumerate(trained)
    ]
    return heat_table(
        scores,
        title=element("caption", swatch(index), method.label),
        rows=rows,
        columns=tasks,
        ranges=ranges,
        trained=trained,
        unseen=first.unseen,
        foot=per_task_rows(method),
    )


def _lines(results: Results, measure: Callable[[CellResults], Array]) -> list[Line]:
    """Return each method's curves, averaged over its seeds."""
    return [
        Line(
            method.label,
            index,
            method.cells[0].curves.steps,
            *mean_band(method.over_seeds(measure)),
        )
        for index, method in enumerate(results.methods)
        if method.cells
    ]


def _overall(cell: CellResults) -> Array:
    """Return the mean over the trained tasks at each point, NaN where one was not measured."""
    return np.asarray(cell.curves.values[:, list(trained(cell.curves))].mean(axis=1))


def _ranges(lines: Sequence[Line], unit: str) -> list[Bounds]:
    """Return the lowest and highest number of each task; scores of all tasks share one axis."""
    stacked = [np.stack([line.y, line.low, line.high]) for line in lines]  # (3, points, tasks)
    tasks = stacked[0].shape[-1]
    if unit == "score":
        return [bounds(*stacked, least=(0, 1))] * tasks
    return [bounds(*(values[..., task] for values in stacked)) for task in range(tasks)]


def _legend(results: Results) -> Element:
    buttons = [
        element(
            "button",
            swatch(index),
            method.label,
            type="button",
            aria_pressed="false",
            data_of=index,
        )
        for index, method in enumerate(results.methods)
        if method.cells
    ]
    return element(
        "div", *buttons, class_="legend", role="group", aria_label="Methods to highlight"
    )
