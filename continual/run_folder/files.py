"""Files written whole, and put on disk: what a crash leaves is the old one or the new one."""

from __future__ import annotations

import csv
import io
import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from holdfast.scenarios.source.regular_file import remove


def write_whole(path: Path, content: bytes) -> None:
    """Replace the file by ``content``, so that a crash leaves the old file or the new one.

    Raises:
        OSError: If it cannot be written; the old file is still there.
    """
    beside = temporary(path)
    try:
        write_synced(beside, content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync(path.parent)


def has_second_name(there: Path, here: Path) -> bool:
    """Give a file that nobody writes into a second name; return whether that was possible.

    Not all file systems have such, nor all systems a way not to follow links.
    """
    try:
        os.link(there, here, follow_symlinks=False)
    except (OSError, NotImplementedError):
        return False
    return True


def temporary(path: Path) -> Path:
    """Return where this process writes a file before it takes its place; nothing is there.

    What processes of this machine left there that died while they wrote the file is removed.
    """
    own = re.compile(rf"\.{re.escape(path.stem)}\.tmp-{_HOST}-(\d+){re.escape(path.suffix)}")
    for other in path.parent.iterdir():
        written = own.fullmatch(other.name)
        if written is not None and not _is_running(int(written[1])):
            remove(other)
    beside = path.with_name(f".{path.stem}.tmp-{_HOST}-{os.getpid()}{path.suffix}")
    remove(beside)  # a leftover, or a link that waits for us
    return beside


_HOST = re.sub(r"\W", "", platform.node())[:32] or "host"
"""Processes of other machines may write into a shared folder; their numbers mean nothing here."""


def _is_running(process: int) -> bool:
    if process == os.getpid() or os.name != "posix":
        return process != os.getpid()  # a number of ours is one that was used again
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def write_synced(path: Path, content: bytes) -> None:
    """Write a file that is not there yet, and return once it is on disk.

    Raises:
        OSError: If it cannot be written; its ``filename`` is set.
    """
    try:
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def csv_table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table as CSV; texts are what a spreadsheet takes for texts."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([csv_cell(value) for value in row] for row in (head, *rows))
    return text.getvalue()


def csv_cell(value: Any) -> Any:
    """Return a value as a cell of CSV, with a quote before a text that would be a formula.

    >>> csv_cell("=1+1"), csv_cell("-0.5000"), csv_cell(-0.5), csv_cell("ewc")
    ("'=1+1", '-0.5000', -0.5, 'ewc')
    """
    if not isinstance(value, str) or value[:1] not in ("=", "+", "-", "@", "\t", "\r", "\n"):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def sync(folder: Path) -> None:
    """Put a rename or a new file in a folder on disk: its name is data of the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
