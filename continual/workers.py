"""Long-lived worker processes that take cells, one after another.

Spawned, not forked: a process that has imported torch has threads. Each has a pipe of its own
rather than a share in a queue, because a worker that is killed would take the queue's lock with it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Literal

from holdfast.continual.failure import Failure
from holdfast.continual.record import RunFolder
from holdfast.continual.run import Outcome, Watcher, attempt, cell_name
from holdfast.errors import Stopped

if TYPE_CHECKING:
    from holdfast.continual.cell import Progress

GRACE_S = 10.0
"""Seconds in which a worker that is told to stop may close its environments."""


def run_in_workers(folders: Sequence[RunFolder], jobs: int, watcher: Watcher) -> list[Outcome]:
    """Run cells in up to ``jobs`` spawned processes and return how each ended, in order of ending.

    A worker that dies takes its own cell with it; another one is started in its place.
    """
    waiting = deque(folders)
    outcomes: list[Outcome] = []
    workers: list[_Worker] = []
    try:
        while waiting or workers:
            while waiting and len(workers) < jobs:
                workers.append(_Worker())
                workers[-1].start()
                workers[-1].give(waiting.popleft())
            for connection in wait([worker.connection for worker in workers]):
                worker = next(w for w in workers if w.connection is connection)
                found = worker.receive()
                if found is None:
                    continue
                if not isinstance(found, Outcome):
                    watcher.progress(found)
                    continue
                outcomes.append(found)
                watcher.ended(found)
                if worker.is_alive and waiting:
                    worker.give(waiting.popleft())
                else:
                    workers.remove(worker)
                    worker.dismiss()
    finally:
        _stop(workers)
    return outcomes


class _Worker:
    """One process and the cell that it runs."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, self._theirs = context.Pipe()
        # Not a daemon: environments may start processes of their own.
        self.process = context.Process(target=_work, args=(self._theirs,), name="holdfast-worker")
        self.folder: RunFolder | None = None
        self.is_alive = self._is_ready = False

    def start(self) -> None:
        """Start the process; it imports what it needs when it gets its first cell."""
        with _one_thread(), _no_interrupt():
            self.process.start()
        self._theirs.close()  # so that the end of the process is the end of the pipe
        self.is_alive = True

    def give(self, folder: RunFolder) -> None:
        """Let the process run a cell."""
        self.folder, self.since = folder, time.monotonic()
        with suppress(BrokenPipeError):  # it died; receive says so
            self.connection.send(folder.path)

    def receive(self) -> Progress | Outcome | None:
        """Return what the process sent, or how the cell ended if the process is gone."""
        try:
            found: Progress | Failure | Literal["finished"] = self.connection.recv()
        except (EOFError, OSError):  # OSError: the message ends half-way
            self.is_alive = False
            self.process.join()
            return None if self.folder is None else self._outcome(self._death())
        if found == "finished":
            return self._outcome(None)
        if isinstance(found, Failure):
            return self._outcome(found)
        if not self._is_ready:  # the imports before the first cell are no part of it
            self._is_ready, self.since = True, time.monotonic()
        return found

    def _outcome(self, failure: Failure | None) -> Outcome:
        assert self.folder is not None
        name, self.folder = cell_name(self.folder), None
        wall_s = time.monotonic() - self.since
        return Outcome(name, "failed" if failure else "finished", wall_s, failure)

    def _death(self) -> Failure:
        """Return why the process died, and write it into the run folder."""
        assert self.folder is not None
        code = self.process.exitcode
        if code == Stopped.exit_code:
            return Failure("stopped from outside (SIGTERM); running again continues", code)
        if code == -signal.SIGKILL:
            what = (
                "was killed (SIGKILL, exit code -9), most likely because memory ran out; fewer "
                "--jobs or a smaller agent.buffer_size need less"
            )
        elif code is not None and code < 0:
            what = (
                f"died of {signal.Signals(-code).name} (exit code {code}), most likely in compiled "
                "code of an environment or library"
            )
        else:
            what = f"ended by itself (exit code {code}); perhaps an environment calls os._exit"
        text = f"the worker process {what}. Running again continues the cell"
        self.folder.update(status="failed", reason=text)
        return Failure(text, 1)

    def dismiss(self) -> None:
        """Let the process end, as there are no cells left."""
        with suppress(BrokenPipeError):
            self.connection.send(None)
        self.process.join(GRACE_S)
        _stop([self])


def _stop(workers: Sequence[_Worker]) -> None:
    """End processes, leaving none behind, and mark the cells that they ran as stopped."""
    try:
        workers = [worker for worker in workers if worker.process.pid is not None]
        for worker in workers:
            worker.process.terminate()
        until = time.monotonic() + GRACE_S
        for worker in workers:
            worker.process.join(max(0.0, until - time.monotonic()))
    finally:  # also where a second Ctrl-C cuts the wait short
        for worker in workers:
            worker.process.kill()
            worker.process.join()
            worker.connection.close()
            if worker.folder is not None and worker.folder.info().get("status") == "running":
                worker.folder.update(status="stopped", reason="stopped from outside")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes started in the block compute with one thread: cells run side by side."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Let processes started in the block never see Ctrl-C, which a terminal sends to all.

    They inherit the blocked signal, so that not even their start-up can be interrupted by it; this
    process gets a Ctrl-C of that moment afterwards.
    """
    resource_tracker.ensure_running()  # starting it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection) -> None:
    """Run the cells that come through the pipe, until None comes. The body of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    with suppress(EOFError):  # the parent is gone, or has stopped starting this process
        while (path := connection.recv()) is not None:
            try:
                failure = attempt(RunFolder(path), connection.send)
            except KeyboardInterrupt:  # SIGTERM; the cell is marked as stopped
                os._exit(Stopped.exit_code)  # at once: everything that matters is on disk
            connection.send(failure or "finished")


def _die_with_parent() -> None:
    """End this process when its parent is gone, however that went."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="die-with-parent", daemon=True).start()
