"""Logs of a run folder: what a cell's process printed and warned of, and what failed.

``log.txt`` is of the process, ``environment_failures.jsonl`` of environments that crashed or hung.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from holdfast.continual.run_folder.files import write_whole
from holdfast.envs.processes.escapes import visible, without_controls
from holdfast.envs.wrappers.at_work import AT_WORK
from holdfast.scenarios.source.regular_file import opened

LOG, EARLIER = "log.txt", "log-earlier.txt"
FAILURES = "environment_failures.jsonl"
MOST_BYTES = 4 << 20
"""At this size ``log.txt`` starts over, and what it held becomes ``log-earlier.txt``."""


class CellLog:
    """The log of one cell, open for writing at its end.

    A disk that is full does not end the training: the file is a help, not a result.

    Args:
        folder: The cell's run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._shown = folder, 0
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        self.descriptor = opened(folder / LOG, flags)

    def close(self) -> None:
        """Close the file."""
        self.limit()
        with suppress(OSError):  # an environment has closed it
            os.close(self.descriptor)

    def write(self, text: str) -> None:
        """Add a text and a newline."""
        with suppress(OSError):
            line = f"{visible(text.rstrip())}\n"
            os.write(self.descriptor, line.encode(errors="replace"))

    def limit(self) -> None:
        """Take the power from escape sequences in it, and start over if the file is large.

        It is copied and emptied, not renamed: processes of environments write to it as well, by
        the descriptor that they inherited.
        """
        with suppress(OSError):  # a full disk, or an environment has closed the file
            size = os.fstat(self.descriptor).st_size
            self._show(size)
            if size <= MOST_BYTES:
                return
            with suppress(OSError):
                earlier = os.pread(self.descriptor, MOST_BYTES, size - MOST_BYTES)
                write_whole(self._folder / EARLIER, earlier)
            os.ftruncate(self.descriptor, 0)
            self._shown = 0

    def _show(self, size: int) -> None:
        """Write over control characters since the last time, which a terminal would obey.

        In place and of the same length, as others write to the end of the file meanwhile.
        """
        content = os.pread(self.descriptor, size - self._shown, self._shown)
        shown = without_controls(content)
        if shown != content:
            # Not by the descriptor that appends: Linux would write to the end.
            with os.fdopen(opened(self._folder / LOG, os.O_RDWR), "r+b", buffering=0) as file:
                file.seek(self._shown)
                file.write(shown)
        self._shown = size


@contextmanager
def logged(folder: Path, *, capture: bool) -> Iterator[CellLog]:
    """Write the log of a cell inside the block.

    Args:
        folder: The cell's run folder.
        capture: Write all that this process prints, in Python and in compiled code, to the log and
            nowhere else; a crash in compiled code leaves its Python traceback there. For processes
            that run nothing but cells. Otherwise only warnings of Python go there, and on to where
            they went before.
    """
    with ExitStack() as stack:
        log = CellLog(folder)
        stack.callback(log.close)
        stack.enter_context(AT_WORK.keeping(log.descriptor))
        log.limit()
        stack.enter_context(_captured(log.descriptor) if capture else _warnings_to(log))
        yield log


@contextmanager
def _captured(descriptor: int) -> Iterator[None]:
    flush()
    kept = [(number, os.dup(number)) for number in (1, 2)]
    had_handler = faulthandler.is_enabled()
    try:
        for number, _ in kept:
            os.dup2(descriptor, number)
        faulthandler.enable(descriptor)
        yield
    finally:
        faulthandler.disable()
        if had_handler and sys.stderr is not None:
            faulthandler.enable()
        flush()
        for number, copy in kept:
            with suppress(OSError):  # an environment has closed it
                os.dup2(copy, number)
                os.close(copy)


def flush() -> None:
    """Write out what was printed so far, in Python and in compiled code."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # full, closed, or None
            stream.flush()
    ctypes.CDLL(None).fflush(None)


@contextmanager
def _warnings_to(log: CellLog) -> Iterator[None]:
    before = warnings.showwarning

    def show(message: Any, category: Any, *place: Any, **more: Any) -> None:
        log.write(warnings.formatwarning(message, category, *place[:2]))
        before(message, category, *place, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


class EnvironmentFailures:
    """Takes the records of a cell's pools, as their ``on_failure``.

    Args:
        folder: The cell's run folder.

    Attributes:
        tell: Takes a line on each, once there is somebody to tell.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FAILURES
        self.tell: Callable[[str], None] | None = None

    def __call__(self, record: dict[str, Any]) -> None:
        """Append a record to ``environment_failures.jsonl`` and tell of it.

        A disk that is full does not end the training: the file is a help, not a result.
        """
        line = json.dumps(record, ensure_ascii=False)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            with os.fdopen(opened(self._path, flags), "a", encoding="utf-8") as file:
                file.write(f"{line}\n")
            place = f"; see {self._path}"
        except OSError as error:
            place = f"; {self._path} cannot be written: {error}"
        if self.tell is not None:
            first = visible(str(record["text"]).partition("\n")[0])
            self.tell(f"environment {record['env']}: {first}{place}")
