"""The record of a probe, in the folder of the cell that it looked at: a plan, then its results.

Line 1 is the plan, each further line one result, appended once it is measured. What is on file is
not measured again; results of another plan are never mixed in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.run_folder.cells import find_cells
from holdfast.continual.run_folder.files import write_whole
from holdfast.continual.run_folder.readers import modelled, plain, read_file
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import CheckpointUnusable, FolderUnwritable, UsageError
from holdfast.scenarios.source.regular_file import is_there, opened

P = TypeVar("P", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)

Tell = Callable[[int, int], None]
"""Takes how many of how many are done."""


class Record(Generic[P, R]):
    """Record of one probe of one cell.

    Args:
        path: The file; ``readers.MOST_BYTES`` knows its name.
        plan: Model of its first line.
        result: Model of the others.
        folders: How many folders above the file must be no links.
    """

    def __init__(self, path: Path, plan: type[P], result: type[R], *, folders: int = 1) -> None:
        self.path, self._plan, self._result = path, plan, result
        self._folders = folders

    def read(self) -> tuple[P | None, list[R]]:
        """Return the plan and the results; None where nothing is on file.

        A half-written last line, left by a crash, is ignored.

        Raises:
            CheckpointUnusable: If a line is none of a record; the text names file and line.
        """
        try:
            lines = read_file(self.path, folders=self._folders).split(b"\n")[:-1]
        except FileNotFoundError:
            return None, []
        if not lines:
            return None, []
        where = [f"{self.path}:{number}" for number in range(1, len(lines) + 1)]
        plan: P = modelled(self._plan, plain(lines[0], where[0]), where[0])
        rest = zip(lines[1:], where[1:], strict=True)
        return plan, [modelled(self._result, plain(line, at), at) for line, at in rest]

    def begin(self, plan: P, *, overwrite: bool = False) -> list[R]:
        """Return what is on file of a plan; the file is begun where there is none.

        Args:
            plan: What is to be measured.
            overwrite: Delete the results of another plan.

        Raises:
            UsageError: If results of another plan are there.
        """
        known, results = self.read()
        if known == plan and not overwrite:
            self._cut()
            return results
        if known is not None and not overwrite:
            raise UsageError(
                f"{self.path} was measured by another plan ({difference(known, plan)}); measure "
                "by that plan again, or delete those results with --overwrite"
            )
        try:
            write_whole(self.path, plan.model_dump_json().encode() + b"\n")
        except OSError as error:
            raise FolderUnwritable.of(error, self.path) or error from error
        return []

    def append(self, result: R) -> None:
        """Add one result; it is on disk when this returns."""
        line = result.model_dump_json().encode() + b"\n"
        try:
            with os.fdopen(opened(self.path, os.O_WRONLY | os.O_APPEND), "ab", 0) as file:
                file.write(line)
                os.fsync(file.fileno())
        except OSError as error:
            raise FolderUnwritable.of(error, self.path) or error from error

    def _cut(self) -> None:
        """Cut a half-written last line."""
        whole = read_file(self.path, folders=self._folders).rfind(b"\n") + 1
        with os.fdopen(opened(self.path, os.O_RDWR), "r+b") as file:
            file.truncate(whole)

    def shown(self, task_names: Sequence[str]) -> tuple[P, list[R]] | None:
        """Return plan and results for a report, None where there are none.

        Raises:
            CheckpointUnusable: As ``read``, and where a result is of no task of the cell.
        """
        if not is_there(self.path):
            return None
        plan, results = self.read()
        for result in results:
            task: Any = getattr(result, "task", None)
            if task is not None and task not in task_names:
                raise CheckpointUnusable(f"{self.path}: no task {task[:100]!r}")
        return None if plan is None else (plan, results)


def plans_in(place: Path, name: str, plan: type[P], result: type[R]) -> list[tuple[P, Path]]:
    """Return the plans of all records of a kind, each with the folder that it lies in.

    Args:
        place: The folder that holds theirs.
        name: Of the records.
        plan: Model of their first lines.
        result: Model of the others.

    Raises:
        CheckpointUnusable: If a record cannot be read.
    """
    paths = sorted(place.glob(f"*/{name}"))
    read = [(Record(path, plan, result, folders=3).read()[0], path.parent) for path in paths]
    return [(found, folder) for found, folder in read if found is not None]


def probed_cells(path: Path, command: str, *, trust_code: bool = False) -> list[RunFolder]:
    """Return the cells in a folder that a probe can look at.

    Args:
        path: A scenario's, a method's or a cell's folder.
        command: Name of the probe, for the text of an error.
        trust_code: As of ``open_run``.

    Raises:
        UsageError: If there are none, or they are of teams, of supervised models, or of robots.
    """
    cells = find_cells(path, trust_code=trust_code)
    for cell in cells:
        kind = kind_of(cell.scenario)
        if kind.unprobed:
            raise UsageError(f"{cell.path}: `holdfast {command}` {kind.unprobed}")
        if real := [t.name for t in cell.scenario.tasks if t.exclusive or t.rate is not None]:
            raise UsageError(
                f"{cell.path}: `holdfast {command}` does not try things on a real machine; task "
                f"'{real[0]}' has exclusive: or rate:"
            )
    return cells


def difference(one: BaseModel, other: BaseModel) -> str:
    """Return in which keys two plans differ, in words."""
    ours, theirs = one.model_dump(), other.model_dump()
    found = [f"{key} {ours[key]}, now {theirs[key]}" for key in ours if ours[key] != theirs[key]]
    return "; ".join(found)
