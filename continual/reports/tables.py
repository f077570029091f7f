"""The tables of a report: numbers of the summary as cells, in few digits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from holdfast.continual.reports.summary import (
    BASELINE,
    COMPARED,
    TRANSFER,
    MethodSummary,
    Summary,
)
from holdfast.continual.results.costs import COSTS
from holdfast.continual.results.document import EMPTY, Cell, Table, given, na
from holdfast.continual.results.formatting import number, plural
from holdfast.continual.results.metrics import FORMULAS
from holdfast.continual.results.statistics import ALPHA, Estimate, holm, smallest_p
from holdfast.continual.results.study import MethodResults, spread

_M = TypeVar("_M", bound=MethodSummary | MethodResults)

ALWAYS = (COMPARED, "forgetting/cw", TRANSFER)
"""Metrics that the summary table has a column for even where all are n/a."""

BESIDE = {
    "average_performance/cw": ("average_performance/boundary",),
    "forgetting/cw": ("forgetting/boundary",),
}
"""Metrics at the boundaries alone, beside those in a window of more than one point."""

WHERE_KNOWN = ("stability_gap/dense", "recovery_time/steps", "adaptation/gain")
"""Metrics that it has a column for where a method has a number."""


def over(values: Iterable[float], form: Callable[[float], str] = number) -> Cell:
    """Return mean ± standard deviation, and of how many where some are n/a."""
    numbers = np.array(list(values), dtype=np.float64)
    known = int(np.isfinite(numbers).sum())
    if not known:
        return na()
    mean, deviation = (float(value) for value in spread(numbers))
    text = form(mean) if math.isnan(deviation) else f"{form(mean)} ± {form(deviation)}"
    return Cell(text if known == len(numbers) else f"{text} ({known} of {len(numbers)})", mean)


def interval(found: Estimate | None, seeds: int) -> Cell:
    """Return an estimate with its interval, and of how many seeds where some are n/a.

    >>> interval(Estimate(0.5, 0.25, 0.75, 4), 5).text
    '0.50 [0.25, 0.75] (4 of 5)'
    >>> interval(Estimate(0.5, np.nan, np.nan, 1), 1).text
    '0.50'
    """
    if found is None or math.isnan(found.value):
        return na()
    text = number(found.value)
    if not math.isnan(found.low):
        text += f" [{number(found.low)}, {number(found.high)}]"
    return Cell(text if found.seeds == seeds else f"{text} ({found.seeds} of {seeds})", found.value)


def p_value(p: float) -> Cell:
    """Return a p-value.

    >>> [p_value(p).text for p in (0.0312, 0.00004, 1.0, float("nan"))]
    ['0.031', '< 0.001', '1.000', 'n/a']
    """
    if math.isnan(p):
        return na()
    return Cell("< 0.001" if p < 0.001 else f"{p:.3f}", p)


def head(*titles: str | Cell) -> tuple[Cell, ...]:
    """Return the names of columns: words of ours, and cells as they are."""
    return tuple(title if isinstance(title, Cell) else Cell(title) for title in titles)


def by_method(
    methods: Iterable[_M],
    titles: Iterable[str | Cell],
    cells: Callable[[_M], Iterable[Cell]],
    name: str = "",
    caption: str = "",
) -> Table:
    """Return a table with a row for each method: its label, then its cells below the titles."""
    rows = [(given(method.label), *cells(method)) for method in methods]
    return Table(head("method", *titles), tuple(rows), name, caption)


def summary_table(summary: Summary) -> Table:
    """Return the metrics over seeds with intervals, and what each method gains over the baseline.

    What was measured at the boundaries alone stands beside what is averaged in a window.
    """
    names = [name for shown in ALWAYS for name in (shown, *summary.known(BESIDE.get(shown, ())))]
    names += summary.known(WHERE_KNOWN)
    is_compared = any(method.comparison is not None for method in summary.methods)
    titles = ["seeds", *(FORMULAS[name].title for name in names)]
    if is_compared:
        titles += [f"gain over {BASELINE}", f"P(better than {BASELINE})", "p (Holm)"]

    def row(method: MethodSummary) -> Iterator[Cell]:
        yield _seeds(method)
        for name in names:
            known = method.measures[name].estimate if method.measures else None
            yield _marked(interval(known, len(method.seeds)), name, method)
        if is_compared:
            yield from comparison_cells(method)

    caption = (
        "Mean over tasks for each seed, then over seeds, with its bootstrap 95% interval (seeds "
        f"resampled). Forward transfer is a ratio of means over seeds.{_of_comparisons(summary)}"
    )
    return by_method(summary.methods, titles, row, "summary", caption)


def comparison_cells(method: MethodSummary) -> Iterator[Cell]:
    """Return what a method gains over the baseline, how often it is better, and p."""
    found = method.comparison
    if found is None:
        yield from [EMPTY] * 3
        return
    yield interval(found.difference, len(method.seeds))
    yield interval(found.probability, len(method.seeds))
    yield p_value(found.p_holm)


def possible(seeds: Sequence[int]) -> str:
    """Return what one corrected test of all comparisons can find; nothing without a test.

    Args:
        seeds: Of each comparison.

    >>> possible([5] * 6).partition(", ")[0]
    'With 5 seeds no p-value can be below 0.008'
    >>> possible([5] * 6).partition(", ")[2]
    "which Holm's correction for 6 comparisons makes 0.048."
    >>> possible([10] * 4).partition(" no ")[2]
    "p-value can be below 0.0002, which Holm's correction for 4 comparisons makes 0.0008."
    """
    if not seeds:
        return ""
    lowest = holm([smallest_p(count) for count in seeds])
    reached = int((lowest <= ALPHA).sum())
    most = plural(max(seeds), "seed")
    text = (
        f"With {most if min(seeds) == max(seeds) else f'{min(seeds)} to {most}'} no p-value can be "
        f"below {_exact(smallest_p(max(seeds)))}, which Holm's correction for "
        f"{plural(len(seeds), 'comparison')} makes {_exact(float(lowest.min()))}"
    )
    if not reached:
        return f"{text}: no method can reach {ALPHA}, however large its gain."
    if reached < len(seeds):
        return f"{text}: at most {reached} of {len(seeds)} methods can reach {ALPHA}."
    return f"{text}."


def _exact(p: float) -> str:
    return p_value(p).text if p >= 0.001 else f"{p:.1g}"


def _of_comparisons(summary: Summary) -> str:
    """Return what the caption says of the comparisons."""
    tests = len(summary.tested)
    if not any(method.comparison for method in summary.methods):
        return ""
    text = (
        f" Gain over {BASELINE}: difference in average performance over the seeds that both have; "
        "the interval is an effect size, not a test. "
        f"P(better than {BASELINE}): that a run of the method scores higher than one of {BASELINE}."
    )
    if not tests:
        return text
    return (
        f"{text} p: permutation test over seeds, corrected by Holm for "
        f"{plural(tests, 'comparison')} with {BASELINE}."
    )


def _marked(cell: Cell, name: str, method: MethodSummary) -> Cell:
    """Return a cell of forward transfer with how many seeds have a reference, where some have none.

    Those without are not left out: theirs is over the mean of the references that there are.
    """
    if name != TRANSFER or cell.value is None or not method.without_reference:
        return cell
    own, seeds = len(method.seeds) - len(method.without_reference), len(method.seeds)
    return replace(cell, text=f"{cell.text} (reference of {own} of {seeds})")


def means_table(summary: Summary) -> Table:
    """Return mean and standard deviation over seeds of every metric that is known."""
    names = summary.known(list(FORMULAS)) or list(ALWAYS)

    def row(method: MethodSummary) -> list[Cell]:
        found = method.measures
        return [_seeds(method), *(over(found[n].per_seed) if found else na() for n in names)]

    titles = ["seeds", *(FORMULAS[name].title for name in names)]
    caption = "Mean ± standard deviation (n - 1) over seeds, of each seed's mean over tasks."
    return by_method(summary.methods, titles, row, "means", caption)


def costs_table(summary: Summary) -> Table:
    """Return what the methods cost, averaged over their cells."""
    names = [
        name
        for name, cost in COSTS.items()
        if not cost.optional or any(np.isfinite(m.costs[name]).any() for m in summary.methods)
    ]
    return by_method(
        summary.methods,
        [COSTS[name].title for name in names],
        lambda method: [cost_cell(method, name) for name in names],
        "costs",
        "Costs of a cell, mean over seeds.",
    )


def tasks_table(summary: Summary) -> Table | None:
    """Return the performance on each task at the end of the stream; None where tasks differ."""
    done = summary.done
    names = done[0].measures[COMPARED].tasks if done else ()
    if not names:
        return None
    caption = "Performance on each task at the end of the stream, mean ± standard deviation."
    return by_method(
        done,
        map(given, names),
        lambda m: map(over, m.measures[COMPARED].values.T),
        "tasks",
        caption,
    )


def cost_cell(method: MethodSummary, name: str) -> Cell:
    """Return what a method costs, mean over the cells in which it was recorded."""
    known = [value for value in method.costs[name] if not math.isnan(value)]
    if not known:
        return na()
    mean = sum(known) / len(known)
    return Cell(COSTS[name].form(mean), float(mean))


def _seeds(method: MethodSummary) -> Cell:
    done, missing = len(method.seeds), len(method.missing)
    if missing:
        return Cell(f"{done} of {done + missing}", done, "partial")
    return Cell(str(done), done)
