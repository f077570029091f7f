"""Tables of results, read back: those of reports, and the files of ``benchmarks/results``."""

from __future__ import annotations

import csv
import lzma
import re
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def lines_of(name: str) -> list[list[str]]:
    """Return the lines of a file of results, those that say what made it apart."""
    opened = lzma.open if name.endswith(".xz") else open
    with opened(RESULTS / name, "rt", newline="", encoding="utf-8") as file:
        return list(csv.reader(line for line in file if not line.startswith("#")))


def cells_of(name: str) -> list[dict[str, str]]:
    """Return the lines of a file of results by column."""
    head, *lines = lines_of(name)
    return [dict(zip(head, line, strict=True)) for line in lines]


def short(number: float, digits: int = 2) -> str:
    """Return a number as the pages write it in text: .97, -1.04."""
    return re.sub(r"^(-?)0\.", r"\1.", f"{number:.{digits}f}")


def rows(text: str, heading: str) -> dict[str, list[str]]:
    """Return the table of a report under a heading, by its first column."""
    section = text.split(f"# {heading}\n", 1)[1].split("\n#", 1)[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    return {row[0]: row[1:] for row in cells}
