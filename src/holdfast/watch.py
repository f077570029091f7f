"""Watch over the process of a command: what it started ends with it, and its end is told.

The command runs in a child of a child of the process that the shell started. An environment that
calls ``os._exit(0)``, or takes the process down, can therefore not make the shell see a success,
and nothing that an environment started stays behind, whichever of the processes is killed: each
takes in the orphans below it. Two watch, so that one is left where the other is killed.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from holdfast.envs.processes.offspring import descendants, end
from holdfast.envs.wrappers import at_work
from holdfast.envs.wrappers.at_work import AT_WORK

STOPPING_S = (60.0, 5.0)
"""Seconds that a command has to stop after the first Ctrl-C or SIGTERM, and after another."""
LEAVING_S = 5.0
"""Seconds that the process has to end once the command is done: threads may hold it."""

_RELAYED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_STOPPING = (signal.SIGINT, signal.SIGTERM)
_AWAITED = {signal.SIGCHLD, signal.SIGQUIT, *_RELAYED}
_DEATHS_AS_ASKED = (-signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP)
_SAME_S = 0.3  # a signal to a group and its relay are one wish
_LOOK_S = 0.5
_PDEATHSIG, _SUBREAPER = 1, 36  # of prctl
_TOLD = 1
_STATE, _CODE = at_work.BYTES, at_work.BYTES + 1


class Memory:
    """What the process of a command and those that watch it share.

    Attributes:
        note: Which environment is at work.
        owner: The process of the command, once it is there.
    """

    def __init__(self) -> None:
        self.owner: int | None = None
        self._all = memoryview(mmap.mmap(-1, at_work.BYTES + 2))
        self.note = self._all[: at_work.BYTES]

    @property
    def code(self) -> int | None:
        """Exit code of the command, None where its end has not been told yet."""
        return self._all[_CODE] if self._all[_STATE] == _TOLD else None

    @code.setter
    def code(self, code: int) -> None:
        if self.owner in (None, os.getpid()):  # and not what an environment forked
            self._all[_CODE], self._all[_STATE] = code & 0xFF, _TOLD


def watched(work: Callable[[], None]) -> None:
    """Run a command to its end, in a child, and exit with its code; on Linux."""
    # A copy of a process with threads is not safe; a debugger stays with what it was started on.
    if threading.active_count() > 1 or sys.gettrace() is not None:
        work()
        return
    memory, terminal = Memory(), _terminal()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, nobody is told of an end
    for death in (signal.SIGTERM, signal.SIGKILL):
        parent = os.getpid()
        _prctl(_SUBREAPER, 1)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        child = os.fork()
        if child:
            watch = _Watch(child, memory)
            _leave(watch.wait(), watch.reason, memory, terminal)
        _prctl(_PDEATHSIG, death)
        if os.getppid() != parent:  # it died first
            os._exit(1)
    memory.owner = os.getpid()
    AT_WORK.share(memory.note, is_watched=True)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _tell_code(work, memory)


def _tell_code(work: Callable[[], None], memory: Memory) -> None:
    """Do the work; that it came to its end is what an environment cannot pretend."""
    try:
        work()
        memory.code = 0
    except SystemExit as error:
        memory.code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise
    except BaseException:
        memory.code = 1
        raise


class _Watch:
    """Waits for a child, relays signals to it, and takes in the orphans below it.

    Args:
        child: Its process number.
        memory: Shared with it.

    Attributes:
        reason: Why the child was killed here; empty where it was not.
    """

    def __init__(self, child: int, memory: Memory) -> None:
        self._child, self._memory, self._parent = child, memory, os.getppid()
        self._deadline = float("inf")
        self._last: dict[int, float] = {}
        self._stops = 0
        self.reason = ""

    def wait(self) -> int:
        """Return how the child ended, as ``subprocess`` says it, once all below it have."""
        status = None
        while status is None:
            found = signal.sigtimedwait(_AWAITED, _LOOK_S)
            if os.getppid() != self._parent:  # killed: nobody is there to be told anything
                os.kill(self._child, signal.SIGKILL)
                self._memory.code = 1
            elif time.monotonic() > self._deadline:
                self.reason = "it did not stop when it was told to"
                os.kill(self._child, signal.SIGKILL)
            elif found is not None and found.si_signo != signal.SIGCHLD:
                self._take(found)
            if self._memory.code is not None:
                self._deadline = min(self._deadline, time.monotonic() + LEAVING_S)
            status = self._reaped()
        end(self._left)
        return os.waitstatus_to_exitcode(status)

    def _take(self, found: Any) -> None:
        """Take a signal: one of the terminal's went to the child as well."""
        number, now = found.si_signo, time.monotonic()
        if now - self._last.get(number, float("-inf")) < _SAME_S:
            return
        self._last[number] = now
        if number in _STOPPING:
            patience_s = STOPPING_S[min(self._stops, 1)]
            self._deadline, self._stops = now + patience_s, self._stops + 1
        if number in _RELAYED and found.si_code <= 0:  # of a process, and not of the kernel
            with suppress(ProcessLookupError):
                os.kill(self._child, number)

    def _reaped(self) -> int | None:
        """Reap whatever has ended, and return the child's status if it has."""
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == self._child:
                    return found[1]
        return None

    def _left(self) -> list[int]:
        self._reaped()
        return descendants(os.getpid())


def _leave(code: int, reason: str, memory: Memory, terminal: dict[int, Any]) -> NoReturn:
    """End a process that watched, as the command did; tell its end if nobody has."""
    exit_code = memory.code
    if exit_code is None:
        _restore(terminal)
        memory.code = exit_code = _tell_death(code, reason, memory)
    if code in _DEATHS_AS_ASKED:  # a shell wants to see that
        number = signal.Signals(-code)
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    os._exit(exit_code)


def _tell_death(code: int, reason: str, memory: Memory) -> int:
    """Tell that the command's process is gone, and return the exit code for the shell."""
    if code in _DEATHS_AS_ASKED:
        return 128 - code
    # Here: a command that comes to its end needs none of it.
    from holdfast.continual.jobs.attempt import note_end
    from holdfast.continual.results.failure import Failure
    from holdfast.continual.run_folder.record import RunFolder
    from holdfast.printing import tell_failure

    failure = Failure.of_death("the process of this command", code, at_work.read(memory.note))
    if reason:
        failure = failure._replace(text=f"the process of this command was ended: {reason}")
    if folder := at_work.read(memory.note, of_folder=True):
        note_end(RunFolder(Path(folder)), "failed", failure.text)
    with suppress(OSError):
        tell_failure(failure)
    return failure.exit_code if code >= 0 else 128 - code


def _terminal() -> dict[int, Any]:
    """Return the settings of the terminals at 0, 1 and 2."""
    found: dict[int, Any] = {}
    for number in (0, 1, 2):
        with suppress(termios.error, OSError):
            found[number] = termios.tcgetattr(number)
    return found


def _restore(terminal: dict[int, Any]) -> None:
    """Set the terminal back, where this process may: echo, line ends, the cursor."""
    for number, settings in terminal.items():
        with suppress(termios.error, OSError):
            if os.tcgetpgrp(number) != os.getpgrp():  # in the background, that would stop us
                continue
            termios.tcsetattr(number, termios.TCSANOW, settings)
            if number:
                os.write(number, b"\x1b[?25h")


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
