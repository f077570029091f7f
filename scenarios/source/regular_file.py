"""Regular files, opened without following links: what is read may come from elsewhere.

A run folder holds regular files and folders, nothing else. Whoever opens something in it says how
many of the folders above the file are of that run folder; those above them are the user's own, and
may be links. Checks are of what lies there: who changes a folder at the same moment is not caught.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from holdfast.errors import CheckpointUnusable, FolderUnwritable

_CAREFUL = (
    getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO would wait for its other end
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_WRITES = os.O_WRONLY | os.O_RDWR


def opened(path: Path, flags: int = os.O_RDONLY, *, folders: int = 1) -> int:
    """Return the descriptor of a regular file.

    Args:
        path: The file.
        flags: As for ``os.open``; ``os.O_CREAT`` creates it.
        folders: How many folders above it must be folders and no links.

    Raises:
        FileNotFoundError: If it, or a folder above it, is not there.
        CheckpointUnusable: If it is a link, a FIFO, a device, a folder, or lies behind a link; if
            it shall be written and has another name elsewhere (a hard link).
        OSError: If it cannot be opened.
    """
    check_folder(path.absolute().parent, folders=folders)
    if there := _status(path):
        _check_regular(path, there)
    descriptor = os.open(path, flags | _CAREFUL, 0o644)
    try:
        if hasattr(os, "O_NONBLOCK"):
            os.set_blocking(descriptor, True)
        found = os.fstat(descriptor)
        _check_regular(path, found)
        if flags & _WRITES and found.st_nlink > 1:
            raise CheckpointUnusable(
                f"{path}: has another name elsewhere (a hard link), which would change with it; "
                f"give it one of its own: cp {path.name} x && mv x {path.name}"
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read(path: Path, most: int, *, folders: int = 1) -> bytes:
    """Return the content of a regular file.

    Args:
        path: The file.
        most: Bytes that it may have; the size is looked at before anything is read.
        folders: As for ``opened``.

    Raises:
        FileNotFoundError: As ``opened``.
        CheckpointUnusable: As ``opened``; also if it is too large or cannot be read.
    """
    try:
        with os.fdopen(opened(path, folders=folders), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise CheckpointUnusable(f"{path}: has {size:,} bytes, at most {most:,} are read")
            return file.read(most + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointUnusable(f"{path}: cannot be read: {error.strerror}") from error


def check_folder(path: Path, *, folders: int = 1) -> None:
    """Raise if a folder is a link or no folder; one that is missing is left to who opens it.

    Args:
        path: The folder.
        folders: How many are looked at: it, and those above it.

    Raises:
        CheckpointUnusable: See above.
    """
    whole = path.absolute()
    for place in [whole, *whole.parents][:folders]:
        there = _status(place)
        if there is not None and not stat.S_ISDIR(there.st_mode):
            raise CheckpointUnusable(f"{place}: is {kind(place, there)}, where a folder belongs")


def check_inside(path: Path) -> None:
    """Raise unless a folder holds nothing but regular files and folders, two levels deep.

    Raises:
        CheckpointUnusable: If it is a link, or holds one, or anything else; the text names it.
    """
    check_folder(path)
    for place in [path, *sorted(entry for entry in path.iterdir() if not entry.is_symlink())]:
        there = _status(place)
        if there is None or not stat.S_ISDIR(there.st_mode):
            continue
        for entry in sorted(place.iterdir()):
            found = _status(entry)
            if found is not None and not stat.S_ISDIR(found.st_mode):
                _check_regular(entry, found)


def made_folder(path: Path, *, folders: int = 1) -> None:
    """Create a folder, and those above it, where they are missing.

    Raises:
        CheckpointUnusable: As ``check_folder``.
        FolderUnwritable: If nobody may create it there.
        OSError: If it cannot be created for another reason.
    """
    check_folder(path, folders=folders)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (NotADirectoryError, FileExistsError, FileNotFoundError, PermissionError) as error:
        why = f"this folder cannot be made: {error.strerror or 'it is a file'}"
        raise FolderUnwritable(f"{path}: {why}; --runs names another place") from error


def is_there(path: Path) -> bool:
    """Return whether anything has this name, a link that leads nowhere included."""
    return _status(path) is not None


def remove(path: Path) -> None:
    """Remove what has this name, and nothing outside: links go, what they lead to stays."""
    there = _status(path)
    if there is None:
        return
    if stat.S_ISDIR(there.st_mode):
        shutil.rmtree(path)  # follows no links
    else:
        path.unlink(missing_ok=True)


def kind(path: Path, there: os.stat_result) -> str:
    """Return what something is, in words; of a link, where it leads."""
    mode = there.st_mode
    if stat.S_ISLNK(mode):
        return f"a link to {str(path.readlink())[:200]!r}"
    words = {
        stat.S_ISDIR: "a folder",
        stat.S_ISREG: "a file",
        stat.S_ISFIFO: "a FIFO",
        stat.S_ISSOCK: "a socket",
        stat.S_ISCHR: "a device",
        stat.S_ISBLK: "a device",
    }
    return next((word for test, word in words.items() if test(mode)), "no regular file")


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None
    except NotADirectoryError:  # a file where a folder belongs, which check_folder tells
        return None
    except OSError as error:
        raise CheckpointUnusable(f"{path}: cannot be looked at: {error.strerror}") from error


def _check_regular(path: Path, there: os.stat_result) -> None:
    if not stat.S_ISREG(there.st_mode):
        raise CheckpointUnusable(
            f"{path}: is {kind(path, there)}, where a regular file belongs; a run folder is data, "
            "and nothing in it is followed"
        )
