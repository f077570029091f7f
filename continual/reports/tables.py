"""The tables of a report, as text that is not marked up yet: markdown and LaTeX write the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.continual.reports.summary import BASELINE, COMPARED, MethodSummary, Summary
from holdfast.continual.results.costs import COSTS
from holdfast.continual.results.curves import Array
from holdfast.continual.results.formatting import NA, number, over, plural
from holdfast.continual.results.metrics import FORMULAS
from holdfast.continual.results.statistics import Comparison, Estimate

ALWAYS = (COMPARED, "forgetting/cw", "forward_transfer/cw")
"""Metrics that the summary table has a column for even where all are n/a."""

WHERE_KNOWN = ("stability_gap/dense", "recovery_time/steps")
"""Metrics that it has a column for where a method has a number."""


@dataclass(frozen=True)
class Table:
    """Rows of one kind.

    Attributes:
        name: One word, which tells it from the others.
        caption: What it shows, in a sentence or two.
        head: Names of the columns; the first column names the row.
        rows: As many cells each.
    """

    name: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def summary_table(summary: Summary) -> Table:
    """Return interquartile means with intervals, and how sure it is that a method is better."""
    names = [*ALWAYS, *summary.known(WHERE_KNOWN)]
    compared = [method for method in summary.methods if method.comparison is not None]
    head = ["method", "seeds", *(FORMULAS[name].title for name in names)]
    if compared:
        head += [f"better than {BASELINE}", "p (Holm)"]
    rows = []
    for method in summary.methods:
        row = [method.label, _seeds(method)]
        row += [interval(_estimate(method, name), len(method.seeds)) for name in names]
        if compared:
            row += _comparison(method.comparison)
        rows.append(tuple(row))
    caption = (
        "Interquartile mean over seeds and tasks, with its bootstrap 95% interval (whole seeds "
        "resampled)."
    )
    if compared:
        caption += (
            f" Better than {BASELINE}: probability that a run of the method scores higher than a "
            f"run of {BASELINE} at a task in the end, over the seeds that both have; p of a "
            "permutation test of it, corrected by Holm for the "
            f"{plural(len(compared), 'method')} compared."
        )
    return Table("summary", caption, tuple(head), tuple(rows))


def means_table(summary: Summary) -> Table:
    """Return mean and standard deviation over seeds of every metric that is known."""
    names = summary.known(list(FORMULAS)) or list(ALWAYS)
    head = ("method", "seeds", *(FORMULAS[name].title for name in names))
    rows = tuple(
        (
            method.label,
            _seeds(method),
            *(over(method.measures[n].per_seed) if method.measures else NA for n in names),
        )
        for method in summary.methods
    )
    return Table("means", "Mean ± standard deviation (n - 1) over seeds.", head, rows)


def costs_table(summary: Summary) -> Table:
    """Return what the methods cost, averaged over their cells."""
    names = [
        name
        for name, cost in COSTS.items()
        if not cost.optional or any(np.isfinite(m.costs[name]).any() for m in summary.methods)
    ]
    rows = tuple(
        (method.label, *(_cost(method.costs[name], COSTS[name].form) for name in names))
        for method in summary.methods
    )
    head = ("method", *(COSTS[name].title for name in names))
    return Table("costs", "Costs of a cell, mean over seeds.", head, rows)


def tasks_table(summary: Summary) -> Table | None:
    """Return the performance on each task at the end of the stream; None where tasks differ."""
    done = summary.done
    names = done[0].measures[COMPARED].tasks if done else ()
    if not names:
        return None
    rows = tuple(
        (method.label, *(over(column) for column in method.measures[COMPARED].values.T))
        for method in done
    )
    caption = "Performance on each task at the end of the stream, mean ± standard deviation."
    return Table("tasks", caption, ("method", *names), rows)


def interval(found: Estimate | None, seeds: int) -> str:
    """Return an estimate with its interval, and of how many seeds where some are n/a.

    >>> interval(Estimate(0.5, 0.25, 0.75, 4), 5), interval(Estimate(0.5, np.nan, np.nan, 1), 1)
    ('0.50 [0.25, 0.75] (4 of 5)', '0.50')
    """
    if found is None or math.isnan(found.value):
        return NA
    text = number(found.value)
    if not math.isnan(found.low):
        text += f" [{number(found.low)}, {number(found.high)}]"
    return text if found.seeds == seeds else f"{text} ({found.seeds} of {seeds})"


def p_value(p: float) -> str:
    """Return a p-value.

    >>> p_value(0.0312), p_value(0.00004), p_value(1.0), p_value(float("nan"))
    ('0.031', '< 0.001', '1.000', 'n/a')
    """
    if math.isnan(p):
        return NA
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _estimate(method: MethodSummary, name: str) -> Estimate | None:
    return method.measures[name].estimate if method.measures else None


def _comparison(found: Comparison | None) -> list[str]:
    if found is None:
        return ["", ""]
    return [interval(found.probability, found.probability.seeds), p_value(found.p_holm)]


def _seeds(method: MethodSummary) -> str:
    done, missing = len(method.seeds), len(method.missing)
    return f"{done} of {done + missing}" if missing else str(done)


def _cost(values: Sequence[float] | Array, form: Callable[[float], str]) -> str:
    known = [value for value in values if not math.isnan(value)]
    return form(sum(known) / len(known)) if known else NA
