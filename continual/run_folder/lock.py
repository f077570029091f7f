"""The lock of a run folder: one process writes it at a time."""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from holdfast.envs.wrappers.at_work import AT_WORK
from holdfast.errors import FolderUnwritable, InUse, UsageError
from holdfast.scenarios.source.regular_file import opened

_LOOK_S = 0.5
_MOST = 1000  # letters: they stay in the file's first block


@contextmanager
def locked(path: Path, patience_s: float = 0.0) -> Iterator[str]:
    """Hold the lock file ``path`` inside the block; the file stays, holding who had it last.

    The operating system gives the lock back when the process ends, however it ends, so a lock never
    goes stale. On file systems shared by machines that holds for NFS from version 4 on (Linux turns
    flock into a lock of the server's, which a lost machine loses with its lease, after about 90 s)
    and Lustre mounted with ``flock``; with NFS's ``local_lock`` or Lustre's ``localflock`` each
    machine has locks of its own.

    Args:
        path: The lock file; its folder exists.
        patience_s: Seconds to wait for it.

    Yields:
        What the process before said of its end, by :func:`leave_word`; mostly nothing.

    Raises:
        InUse: If another process holds it; the text names that process and its host.
        UsageError: If the file system has no locks.
        CheckpointUnusable: If ``path`` is no regular file.
        FolderUnwritable: If the disk is full, or may only be read.
    """
    import fcntl  # here, because reports are read where there is no fcntl too

    with _told_of(path):
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
                    found = os.pread(descriptor, 500, 0).decode("utf-8", "replace")
                    holder = found.partition("\n")[0].strip()
                    raise InUse(path.parent, holder or "another process") from error
            time.sleep(_LOOK_S)
        left = _left(descriptor)
        with _told_of(path):
            # Written over and then cut: on a full disk, a file that was emptied would stay empty.
            written = _write(descriptor, f"process {os.getpid()} on {platform.node()}\n")
            os.ftruncate(descriptor, written)
        with AT_WORK.keeping(descriptor):
            yield left
    finally:
        with suppress(OSError):  # an environment has closed it
            os.close(descriptor)


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FolderUnwritable.of(error, path) or error from error


def leave_word(path: Path, text: str) -> None:
    """Write into a lock file that this process holds why it ends, for the next one to find.

    Where ``run.json`` cannot be replaced, because the disk is full: the block of this file is
    there already.
    """
    with suppress(OSError):
        descriptor = opened(path, os.O_WRONLY)
        try:
            line = " ".join(text.split())
            _write(descriptor, f"process {os.getpid()} on {platform.node()}\n{line}"[:_MOST] + "\n")
        finally:
            os.close(descriptor)


def _left(descriptor: int) -> str:
    """Return the word of the process that held the lock before, if it left one."""
    found = os.pread(descriptor, 2 * _MOST, 0).decode("utf-8", "replace")
    return found.partition("\n")[2].strip()


def _write(descriptor: int, text: str) -> int:
    content = text.encode(errors="replace")
    return os.pwrite(descriptor, content, 0)
