"""One attempt at a cell: run it here, and say how that ended."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Literal

from holdfast.continual.jobs.queue import Outcome, Turn, cell_name
from holdfast.continual.progress import Progress, Tell
from holdfast.continual.results.failure import Failure
from holdfast.continual.run_folder.record import RunFolder
from holdfast.envs.wrappers.at_work import AT_WORK
from holdfast.errors import FolderUnwritable, InUse

ONE_WISH_S = 0.3
"""Seconds within which signals are one wish: who signals a group is relayed by those in it."""
_stopped_at = [float("-inf")]  # of this process, whatever blocks it is in
PATIENCE_S = 120.0
"""Seconds that an attempt after the first waits for the lock, which a process of the attempt before
may still hold: one that is dying, or one on a machine that a file server has not given up yet."""


def run_one(turn: Turn, tell: Tell, *, capture: bool = False) -> Outcome:
    """Run a cell and return how that ended. KeyboardInterrupt and SIGTERM pass through.

    Args:
        turn: The cell.
        tell: Takes progress.
        capture: Write all that this process prints to the cell's log and nowhere else.
    """
    with stoppable() as check, AT_WORK.guests():
        return attempted(turn, tell, check, capture=capture)


def attempted(turn: Turn, tell: Tell, check: Callable[[], None], *, capture: bool) -> Outcome:
    """Run a cell as ``run_one`` does, inside of its blocks.

    Args:
        turn: As there.
        tell: As there.
        check: Raises KeyboardInterrupt where the process was told to stop.
        capture: As there.
    """
    from holdfast.continual.training.cell import run_cell  # here: it imports torch and avalanche

    name, began = cell_name(turn.folder), time.monotonic()
    patience_s = PATIENCE_S if turn.attempt > 1 else 0.0

    def tell_and_check(progress: Progress) -> None:
        check()
        tell(progress)

    try:
        with AT_WORK.cell(str(turn.folder.path)):
            ran = run_cell(turn.folder, tell_and_check, capture=capture, patience_s=patience_s)
    except InUse as error:
        return Outcome(name, "in use", user=error.user)
    except (Exception, SystemExit) as error:
        return Outcome(name, "failed", time.monotonic() - began, Failure.of(error))
    return Outcome(name, "finished" if ran else "skipped", time.monotonic() - began)


def note_end(folder: RunFolder, status: Literal["failed", "stopped"], reason: str) -> None:
    """Write how a cell ended whose process is gone, unless another has taken it up since."""
    with suppress(InUse, FolderUnwritable, OSError), folder.lock() as left:
        if folder.info().get("status") == "running":
            folder.note(status, left or reason)


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """Turn SIGTERM and Ctrl-C into KeyboardInterrupt inside the block, in the main thread.

    Yields:
        A function that raises it again: a bare ``except`` in an environment may have swallowed it.
    """
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # the handler's signature
        nonlocal stopping
        # The next signal may interrupt this line by line: one item is read, then replaced.
        since = time.monotonic() - _stopped_at[0]
        _stopped_at[0] = time.monotonic()
        if since < ONE_WISH_S:
            return
        stopping = True
        raise KeyboardInterrupt

    def check() -> None:
        if stopping:
            raise KeyboardInterrupt

    try:
        # A signal that is ignored stays ignored: a background job's Ctrl-C, a worker's.
        known = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        numbers = [number for number, now in known.items() if now is not signal.SIG_IGN]
        before = {number: signal.signal(number, stop) for number in numbers}
    except ValueError:  # not the main thread, which alone handles signals
        before = {}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
