"""Long-lived worker processes that take cells, one after another.

Spawned, not forked: a process that has imported torch has threads. Each has a pipe of its own
rather than a share in a queue, because a worker that is killed would take the queue's lock with it.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from holdfast.continual.jobs.attempt import note_end, stoppable
from holdfast.continual.jobs.lockstep_cells import run_together
from holdfast.continual.jobs.main_guard import check_guard
from holdfast.continual.jobs.queue import Outcome, Turn, Turns, cell_name
from holdfast.continual.progress import Progress
from holdfast.continual.results.failure import Failure
from holdfast.continual.run_folder.record import RunFolder
from holdfast.envs.processes.offspring import MARK, end, marked, new_mark, with_mark
from holdfast.envs.wrappers.at_work import AT_WORK, BYTES, read
from holdfast.errors import EnvironmentFailed, Stopped, UsageError
from holdfast.scenarios.schema.scenario import Scenario

NAME = "holdfast-worker"
GRACE_S = 10.0
"""Seconds in which a worker that is told to stop may close its environments."""


class Workers:
    """Spawned processes that run cells; a context manager that leaves none behind.

    A worker that dies takes its own cell with it; another one is started in its place. This process
    itself imports none of what cells need, so that it is imported ``jobs`` times in all.

    Args:
        jobs: How many, at most.

    Raises:
        UsageError: They would run the script again that asks for them.
    """

    def __init__(self, jobs: int) -> None:
        check_guard(jobs)
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
            worker.give(turns.take() if turns else ())
        while turns or any(worker.turns for worker in self._workers):
            while turns and len(self._workers) < self._jobs:
                self._start().give(turns.take())
            heard = wait([source for worker in self._workers for source in worker.sources])
            for worker in [w for w in self._workers if any(s in heard for s in w.sources)]:
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
    """Take what a worker says and give it the next cells where it is done."""
    for found in worker.receive():
        if not isinstance(found, Outcome):
            turns.watcher.progress(found)
            continue
        turns.ended(worker.turns.pop(found.cell), found)
        if worker.is_alive and not worker.turns:
            worker.give(turns.take() if turns else ())


class _Worker:
    """One process and the cells that it runs, if any, by name."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, self._theirs = context.Pipe()
        # Not a daemon: environments may start processes of their own.
        self._note, self._mark = context.RawArray("c", BYTES), new_mark()
        arguments = self._theirs, self._note
        self.process = context.Process(target=_work, args=arguments, name=NAME)
        self.turns: dict[str, Turn] = {}
        self.is_alive = False

    def start(self) -> None:
        """Start the process, which begins by importing what cells need."""
        with _inherited(self._mark):
            self.process.start()
        self._theirs.close()  # so that the end of the process is the end of the pipe
        self.is_alive = True
        # What environments started may hold pipes of a process that is gone.
        if hasattr(os, "pidfd_open") and self.process.pid is not None:
            self._ended = os.pidfd_open(self.process.pid)
        else:
            self._ended = self.process.sentinel

    def build(self, scenario: Scenario, jobs: int) -> Failure | None:
        """Build a scenario in the process, and return why that failed."""
        try:
            self.connection.send((scenario, jobs))
            failure: Failure | None = self._message()
        except (EOFError, OSError):
            self.end()
            return self._why_dead(is_new=True)
        return failure

    @property
    def sources(self) -> tuple[Connection, int]:
        """What there is to wait for: a message, the end of the process."""
        return self.connection, self._ended

    def _message(self) -> Any:
        """Return the next message; EOFError where the process is gone."""
        wait(self.sources)
        if not self.connection.poll():
            raise EOFError
        return self.connection.recv()

    def give(self, turns: Sequence[Turn]) -> None:
        """Give the process cells to run; without any, it ends."""
        self.turns = {cell_name(turn.folder): turn for turn in turns}
        self._since = time.monotonic()
        with suppress(BrokenPipeError):  # it died; receive says so
            self.connection.send(tuple(turns))

    def receive(self) -> list[Progress | Outcome]:
        """Return what the process sent, or how its cells ended if the process is gone."""
        try:
            found: Progress | Outcome = self._message()
        except (EOFError, OSError):  # OSError: the message ends half-way
            self.is_alive = False
            self.end()
            self.connection.close()
            return [self._death(turn.folder) for turn in self.turns.values()]
        return [found]

    def end(self) -> None:
        """Wait for the end of the process, and end what it has left behind."""
        self.process.join(GRACE_S)  # where an environment has closed its pipe, it may go on
        self.process.kill()
        self.process.join()
        end(partial(marked, self._mark))
        if self._ended != self.process.sentinel:
            os.close(self._ended)
            self._ended = self.process.sentinel

    def _why_dead(self, *, is_new: bool = False) -> Failure:
        code, note = self.process.exitcode or 0, read(memoryview(self._note).cast("B"))
        script = getattr(sys.modules.get("__main__"), "__file__", None)
        if is_new and code == 1 and script is not None:
            return Failure(
                f"a worker process could not start: it imports {script} again, which failed there "
                "as shown above; what only the script itself is to do belongs below a guard, `if "
                '__name__ == "__main__":`',
                UsageError.exit_code,
            )
        return Failure.of_death("the worker process", code, note)

    def _death(self, folder: RunFolder) -> Outcome:
        """Return how the cell of a dead process ended, and write it into the run folder."""
        failure = self._why_dead()
        info = folder.info()
        if info.get("status") == "failed":  # it could write that down, and tell nobody
            failure = failure._replace(text=str(info.get("reason")))
        note_end(folder, "failed", failure.text)
        return Outcome(cell_name(folder), "failed", time.monotonic() - self._since, failure)


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
            worker.end()
            worker.connection.close()
            for turn in worker.turns.values():
                note_end(turn.folder, "stopped", "stopped from outside")


@contextmanager
def _inherited(mark: str) -> Iterator[None]:
    """Give processes started in the block one thread, as cells run side by side, and no Ctrl-C.

    A terminal sends it to all of them. They inherit the blocked signal, so that not even their
    start-up can be interrupted by it; this process gets a Ctrl-C of that moment afterwards. They
    and all that they start carry the mark. A script that is no file, as one on standard input, is
    not imported again there.
    """
    main: Any = sys.modules.get("__main__")
    script = getattr(main, "__file__", None)
    is_file = script is None or Path(script).exists()
    resource_tracker.ensure_running()  # starting it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    own = {"OMP_NUM_THREADS": "1", MARK: with_mark(mark)}
    theirs = {name: os.environ.get(name) for name in own}
    os.environ |= own
    if not is_file:
        del main.__file__
    try:
        yield
    finally:
        if not is_file:
            main.__file__ = script
        for name, value in theirs.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection, note: Any) -> None:
    """Run the cells that come through the pipe, until none come. The body of a worker."""
    os.set_inheritable(connection.fileno(), False)
    AT_WORK.share(memoryview(note).cast("B"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    for stream in (sys.stdout, sys.stderr):  # so that a crash leaves whole lines in the log
        getattr(stream, "reconfigure", lambda **_: None)(line_buffering=True)

    def send(found: Outcome | Failure | None) -> None:
        try:
            connection.send(found)
        except OSError:  # an environment has closed the pipe; the run folder says so
            os._exit(EnvironmentFailed.exit_code)

    def ended(_: Turn, outcome: Outcome) -> None:
        send(outcome)

    import holdfast.continual.training.preflight  # noqa: F401  # before it is asked for: it takes seconds

    with suppress(EOFError), AT_WORK.keeping(connection.fileno()):  # the parent may be gone
        while given := connection.recv():
            try:
                if isinstance(given[0], Turn):
                    run_together(given, connection.send, ended, capture=True)
                else:
                    send(_build(*given))
            except KeyboardInterrupt:  # SIGTERM; the cells are marked as stopped
                os._exit(Stopped.exit_code)  # at once: everything that matters is on disk
    # Threads that environments started would hold the process; everything that matters is on disk.
    os._exit(0)


def _build(scenario: Scenario, jobs: int) -> Failure | None:
    from holdfast.continual.training.preflight import build  # here: it imports torch and avalanche

    try:
        with stoppable(), AT_WORK.guests():
            build(scenario, jobs=jobs)
    except (Exception, SystemExit) as error:
        return Failure.of(error)
    return None


def _die_with_parent() -> None:
    """End this process when its parent is gone, however that went."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    if sys.platform == "linux":  # also where compiled code leaves threads no time
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="die-with-parent", daemon=True).start()
