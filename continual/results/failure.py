"""Failure of a cell, as text that travels between processes, and to the user's terminal."""

from __future__ import annotations

import re
import signal
import sysconfig
import traceback
from typing import NamedTuple

from holdfast import errors
from holdfast.errors import HoldfastError

_ADDRESS = re.compile(r"0x[0-9a-f]+")
_KINDS: dict[int, type[HoldfastError]] = {
    kind.exit_code: kind
    for kind in (
        errors.UsageError,
        errors.EnvironmentFailed,
        errors.Diverged,
        errors.CheckpointUnusable,
        errors.Stopped,
    )
}


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
        is_own: Whether the cell brought it about, rather than a signal from elsewhere.
    """

    text: str
    exit_code: int
    trace: str = ""
    may_pass: bool = False
    is_own: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Return the failure that an exception means."""
        if isinstance(error, HoldfastError):
            may_pass = isinstance(error, errors.EnvironmentFailed)
            return cls(str(error), error.exit_code, _own_trace(error), may_pass, is_own=True)
        if isinstance(error, OSError) and (told := errors.FolderUnwritable.of(error)):
            return cls(str(told), told.exit_code)
        text = "".join(traceback.format_exception_only(error))
        whole = "".join(traceback.format_exception(error))
        return cls(text.strip(), 1, whole.removesuffix(text), may_pass=True, is_own=True)

    @classmethod
    def of_death(cls, who: str, code: int, at_work: str) -> Failure:
        """Return the failure that the end of a process means.

        Args:
            who: What the process is called.
            code: Its return code, as of ``subprocess``.
            at_work: Which environment was at work last, if any.
        """
        if code == errors.Stopped.exit_code:
            return cls("stopped from outside (SIGTERM); the same command continues", code)
        where = f"; last at work: {at_work}" if at_work else ""
        again = "The same command runs the cell again"
        if code >= 0:
            how = f"ended by itself (exit code {code}); perhaps an environment calls os._exit"
            kind = errors.EnvironmentFailed if at_work else HoldfastError
            return cls(f"{who} {how}{where}. {again}", kind.exit_code, may_pass=True, is_own=True)
        if code == -signal.SIGKILL:
            how = (
                "was killed (SIGKILL, exit code -9), most likely because memory ran out; fewer "
                "--jobs or a smaller agent.buffer_size need less"
            )
        else:
            signaled = f"died of {signal.Signals(-code).name} (exit code {code})"
            how = f"{signaled}, most likely in compiled code of an environment or library"
        return cls(f"{who} {how}{where}. {again}", 1, may_pass=True)

    def as_error(self) -> HoldfastError:
        """Return an exception of the class with this exit code."""
        return _KINDS.get(self.exit_code, HoldfastError)(self.trace + self.text)

    def is_like(self, other: Failure) -> bool:
        """Return whether another attempt raised the same, apart from addresses in memory.

        Deaths by signals are never alike: what sent them leaves no place to compare.
        """
        if not (self.is_own and other.is_own):
            return False
        one, two = (_ADDRESS.sub("0x", failure.text + failure.trace) for failure in (self, other))
        return one == two


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
