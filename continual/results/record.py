"""The run folder of one cell: what runs, every score, how it ended.

``runs/README.md`` states the contract. ``scores.jsonl`` is the one record of results. It only
grows, by whole evaluation points; a line counts once its newline is on disk. Everything else in the
folder that matters is written beside its place and renamed.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import accumulate
from mmap import ACCESS_READ, mmap
from operator import itemgetter
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from holdfast.continual.results.lock import leave_word, locked
from holdfast.continual.results.readers import (
    LARGEST,
    MOST_TEXT,
    RunInfo,
    beyond_bounds,
    json_object,
    modelled,
    read_file,
)
from holdfast.errors import (
    CheckpointUnusable,
    FolderUnwritable,
    HoldfastError,
    InUse,
    ScenarioError,
    UsageError,
)
from holdfast.scenarios.checks.messages import did_you_mean
from holdfast.scenarios.load import load_resolved
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.source.regular_file import (
    check_folder,
    check_inside,
    is_there,
    made_folder,
    opened,
    remove,
)

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

    Args:
        path: The folder.
        given: The scenario of the cell, where the user gave it: it is what runs, and its code may
            be imported, whatever the folder holds. It travels with the folder between processes.
        trust_code: Whether the user trusts the code that the folder's own scenario names.

    Attributes:
        path: The folder.
        given: As given.
        trust_code: As given.
    """

    def __init__(
        self, path: Path, *, given: Scenario | None = None, trust_code: bool = False
    ) -> None:
        self.path, self.given = path, given
        self.trust_code = trust_code or (given is not None and given.trusts_code)

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
        made_folder(path)
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
        folder = cls(path, given=scenario)
        with suppress(InUse), folder.lock():
            if not is_there(path / SCENARIO):
                folder.update(**started, **info)
                # Last: a folder is a run folder once it has its scenario.
                write_whole(path / SCENARIO, scenario.to_yaml().encode())
        return folder

    @cached_property
    def scenario(self) -> Scenario:
        """The scenario that this cell runs, with just its own method and seed.

        Read from the folder, it has no ``folder`` from which code is imported; see
        ``policies/trust.py``.

        Raises:
            CheckpointUnusable: If ``scenario.yaml`` cannot be read.
        """
        return self.given or self.read_scenario()

    def read_scenario(self) -> Scenario:
        """Return the scenario in ``scenario.yaml``; raises as ``scenario`` does."""
        path = self.path / SCENARIO
        try:
            found = load_resolved(path, content=read_file(path), place=self._place())
            found._trusts_code = self.trust_code
            if fault := _beyond_a_run(found):
                raise CheckpointUnusable(f"{path}: {fault}")
        except FileNotFoundError as error:
            raise CheckpointUnusable(f"{path}: there is no such file") from error
        except ScenarioError as error:
            raise CheckpointUnusable(
                f"{path}: cannot be read as a scenario of this version:\n{error}"
            ) from error
        except HoldfastError:
            raise
        except Exception as error:  # of values that no check foresaw: the file is from anywhere
            raise CheckpointUnusable(
                f"{path}: cannot be read as a scenario: {type(error).__name__}: {str(error)[:200]}"
            ) from error
        return found

    def _place(self) -> Path | None:
        """Return where paths of other runs count from, as ``run.json`` says."""
        stated = self.info().get("folder")
        return Path(stated) if stated else None

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
            CheckpointUnusable: If the file is there and is not what a run writes.
        """
        path = self.path / RUN
        try:
            found = json_object(path)
        except FileNotFoundError:
            return {}
        modelled(RunInfo, found, path)
        return found

    def update(self, **changes: Any) -> None:
        """Change entries of ``run.json`` and keep the others; the file is replaced whole."""
        known = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in {**self.info(), **changes}.items()
        }
        text = json.dumps(known, indent=2, ensure_ascii=False, allow_nan=False)
        write_whole(self.path / RUN, f"{text}\n".encode())

    @contextmanager
    def lock(self, patience_s: float = 0.0) -> Iterator[str]:
        """Hold the folder inside a ``with`` block; another process gets InUse meanwhile.

        Yields:
            Why the process before ended, where it could not write that into ``run.json``.

        Raises:
            CheckpointUnusable: If it holds links, or anything else that no run leaves.
        """
        with locked(self.path / LOCK, patience_s) as left:
            check_inside(self.path)
            for leftover in self.path.glob(".*.tmp-*"):  # of a process killed while it wrote
                remove(leftover)
            yield left

    def note(self, status: str, reason: str | None = None, **more: Any) -> None:
        """Write how the cell is doing, whose lock this process holds.

        Where ``run.json`` cannot be written, the lock file tells the next run.

        Raises:
            OSError: If it cannot be written.
        """
        try:
            self.update(status=status, reason=reason, **more)
        except OSError as error:
            why = FolderUnwritable.of(error) or error
            leave_word(self.path / LOCK, reason or f"{RUN} could not be set to {status}: {why}")
            raise

    def append(self, scores: Iterable[Episode]) -> None:
        """Add one evaluation point to ``scores.jsonl`` and return once it is on disk.

        A half-written last line, left by a crash, is dropped first.

        Raises:
            OSError: If it cannot be written (a full disk); the file is then as it was before.
            ValueError: If a return is NaN or infinite.
        """
        lines = [json.dumps(score, ensure_ascii=False, allow_nan=False) + "\n" for score in scores]
        path, size = self.path / SCORES, self.size()
        is_new = not is_there(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        with os.fdopen(opened(path, flags), "ab", buffering=0) as file:
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
        try:
            lines = read_file(path).split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        try:  # all lines at once: six times as fast as one by one
            found: list[Episode] = json.loads(b"[%s]" % b",".join(lines), parse_constant=_refuse)
        except (ValueError, RecursionError):
            found = []
        if len(found) != len(lines) or any(map(_fault, found)) or _is_beyond(found):
            faults = enumerate(map(_fault_of_line, lines), start=1)
            number, fault = next(one for one in faults if one[1])
            raise CheckpointUnusable(
                f"{path}:{number}: {fault}; the scores are damaged: start the cell again with "
                "--overwrite"
            )
        if misfit := _misfit(found, self.scenario):
            raise CheckpointUnusable(
                f"{self.path}: scores.jsonl and scenario.yaml do not fit together ({misfit}); "
                "start the cell again with --overwrite"
            )
        return found

    def size(self) -> int:
        """Return the bytes of ``scores.jsonl`` up to its last whole line; checkpoints keep it."""
        try:
            descriptor = opened(self.path / SCORES)
        except FileNotFoundError:
            return 0
        with os.fdopen(descriptor, "rb"):
            if not os.fstat(descriptor).st_size:  # nothing can be mapped
                return 0
            with mmap(descriptor, 0, access=ACCESS_READ) as content:
                return content.rfind(b"\n") + 1

    def truncate(self, size: int) -> None:
        """Cut ``scores.jsonl`` back to a ``size`` it once had: what came after is measured again.

        Raises:
            CheckpointUnusable: If the file is shorter, or that is not the end of a line.
        """
        path = self.path / SCORES
        with os.fdopen(opened(path, os.O_RDWR | os.O_CREAT), "r+b") as file:
            whole = self.size()
            file.seek(max(0, min(size, whole) - 1))
            if size > whole or (size and file.read(1) != b"\n"):
                raise CheckpointUnusable(
                    f"{path}: has {whole} bytes of whole lines, but had {size} when the "
                    "checkpoint was written; start the cell again with --overwrite"
                )
            file.truncate(size)
            os.fsync(file.fileno())

    def stages_ended(self) -> int:
        """Return how many stages are known to have ended with a checkpoint.

        ``run.json`` counts them. A folder of an older version is known by its status, or by scores
        of later steps than the end of a stage.

        Raises:
            CheckpointUnusable: If a file that tells cannot be read.
        """
        info = self.info()
        total = len(self.scenario.stream_tasks)
        if info.get("stages", 0) > total:
            raise CheckpointUnusable(f"{self.path / RUN}: the stream has {total} stages only")
        if info.get("status") == "finished":
            return total
        if "stages" in info:
            return int(info["stages"])
        ends = list(accumulate(self.scenario.stage_steps))
        last = max((score["step"] for score in self.scores()), default=0)
        return sum(end < last for end in ends)


def _beyond_a_run(scenario: Scenario) -> str:
    """Return what no run could have done of a scenario; empty where all is possible.

    It is asked before anything is counted out.
    """
    tasks, stream = scenario.tasks, scenario.stream
    steps = {task.name: task.steps for task in tasks}
    order = (
        [steps[name] for name in stream.order]
        if isinstance(stream.order, tuple)
        else [*steps.values()]
    )
    rounds = stream.repeat if stream.steps is None else -(-stream.steps // sum(order))
    if rounds * len(order) > MOST_STAGES:
        return f"its stream has more than {MOST_STAGES:,} stages"
    if (scenario.stream.steps or rounds * sum(order)) >= LARGEST or scenario.n_envs > MOST_ENVS:
        return "it has more steps or environments than any run"
    return ""


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
    missing = "" if path.is_dir() else f": there is no folder '{path}'"
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


def write_whole(path: Path, content: bytes) -> None:
    """Replace the file by ``content``, so that a crash leaves the old file or the new one.

    Raises:
        OSError: If it cannot be written; the old file is still there.
    """
    beside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    remove(beside)  # a leftover, or a link that waits for us
    try:
        write_synced(beside, content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync(path.parent)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file that is not there yet, and return once it is on disk.

    Raises:
        OSError: If it cannot be written; its ``filename`` is set.
    """
    try:
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def csv_table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table as CSV; texts are what a spreadsheet takes for texts."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([csv_cell(value) for value in row] for row in (head, *rows))
    return text.getvalue()


def csv_cell(value: Any) -> Any:
    """Return a value as a cell of CSV, with a quote before a text that would be a formula.

    >>> csv_cell("=1+1"), csv_cell("-0.5000"), csv_cell(-0.5), csv_cell("ewc")
    ("'=1+1", '-0.5000', -0.5, 'ewc')
    """
    if not isinstance(value, str) or value[:1] not in ("=", "+", "-", "@", "\t", "\r", "\n"):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def sync(folder: Path) -> None:
    """Put a rename or a new file in a folder on disk: its name is data of the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_INTEGERS = itemgetter("stage", "step", "episode", "length")
_NUMBERS = (int, float)
LARGEST_RETURN = 1e100
"""Of an episode: sums and squares of such numbers are numbers still."""
MOST_STAGES, MOST_ENVS = 1_000_000, 100_000
"""Of a scenario in a run folder."""


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
        and (len(found) == len(Episode.__required_keys__) or _is_more(found))
    ):
        return ""
    return "a value is of another type than an episode's"


def _is_more(found: dict[str, Any]) -> bool:
    """Return whether what an episode has beside the required is of the right types."""
    agents = found.get("agents", {})
    return (
        type(agents) is dict
        and all(type(value) in _NUMBERS for value in agents.values())
        and all(type(found.get(name, "")) is str for name in ("opponent", "seat"))
        and not beyond_bounds(found)
    )


def _is_beyond(found: Sequence[Any]) -> bool:
    """Return whether a number of any episode is beyond the bounds."""
    for name in ("stage", "step", "episode", "length"):
        values = [*map(itemgetter(name), found)]
        if min(values, default=0) < 0 or max(values, default=0) >= LARGEST:
            return True
    returns = [*map(itemgetter("return"), found)]
    returns += [value for value in map(itemgetter("success"), found) if value is not None]
    return (
        max(map(abs, returns), default=0) > LARGEST_RETURN
        or max(map(len, map(itemgetter("task"), found)), default=0) > MOST_TEXT
    )


def _misfit(found: Sequence[Episode], scenario: Scenario) -> str:
    """Return what of a record cannot be of a scenario; empty where all can."""
    names = [task.name for task in scenario.tasks]
    if strange := {*map(itemgetter("task"), found)}.difference(names):
        return f"no task {min(strange)[:100]!r}"
    points = sorted({*map(itemgetter("stage", "step"), found)})
    last = 0
    for stage, step in points:
        if stage > len(scenario.stream_tasks) or not last <= step <= scenario.total_steps:
            return f"no evaluation at stage {stage}, step {step}"
        last = step
    return ""


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _fault_of_line(line: bytes) -> str:
    try:
        found = json.loads(line, parse_constant=_refuse)
    except ValueError as error:
        return f"not JSON ({str(error)[:200]})"
    except RecursionError:
        return "nested too deeply"
    return _fault(found) or ("a number is too large, or below 0" if _is_beyond([found]) else "")


def _place(cell: RunFolder) -> tuple[int, str, int, str]:
    """Return what sorts cells: methods as the scenario lists them, seeds by number."""
    position = 0
    with suppress(
        CheckpointUnusable
    ):  # the reader of that cell says so; the others keep their order
        position = int(cell.info().get("position", 0))
    name = cell.path.name
    return position, cell.label, len(name), name
