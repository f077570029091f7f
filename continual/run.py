"""Run the cells of a scenario: those unfinished, one after another or in workers side by side."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from holdfast.continual.backend import settle
from holdfast.continual.failure import Failure
from holdfast.continual.opened import OpenedRun
from holdfast.continual.prepare import prepare
from holdfast.continual.record import RunFolder
from holdfast.scenarios.schema import Scenario

if TYPE_CHECKING:
    from holdfast.continual.cell import Progress, Tell


class Outcome(NamedTuple):
    """How a cell ended.

    Attributes:
        cell: ``<method label>/seed-<k>``.
        status: ``skipped`` where it was finished before.
        wall_s: Seconds in this session.
        failure: Where it failed, why.
    """

    cell: str
    status: Literal["finished", "skipped", "failed"]
    wall_s: float = 0.0
    failure: Failure | None = None


class Watcher(Protocol):
    """Is told what happens while cells run."""

    def progress(self, progress: Progress) -> None:
        """Take where a cell is; a cell's first one says where it starts."""

    def ended(self, outcome: Outcome) -> None:
        """Take how a cell ended."""


class Unwatched:
    """A watcher that says nothing."""

    def progress(self, progress: Progress) -> None:
        """Do nothing."""

    def ended(self, outcome: Outcome) -> None:
        """Do nothing."""


def run(
    scenario: Scenario, *, runs: str | Path = "runs", jobs: int = 1, overwrite: bool = False
) -> list[OpenedRun]:
    """Run every cell of a scenario and return them opened, in the order of ``scenario.cells()``.

    Finished cells are skipped and interrupted ones continue. With ``jobs`` above 1, call it below
    ``if __name__ == "__main__":`` in a script, as for all of Python's multiprocessing.

    Args:
        scenario: What ``holdfast.load`` returned.
        runs: The folder of all results.
        jobs: Cells run side by side, each in a process of its own; results are the same.
        overwrite: Delete results of this scenario that are there, and start anew.

    Raises:
        UsageError: The scenario cannot be built, or other results are in its place. Nothing was
            written then.
        HoldfastError: The first failure of a cell, after all others have run.
    """
    from holdfast.continual.build import build  # here: it imports torch and avalanche

    scenario = settle(scenario, Path(runs), overwrite=overwrite).scenario
    build(scenario, jobs=jobs)
    folders = prepare(Path(runs), scenario, overwrite=overwrite)
    for outcome in run_cells(folders, jobs=jobs):
        if outcome.failure is not None:
            raise outcome.failure.as_error()
    return [OpenedRun(folder) for folder in folders]


def run_cells(
    folders: Sequence[RunFolder], *, jobs: int = 1, watcher: Watcher | None = None
) -> list[Outcome]:
    """Run what is unfinished of these cells and return how each ended, in their order.

    A cell that fails does not stop the others. KeyboardInterrupt stops all at once; the cells that
    were running are marked ``stopped``.

    Args:
        folders: As ``prepare`` returns them.
        jobs: Above 1: spawned processes that take one cell after another.
        watcher: Is told what happens.
    """
    watcher = watcher or Unwatched()
    # Absolute, because an environment may change the working directory.
    folders = [RunFolder(folder.path.absolute()) for folder in folders]
    outcomes: dict[str, Outcome] = {}
    for folder in folders:
        if folder.info().get("status") == "finished":
            outcomes[cell_name(folder)] = Outcome(cell_name(folder), "skipped")
            watcher.ended(outcomes[cell_name(folder)])
    left = [folder for folder in folders if cell_name(folder) not in outcomes]
    if min(jobs, len(left)) > 1:
        from holdfast.continual.workers import run_in_workers  # here: it is built on this module

        found = run_in_workers(left, jobs, watcher)
    else:
        found = []
        for folder in left:
            found.append(run_one(folder, watcher.progress))
            watcher.ended(found[-1])
    outcomes |= {outcome.cell: outcome for outcome in found}
    return [outcomes[cell_name(folder)] for folder in folders]


def cell_name(folder: RunFolder) -> str:
    """Return ``<method label>/seed-<k>``."""
    return f"{folder.label}/{folder.path.name}"


def run_one(folder: RunFolder, tell: Tell) -> Outcome:
    """Run a cell and return how it ended. KeyboardInterrupt and SIGTERM pass through."""
    from holdfast.continual.cell import run_cell  # here: it imports torch and avalanche

    began = time.monotonic()
    try:
        with stoppable() as check:

            def tell_and_check(progress: Progress) -> None:
                check()
                tell(progress)

            run_cell(folder, tell_and_check)
    except (Exception, SystemExit) as error:
        wall_s = time.monotonic() - began
        return Outcome(cell_name(folder), "failed", wall_s, Failure.of(error))
    return Outcome(cell_name(folder), "finished", time.monotonic() - began)


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """Let SIGTERM and Ctrl-C raise KeyboardInterrupt inside the block, in the main thread.

    Yields:
        A function that raises it again: a bare ``except`` in an environment may have swallowed it.
    """
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # the handler's signature
        nonlocal stopping
        stopping = True
        raise KeyboardInterrupt

    def check() -> None:
        if stopping:
            raise KeyboardInterrupt

    try:
        # A signal that is ignored stays ignored: a background job's Ctrl-C, a worker's.
        numbers = [
            number
            for number in (signal.SIGTERM, signal.SIGINT)
            if signal.getsignal(number) is not signal.SIG_IGN
        ]
        before = {number: signal.signal(number, stop) for number in numbers}
    except ValueError:  # not the main thread, which alone handles signals
        before = {}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
