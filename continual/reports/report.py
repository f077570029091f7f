"""The report of results: gathered, summed up once, and written in every form."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.continual.reports.html_report import html_report
from holdfast.continual.reports.latex import latex
from holdfast.continual.reports.report_csv import numbers_csv, points_csv
from holdfast.continual.reports.report_text import markdown
from holdfast.continual.reports.summary import Summary, summarize
from holdfast.continual.reports.tables import costs_table, means_table, summary_table, tasks_table
from holdfast.continual.results.curves import Curves
from holdfast.continual.results.formatting import plural
from holdfast.continual.results.record import CROSS_PLAY, write_whole
from holdfast.continual.results.study import Results, gather_all, spread
from holdfast.errors import UsageError


@dataclass(frozen=True)
class Section:
    """The part of a report on one scenario.

    Attributes:
        results: What was gathered.
        summary: Its numbers.
        picture: Name of the figure of curves; empty where nothing is finished.
        markdown: Its text.
    """

    results: Results
    summary: Summary
    picture: str
    markdown: str


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        markdown: All of its text.
        folder: Where the files are.
        files: Their names, ``report.md`` first.
        sections: One for each scenario.
    """

    markdown: str
    folder: Path
    files: tuple[str, ...]
    sections: tuple[Section, ...]


def report(*paths: Path, into: Path | None = None) -> Report:
    """Write the report of one or several folders of results, and return it.

    Args:
        paths: Scenarios', methods' or cells' folders. Those of one scenario are taken together.
        into: Where it is written. Default: the folder, or the nearest that holds them all.

    Raises:
        UsageError: If one holds no results, two disagree, or the report cannot be written.
        CheckpointUnusable: If no cell's scenario in a folder can be read.
    """
    gathered = gather_all(paths)
    sections = [_section(results, alone=len(gathered) == 1) for results in gathered]
    folder = into or Path(os.path.commonpath([path.absolute() for path in paths]))
    folder = paths[0] if into is None and len(paths) == 1 else folder
    text = _text(sections)
    files = {"report.md": text.encode(), "report.html": html_report(sections).encode()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files |= _tables(sections)
        for section in sections:
            if section.picture:
                files[section.picture] = figure(section.results)
        for name, content in files.items():
            write_whole(folder / name, content)
    except OSError as error:
        raise UsageError(f"the report cannot be written to {folder}: {error.strerror}") from error
    return Report(text, folder, tuple(files), tuple(sections))


def figure(results: Results) -> bytes:
    """Return a PNG of every task's curve, a panel for each method with finished cells."""
    from holdfast.continual.reports.plots import (  # here: matplotlib is slow to import
        Panel,
        curves_figure,
    )

    panels = []
    for method in results.methods:
        if method.cells:
            mean, deviation = spread(method.over_seeds(lambda cell: cell.curves.values))
            title = f"{method.label}  ({plural(len(method.cells), 'seed')})"
            panels.append(Panel(title, method.cells[0].curves.steps, mean, deviation))
    curves = next(method.cells[0].curves for method in results.methods if method.cells)
    names = [task.name for task in results.scenario.tasks]
    return curves_figure(panels, tasks=names, spans=curves.spans, unit=_unit_name(curves))


def _section(results: Results, *, alone: bool) -> Section:
    summary = summarize(results)
    name = "report.png" if alone else f"report-{results.scenario.name}.png"
    text = markdown(results, summary, name)
    for folder in results.folders:
        played = folder / CROSS_PLAY
        if played.exists():  # its headings one level lower: it is a section here
            text += "\n" + re.sub("^#", "##", played.read_text("utf-8"), flags=re.M)
    return Section(results, summary, name if summary.done else "", text)


def _text(sections: Sequence[Section]) -> str:
    if len(sections) == 1:
        return sections[0].markdown
    names = ", ".join(section.results.scenario.name for section in sections)
    lowered = [re.sub("^#", "##", section.markdown, flags=re.M) for section in sections]
    return "\n".join([f"# Report of {names}\n", *lowered])


def _tables(sections: Sequence[Section]) -> dict[str, bytes]:
    """Return the numbers as CSV and LaTeX, by the name of the file."""
    summaries = [section.summary for section in sections]
    tables = [
        (summary.name, table)
        for summary in summaries
        for form in (summary_table, means_table, tasks_table, costs_table)
        if (table := form(summary)) is not None
    ]
    points = points_csv(section.results for section in sections)
    return {
        "report.csv": numbers_csv(summaries).encode(),
        "report-points.csv": points.encode(),
        "report.tex": latex(tables).encode(),
    }


def _unit_name(curves: Curves) -> str:
    return "return" if curves.unit == "return" else "score"
