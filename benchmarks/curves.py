"""Learning curves and outcomes on file: lines for each cell, written as soon as it is finished."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from overhead import header

from holdfast.continual.results.study import gather

Measure = Literal["return", "success"]


def curve(folder: Path, seed: int, measure: Measure = "return") -> list[float]:
    """Return the means of a cell of a scenario at each evaluation.

    Args:
        folder: The scenario's, with one method.
        seed: Of the cell.
        measure: What an episode is measured by.
    """
    cells = (cell for method in gather(folder).methods for cell in method.cells)
    (own,) = (cell for cell in cells if cell.folder.seed == seed)
    points: dict[int, list[float]] = {}
    for episode in own.folder.scores():
        value = episode[measure]
        assert value is not None, measure
        points.setdefault(episode["step"], []).append(value)
    return [float(np.mean(points[step])) for step in sorted(points)]


def on_file(path: Path) -> list[list[str]]:
    """Return the lines of such a file; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(line for line in file if not line.startswith("#")))


def write(
    path: Path,
    rows: Iterable[Sequence[str]],
    module: str,
    commands: Iterable[Sequence[str]],
    columns: str,
) -> None:
    """Write such a file.

    Args:
        path: Of the file.
        rows: Its lines: what names a cell, then its numbers.
        module: What made them, in ``benchmarks/``.
        commands: The arguments that it got, of each of its runs.
        columns: What stands in a line, in words.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        for arguments in commands:
            command, *machine = header(module, arguments=arguments)
            file.write(f"# {command}\n")
        file.writelines(f"# {line}\n" for line in machine)
        file.write(f"# {columns}\n")
        csv.writer(file, lineterminator="\n").writerows(rows)
