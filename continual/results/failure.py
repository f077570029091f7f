"""Failure of a cell, as text that travels between processes, and to the user's terminal."""

from __future__ import annotations

import errno
import sysconfig
import traceback
from typing import NamedTuple

from holdfast import errors
from holdfast.errors import HoldfastError


class Failure(NamedTuple):
    """Reason of a failure, and whether it is worth another attempt.

    Tried again is what may end otherwise another time: an environment that failed (a simulator, a
    network, a device), an exception that nobody foresaw, a process that died. Told at once is what
    would only fail again, or must not be tried until it works: a mistake in what the user gave, a
    checkpoint that cannot be used, a full disk, a cell that stopped because what it keeps outgrows
    the memory, and training that diverged. The same seed from the same checkpoint diverges again;
    and where it would not (on a GPU), to draw until one run survives would flatter the method.

    Attributes:
        text: What to tell the user; our errors say what, where and what to do.
        exit_code: Of the command line.
        trace: The way to it, as in a traceback: whole for an exception that is not ours, the part
            in the user's own files for one of ours that they caused; else empty.
        may_pass: Whether it is worth another attempt.
    """

    text: str
    exit_code: int
    trace: str = ""
    may_pass: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Return the failure that an exception means."""
        if isinstance(error, HoldfastError):
            may_pass = isinstance(error, errors.EnvironmentFailed)
            return cls(str(error), error.exit_code, _own_trace(error), may_pass)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return cls(f"{error}; free some space, and the same command continues", 1)
        text = "".join(traceback.format_exception_only(error))
        whole = "".join(traceback.format_exception(error))
        return cls(text.strip(), 1, whole.removesuffix(text), may_pass=True)

    def as_error(self) -> HoldfastError:
        """Return an exception of the class with this exit code."""
        kinds = {kind.exit_code: kind for kind in HoldfastError.__subclasses__()}
        kind = HoldfastError if self.exit_code == 1 else kinds.get(self.exit_code, HoldfastError)
        return kind(self.trace + self.text)


def _own_trace(error: BaseException) -> str:
    """Return the lines of the first cause from the first file on that is the user's own."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    installed = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
    frames = list(traceback.walk_tb(cause.__traceback__))
    for index, (frame, _) in enumerate(frames):
        file, module = frame.f_code.co_filename, str(frame.f_globals.get("__name__"))
        if not file.startswith((*installed, "<")) and module.partition(".")[0] != "holdfast":
            lines = traceback.StackSummary.extract(iter(frames[index:])).format()
            return "Traceback (from your own code on):\n" + "".join(lines)
    return ""
