"""Cases side by side in processes that may die or hang: each ends as a word, whatever it does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any, NamedTuple

LIMIT_S = 5.0
"""Seconds that a case may take before it counts as a hang."""

GRACE_S = 10.0
"""Seconds more before its process is killed, for one that hangs below Python."""


class Ended(NamedTuple):
    """How a case ended.

    Attributes:
        case: Its number, from which it can be made again.
        word: ``fine``, ``refused`` or another word of the part; ``raised``, ``hung`` and ``died``
            are faults.
        text: What is known of a fault.
        seconds: Wall time.
    """

    case: int
    word: str
    text: str = ""
    seconds: float = 0.0


class Hung(BaseException):
    """A case took longer than it may; of ``BaseException``, so that no handler swallows it."""


Case = Callable[[int], tuple[str, str]]
"""Runs a case of this number, and returns how it ended: a word, and more on it."""


def run(
    make: Callable[..., Case], arguments: Sequence[Any], cases: range, *, lanes: int, limit_s: float
) -> Iterator[Ended]:
    """Run cases in spawned processes, and yield how each ended, in no order.

    A process that dies or hangs is replaced; its case is a fault and the others go on.

    Args:
        make: Makes what runs a case, once a process; a function of a module.
        arguments: What ``make`` is called with, after the number of its lane.
        cases: Numbers of the cases.
        lanes: Processes side by side.
        limit_s: Seconds that a case may take.
    """
    left = list(cases)[::-1]
    open_lanes = [_Lane(make, (number, *arguments), limit_s) for number in range(lanes)]
    try:
        while True:
            for lane in open_lanes:
                if lane.case is None and left:
                    lane.send(left.pop())
            busy = [lane for lane in open_lanes if lane.case is not None]
            if not busy:
                return
            wait([lane.pipe for lane in busy], timeout=1.0)
            for lane in busy:
                if (ended := lane.ended()) is not None:
                    yield ended
    finally:
        for lane in open_lanes:
            lane.close()


class _Lane:
    """One process, and the case that it runs."""

    def __init__(
        self, make: Callable[..., Case], arguments: tuple[Any, ...], limit_s: float
    ) -> None:
        self._make, self._arguments, self._limit_s = make, arguments, limit_s
        self.case: int | None = None
        self._open()

    def _open(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_work, args=(theirs, self._make, self._arguments, self._limit_s), daemon=False
        )
        self.process.start()
        theirs.close()
        self._is_ready = False

    def send(self, case: int) -> None:
        self.case, self._since = case, time.monotonic()
        self.pipe.send(case)

    def ended(self) -> Ended | None:
        """Return how its case ended; None where it runs still."""
        assert self.case is not None
        try:
            if self.pipe.poll():
                found: Ended = self.pipe.recv()
                if not self._is_ready:  # the first message says that what it needs is imported
                    self._is_ready, self._since = True, time.monotonic()
                    return None
                self.case = None
                return found
        except (EOFError, OSError):
            self.process.join()
            return self._replaced("died", f"its process ended with {self.process.exitcode}")
        waited = time.monotonic() - self._since
        if self._is_ready and waited > self._limit_s + GRACE_S:
            self.process.kill()
            self.process.join()
            return self._replaced("hung", f"nothing for {waited:.0f} s; its process was killed")
        return None

    def _replaced(self, word: str, text: str) -> Ended:
        assert self.case is not None
        ended = Ended(self.case, word, text, time.monotonic() - self._since)
        self.pipe.close()
        self.case = None
        self._open()
        return ended

    def close(self) -> None:
        self.pipe.close()
        self.process.join(5.0)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _work(
    pipe: Connection, make: Callable[..., Case], arguments: tuple[Any, ...], limit_s: float
) -> None:
    """Run the cases that come through a pipe, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, _alarm)
    run_case = make(*arguments)
    pipe.send(Ended(-1, "ready"))
    while True:
        try:
            case = pipe.recv()
        except EOFError:
            os._exit(0)  # threads of what was tried must not hold it
        pipe.send(_timed(run_case, case, limit_s))


def is_made() -> None:
    """Begin to count the time of a case here, where making its input took a part of it."""
    _CLOCK[0] = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, _CLOCK[1])


_CLOCK = [0.0, 0.0]
"""When the case of this process began, and what it may take."""


def _timed(run_case: Case, case: int, limit_s: float) -> Ended:
    _CLOCK[:] = time.monotonic(), limit_s
    signal.setitimer(signal.ITIMER_REAL, limit_s + GRACE_S / 2)
    try:
        word, text = run_case(case)
    except Hung:
        word, text = "hung", f"more than {limit_s:g} s:\n{traceback.format_exc(limit=-12)}"
    except BaseException:  # a case may end in any way at all
        word, text = "raised", traceback.format_exc(limit=-12)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
    return Ended(case, word, text, time.monotonic() - _CLOCK[0])


def _alarm(_number: int, _frame: FrameType | None) -> None:
    raise Hung
