"""A death at every file operation of a run, of a report and of an export; then all goes on.

A process dies before an operation (a file opened for writing, a folder made, a rename, a removal),
or at the moment that a file is put on disk: before it with half of the file lost, as when the power
fails, or right after. What is started again must end as if nothing had died.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import math
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from soak import cells
from soak.lanes import Case

DIED = 86
"""Exit status of a process that died as it was told."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_EVENTS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")
_HEAVY = ("jobs.run", "jobs.attempt", "training.cell", "training.preflight")
_VIEWS = ("/tb/", "/log.txt", "/log-earlier.txt", "/lock")
"""Written by others than us, in many small steps, or never read: no kind of save."""

KINDS = ("ppo", "sac", "team", "report", "export")


class Reaper:
    """Counts operations on files below a folder, and dies at the one that was chosen.

    Args:
        below: The folder.
        at: Number of the operation, from 1; 0 counts only.
    """

    def __init__(self, below: Path, at: int = 0) -> None:
        self.below, self.at, self.count = f"{os.path.realpath(below)}/", at, 0
        self._on_disk: dict[str, int] = {}  # bytes of a file that no failure takes away
        self._fsync = os.fsync
        sys.addaudithook(self._audit)
        vars(os)["fsync"] = self._synced

    def _audit(self, event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = given
            if isinstance(flags, int) and flags & _WRITING and self._is_saved(path):
                with contextlib.suppress(OSError):
                    self._on_disk[os.path.abspath(path)] = os.stat(path).st_size  # noqa: PTH100, PTH116
                self._meet()
        elif event in _EVENTS and self._is_saved(given[0]):
            self._meet()

    def _is_saved(self, path: Any) -> bool:
        if isinstance(path, int):
            return False  # a descriptor: its opening was met
        name = os.path.abspath(os.fsdecode(path))  # noqa: PTH100  # follows no link
        return name.startswith(self.below) and not any(view in name for view in _VIEWS)

    def _synced(self, file: Any) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if self._is_saved(path):
            self._meet(descriptor, self._on_disk.get(path, 0))
            self._on_disk[path] = os.fstat(descriptor).st_size
            self._meet()
        return self._fsync(file)

    def _meet(self, descriptor: int | None = None, on_disk: int = 0) -> None:
        self.count += 1
        if self.count != self.at:
            return
        if descriptor is not None:
            with contextlib.suppress(OSError):  # a folder has no size to cut
                size = os.fstat(descriptor).st_size
                os.truncate(descriptor, min(size, (on_disk + size) // 2))
        os._exit(DIED)


# -- what is saved ---------------------------------------------------------------------------------


def _run(folder: Path, scenario: Path) -> None:
    import holdfast

    holdfast.run(holdfast.load(scenario), runs=folder / "runs", retries=0)


def _report(folder: Path, scenario: Path) -> None:
    from holdfast.continual.reports.report import report

    report(folder / "runs" / scenario.stem)


def _export(folder: Path, _scenario: Path) -> None:
    from holdfast.continual.tools.export import export

    list(export(cells.cell_of(folder / "runs"), "onnx", trust_code=True))


ACTS: dict[str, Callable[[Path, Path], None]] = {"report": _report, "export": _export}


def _files(folder: Path, kind: str) -> dict[str, str]:
    """Return what must be equal at the end."""
    if kind not in ACTS:
        return cells.result(cells.cell_of(folder / "runs"))
    made = [p for p in sorted((folder / "runs").rglob("*")) if p.is_file()]
    kept = [p for p in made if not any(view in str(p) for view in (*_VIEWS, "run.json"))]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in kept}


# -- the cases -------------------------------------------------------------------------------------


class Kind:
    """One kind of save, with what it leaves where nothing dies.

    Args:
        kind: Of ``KINDS``.
        folder: An empty folder.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.act = ACTS.get(kind, _run)
        self.scenario = cells.write(kind if kind in cells.CELLS else "ppo", folder)
        self.before = folder / "before"
        self.before.mkdir()
        if kind in ACTS:
            self._forked(_run, self.before)
        straight = self._copy("straight")
        counted = folder / "count.txt"
        self._forked(self.act, straight, count=counted)
        self.operations = int(counted.read_text("utf-8"))
        self.expected = _files(straight, kind)

    def _copy(self, name: str) -> Path:
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.before, target)
        return target

    def _forked(
        self, act: Callable[..., None], where: Path, at: int = 0, count: Path | None = None
    ) -> int:
        """Do it in a forked process, which may die at an operation; return its exit status."""
        log = self.folder / "log.txt"
        if child := os.fork():
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if status not in (0, DIED):
                raise RuntimeError(log.read_text("utf-8")[-3000:])
            return status
        try:  # in the child, which must not return
            with log.open("w", encoding="utf-8") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            reaper = Reaper(where, at)
            act(where, self.scenario)
            if count is not None:
                count.write_text(str(reaper.count), "utf-8")
            os._exit(0)
        except BaseException:
            log.write_text(traceback.format_exc(), "utf-8")
            os._exit(1)

    def die(self, at: int) -> tuple[str, str]:
        """Die at an operation, go on, and compare."""
        folder = self._copy("killed")
        if self._forked(self.act, folder, at) != DIED:
            return "outlived", f"{self.kind}: there was no operation {at}"
        where = cells.position(cell) if (cell := _cell(folder)) else (0, 0)
        self._forked(self.act, folder)
        found = _files(folder, self.kind)
        names = found.keys() | self.expected.keys()
        wrong = [name for name in sorted(names) if found.get(name) != self.expected.get(name)]
        leftover = [str(p) for p in (folder / "runs").rglob("*.tmp-*")]
        if wrong or leftover:
            return "differs", f"{self.kind}, operation {at} at {where}: {wrong} {leftover}"
        return "equal", ""


def _cell(folder: Path) -> Path | None:
    return next((file.parent for file in folder.glob("runs/*/*/seed-*/scenario.yaml")), None)


def make(_lane: int, kinds: Sequence[str]) -> Case:
    """Return what dies at the operation of a case: kinds take turns, operations are spread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    for heavy in _HEAVY:  # once, before the forks
        importlib.import_module(f"holdfast.continual.{heavy}")
    torch.set_num_threads(1)
    sys.path.append(str(cells.HERE.parent))
    folder = Path(tempfile.mkdtemp(prefix="soak-deaths-"))
    made: dict[str, Kind] = {}

    def run(case: int) -> tuple[str, str]:
        kind = kinds[case % len(kinds)]
        if kind not in made:
            shutil.rmtree(folder / kind, ignore_errors=True)
            (folder / kind).mkdir()
            made[kind] = Kind(kind, folder / kind)
        one = made[kind]
        # A step that has no common divisor with the count visits every operation before any twice.
        at = (case // len(kinds)) * _stride(one.operations) % one.operations + 1
        return one.die(at)

    return run


def _stride(count: int) -> int:
    return next(s for s in range(max(1, int(count * 0.618)), count + 2) if math.gcd(s, count) == 1)
