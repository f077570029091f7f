"""The report as a page: the text of ``report.md``, with the pictures among its sections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

import numpy as np

from holdfast.continual.reports import charts
from holdfast.continual.reports.charts import Line, Point
from holdfast.continual.reports.html_curves import BANDS, matrix_parts, stream_parts
from holdfast.continual.reports.page import Part, cut, figure, page
from holdfast.continual.reports.summary import MethodSummary, Summary
from holdfast.continual.reports.svg import element
from holdfast.continual.results.costs import COSTS
from holdfast.continual.results.formatting import plural
from holdfast.continual.results.metrics import FORMULAS
from holdfast.continual.results.statistics import Estimate
from holdfast.continual.results.study import Results

if TYPE_CHECKING:
    from holdfast.continual.reports.report import Section

_NOTHING = (np.nan, np.nan, np.nan)


def html_report(sections: Sequence[Section]) -> str:
    """Return a report as a page that is one file.

    Args:
        sections: One for each scenario.
    """
    names = ", ".join(section.results.scenario.name for section in sections)
    parts = [_study(each.markdown, each.results, each.summary) for each in sections]
    return page(f"{names}: report", [part for of_study in parts for part in of_study])


def _study(text: str, results: Results, summary: Summary) -> list[Part]:
    """Return the sections of the text with the pictures among them."""
    (_, intro), *rest = cut(text)
    # The page draws its own curves: the picture and what is said of it stay in report.md.
    parts: list[Part] = [intro.partition("![")[0]]
    parts += _missing(results)
    for title, body in rest:
        if title == "Scores of each task" and (pictures := list(matrix_parts(results, summary))):
            parts += [f"## {title}", *pictures]
            continue
        parts.append(f"## {title}\n\n{body}")
        if title == "Results":
            parts += _results(summary)
            parts += stream_parts(results, summary)
            parts += _trade_offs(summary)
        elif title == "Costs":
            parts += _costs(summary)
    return parts


def _missing(results: Results) -> list[Part]:
    missing = sum(len(method.missing) for method in results.methods)
    cells = missing + sum(len(method.cells) for method in results.methods)
    if not missing:
        return []
    said = f"{missing} of {plural(cells, 'cell')} {'is' if missing == 1 else 'are'} not in these "
    where = "numbers; the section “Not in these numbers” says why."
    return [element("p", element("strong", "Incomplete. "), said, where, class_="callout")]


def _results(summary: Summary) -> Iterator[Element]:
    """Return every metric as marks with intervals, and the probability of improvement."""
    numbered = list(enumerate(summary.methods))
    least = [] if summary.unit == "return" else [0.0]
    shown = []
    for name in summary.known(list(FORMULAS)):
        formula = FORMULAS[name]
        points = [
            Point(method.label, index, _ends(method.measures[name].estimate))
            if method.measures
            else Point(method.label, index, _NOTHING)
            for index, method in numbered
        ]
        better = "higher is better" if formula.higher_is_better else "lower is better"
        drawn = charts.intervals(points, title=formula.title, axis=f"{name}, {better}", least=least)
        shown.append(figure(_first_upper(formula.title), drawn))
    compared = [
        Point(method.label, index, _ends(method.comparison.probability))
        for index, method in numbered
        if method.comparison
    ]
    if compared:
        title = "Probability of improvement over naive"
        drawn = charts.intervals(
            compared, title=title, axis="P(better), 0.5 is alike", least=(0, 1), reference=0.5
        )
        shown.append(figure(title, drawn))
    if shown:
        yield element("div", *shown, class_="grid")


def _trade_offs(summary: Summary) -> Iterator[Part]:
    """Return forgetting against plasticity, and the performance profiles."""
    numbered = [(index, m) for index, m in enumerate(summary.methods) if m.measures]
    shown = []
    if summary.known(["forgetting/cw", "plasticity/cw"]) == ["forgetting/cw", "plasticity/cw"]:
        points = [
            Point(
                method.label,
                index,
                _ends(method.measures["plasticity/cw"].estimate),
                _ends(method.measures["forgetting/cw"].estimate),
            )
            for index, method in numbered
        ]
        axes = ("plasticity (higher is better)", "forgetting (lower is better)")
        title = "Forgetting against plasticity"
        shown.append(figure(title, charts.scatter(points, title=title, axes=axes)))
    profiles = [
        Line(method.label, index, summary.thresholds, *method.profile)
        for index, method in numbered
        if method.profile
    ]
    if profiles:
        title = "Performance profiles"
        unit = "score" if summary.unit == "score" else "return"
        axes = (f"{unit} at the end, τ", "share of tasks and seeds above τ")
        with_bands = len(profiles) <= BANDS
        drawn = charts.curves(
            profiles, title=title, axes=axes, y=(0, 1), with_bands=with_bands, bottom=268
        )
        shown.append(figure(title, drawn))
    if shown:
        yield "## Trade-offs"
        yield element("div", *shown, class_="grid few")


def _costs(summary: Summary) -> Iterator[Element]:
    """Return every recorded cost as bars."""
    shown = []
    for name, cost in COSTS.items():
        points = [_cost_point(index, method, name) for index, method in enumerate(summary.methods)]
        if any(point.x[0] > 0 for point in points):
            shown.append(figure(_first_upper(cost.title), charts.bars(points, title=cost.title)))
    if shown:
        yield element("div", *shown, class_="grid")


def _cost_point(index: int, method: MethodSummary, name: str) -> Point:
    values = method.costs[name]
    known = values[np.isfinite(values)]
    mean = float(known.mean()) if len(known) else np.nan
    text = COSTS[name].form(mean) if len(known) else "n/a"
    return Point(method.label, index, (mean, mean, mean), text=text)


def _first_upper(title: str) -> str:
    return title[:1].upper() + title[1:]


def _ends(found: Estimate) -> tuple[float, float, float]:
    return found.value, found.low, found.high
