"""The lock of a run folder: one process writes it at a time."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.errors import UsageError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` inside the block; the file stays, holding who had it last.

    The operating system gives the lock back when the process ends, however it ends, so a lock never
    goes stale.

    Raises:
        UsageError: If another process holds it; the text names that process and its host.
    """
    import fcntl  # here, because reports are read where there is no fcntl too

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = (
                os.read(descriptor, 500).decode("utf-8", "replace").strip() or "another process"
            )
            raise UsageError(
                f"{path.parent} is in use by {holder}; wait until it ends, or stop it"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
