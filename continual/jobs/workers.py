"""Long-lived worker processes that take cells, one after another.

Spawned, not forked: a process that has imported torch has threads. Each has a pipe of its own
rather than a share in a queue, because a worker that is killed would take the queue's lock with it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait

from holdfast.continual.jobs.attempt import note_end, run_one, stoppable
from holdfast.continual.jobs.queue import Outcome, Turn, Turns, cell_name
from holdfast.continual.progress import Progress
from holdfast.continual.results.failure import Failure
from holdfast.continual.results.record import RunFolder
from holdfast.errors import Stopped
from holdfast.scenarios.schema.scenario import Scenario

GRACE_S = 10.0
"""Seconds in which a worker that is told to stop may close its environments."""


class Workers:
    """Spawned processes that run cells; a context manager that leaves none behind.

    A worker that dies takes its own cell with it; another one is started in its place. This process
    itself imports none of what cells need, so that it is imported ``jobs`` times in all.

    Args:
        jobs: How many, at most.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._workers: list[_Worker] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *raised: object) -> None:
        _stop(self._workers)

    def build(self, scenario: Scenario) -> None:
        """Build what cells will build, in the first worker; the others import meanwhile."""
        for _ in range(min(self._jobs, len(scenario.cells()))):
            self._start()
        if failure := self._workers[0].build(scenario, self._jobs):
            raise failure.as_error()

    def __call__(self, turns: Turns) -> None:
        """Run all cells in the line; then the workers end."""
        for worker in self._workers:
            worker.give(turns.take() if turns else None)
        while turns or any(worker.turn for worker in self._workers):
            while turns and len(self._workers) < self._jobs:
                self._start().give(turns.take())
            for connection in wait([worker.connection for worker in self._workers]):
                worker = next(w for w in self._workers if w.connection is connection)
                _listen(worker, turns)
                if not worker.is_alive:
                    self._workers.remove(worker)
        for worker in self._workers:
            worker.process.join(GRACE_S)
        _stop(self._workers)
        self._workers.clear()

    def _start(self) -> _Worker:
        self._workers.append(_Worker())
        self._workers[-1].start()
        return self._workers[-1]


def _listen(worker: _Worker, turns: Turns) -> None:
    """Take what a worker says and give it the next cell where it is done."""
    turn, found = worker.turn, worker.receive()
    if isinstance(found, Outcome):
        assert turn is not None
        turns.ended(turn, found)
        if worker.is_alive:
            worker.give(turns.take() if turns else None)
    elif found is not None:
        turns.watcher.progress(found)


class _Worker:
    """One process and the cell that it runs, if any."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, self._theirs = context.Pipe()
        # Not a daemon: environments may start processes of their own.
        self.process = context.Process(target=_work, args=(self._theirs,), name="holdfast-worker")
        self.turn: Turn | None = None
        self.is_alive = False

    def start(self) -> None:
        """Start the process, which begins by importing what cells need."""
        with _inherited():
            self.process.start()
        self._theirs.close()  # so that the end of the process is the end of the pipe
        self.is_alive = True

    def build(self, scenario: Scenario, jobs: int) -> Failure | None:
        """Build a scenario in the process, and return why that failed."""
        try:
            self.connection.send((scenario, jobs))
            failure: Failure | None = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return _why_dead(self.process.exitcode)
        return failure

    def give(self, turn: Turn | None) -> None:
        """Give the process a cell to run; without one, it ends."""
        self.turn, self._since = turn, time.monotonic()
        with suppress(BrokenPipeError):  # it died; receive says so
            self.connection.send(turn)

    def receive(self) -> Progress | Outcome | None:
        """Return what the process sent, or how its cell ended if the process is gone."""
        try:
            found: Progress | Outcome = self.connection.recv()
        except (EOFError, OSError):  # OSError: the message ends half-way
            self.is_alive = False
            self.process.join()
            self.connection.close()
            return None if self.turn is None else self._death(self.turn.folder)
        return found

    def _death(self, folder: RunFolder) -> Outcome:
        """Return how the cell of a dead process ended, and write it into the run folder."""
        failure = _why_dead(self.process.exitcode)
        note_end(folder, "failed", failure.text)  # unless the process itself has
        return Outcome(cell_name(folder), "failed", time.monotonic() - self._since, failure)


def _why_dead(code: int | None) -> Failure:
    """Return the likely cause of a process's exit code."""
    if code == Stopped.exit_code:
        return Failure("stopped from outside (SIGTERM); the same command continues", code)
    how = f"ended by itself (exit code {code}); perhaps an environment calls os._exit"
    if code == -signal.SIGKILL:
        how = (
            "was killed (SIGKILL, exit code -9), most likely because memory ran out; fewer --jobs "
            "or a smaller agent.buffer_size need less"
        )
    elif code is not None and code < 0:
        signaled = f"died of {signal.Signals(-code).name} (exit code {code})"
        how = f"{signaled}, most likely in compiled code of an environment or library"
    text = f"the worker process {how}. The same command runs the cell again"
    return Failure(text, 1, may_pass=True)


def _stop(workers: Sequence[_Worker]) -> None:
    """End processes, leaving none behind, and mark the cells that they ran as stopped."""
    workers = [worker for worker in workers if worker.process.pid is not None]
    try:
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
            if worker.turn is not None:
                note_end(worker.turn.folder, "stopped", "stopped from outside")


@contextmanager
def _inherited() -> Iterator[None]:
    """Give processes started in the block one thread, as cells run side by side, and no Ctrl-C.

    A terminal sends it to all of them. They inherit the blocked signal, so that not even their
    start-up can be interrupted by it; this process gets a Ctrl-C of that moment afterwards.
    """
    resource_tracker.ensure_running()  # starting it would unblock the signal
    threads = os.environ.get("OMP_NUM_THREADS")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = threads
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection) -> None:
    """Run the cells that come through the pipe, until None comes. The body of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    for stream in (sys.stdout, sys.stderr):  # so that a crash leaves whole lines in the log
        getattr(stream, "reconfigure", lambda **_: None)(line_buffering=True)
    import holdfast.continual.training.preflight  # noqa: F401  # before it is asked for: it takes seconds

    with suppress(EOFError):  # the parent is gone, or has stopped starting this process
        while (given := connection.recv()) is not None:
            try:
                is_turn = isinstance(given, Turn)
                found = run_one(given, connection.send, capture=True) if is_turn else _build(*given)
            except KeyboardInterrupt:  # SIGTERM; the cell is marked as stopped
                os._exit(Stopped.exit_code)  # at once: everything that matters is on disk
            connection.send(found)


def _build(scenario: Scenario, jobs: int) -> Failure | None:
    from holdfast.continual.training.preflight import build  # here: it imports torch and avalanche

    try:
        with stoppable():
            build(scenario, jobs=jobs)
    except (Exception, SystemExit) as error:
        return Failure.of(error)
    return None


def _die_with_parent() -> None:
    """End this process when its parent is gone, however that went."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="die-with-parent", daemon=True).start()
