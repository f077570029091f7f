"""The part of a report about plasticity: a table per group of networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from holdfast.continual.results.formatting import NA, plain, table
from holdfast.continual.results.plasticity_record import GROUPS, QUANTITIES, Point
from holdfast.continual.results.study import MethodResults, Results, spread


def plasticity_parts(results: Results) -> list[str]:
    """Return the headings, tables and definitions of plasticity; nothing where none is recorded."""
    done = [method for method in results.methods if any(cell.points for cell in method.cells)]
    tables = []
    for group in GROUPS:
        known = [name for name in QUANTITIES if any(_has(m, f"{name}/{group}") for m in done)]
        if known:
            tables += [f"### {group.capitalize()}", _table(done, group, known)]
    if not tables:
        return []
    legend = (
        "At the end of the stream, mean ± standard deviation over seeds; activity is measured on "
        "the observations of the first evaluation, the same at every point. The first row is "
        f"{plain(done[0].label)} before any learning. Every evaluation point is in TensorBoard "
        "(`plasticity/`) and in each run folder's `plasticity.json`."
    )
    definitions = [f"- **{title.capitalize()}**: {text}." for title, text in QUANTITIES.values()]
    return ["## Plasticity", legend, *tables, "\n".join(definitions)]


def _has(method: MethodResults, key: str) -> bool:
    return any(key in point for cell in method.cells for point in cell.points)


def _table(done: Sequence[MethodResults], group: str, names: Sequence[str]) -> str:
    keys = [f"{name}/{group}" for name in names]
    rows = [["*before learning*", *(_over(done[0], key, 0) for key in keys)]]
    rows += [[plain(method.label), *(_over(method, key, -1) for key in keys)] for method in done]
    return table(["method", *(QUANTITIES[name][0] for name in names)], rows)


def _over(method: MethodResults, key: str, position: int) -> str:
    points: list[Point] = [cell.points[position] for cell in method.cells if cell.points]
    numbers = np.array([point.get(key, math.nan) for point in points], dtype=np.float64)
    if not np.isfinite(numbers).any():
        return NA
    mean, deviation = (float(value) for value in spread(numbers))
    return _digits(mean) if math.isnan(deviation) else f"{_digits(mean)} ± {_digits(deviation)}"


def _digits(value: float) -> str:
    """Return a number in three digits.

    >>> _digits(0.01234), _digits(48.26), _digits(1234.5), _digits(0.0)
    ('0.0123', '48.3', '1,234', '0')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
