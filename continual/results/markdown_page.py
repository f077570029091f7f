"""Documents as markdown, for files and for terminals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

from holdfast.continual.results import document as doc
from holdfast.continual.results.formatting import plain, table

_AROUND = {"strong": "**", "emphasis": "*"}


def markdown(sections: Iterable[doc.Section], level: int = 1) -> str:
    """Return sections as markdown, without what only a page can show.

    Args:
        sections: What is shown.
        level: Of their headings.
    """
    return "\n\n".join(part for section in sections for part in _section(section, level)) + "\n"


def marked(text: doc.Text) -> str:
    r"""Return text as markdown.

    >>> marked(("a ", doc.Run("*b*"), doc.Run("c", "strong")))
    'a \\*b\\***c**'
    """
    return "".join(_run(part) if isinstance(part, doc.Run) else part for part in text)


def _section(section: doc.Section, level: int) -> Iterator[str]:
    if section.page_only:
        return
    yield f"{'#' * level} {plain(section.title)}"
    for block in section.blocks:
        yield from filter(None, _block(block, level))
    for part in section.sections:
        yield from _section(part, level + 1)


def _block(block: doc.Block, level: int) -> Iterator[str]:
    match block:
        case doc.Paragraph(text):
            yield marked(text)
        case doc.Bullets(items):
            yield "\n".join(f"- {marked(item)}" for item in items)
        case doc.Links(rows):
            yield "\n".join(f"- {plain(of)}: {_links(files)}" for of, files in rows)
        case doc.Table():
            yield _table(block)
            yield block.caption
        case doc.Image(file, shows, told):
            yield from (f"![{shows}]({file})", *told)
        case doc.HeatMaps(legend, tables):
            yield marked(legend)
            for _, title, made in tables:
                yield f"{'#' * (level + 1)} {plain(title)}"
                yield _table(made)


def _links(files: Iterable[tuple[str, Path]]) -> str:
    return ", ".join(f"[{plain(name)}]({quote(str(path))})" for name, path in files)


def _table(made: doc.Table) -> str:
    head, *rows = ([_cell(cell) for cell in row] for row in (made.head, *made.rows, *made.foot))
    return table(head, rows)


def _run(run: doc.Run) -> str:
    if run.style == "code":
        return f"`{run.text}`"  # nothing is escaped in code
    mark = _AROUND.get(run.style, "")
    return f"{mark}{plain(run.text)}{mark}"


def _cell(cell: doc.Cell) -> str:
    if cell.style == "given":
        return plain(cell.text)
    mark = _AROUND.get(cell.style, "")
    return f"{mark}{cell.text}{mark}"
