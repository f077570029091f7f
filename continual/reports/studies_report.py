"""Several studies side by side: metrics by method in one table, curves in one frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from holdfast.continual.reports import figures
from holdfast.continual.reports.axes import bounds
from holdfast.continual.reports.charts import Line
from holdfast.continual.reports.summary import Summary
from holdfast.continual.reports.tables import ALWAYS, WHERE_KNOWN, head, interval
from holdfast.continual.results import document as doc
from holdfast.continual.results.curves import Array
from holdfast.continual.results.formatting import plural
from holdfast.continual.results.metrics import FORMULAS
from holdfast.continual.results.study import CellResults, Results
from holdfast.continual.run_folder.scenario_diff import changed, setting, text_diff
from holdfast.scenarios.source.yaml_file import dump

Pair = tuple[Results, Summary]

_MOST_FIGURES = 24
_MOST_TOLD = 600  # characters of what differs


def side_by_side(studies: Sequence[Pair], *, smooth: int = 1) -> doc.Section:
    """Return what several studies have in common, side by side.

    Args:
        studies: What was gathered of each, and its numbers.
        smooth: Evaluation points that curves are averaged over.
    """
    names = ", ".join(summary.name for _, summary in studies)
    lead: list[doc.Block] = [doc.paragraph(doc.Run(names), ". Each has its own section below.")]
    lead += [doc.Paragraph(text) for text in _differences(studies)]
    parts = [doc.Section("Metrics", (_table([summary for _, summary in studies]),))]
    if drawn := _figures(studies, smooth):
        keys = tuple((index, summary.name) for index, (_, summary) in enumerate(studies))
        told = (
            "Mean over seeds, with its bootstrap 95% interval; a frame for each method that "
            "several have."
        )
        if len(drawn) > _MOST_FIGURES:
            told += f" Shown are the first {_MOST_FIGURES} of {len(drawn)} frames."
        if smooth > 1:
            told += f" {figures.smoothing(smooth)}"
        shown = doc.Figures(tuple(drawn[:_MOST_FIGURES]))
        blocks = (doc.paragraph(told), doc.Legend(keys), shown)
        parts.append(doc.Section("Curves", blocks, page_only=True))
    return doc.Section("Side by side", tuple(lead), tuple(parts))


def _table(summaries: Sequence[Summary]) -> doc.Table:
    """Return the metrics of all studies, a row for each method and a column for each study."""
    names = [
        name
        for name in (*ALWAYS, *WHERE_KNOWN)
        if any(summary.known([name]) for summary in summaries)
    ]
    labels = dict.fromkeys(method.label for summary in summaries for method in summary.methods)

    def row(label: str) -> Iterator[doc.Cell]:
        yield doc.given(label)
        found = [
            next((method for method in summary.done if method.label == label), None)
            for summary in summaries
        ]
        for name in names:
            for method in found:
                known = method.measures[name].estimate if method else None
                yield interval(known, len(method.seeds)) if method else doc.EMPTY

    titles = [doc.given(f"{FORMULAS[n].title}, {s.name}") for n in names for s in summaries]
    seeds = "; ".join(f"{summary.name} {_seeds(summary)}" for summary in summaries)
    units = {summary.unit for summary in summaries}
    caption = (
        "Mean over tasks for each seed, then over seeds, with its bootstrap 95% interval "
        f"({seeds})."
    )
    if len(units) > 1:
        caption += " Units differ: scores of some, returns of others."
    return doc.Table(
        head("method", *titles), tuple(tuple(row(label)) for label in labels), "", caption
    )


def _seeds(summary: Summary) -> str:
    counts = [len(method.seeds) for method in summary.done] or [0]
    most = plural(max(counts), "seed")
    return most if min(counts) == max(counts) else f"{min(counts)} to {most}"


def _differences(studies: Sequence[Pair]) -> Iterator[doc.Text]:
    """Yield in which keys each scenario differs from the first."""
    first, *others = [
        dump({key: value for key, value in setting(results.scenario).items() if key != "name"})
        for results, _ in studies
    ]
    for (_, summary), text in zip(studies[1:], others, strict=True):
        told = changed(text_diff(first, text, "", "", around=0))
        if not told:
            yield doc.words(doc.Run(summary.name), " has the same scenario as the first.")
        elif len(told) <= _MOST_TOLD:
            yield doc.words(
                doc.Run(summary.name), " differs from the first in: ", doc.Run(told), "."
            )
        else:
            yield doc.words(doc.Run(summary.name), " differs from the first in many keys.")


def _figures(studies: Sequence[Pair], smooth: int) -> list[doc.Figure]:
    """Return the curves of each method that several studies have.

    They are the means of all tasks where all numbers are scores, else those of each shared task.
    """
    is_score = all(summary.unit == "score" for _, summary in studies)
    axis, least = ("score", (0.0, 1.0)) if is_score else ("return", ())
    found = [_curves(*study, is_score=is_score, smooth=smooth) for study in studies]
    drawn = []
    for label, task in dict.fromkeys(key for curves in found for key in curves):
        shown = [
            replace(curves[label, task], name=summary.name, index=index)
            for index, (curves, (_, summary)) in enumerate(zip(found, studies, strict=True))
            if (label, task) in curves
        ]
        if len(shown) > 1:
            y = bounds(*(end for line in shown for end in line.ends), least=least)
            drawn.append(figures.in_one_frame(f"{label}: {task}", shown, axis, y))
    return drawn


def _curves(
    results: Results, summary: Summary, *, is_score: bool, smooth: int
) -> dict[tuple[str, str], Line]:
    """Return the curves of one study, by method and task; "mean of all tasks" where they are."""
    measure = figures.overall if is_score else _values
    lines = figures.lines_of(results, measure, smooth=smooth)
    if is_score:
        return {(line.name, "mean of all tasks"): line for line in lines}
    tasks = list(enumerate(summary.tasks))
    return {(line.name, task): line.of(place) for line in lines for place, task in tasks}


def _values(cell: CellResults) -> Array:
    return cell.curves.values
