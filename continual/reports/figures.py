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


def stream_sections(results: Results, summary: Summary) -> Iterator[Section]:
    """Return every task's curve: a figure for each method, then one for each task."""
    lines = _lines(results, lambda cell: cell.curves.values, mean_band)
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
    legend = Legend(tuple((line.index, line.name) for line in lines))
    blocks = (Paragraph((text,)), legend, Figures(tuple(own)))
    compared: list[Block] = []
    if len(lines) > BANDS:
        hint = "Without bands, which would hide each other; press a method above to follow it."
        compared.append(Paragraph((hint,)))
    compared.append(Figures(tuple(_compared(results, summary, lines, spans))))
    parts = (Section("Methods compared", tuple(compared)),)
    yield Section("Every task over the stream", blocks, parts, page_only=True)


def _compared(
    results: Results, summary: Summary, lines: Sequence[Line], spans: Sequence[Span]
) -> Iterator[Figure]:
    """Return all methods in one frame: the mean of all tasks where that means something, each."""
    score = "return" if summary.unit == "return" else "score"
    limits = ranges(_all_ends(lines), summary.unit)
    switches = [span.end for span in spans[:-1]]

    def figure(title: str, shown: Sequence[Line], y: Bounds, own: Sequence[Span]) -> Figure:
        names, with_bands = (charts.STEPS, score), len(lines) <= BANDS
        drawing = charts.Curves(shown, names, y, own, switches, with_bands=with_bands)
        return Figure(title, drawing, spoken=f"{title}: all methods")

    if summary.unit == "score":
        yield figure("Mean of all tasks", _lines(results, _overall, mean_band), limits[0], ())
    for task, title in enumerate(summary.tasks):
        own = [span for span in spans if span.task == task]
        yield figure(title, [line.of(task) for line in lines], limits[task], own)


def paper_figure(results: Results, summary: Summary) -> charts.Panels:
    """Return every task's curve, a panel for each method with finished cells."""
    names = (f"{charts.STEPS} over the stream", "return" if summary.unit == "return" else "score")
    lines = _lines(results, lambda cell: cell.curves.values, _deviations)
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


def _lines(
    results: Results,
    measure: Callable[[CellResults], Array],
    band: Callable[[Array], tuple[Array, Array, Array]],
) -> list[Line]:
    """Return each method's curves, averaged over its seeds."""
    return [
        Line(method.label, index, method.cells[0].curves.steps, *band(method.over_seeds(measure)))
        for index, method in enumerate(results.methods)
        if method.cells
    ]


def _deviations(values: Array) -> tuple[Array, Array, Array]:
    """Return the mean over seeds, and one standard deviation below and above it."""
    mean, deviation = spread(values)
    return mean, mean - np.nan_to_num(deviation), mean + np.nan_to_num(deviation)


def _overall(cell: CellResults) -> Array:
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
