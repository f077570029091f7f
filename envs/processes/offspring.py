"""Processes that environments started and left behind, found and ended: on Linux, by ``/proc``."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

MARK = "HOLDFAST_STARTED_BY"
"""Variable of the environment that a worker process hands on to all that it starts: its own mark,
after those of the workers above it."""
PATIENCE_S = 1.0
"""Seconds between the signal that asks a process to end and the one that ends it."""

_PROC = Path("/proc")


def new_mark() -> str:
    """Return a mark that no other process has."""
    return secrets.token_hex(16)


def with_mark(mark: str) -> str:
    """Return the value of ``MARK`` for a process that is to be started with this mark."""
    return f"{os.environ.get(MARK, '')}:{mark}"


def descendants(pid: int) -> list[int]:
    """Return the processes that a process started, and those that these did."""
    parents = dict(_parents())
    found, new = list[int](), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found += new
    return found


def marked(mark: str) -> list[int]:
    """Return the processes that a worker with this mark started, wherever they hang by now."""
    begin, wanted = f"{MARK}=".encode(), mark.encode()
    return [
        pid
        for pid in _numbers()
        for entry in _content(pid, "environ").split(b"\0")
        if entry.startswith(begin) and wanted in entry
    ]


def end(find: Callable[[], list[int]], patience_s: float = PATIENCE_S) -> None:
    """End processes: they are asked to first, and have this time for it.

    Args:
        find: Returns those that are left.
        patience_s: Seconds until they are killed.
    """
    began, asked = time.monotonic(), set[int]()
    while left := find():
        for pid in left:
            is_patient = time.monotonic() - began < patience_s
            if is_patient and pid in asked:
                continue
            asked.add(pid)
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGTERM if is_patient else signal.SIGKILL)
        if time.monotonic() - began > patience_s + 5:  # not ours to signal, or stuck in the kernel
            return
        time.sleep(0.02)


def _parents() -> Iterator[tuple[int, int]]:
    """Yield every living process with its parent."""
    for pid in _numbers():
        state, parent, *_ = _content(pid, "stat").rpartition(b")")[2].split() or (b"Z", b"0")
        if state != b"Z":
            yield pid, int(parent)


def _numbers() -> list[int]:
    try:
        return [int(name) for name in os.listdir(_PROC) if name.isdecimal()]  # noqa: PTH208  # names are all it takes
    except OSError:  # not Linux
        return []


def _content(pid: int, name: str) -> bytes:
    """Return a file of a process; nothing where it is gone, or not ours."""
    try:
        return (_PROC / str(pid) / name).read_bytes()
    except OSError:
        return b""
