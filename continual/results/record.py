"""The run folder of one cell: what runs, every score, how it ended.

``runs/README.md`` states the contract. ``scores.jsonl`` is the one record of results. It only
grows, by whole evaluation points; a line counts once its newline is on disk. Everything else in the
folder that matters is written beside its place and renamed.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from mmap import ACCESS_READ, mmap
from operator import itemgetter
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from holdfast.continual.results.lock import locked
from holdfast.errors import CheckpointUnusable, InUse, ScenarioError, UsageError
from holdfast.scenarios.checks.messages import did_you_mean
from holdfast.scenarios.load import load_resolved
from holdfast.scenarios.schema.scenario import Scenario

Episode = TypedDict(
    "Episode",
    {
        "stage": int,
        "step": int,
        "task": str,
        "episode": int,
        "return": float,
        "length": int,
        "success": float | None,
        "unseen": bool,
        "agents": NotRequired[dict[str, float]],
        "opponent": NotRequired[str],
        "seat": NotRequired[str],
        "cut": NotRequired[bool],
    },
)
Episode.__doc__ = """One line of ``scores.jsonl``: one evaluation episode.

``stage`` counts the stages of the stream that were finished, ``step`` the environment steps taken
over the stream; (0, 0) is before any learning. ``unseen`` marks a task without a head or column of
its own yet. ``agents`` holds the return of each agent of a team, whose ``return`` is their mean.
In a game, ``success`` is 1 for a win, 0.5 for a draw and 0 for a loss, and ``opponent`` and
``seat`` say against whom and in which seat the learner played. ``cut`` marks an episode that did
not end by itself and was cut after ``evaluation.most_steps``; where it ended, the key is not there.
"""

SCENARIO, RUN, SCORES, LOCK = "scenario.yaml", "run.json", "scores.jsonl", "lock"
CROSS_PLAY, CROSS_PLAY_PAGE = "cross-play.json", "cross-play.md"
"""Of the folder of a cell, a method or a scenario, whose report then has it as a section."""


_INFORMATION = {"task_id", "boundaries", "task_count"}


class RunFolder:
    """The folder ``runs/<scenario>/<method label>/seed-<k>`` of one cell.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @classmethod
    def create(cls, path: Path, scenario: Scenario, **info: Any) -> RunFolder:
        """Write the folder of a cell that has not started yet, and return it.

        Another process that does the same at the same time is left to it.

        Args:
            path: The folder; it has no ``scenario.yaml`` yet.
            scenario: The scenario with just this cell's method and seed.
            **info: More entries of ``run.json``.
        """
        path.mkdir(parents=True, exist_ok=True)
        started = {
            "status": "pending",
            "reason": None,
            "scenario": scenario.name,
            "method": scenario.methods[0].label,
            "seed": scenario.seeds[0],
            "information": scenario.stream.model_dump(include=_INFORMATION),
            "source": str(scenario.source.resolve()) if scenario.source else None,
            "folder": str(scenario.folder.resolve()) if scenario.folder else None,
        }
        folder = cls(path)
        with suppress(InUse), folder.lock():
            if not (path / SCENARIO).exists():
                folder.update(**started, **info)
                # Last: a folder is a run folder once it has its scenario.
                write_whole(path / SCENARIO, scenario.to_yaml().encode())
        return folder

    @cached_property
    def scenario(self) -> Scenario:
        """The scenario that this cell runs, with just its own method and seed.

        Its ``folder`` is that of the file it was first read from, where ``module:Name`` is found.

        Raises:
            CheckpointUnusable: If ``scenario.yaml`` cannot be read.
        """
        path = self.path / SCENARIO
        try:
            return load_resolved(path, folder=self.info().get("folder"))
        except ScenarioError as error:
            raise CheckpointUnusable(
                f"{path}: cannot be read as a scenario of this version:\n{error}"
            ) from error

    @property
    def label(self) -> str:
        """The method's label, which names the folder above."""
        return self.path.absolute().parent.name

    def policy_name(self, stage: int) -> str:
        """Return the name of its policy at the end of a stage, where policies meet each other."""
        return f"{self.label}-{self.path.name}-{stage}"

    @property
    def seed(self) -> int:
        """The cell's seed."""
        return self.scenario.seeds[0]

    def info(self) -> dict[str, Any]:
        """Return what ``run.json`` holds: status, reason, versions, times, costs.

        Raises:
            CheckpointUnusable: If the file is there and is not a JSON object.
        """
        path = self.path / RUN
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise CheckpointUnusable(
                f"{path}: not JSON ({error}); start the cell again with --overwrite"
            ) from error
        if not isinstance(found, dict):
            raise CheckpointUnusable(f"{path}: holds {type(found).__name__}, not a JSON object")
        return found

    def update(self, **changes: Any) -> None:
        """Change entries of ``run.json`` and keep the others; the file is replaced whole."""
        text = json.dumps({**self.info(), **changes}, indent=2, ensure_ascii=False)
        write_whole(self.path / RUN, f"{text}\n".encode())

    @contextmanager
    def lock(self, patience_s: float = 0.0) -> Iterator[None]:
        """Hold the folder inside a ``with`` block; another process gets InUse meanwhile."""
        with locked(self.path / LOCK, patience_s):
            for leftover in self.path.glob(".*.tmp-*"):  # of a process killed while it wrote
                leftover.unlink()
            yield

    def append(self, scores: Iterable[Episode]) -> None:
        """Add one evaluation point to ``scores.jsonl`` and return once it is on disk.

        A half-written last line, left by a crash, is dropped first.

        Raises:
            OSError: If it cannot be written (a full disk); the file is then as it was before.
            ValueError: If a return is NaN or infinite.
        """
        lines = [json.dumps(score, ensure_ascii=False, allow_nan=False) + "\n" for score in scores]
        path, size = self.path / SCORES, self.size()
        is_new = not path.exists()
        with path.open("ab", buffering=0) as file:
            try:
                file.truncate(size)
                rest = memoryview("".join(lines).encode())
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
        if is_new:
            sync(self.path)

    def scores(self) -> list[Episode]:
        """Return every evaluation episode as written; a half-written last line is ignored.

        Raises:
            CheckpointUnusable: If a whole line is not a score; the text names file and line.
        """
        path = self.path / SCORES
        content = path.read_bytes() if path.exists() else b""
        lines = content.split(b"\n")[:-1]
        try:  # all lines at once: six times as fast as one by one
            found: list[Episode] = json.loads(b"[%s]" % b",".join(lines), parse_constant=_refuse)
        except ValueError:
            found = []
        if len(found) == len(lines) and not any(map(_fault, found)):
            return found
        faults = enumerate(map(_fault_of_line, lines), start=1)
        number, fault = next(one for one in faults if one[1])
        raise CheckpointUnusable(
            f"{path}:{number}: {fault}; the scores are damaged: start the cell again with "
            "--overwrite"
        )

    def size(self) -> int:
        """Return the bytes of ``scores.jsonl`` up to its last whole line; checkpoints keep it."""
        path = self.path / SCORES
        if not path.exists() or not path.stat().st_size:  # nothing can be mapped
            return 0
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            return content.rfind(b"\n") + 1

    def truncate(self, size: int) -> None:
        """Cut ``scores.jsonl`` back to a ``size`` it once had: what came after is measured again.

        Raises:
            CheckpointUnusable: If the file is shorter, or that is not the end of a line.
        """
        path = self.path / SCORES
        path.touch()
        with path.open("r+b") as file:
            file.seek(max(0, size - 1))
            if size > self.size() or (size and file.read(1) != b"\n"):
                raise CheckpointUnusable(
                    f"{path}: has {self.size()} bytes of whole lines, but had {size} when the "
                    "checkpoint was written; start the cell again with --overwrite"
                )
            file.truncate(size)
            os.fsync(file.fileno())


def find_cells(path: Path) -> list[RunFolder]:
    """Return the cells in a scenario's, a method's or a cell's folder; methods as listed.

    Raises:
        UsageError: If there are none.
    """
    for pattern in (SCENARIO, f"seed-*/{SCENARIO}", f"*/seed-*/{SCENARIO}"):
        found = [RunFolder(file.parent) for file in path.glob(pattern)]
        if found:
            return sorted(found, key=_place)
    inside = sorted({file.parents[2].name for file in path.glob(f"*/*/seed-*/{SCENARIO}")})
    if inside:
        raise UsageError(f"{path} holds several scenarios; name one of them: {', '.join(inside)}")
    missing = "" if path.is_dir() else f": there is no folder '{path}'"
    raise UsageError(f"no run folders in {path}{missing}; run a scenario first, or name its folder")


def task_index(scenario: Scenario, task: str, where: str) -> int:
    """Return which task of a run is called so.

    Raises:
        UsageError: None is; the text begins with ``where``.
    """
    names = [entry.name for entry in scenario.tasks]
    if task not in names:
        raise UsageError(f"{where}: no task '{task}'{did_you_mean(task, names, 'there are')}")
    return names.index(task)


def write_whole(path: Path, content: bytes) -> None:
    """Replace the file by ``content``, so that a crash leaves the old file or the new one.

    Raises:
        OSError: If it cannot be written; the old file is still there.
    """
    beside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        write_synced(beside, content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync(path.parent)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file, and return once it is on disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def csv_table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()


def sync(folder: Path) -> None:
    """Put a rename or a new file in a folder on disk: its name is data of the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_INTEGERS = itemgetter("stage", "step", "episode", "length")
_NUMBERS = (int, float)


def _fault(found: Any) -> str:
    """Return the fault of a line of the record, empty for an episode."""
    if not isinstance(found, dict):
        return f"holds {type(found).__name__}, not a JSON object"
    if lacking := Episode.__required_keys__ - found.keys():
        return f"lacks {', '.join(sorted(lacking))}"
    success = found["success"]
    if (
        {*map(type, _INTEGERS(found))} == {int}
        and type(found["task"]) is str
        and type(found["return"]) in _NUMBERS
        and (success is None or type(success) in _NUMBERS)
        and type(found["unseen"]) is bool
    ):
        return ""
    return "a value is of another type than an episode's"


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _fault_of_line(line: bytes) -> str:
    try:
        return _fault(json.loads(line, parse_constant=_refuse))
    except ValueError as error:
        return f"not JSON ({error})"


def _place(cell: RunFolder) -> tuple[int, str, int, str]:
    """Return what sorts cells: methods as the scenario lists them, seeds by number."""
    position = 0
    with suppress(
        CheckpointUnusable
    ):  # the reader of that cell says so; the others keep their order
        position = int(cell.info().get("position", 0))
    name = cell.path.name
    return position, cell.label, len(name), name
