"""Result of a check: its findings, and an exception told in one line."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from holdfast.envs.base.spaces import StreamSpaces

Level = Literal["ok", "advice", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: ``ok``; ``advice``: it runs, but read this; ``error``: mend this before training.
        text: Plain words.
    """

    level: Level
    text: str


@dataclass
class CheckResult:
    """Everything that was found about one environment.

    Attributes:
        target: The environment, as it was named.
        findings: In the order in which things were looked at.
        steps_per_s: Speed with random actions, resets included; None where it was not measured.
        spaces: Its spaces of observations and actions; None where they were not seen.
    """

    target: str
    findings: list[Finding] = field(default_factory=list)
    steps_per_s: float | None = None
    spaces: StreamSpaces | None = None

    @property
    def ok(self) -> bool:
        """True where no finding is an error."""
        return all(finding.level != "error" for finding in self.findings)

    def add(self, level: Level, text: str) -> None:
        """Append a finding, unless it is there already."""
        if Finding(level, text) not in self.findings:
            self.findings.append(Finding(level, text))


class CrashedError(Exception):
    """The environment raised; the text says where."""


@contextlib.contextmanager
def crashes_at(place: str) -> Iterator[None]:
    """Turn exceptions of the block, ``SystemExit`` included, into CrashedError."""
    try:
        yield
    except HoldfastError:
        raise
    except (Exception, SystemExit) as error:
        raise CrashedError(f"{place} raised {told(error)}") from error


def told(error: BaseException) -> str:
    """Return the exception with the innermost line of the user's code."""
    frames = [
        (frame.f_code.co_filename, line, str(frame.f_globals.get("__name__")))
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    users = [
        (file, line)
        for file, line, module in frames
        if "site-packages" not in file and module.partition(".")[0] != "holdfast"
    ] or [frame[:2] for frame in frames]
    where = f" ({Path(users[-1][0]).name}, line {users[-1][1]})" if users else ""
    return f"{type(error).__name__}: {error}{where}"


def form(value: Any) -> str:
    """Return what a value is: ``2 values`` for a tuple, else its type."""
    return f"{len(value)} values" if isinstance(value, tuple) else f"a {type(value).__name__}"
