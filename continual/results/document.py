"""Documents as data: typed sections that every form of a report is made from.

A document is built once; markdown, pages and LaTeX show what they can of it, and read no text back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol
from xml.etree.ElementTree import Element

from pydantic import TypeAdapter

from holdfast.continual.results.formatting import NA
from holdfast.continual.run_folder.readers import modelled, read_json
from holdfast.errors import CheckpointUnusable


@dataclass(frozen=True)
class Run:
    """A part of a text that is not plain words of ours.

    Attributes:
        text: What it says.
        heat: Its colour in a heat map, from 0 to 1; NaN where it was not measured.
        style: ``given`` comes from files, and means nothing to any markup.
    """

    text: str
    style: Literal["given", "code", "strong"] = "given"


Text = tuple[str | Run, ...]


def words(*parts: str | Run) -> Text:
    """Return text; of our own words, what stands between backticks is code.

    >>> words("Run `holdfast` for ", Run("me"))
    ('Run ', Run(text='holdfast', style='code'), ' for ', Run(text='me', style='given'))
    """
    found: list[str | Run] = []
    for part in parts:
        if isinstance(part, Run):
            found.append(part)
            continue
        for place, piece in enumerate(part.split("`")):
            if piece:
                found.append(Run(piece, "code") if place % 2 else piece)
    return tuple(found)


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it says.
        value: The number that it says, by which rows are sorted; NaN where it is n/a, None where it
            says none.
        heat: Its colour in a heat map, from 0 to 1; NaN where it was not measured.
        style: ``given`` comes from files; ``partial`` marks numbers of which some are missing.
    """

    text: str
    value: float | None = None
    style: Literal["", "given", "strong", "emphasis", "partial"] = ""
    heat: float | None = None

    @property
    def is_na(self) -> bool:
        """True where a number is not known."""
        return self.value is not None and math.isnan(self.value)


EMPTY = Cell("")


def given(text: str) -> Cell:
    """Return a name from a file."""
    return Cell(text, style="given")


def na() -> Cell:
    """Return what is not known."""
    return Cell(NA, math.nan)


@dataclass(frozen=True)
class Paragraph:
    """Text."""

    text: Text


def paragraph(*parts: str | Run) -> Paragraph:
    """Return text, as ``words`` does."""
    return Paragraph(words(*parts))


@dataclass(frozen=True)
class Callout:
    """Warning above a page: a word, and what it is about."""

    word: str
    text: str


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: tuple[Text, ...]


def definitions(found: Iterable[tuple[str, *tuple[str | Run, ...]]]) -> Bullets:
    """Return a list of terms, each in bold before what it means."""
    return Bullets(tuple(words(Run(term, "strong"), *meaning) for term, *meaning in found))


@dataclass(frozen=True)
class Table:
    """Rows of one kind.

    Attributes:
        head: Names of the columns; the first column names the row.
        rows: As many cells each.
        name: One word, which tells it from the others of a paper.
        caption: What it shows, in a sentence or two.
        foot: Rows below, of another kind.
    """

    head: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]
    name: str = ""
    caption: str = ""
    foot: tuple[tuple[Cell, ...], ...] = ()


@dataclass(frozen=True)
class HeatMaps:
    """Tables whose cells share their colours.

    Attributes:
        legend: What they show, where there are no colours.
        tables: One for each method: its place among the methods, its label, the table.
        ends: How the lowest and the highest colour are called.
    """

    legend: Text
    tables: tuple[tuple[int, str, Table], ...]
    ends: tuple[str, str]


class Drawing(Protocol):
    """Data of a chart that can be drawn."""

    def drawn(self, title: str) -> Element:
        """Return an SVG; the title is read to those who cannot see it."""


@dataclass(frozen=True)
class Figure:
    """A chart with its title.

    Attributes:
        title: What it shows.
        drawing: The chart.
        spoken: What is read to those who cannot see it; the title where it is empty.
        note: What is said beside the title.
        index: The place of the method that it shows, if it is of one.
    """

    title: str
    drawing: Drawing
    spoken: str = ""
    note: str = ""
    index: int | None = None


@dataclass(frozen=True)
class Figures:
    """Charts beside each other.

    Attributes:
        figures: The charts.
        large: Whether few of them are drawn larger.
    """

    figures: tuple[Figure, ...]
    large: bool = False


@dataclass(frozen=True)
class Legend:
    """The methods of charts, each with its place, to be told apart and followed."""

    methods: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Links:
    """A list of files that lie beside the document.

    Attributes:
        items: Of each row, what the files belong to, and the name and the path of each, which
            counts from the document.
    """

    items: tuple[tuple[str, tuple[tuple[str, Path], ...]], ...]


@dataclass(frozen=True)
class Image:
    """A picture in a file that lies beside the document, and what is said of it below.

    A page shows neither: it draws its own.
    """

    file: str
    shows: str
    told: tuple[str, ...]


Block = Paragraph | Callout | Bullets | Table | HeatMaps | Figures | Legend | Links | Image


@dataclass(frozen=True)
class Section:
    """A part of a document.

    Attributes:
        title: Its heading.
        blocks: What it says first.
        sections: Its parts, one level lower.
        page_only: Whether it speaks of charts alone.
        is_overview: Whether it is shown where a run ends.
    """

    title: str
    blocks: tuple[Block, ...]
    sections: tuple[Section, ...] = ()
    page_only: bool = False
    is_overview: bool = False


@dataclass(frozen=True)
class Document:
    """A document.

    Attributes:
        title: What it is about.
        sections: One for each scenario.
        tables: Those for papers, each with a word that goes before its name.
    """

    title: str
    sections: tuple[Section, ...]
    tables: tuple[tuple[str, Table], ...] = ()


_SAVED = TypeAdapter(tuple[tuple[str, tuple[Paragraph | Table, ...]], ...])


def saved(section: Section) -> bytes:
    """Return a section of text and tables as a file, its parts after it."""
    return _SAVED.dump_json(
        tuple(
            (part.title, tuple(one for one in part.blocks if isinstance(one, Paragraph | Table)))
            for part in (section, *section.sections)
        )
    )


def read_section(path: Path) -> Section:
    """Return a section from the file that ``saved`` made.

    Raises:
        CheckpointUnusable: If it cannot be read.
    """
    try:
        found = read_json(path, folders=0)
    except FileNotFoundError as error:
        raise CheckpointUnusable(f"{path}: there is no such file") from error
    where = f"{path} cannot be read as a section of a report"
    parts = modelled(_SAVED, found, where)
    if not parts:
        raise CheckpointUnusable(f"{where}: it is empty")
    (title, blocks), *parts = [(name, tuple(map(_told, inner))) for name, inner in parts]
    own = tuple(Section(name, inner) for name, inner in parts)
    return Section(title, blocks, own)


_MARKS = frozenset("\\|*[]<&`!#")


def _told(block: Paragraph | Table) -> Paragraph | Table:
    """Return a block whose texts mean nothing to any markup: the file may be from anywhere."""
    if isinstance(block, Paragraph):
        return Paragraph(tuple(map(_told_part, block.text)))
    rows = tuple(tuple(map(_told_cell, row)) for row in block.rows)
    foot = tuple(tuple(map(_told_cell, row)) for row in block.foot)
    caption = "" if _MARKS & {*block.caption} else block.caption
    return Table(tuple(map(_told_cell, block.head)), rows, block.name, caption, foot)


def _told_part(part: str | Run) -> str | Run:
    text = part if isinstance(part, str) else part.text
    is_ours = not _MARKS & {*text} if isinstance(part, str) or part.style == "code" else True
    return part if is_ours else Run(text)


def _told_cell(cell: Cell) -> Cell:
    return cell if cell.style == "given" or not _MARKS & {*cell.text} else given(cell.text)
