"""Every error that Holdfast raises on purpose, each with the exit code of the command line.

HoldfastError
+-- UsageError          2   the command, the scenario or a file is wrong
|   +-- ScenarioError   2   one or more problems in a scenario file, all at once
|   +-- MissingExtra    2   an optional package is not installed
+-- EnvironmentFailed   3   an environment raised, hung or returned NaN
+-- Diverged            4   the loss or a gradient is not finite any more
+-- CheckpointUnusable  5   a checkpoint or another file of a run folder cannot be used
|   +-- CodeNotTrusted  5   a run folder names code that nobody said may run
+-- FolderUnwritable    5   the disk of the run folder is full, or may only be read
+-- InUse               6   another process runs a cell that was asked for
+-- Stopped            75   stopped from outside; running again continues
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


class HoldfastError(Exception):
    """The parent of every error below; its text says what is wrong, where, and what to do."""

    exit_code: ClassVar[int] = 1


class UsageError(HoldfastError):
    """The command line, a scenario or a file it names is wrong."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One mistake in a scenario file, with its place.

    Attributes:
        message: What is wrong and, where it is known, what to write instead.
        path: The key, written as in Python: ``tasks[1].env``. Empty for the file as a whole.
        file: Name of the file as the user gave it.
        line: First line is 1; 0 where no line can be named.
        column: First column is 1.
        source_line: The text of that line.
    """

    message: str
    path: str = ""
    file: str = ""
    line: int = 0
    column: int = 0
    source_line: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: " if self.line else ""
        if self.file and not self.line:
            place = f"{self.file}: "
        key = f"{self.path}: " if self.path else ""
        text = f"{place}{key}{self.message}"
        if self.source_line:
            text += f"\n    {self.source_line}\n    {' ' * (self.column - 1)}^"
        return text


class ScenarioError(UsageError):
    """A scenario has problems; ``problems`` holds every one of them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class MissingExtra(UsageError):
    """An optional package is needed; the text gives the install command."""

    def __init__(self, needed_by: str, package: str, extra: str) -> None:
        super().__init__(
            f"{needed_by} needs the package '{package}', which is not installed; "
            f'install it with: pip install "holdfast[{extra}]"'
        )


class EnvironmentFailed(HoldfastError):
    """An environment raised an exception or returned values that cannot be learned from."""

    exit_code = 3


class Diverged(HoldfastError):
    """Training produced a loss or gradient that is not finite; the last good checkpoint is kept."""

    exit_code = 4


class CheckpointUnusable(HoldfastError):
    """A file of a run folder is damaged, is not what belongs there, or lies behind a link."""

    exit_code = 5


class CodeNotTrusted(CheckpointUnusable):
    """A run folder names code to import or programs to start; the text lists all of it."""


class FolderUnwritable(HoldfastError):
    """A file cannot be written, for want of room or because the file system may only be read."""

    exit_code = 5

    @classmethod
    def of(cls, error: OSError, path: Path | None = None) -> FolderUnwritable | None:
        """Return the error that one of the operating system means, None if it is another.

        Args:
            error: As it was raised.
            path: The file, where the error does not name it.
        """
        name = error.filename or path
        place = f"{name}: " if name else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"{place}no space is left on the disk ({error.strerror}); free some space"
        elif error.errno == errno.EFBIG:
            text = f"{place}the file may not grow any more ({error.strerror}); raise `ulimit -f`"
        elif error.errno == errno.EROFS:
            text = f"{place}its file system is read-only ({error.strerror}); mount it writable"
        else:
            return None
        return cls(f"{text}, and the same command continues")


class InUse(HoldfastError):
    """Another process holds the lock of a run folder; ``user`` names it and its host."""

    exit_code = 6

    def __init__(self, folder: Path, user: str) -> None:
        self.user = user
        super().__init__(f"{folder} is in use by {user}; wait until it ends, or stop it")


class Stopped(HoldfastError):
    """The run was stopped from outside; running it again continues from the last checkpoint."""

    exit_code = 75
