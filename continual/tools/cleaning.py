"""Cleaning of run folders: what can be made again, and what is asked for, listed before it goes.

Only files that a run, a report or a tool of Holdfast writes are ever named, by their places below a
cell or beside its methods; nothing else is looked at. A cell that a process writes is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from holdfast.continual.probes.outcomes import ADAPT, COUNTERFACTUAL, STRESS
from holdfast.continual.probes.reasons import EXPLAIN
from holdfast.continual.run_folder.cells import find_cells
from holdfast.continual.run_folder.checkpoint import FOLDER, MANIFEST, named_stages, task_folder
from holdfast.continual.run_folder.old_stages import WHOLE
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import InUse, UsageError
from holdfast.scenarios.checks.messages import did_you_mean
from holdfast.scenarios.source.regular_file import check_folder, is_there, remove

What = Literal[
    "leftovers",
    "reports",
    "videos",
    "exports",
    "probes",
    "tensorboard",
    "logs",
    "old-checkpoints",
    "cells",
]

AGAIN: tuple[What, ...] = ("leftovers", "reports", "videos", "exports")
"""What a command makes again, or nobody needs; the rest must be asked for by name."""

WHATS: tuple[What, ...] = get_args(What)

REPORTS = tuple(
    f"report{end}" for end in (".md", ".html", ".png", ".svg", ".csv", "-points.csv", ".tex")
)

PROBES = ("stress", "adapt", "counterfactual", "explain")
"""Commands; their pages and tables lie beside the cells."""

_OF_THE_DEAD = re.compile(r"\..+\.tmp-.+|task-\d+(\.at-\d+)?\.tmp-\d+")
_INSIDE = re.compile(r"task-(\d+)\.(at-\d+|parts)")


@dataclass(frozen=True)
class Going:
    """A file or folder that goes.

    Attributes:
        what: Why.
        path: Its place.
        bytes: What it holds; a file with another name elsewhere (a hard link) counts too.
    """

    what: What
    path: Path
    bytes: int


@dataclass(frozen=True)
class Cleaned:
    """What was cleaned.

    Attributes:
        gone: What went.
        left: Cells that were left alone, as another process writes them, and which does.
    """

    gone: tuple[Going, ...]
    left: tuple[InUse, ...]


def listed(path: Path, whats: Collection[What] = AGAIN) -> list[Going]:
    """Return what cleaning a scenario's, a method's or a cell's folder would remove.

    Raises:
        UsageError: There are no run folders in it.
        CheckpointUnusable: Something there is a link.
    """
    found = list(_beside(path, whats))
    for cell in find_cells(path):
        found += _of_cell(cell, whats)
    return found


def asked(words: Collection[str]) -> tuple[What, ...]:
    """Return what words of the command line name; what comes again where there are none.

    Raises:
        UsageError: One names nothing of this kind.
    """
    for word in words:
        if word not in WHATS:
            raise UsageError(f"no '{word}' is cleaned{did_you_mean(word, WHATS, 'there are')}")
    return tuple(what for what in WHATS if what in words) or AGAIN


def table(going: Sequence[Going], path: Path) -> str:
    """Return what goes as lines: why, how large, and its place; and the sum."""
    if not going:
        return f"Nothing of this kind is in {path}."
    rows = [(one.what, f"{one.bytes / 1e6:,.1f} MB", str(one.path)) for one in going]
    wide, size = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = [f"{what:<{wide}}  {mb:>{size}}  {place}" for what, mb, place in rows]
    return "\n".join([*lines, f"{sum(one.bytes for one in going) / 1e6:,.1f} MB in all"])


def clean(going: Iterable[Going], path: Path) -> Cleaned:
    """Remove what ``listed`` has named, where it is still so; each cell under its own lock.

    Args:
        going: What shall go.
        path: The folder that was listed.

    Raises:
        CheckpointUnusable: Something there is a link.
    """
    wanted, gone, left = set(going), [], []
    whats = {one.what for one in wanted}
    for cell in find_cells(path):
        own = {one.path for one in wanted if one.path.is_relative_to(cell.path)}
        if not own:
            continue
        try:
            with cell.lock():
                gone += _removed(one for one in _of_cell(cell, whats) if one.path in own)
        except InUse as error:
            left.append(error)
    gone += _removed(one for one in _beside(path, whats) if one.path in {w.path for w in wanted})
    for one in gone:
        if one.what == "cells":
            _drop_empty(one.path, path)
    return Cleaned(tuple(gone), tuple(left))


def _removed(going: Iterable[Going]) -> list[Going]:
    gone = list(going)
    for one in gone:
        remove(one.path)
    return gone


def _beside(path: Path, whats: Collection[What]) -> Iterator[Going]:
    """Yield the report of a folder, which may be of several cells."""
    if "reports" in whats:
        check_folder(path)
        yield from _there("reports", (path / name for name in REPORTS))
    if "probes" in whats:
        check_folder(path)
        pages = (path / f"{probe}{end}" for probe in PROBES for end in (".md", ".csv"))
        yield from _there("probes", pages)


def _of_cell(cell: RunFolder, whats: Collection[What]) -> Iterator[Going]:
    if "cells" in whats:
        yield Going("cells", cell.path, _size(cell.path))
        return
    for what in WHATS:
        if what in whats and what in _PARTS:
            yield from _there(what, _PARTS[what](cell))


def _there(what: What, places: Iterable[Path]) -> Iterator[Going]:
    yield from (Going(what, place, _size(place)) for place in places if is_there(place))


def _leftovers(cell: RunFolder) -> Iterator[Path]:
    """Yield what processes left that died, and the insides of tasks whose end is whole."""
    place = cell.path / FOLDER
    yield from (p for p in sorted(cell.path.iterdir()) if _OF_THE_DEAD.fullmatch(p.name))
    for entry in sorted(place.iterdir()) if place.is_dir() else ():
        inside = _INSIDE.fullmatch(entry.name)
        is_whole = inside and is_there(task_folder(place, int(inside[1])) / MANIFEST)
        if is_whole or _OF_THE_DEAD.fullmatch(entry.name):
            yield entry


def _old_checkpoints(cell: RunFolder) -> Iterator[Path]:
    """Yield the checkpoints before the newest two: with those, a policy acts and a run goes on."""
    place = cell.path / FOLDER
    yield from (task_folder(place, stage) for stage in named_stages(place)[:-WHOLE])


_PARTS: dict[What, Callable[[RunFolder], Iterable[Path]]] = {
    "leftovers": _leftovers,
    "videos": lambda cell: (cell.path / "videos",),
    "exports": lambda cell: (cell.path / "exports",),
    "probes": lambda cell: (cell.path / name for name in (STRESS, EXPLAIN, ADAPT, COUNTERFACTUAL)),
    "tensorboard": lambda cell: (cell.path / "tb",),
    "logs": lambda cell: (cell.path / name for name in ("log.txt", "log-earlier.txt")),
    "old-checkpoints": _old_checkpoints,
}


def _size(path: Path) -> int:
    inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else (path,)
    return sum(entry.lstat().st_size for entry in inside if not entry.is_dir())


def _drop_empty(cell: Path, path: Path) -> None:
    """Remove the folders of a cell's method and scenario, where nothing is left in them."""
    for folder in list(cell.parents)[:2]:
        if folder.is_relative_to(path) and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
