"""Figures of a report: the numbers of a study that each chart shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from holdfast.continual.reports import charts
from holdfast.continual.reports.axes import Bounds, bounds
from holdfast.continual.reports.charts import Line, Point
from holdfast.continual.reports.summary import Summary
from holdfast.continual.reports.tables import cost_cell
from holdfast.continual.results.costs import COSTS
from holdfast.continual.results.curves import Array, Span, trained
from holdfast.continual.results.document import Block, Figure, Figures, Legend, Paragraph, Section
from holdfast.continual.results.formatting import plural
from holdfast.continual.results.metrics import FORMULAS
from holdfast.continual.results.statistics import LEVEL, mean_band
from holdfast.continual.results.study import CellResults, MethodResults, Results, spread

BANDS = 4
"""In a frame with more methods than this, bands would hide each other and are left out."""

_NOTHING = (np.nan, np.nan, np.nan)


def result_figures(summary: Summary) -> tuple[Figures, ...]:
    """Return every metric as marks with intervals, and what is gained over the baseline."""
    methods = list(enumerate(summary.methods))
    least = [] if summary.unit == "return" else [0.0]
    shown = []
    for name in summary.known(list(FORMULAS)):
        formula = FORMULAS[name]
        points = [
            Point(m.label, index, m.measures[name].estimate[:3] if m.measures else _NOTHING)
            for index, m in methods
        ]
        axis = f"{name}, {'higher' if formula.higher_is_better else 'lower'} is better"
        drawing = charts.Intervals(points, axis, least)
        shown.append(Figure(_first_upper(formula.title), drawing, spoken=formula.title))
    found = [(index, m.label, m.comparison) for index, m in methods if m.comparison]
    if found:
        gains = [Point(label, index, one.difference[:3]) for index, label, one in found]
        drawing = charts.Intervals(gains, "difference in average performance, 0 is alike", [0.0], 0)
        shown.append(Figure("Gain over naive", drawing))
        odds = [Point(label, index, one.probability[:3]) for index, label, one in found]
        drawing = charts.Intervals(odds, "P(better), 0.5 is alike", (0, 1), 0.5)
        shown.append(Figure("Probability of improvement over naive", drawing))
    return (Figures(tuple(shown)),) if shown else ()


def trade_off_figures(summary: Summary) -> Iterator[Section]:
    """Return forgetting against plasticity, and the performance profiles."""
    methods = [(index, m) for index, m in enumerate(summary.methods) if m.measures]
    shown = []
    across, up = "plasticity/cw", "forgetting/cw"
    if len(summary.known([across, up])) == 2:
        points = [
            Point(m.label, index, m.measures[across].estimate[:3], m.measures[up].estimate[:3])
            for index, m in methods
        ]
        names = ("plasticity (higher is better)", "forgetting (lower is better)")
        shown.append(Figure("Forgetting against plasticity", charts.Scatter(points, names)))
    profiles = [
        Line(method.label, index, summary.thresholds, *method.profile)
        for index, method in methods
        if method.profile
    ]
    if profiles:
        unit = "score" if summary.unit == "score" else "return"
        names = (f"{unit} at the end, τ", "share of tasks and seeds above τ")
        drawing = charts.Curves(
            profiles, names, (0, 1), bottom=268, with_bands=len(profiles) <= BANDS
        )
        shown.append(Figure("Performance profiles", drawing))
    if shown:
        yield Section("Trade-offs", (Figures(tuple(shown), large=True),), page_only=True)


def cost_figures(summary: Summary) -> tuple[Figures, ...]:
    """Return every recorded cost as bars."""
    shown = []
    for name, cost in COSTS.items():
        points = []
        for index, method in enumerate(summary.methods):
            found = cost_cell(method, name)
            mean = float("nan") if found.value is None else found.value
            points.append(Point(method.label, index, (mean, mean, mean), text=found.text))
        if any(point.x[0] > 0 for point in points):
            title = _first_upper(cost.title)
            shown.append(Figure(title, charts.Bars(points), spoken=cost.title))
    return (Figures(tuple(shown)),) if shown else ()


def stream_sections(results: Results, summary: Summary, smooth: int = 1) -> Iterator[Section]:
    """Return every task's curve: a figure for each method, then one for each task.

    Where success is recorded and is not the score, success rates follow.
    """
    lines = lines_of(results, lambda cell: cell.curves.values, mean_band, smooth)
    if not lines:
        return
    tasks = summary.tasks
    spans = _spans(results) if results.has_one_order else ()
    limits = ranges(_all_ends(lines), summary.unit)
    own = [
        Figure(
            line.name,
            charts.Stream(line, tasks, spans, limits),
            spoken=f"{line.name}: every task over the stream",
            note=_seeds(results.methods[line.index]),
            index=line.index,
        )
        for line in lines
    ]
    text = (
        f"Mean over seeds; band: {LEVEL:.0%} bootstrap interval of the mean. Each task has a strip"
    )
    orders = "; the seeds learn the tasks in different orders."
    text += ", shaded while it is trained." if spans else orders
    text += f" {smoothing(smooth)}" if smooth > 1 else ""
    legend = Legend(tuple((line.index, line.name) for line in lines))
    blocks = (Paragraph((text,)), legend, Figures(tuple(own)))
    compared: list[Block] = []
    if len(lines) > BANDS:
        hint = "Without bands, which would hide each other; press a method above to follow it."
        compared.append(Paragraph((hint,)))
    score = "return" if summary.unit == "return" else "score"
    drawn = list(_compared(tasks, lines, spans, score, limits))
    if summary.unit == "score":
        means = lines_of(results, overall, mean_band, smooth)
        title, switches = "Mean of all tasks", _switches(spans)
        drawn.insert(0, in_one_frame(title, means, score, limits[0], switches=switches))
    compared.append(Figures(tuple(drawn)))
    parts = [Section("Methods compared", tuple(compared))]
    if rates := _success_figures(results, tasks, spans, smooth):
        parts.append(Section("Success rates", (Figures(rates),)))
    yield Section("Every task over the stream", blocks, tuple(parts), page_only=True)


def _compared(
    tasks: Sequence[str],
    lines: Sequence[Line],
    spans: Sequence[Span],
    axis: str,
    limits: Sequence[Bounds],
) -> Iterator[Figure]:
    """Return all methods in one frame, for each task."""
    for task, title in enumerate(tasks):
        own = [span for span in spans if span.task == task]
        shown = [line.of(task) for line in lines]
        yield in_one_frame(title, shown, axis, limits[task], spans=own, switches=_switches(spans))


def in_one_frame(
    title: str,
    lines: Sequence[Line],
    axis: str,
    y: Bounds,
    *,
    spans: Sequence[Span] = (),
    switches: Sequence[float] = (),
) -> Figure:
    """Return curves in one frame, with bands where they would not hide each other."""
    names, with_bands = (charts.STEPS, axis), len(lines) <= BANDS
    drawing = charts.Curves(lines, names, y, spans, switches, with_bands=with_bands)
    return Figure(title, drawing, spoken=f"{title}: all curves")


def _switches(spans: Sequence[Span]) -> list[float]:
    return [span.end for span in spans[:-1]]


def _success_figures(
    results: Results, tasks: Sequence[str], spans: Sequence[Span], smooth: int
) -> tuple[Figure, ...]:
    """Return success rates of every task, where they are recorded and are not the scores."""
    scenario = results.scenario
    if all(scenario.score_of(task) == "success" for task in range(len(tasks))):
        return ()
    lines = lines_of(results, lambda cell: cell.successes.values, mean_band, smooth)
    told = [
        task
        for task in range(len(tasks))
        if any(np.isfinite(one.y[:, task]).any() for one in lines)
    ]
    shown = [
        replace(line, y=line.y[:, told], low=line.low[:, told], high=line.high[:, told])
        for line in lines
    ]
    names = [tasks[task] for task in told]
    own = [replace(span, task=told.index(span.task)) for span in spans if span.task in told]
    return tuple(_compared(names, shown, own, "success rate", [(0.0, 1.0)] * len(told)))


def smoothing(points: int) -> str:
    """Return what is said of smoothed curves."""
    return (
        f"Curves are smoothed: each point is the mean of the last {points} at which the task was "
        "measured. Tables are not."
    )


def smoothed(values: Array, points: int) -> Array:
    """Return every column's trailing mean over its last measured points.

    Args:
        values: Shape (points, ...); NaN where not measured, which it stays.
        points: How many are averaged; fewer at the beginning.

    >>> smoothed(np.array([1.0, np.nan, 3.0, 5.0]), 2)
    array([ 1., nan,  2.,  4.])
    """
    flat = values.reshape(len(values), -1)
    found = np.full(flat.shape, np.nan)
    for column in range(flat.shape[1]):
        at = np.flatnonzero(np.isfinite(flat[:, column]))
        total = np.concatenate([[0.0], np.cumsum(flat[at, column])])
        last = np.arange(1, len(at) + 1)
        first = np.maximum(last - points, 0)
        found[at, column] = (total[last] - total[first]) / (last - first)
    return found.reshape(values.shape)


def paper_figure(results: Results, summary: Summary, smooth: int = 1) -> charts.Panels:
    """Return every task's curve, a panel for each method with finished cells."""
    names = (f"{charts.STEPS} over the stream", "return" if summary.unit == "return" else "score")
    lines = lines_of(results, lambda cell: cell.curves.values, _deviations, smooth)
    least = (0.0, 1.0) if summary.unit == "score" else ()
    y = charts.wider(bounds(*_all_ends(lines), least=least), 0.04)
    panels = []
    for line in lines:
        tasks = [replace(line.of(task), index=task) for task in range(len(summary.tasks))]
        right = charts.WIDE - 12
        drawing = charts.Curves(tasks, names, y, _spans(results), right=right, is_tinted=True)
        panels.append((f"{line.name} ({_seeds(results.methods[line.index])})", drawing))
    return charts.Panels(panels, summary.tasks)


def _spans(results: Results) -> Sequence[Span]:
    return next(method.cells[0].curves.spans for method in results.methods if method.cells)


def _seeds(method: MethodResults) -> str:
    done, cells = len(method.cells), len(method.cells) + len(method.missing)
    return f"{done} of {plural(cells, 'seed')}" if method.missing else plural(done, "seed")


def lines_of(
    results: Results,
    measure: Callable[[CellResults], Array],
    band: Callable[[Array], tuple[Array, Array, Array]] = mean_band,
    smooth: int = 1,
) -> list[Line]:
    """Return each method's curves, averaged over its seeds, each smoothed before."""

    def drawn(cell: CellResults) -> Array:
        return smoothed(measure(cell), smooth) if smooth > 1 else measure(cell)

    return [
        Line(method.label, index, method.cells[0].curves.steps, *band(method.over_seeds(drawn)))
        for index, method in enumerate(results.methods)
        if method.cells
    ]


def _deviations(values: Array) -> tuple[Array, Array, Array]:
    """Return the mean over seeds, and one standard deviation below and above it."""
    mean, deviation = spread(values)
    return mean, mean - np.nan_to_num(deviation), mean + np.nan_to_num(deviation)


def overall(cell: CellResults) -> Array:
    """Return the mean over the trained tasks at each point, NaN where one was not measured."""
    return np.asarray(cell.curves.values[:, list(trained(cell.curves))].mean(axis=1))


def ranges(parts: Sequence[Array], unit: str) -> list[Bounds]:
    """Return the lowest and highest number of each task; scores of all tasks share one axis.

    Args:
        parts: Shape (..., tasks) each.
        unit: See ``Summary``.
    """
    if unit == "score":
        return [bounds(*parts, least=(0, 1))] * parts[0].shape[-1]
    return [bounds(*columns) for columns in zip(*(part.T for part in parts), strict=True)]


def _all_ends(lines: Sequence[Line]) -> list[Array]:
    return [part for line in lines for part in line.ends]


def _first_upper(title: str) -> str:
    return title[:1].upper() + title[1:]
