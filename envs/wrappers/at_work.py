"""Which environment is at work, noted where it outlives this process; and what it may not touch.

A process that an environment ends (``os._exit``, a crash in compiled code, the kernel) can say
nothing any more. Its last note says whose environment that was: it lies in memory that another
process shares.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from holdfast.errors import EnvironmentFailed

BYTES = 6 << 10
"""Size of a note: the environment's name, then the run folder, each with a zero byte at its end."""
_FOLDER = 1 << 10


class AtWork:
    """Notes which environment is at work, and which descriptors of this process must stay open.

    Attributes:
        note: The last one. Compared at every step, so that one is written at a change alone.
    """

    def __init__(self) -> None:
        self.note: str | None = None
        self._shared = memoryview(bytearray(BYTES))
        self._kept: dict[int, tuple[int, int]] = {}
        self._is_copy = self._has_guests = False
        self._is_watched = False

    def share(self, note: memoryview, *, is_watched: bool = False) -> None:
        """Write notes into memory that another process reads.

        Args:
            note: Holds ``BYTES``.
            is_watched: Whether that process is the parent, and has the same input and outputs.
        """
        self._shared, self._is_watched = note, is_watched

    def enter(self, note: str) -> None:
        """Note which environment is at work."""
        self.end_copy()
        self._write(0, _FOLDER, note.encode(errors="replace"))
        self.note = note

    @contextmanager
    def cell(self, folder: str) -> Iterator[None]:
        """Note the run folder of a cell that runs inside the block."""
        self._write(_FOLDER, BYTES, os.fsencode(folder))
        try:
            yield
        finally:
            self._shared[_FOLDER] = 0

    def view(self) -> Any:
        """Return what is noted of the cell that runs, for ``look``."""
        return read(self._shared, of_folder=True), dict(self._kept)

    def look(self, view: Any) -> None:
        """Note again what ``view`` gave, as another cell of this process goes on."""
        folder, self._kept = view
        self._write(_FOLDER, BYTES, os.fsencode(folder))
        self.note = None

    def _write(self, first: int, end: int, text: bytes) -> None:
        text = text[: end - first - 1] + b"\0"
        self._shared[first : first + len(text)] = text

    @contextmanager
    def keeping(self, descriptor: int) -> Iterator[None]:
        """Watch a descriptor that nobody else may close in the block, and 0, 1 and 2.

        One that is closed would be the next file that is opened: what an environment prints would
        end up in the record.
        """
        before = dict(self._kept)
        for number in (0, 1, 2, descriptor):
            with suppress(OSError):  # closed before: not an environment's doing
                self._kept.setdefault(number, _identity(number))
        try:
            yield
        finally:
            self._kept = before

    def check(self, place: str) -> None:
        """Check that they are open still; one of the first three may be replaced.

        Args:
            place: Where an environment has come to, for the text.

        Raises:
            EnvironmentFailed: It has closed one of them.
        """
        self.end_copy()
        closed = [number for number, known in self._kept.items() if not _is_same(number, known)]
        if closed:
            found = [str(number) for number in closed if number <= 2]
            if len(found) < len(closed):
                found.append("and Holdfast's own")
            raise EnvironmentFailed(
                f"{place}: the environment has closed file descriptors that are not its own: "
                f"{' '.join(found)}"
            )

    @contextmanager
    def guests(self) -> Iterator[None]:
        """Undo after the block what environments do to this process.

        They may go to another folder, and close the input and the outputs. A child that they fork
        in the block is theirs, and no second run.
        """
        folder = None
        with suppress(OSError):  # it is gone
            folder = os.getcwd()  # noqa: PTH109  # a text that chdir takes back
        numbers = [number for number in (0, 1, 2) if _is_open(number)]
        self._has_guests = True
        try:
            yield
        finally:
            self._has_guests, self.note, self._shared[0] = False, None, 0
            if folder is not None:
                with suppress(OSError):
                    os.chdir(folder)
            for number in numbers:
                if not _is_open(number):
                    self._reopen(number)

    def _reopen(self, number: int) -> None:
        flags = os.O_WRONLY | os.O_APPEND if number else os.O_RDONLY
        paths = [os.devnull]
        if self._is_watched:
            paths.insert(0, f"/proc/{os.getppid()}/fd/{number}")
        for path in paths:
            with suppress(OSError):
                found = os.open(path, flags)
                if found != number:
                    os.dup2(found, number)
                    os.close(found)
                os.set_inheritable(number, True)
                return

    def forked(self) -> None:
        """Note that this process is a child, which an environment may have forked.

        What it inherited of ours is closed: it would hold the lock of the run folder for as long as
        it lives. Signals end it, rather than the run that it believes to be.
        """
        if not self._has_guests:
            return
        self.note, self._is_copy = None, True
        for signaled in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(signaled) is not signal.SIG_IGN:
                signal.signal(signaled, signal.SIG_DFL)
        for number in self._kept:
            if number > 2:
                with suppress(OSError):
                    os.close(number)
        self._kept = {}

    def end_copy(self) -> None:
        """End a child that came back from the environment: it would run the same cell again."""
        if self._is_copy:
            os._exit(1)


def read(note: memoryview | bytes, *, of_folder: bool = False) -> str:
    """Return the environment that was at work, or the run folder; empty where there was none."""
    found = bytes(note[_FOLDER:BYTES] if of_folder else note[:_FOLDER]).partition(b"\0")[0]
    return os.fsdecode(found) if of_folder else found.decode(errors="replace")


def _identity(number: int) -> tuple[int, int]:
    found = os.fstat(number)
    return found.st_dev, found.st_ino


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _is_same(number: int, known: tuple[int, int]) -> bool:
    return _is_open(number) and (number <= 2 or _identity(number) == known)


AT_WORK = AtWork()
"""Of this process."""

if hasattr(os, "register_at_fork"):  # not on Windows, where run folders are read as well
    os.register_at_fork(after_in_child=AT_WORK.forked)
