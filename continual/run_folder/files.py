"""Files written whole, and put on disk: what a crash leaves is the old one or the new one."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from holdfast.scenarios.source.regular_file import remove


def write_whole(path: Path, content: bytes) -> None:
    """Replace the file by ``content``, so that a crash leaves the old file or the new one.

    Raises:
        OSError: If it cannot be written; the old file is still there.
    """
    beside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    remove(beside)  # a leftover, or a link that waits for us
    try:
        write_synced(beside, content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync(path.parent)


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
