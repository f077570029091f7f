"""Cells found in a folder of results: every run folder below a scenario, a method or a seed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from holdfast.continual.run_folder.record import SCENARIO, RunFolder
from holdfast.errors import CheckpointUnusable, UsageError
from holdfast.scenarios.checks.messages import did_you_mean
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.source.regular_file import check_folder, is_there


def find_cells(path: Path, *, trust_code: bool = False) -> list[RunFolder]:
    """Return the cells in a scenario's, a method's or a cell's folder; methods as listed.

    Args:
        path: The folder.
        trust_code: Whether the user trusts the code that the scenarios in it name.

    Raises:
        UsageError: If there are none.
        CheckpointUnusable: If a folder below the one that was named is a link.
    """
    for folders, pattern in enumerate(("", "seed-*", "*/seed-*")):
        found = cells_in(path, pattern, folders)
        if found:
            cells = [RunFolder(place, trust_code=trust_code) for place in found]
            return sorted(cells, key=_place)
    inside = sorted({cell.parents[1].name for cell in cells_in(path, "*/*/seed-*", 3)})
    if inside:
        raise UsageError(f"{path} holds several scenarios; name one of them: {', '.join(inside)}")
    if path.is_file():
        raise UsageError(f"{path} is a file; name a folder of results: runs/{path.stem}")
    missing = "" if path.is_dir() else ": there is no such folder"
    raise UsageError(f"no run folders in {path}{missing}; run a scenario first, or name its folder")


def cells_in(path: Path, pattern: str, folders: int) -> list[Path]:
    """Return the folders of cells that a pattern finds, none of them behind a link.

    Args:
        path: Where to look; it may be a link of the user's own.
        pattern: Of the folders, relative to it; empty for itself.
        folders: How many folders the pattern has.

    Raises:
        CheckpointUnusable: If one of them is a link.
    """
    places = sorted(path.glob(pattern)) if pattern else [path]
    found = [place for place in places if is_there(place / SCENARIO)]
    for place in found:
        check_folder(place, folders=folders)
    return found


def task_index(scenario: Scenario, task: str, where: str) -> int:
    """Return which task of a run is called so.

    Raises:
        UsageError: None is; the text begins with ``where``.
    """
    names = [entry.name for entry in scenario.tasks]
    if task not in names:
        raise UsageError(f"{where}: no task '{task}'{did_you_mean(task, names, 'there are')}")
    return names.index(task)


def _place(cell: RunFolder) -> tuple[int, str, int, str]:
    """Return what sorts cells: methods as the scenario lists them, seeds by number."""
    position = 0
    with suppress(
        CheckpointUnusable
    ):  # the reader of that cell says so; the others keep their order
        position = int(cell.info().get("position", 0))
    name = cell.path.name
    return position, cell.label, len(name), name
