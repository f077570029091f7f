"""Documents as markdown, for files and for terminals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from holdfast.continual.results.document import (
    Block,
    Bullets,
    Cell,
    Image,
    Matrices,
    Matrix,
    Paragraph,
    Run,
    Section,
    Table,
    Text,
)
from holdfast.continual.results.formatting import number, plain, table

_AROUND = {"strong": "**", "emphasis": "*"}


def markdown(sections: Iterable[Section], level: int = 1) -> str:
    """Return sections as markdown, without what only a page can show.

    Args:
        sections: What is shown.
        level: Of their headings.
    """
    return "\n\n".join(part for section in sections for part in _section(section, level)) + "\n"


def marked(text: Text) -> str:
    r"""Return text as markdown.

    >>> marked(("a ", Run("*b*"), Run("c", "strong")))
    'a \\*b\\***c**'
    """
    return "".join(_run(part) if isinstance(part, Run) else part for part in text)


def _section(section: Section, level: int) -> Iterator[str]:
    if section.page_only:
        return
    yield f"{'#' * level} {plain(section.title)}"
    for block in section.blocks:
        yield from filter(None, _block(block, level))
    for part in section.sections:
        yield from _section(part, level + 1)


def _block(block: Block, level: int) -> Iterator[str]:
    match block:
        case Paragraph(text, on):
            yield "" if on == "page" else marked(text)
        case Bullets(items):
            yield "\n".join(f"- {marked(item)}" for item in items)
        case Table():
            yield table(*_cells(block))
            yield block.caption
        case Image(file, shows):
            yield f"![{shows}]({file})"
        case Matrices(legend, matrices):
            yield marked(legend)
            for matrix in matrices:
                yield f"{'#' * (level + 1)} {plain(matrix.title)}"
                yield _matrix(matrix)


def _cells(made: Table) -> tuple[list[str], list[list[str]]]:
    return list(map(_cell, made.head)), [list(map(_cell, row)) for row in made.rows]


def _matrix(matrix: Matrix) -> str:
    rows = []
    for row, (words, name) in enumerate(matrix.rows):
        texts = [f"{words}{plain(name)}"]
        for column, value in enumerate(matrix.values[row]):
            text = number(value)
            if column == matrix.trained[row]:
                text = f"**{text}**"
            texts.append(f"({text})" if matrix.unseen[row, column] else text)
        rows.append(texts)
    rows += [[f"*{title}*", *map(_cell, cells)] for title, cells in matrix.foot]
    return table(["", *map(plain, matrix.columns)], rows)


def _run(run: Run) -> str:
    if run.style == "code":
        return f"`{run.text}`"  # nothing is escaped in code
    mark = _AROUND.get(run.style, "")
    return f"{mark}{plain(run.text)}{mark}"


def _cell(cell: Cell) -> str:
    if cell.style == "given":
        return plain(cell.text)
    mark = _AROUND.get(cell.style, "")
    return f"{mark}{cell.text}{mark}"
