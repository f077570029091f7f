"""The part of a report about plasticity: a table per group of networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from holdfast.continual.reports.tables import head, over
from holdfast.continual.results import document as doc
from holdfast.continual.results.study import MethodResults, Results
from holdfast.continual.run_folder.plasticity_record import GROUPS, QUANTITIES


def plasticity_sections(results: Results) -> list[doc.Section]:
    """Return tables and definitions of plasticity; nothing where none is recorded."""
    done = [method for method in results.methods if any(cell.points for cell in method.cells)]
    groups = []
    for group in GROUPS:
        known = [name for name in QUANTITIES if any(_has(m, f"{name}/{group}") for m in done)]
        if known:
            groups.append(doc.Section(group.capitalize(), (_table(done, group, known),)))
    if not groups:
        return []
    legend = doc.words(
        "At the end of the stream, mean ± standard deviation over seeds; activity is measured on "
        "the observations of the first evaluation, the same at every point. The first row is ",
        doc.Run(done[0].label),
        " before any learning. Every evaluation point is in TensorBoard (`plasticity/`) and in "
        "each run folder's `plasticity.json`.",
    )
    meanings = doc.definitions((t.capitalize(), f": {text}.") for t, text in QUANTITIES.values())
    groups[-1] = replace(groups[-1], blocks=(*groups[-1].blocks, meanings))
    return [doc.Section("Plasticity", (doc.Paragraph(legend),), tuple(groups))]


def _has(method: MethodResults, key: str) -> bool:
    return any(key in point for cell in method.cells for point in cell.points)


def _table(done: Sequence[MethodResults], group: str, names: Sequence[str]) -> doc.Table:
    keys = [f"{name}/{group}" for name in names]
    before = doc.Cell("before learning", style="emphasis")
    rows = [(before, *(_over(done[0], key, 0) for key in keys))]
    rows += [
        (doc.given(method.label), *(_over(method, key, -1) for key in keys)) for method in done
    ]
    return doc.Table(head("method", *(QUANTITIES[name][0] for name in names)), tuple(rows))


def _over(method: MethodResults, key: str, position: int) -> doc.Cell:
    points = [cell.points[position].get(key, math.nan) for cell in method.cells if cell.points]
    known = [float(value) for value in points if value is not None and math.isfinite(value)]
    return over(known, _digits)


def _digits(value: float) -> str:
    """Return a number in three digits.

    >>> _digits(0.01234), _digits(48.26), _digits(1234.5), _digits(0.0)
    ('0.0123', '48.3', '1,234', '0')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
