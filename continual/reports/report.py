"""The report of results: gathered, summed up once, built once, and written in every form."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.continual.reports.charts import style_sheet
from holdfast.continual.reports.figures import paper_figure
from holdfast.continual.reports.html import html
from holdfast.continual.reports.latex import latex
from holdfast.continual.reports.report_csv import numbers_csv, points_csv
from holdfast.continual.reports.studies_report import side_by_side
from holdfast.continual.reports.study_report import study_section
from holdfast.continual.reports.summary import Summary, summarize
from holdfast.continual.reports.tables import costs_table, means_table, summary_table, tasks_table
from holdfast.continual.results.document import Document, Section
from holdfast.continual.results.markdown_page import markdown
from holdfast.continual.results.study import Results, gather_all
from holdfast.continual.results.svg import png, svg_file
from holdfast.continual.run_folder.files import write_whole
from holdfast.errors import UsageError

_ZOOM = 2.0
"""Pixels of the figure as a PNG, for each of its units."""


@dataclass(frozen=True)
class Study:
    """One scenario in a report.

    Attributes:
        results: What was gathered.
        summary: Its numbers.
    """

    results: Results
    summary: Summary


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        document: All that it says.
        folder: Where the files are.
        files: Their names, ``report.md`` first.
        studies: One for each scenario.
    """

    document: Document
    folder: Path
    files: tuple[str, ...]
    studies: tuple[Study, ...]

    @property
    def markdown(self) -> str:
        """All of its text."""
        return _markdown(self.document)

    @property
    def overview(self) -> str:
        """The text shown where a run ends: its results, without the details of single tasks."""
        parts = [part for section in self.document.sections for part in section.sections]
        return markdown([part for part in parts if part.is_overview], 2).strip()


def report(*paths: Path, into: Path | None = None, smooth: int = 1) -> Report:
    """Write the report of one or several folders of results, and return it.

    Several scenarios stand side by side first.

    Args:
        paths: Scenarios', methods' or cells' folders. Those of one scenario are taken together.
        into: Where it is written. Default: the folder, or the nearest that holds them all.
        smooth: Evaluation points that curves, and nothing else, are averaged over.

    Raises:
        UsageError: If one holds no results, two disagree, or the report cannot be written.
        CheckpointUnusable: If no cell's scenario in a folder can be read.
    """
    studies = tuple(Study(results, summarize(results)) for results in gather_all(paths))
    folder = into or Path(os.path.commonpath([path.absolute() for path in paths]))
    folder = paths[0] if into is None and len(paths) == 1 else folder
    document = build(studies, folder, smooth=smooth)
    files = {"report.md": _markdown(document).encode(), "report.html": html(document).encode()}
    files |= {
        "report.csv": numbers_csv(study.summary for study in studies).encode(),
        "report-points.csv": points_csv(study.results for study in studies).encode(),
        "report.tex": latex(document.tables).encode(),
    }
    for study in studies:
        if study.summary.done:
            drawn = paper_figure(study.results, study.summary, smooth).drawn(
                "Every task over the stream"
            )
            svg, name = svg_file(drawn, style_sheet()), _picture(study, len(studies))
            files |= {f"{name}.png": png(svg, zoom=_ZOOM), f"{name}.svg": svg.encode()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_whole(folder / name, content)
    except OSError as error:
        raise UsageError(f"the report cannot be written to {folder}: {error.strerror}") from error
    return Report(document, folder, tuple(files), studies)


def build(studies: Sequence[Study], folder: Path, *, smooth: int = 1) -> Document:
    """Return a report as data, which every form is made from; arguments as of ``report``."""
    sections, tables = [], []
    for study in studies:
        results, summary = study.results, study.summary
        picture = f"{_picture(study, len(studies))}.png"
        sections.append(study_section(results, summary, picture, folder, smooth=smooth))
        forms = (summary_table, means_table, tasks_table, costs_table)
        made = (form(summary) for form in forms)
        tables += [(summary.name, table) for table in made if table is not None]
    if len(studies) > 1:
        pairs = [(study.results, study.summary) for study in studies]
        sections.insert(0, side_by_side(pairs, smooth=smooth))
    title = ", ".join(study.results.scenario.name for study in studies)
    return Document(title, tuple(sections), tuple(tables))


def _markdown(document: Document) -> str:
    """Return a document as markdown; that of several scenarios has a heading above them."""
    if len(document.sections) == 1:
        return markdown(document.sections)
    return markdown([Section(f"Report of {document.title}", (), document.sections)])


def _picture(study: Study, studies: int) -> str:
    """Return the name of the figure of curves, without an ending."""
    return "report" if studies == 1 else f"report-{study.results.scenario.name}"
