"""The lock of a run folder: one process writes it at a time."""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.errors import InUse, UsageError
from holdfast.scenarios.source.regular_file import opened

_LOOK_S = 0.5


@contextmanager
def locked(path: Path, patience_s: float = 0.0) -> Iterator[None]:
    """Hold the lock file ``path`` inside the block; the file stays, holding who had it last.

    The operating system gives the lock back when the process ends, however it ends, so a lock never
    goes stale. On file systems shared by machines that holds for NFS from version 4 on (Linux turns
    flock into a lock of the server's, which a lost machine loses with its lease, after about 90 s)
    and Lustre mounted with ``flock``; with NFS's ``local_lock`` or Lustre's ``localflock`` each
    machine has locks of its own.

    Args:
        path: The lock file; its folder exists.
        patience_s: Seconds to wait for it.

    Raises:
        InUse: If another process holds it; the text names that process and its host.
        UsageError: If the file system has no locks.
        CheckpointUnusable: If ``path`` is no regular file.
    """
    import fcntl  # here, because reports are read where there is no fcntl too

    descriptor = opened(path, os.O_RDWR | os.O_CREAT)
    until = time.monotonic() + patience_s
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise UsageError(
                        f"{path} cannot be locked ({error.strerror}), so that two processes could "
                        "write one run; have its file system mounted with locks, or use another"
                    ) from error
                if time.monotonic() >= until:
                    holder = os.pread(descriptor, 500, 0).decode("utf-8", "replace").strip()
                    raise InUse(path.parent, holder or "another process") from error
            time.sleep(_LOOK_S)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
