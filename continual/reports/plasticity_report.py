"""The parts of a report about plasticity and free weights: a table per group of networks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from holdfast.continual.reports.tables import head, over
from holdfast.continual.results import document as doc
from holdfast.continual.results.heat_map import shown_rows
from holdfast.continual.results.study import MethodResults, Results
from holdfast.continual.run_folder.plasticity_record import FREE, GROUPS, QUANTITIES, Point


def plasticity_sections(results: Results) -> list[doc.Section]:
    """Return tables and definitions of plasticity and free weights, as far as they are recorded."""
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
    plasticity = doc.Section("Plasticity", (doc.Paragraph(legend),), tuple(groups))
    return [plasticity, *_free_sections(results, done)]


def _free_sections(results: Results, done: Sequence[MethodResults]) -> list[doc.Section]:
    """Return what no penalty held, by task; nothing where no method has an importance per weight.

    Run folders of older versions have no such numbers.
    """
    groups = []
    for group in GROUPS:
        known = [name for name in FREE if any(_has(m, f"{name}/{group}") for m in done)]
        if known:
            rows = tuple(_free_rows(results, done, group, known))
            table = doc.Table(head("method", "task", *(FREE[name][0] for name in known)), rows)
            groups.append(doc.Section(group.capitalize(), (table,)))
    if not groups:
        return []
    legend = doc.words(
        "Weights with an importance of zero are free: nothing but a floor holds them. Those of a "
        "hidden unit that is dead on the finished tasks are among them; where a later task wakes "
        "it up, what they have become changes the finished tasks, too. A row is of one task, from "
        "its start to its end, mean ± standard deviation over seeds. An input that is always zero "
        "in the finished tasks, such as another task's id, makes its weights free as well, and "
        "they change nothing there. Every evaluation point is in TensorBoard and `plasticity.json`."
    )
    meanings = doc.definitions((t.capitalize(), f": {text}.") for t, text in FREE.values())
    groups[-1] = replace(groups[-1], blocks=(*groups[-1].blocks, meanings))
    return [doc.Section("Free weights", (doc.Paragraph(legend),), tuple(groups))]


def _free_rows(
    results: Results, done: Sequence[MethodResults], group: str, names: Sequence[str]
) -> Iterator[tuple[doc.Cell, ...]]:
    order = results.scenario.stream_tasks
    for method in done:
        if not any(_has(method, f"{name}/{group}") for name in names):
            continue
        for stage in shown_rows(len(order))[1:]:
            ends = [_end(cell.points, stage) for cell in method.cells if cell.points]
            if not any(f"{name}/{group}" in end for name in names for end in ends):
                continue
            task = results.scenario.tasks[order[stage - 1]].name
            place = doc.given(f"{stage}: {task}" if results.has_one_order else str(stage))
            values = ([end.get(f"{name}/{group}", math.nan) for end in ends] for name in names)
            yield doc.given(method.label), place, *(over(found, _digits) for found in values)


def _end(points: Sequence[Point], stage: int) -> Point:
    """Return the point at which so many stages had just been finished; empty if there is none."""
    return next((point for point in points if point["stage"] == stage), {})


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
