"""What is known of a worker process that failed."""

from __future__ import annotations

from typing import Any

from holdfast.envs.wrappers.guard import EnvironmentCrashed


class WorkerFailed(Exception):
    """A worker process is of no more use.

    Attributes:
        what: ``raised``, ``hung``, ``died`` or ``nonsense``.
        text: What happened, in a sentence.
        env: Which of its environments was at work.
        place: ``step 12``, ``reset``, ``constructor``.
        trace: The traceback in that process, where there is one.
        told: What the process itself told of an exception.
    """

    def __init__(
        self,
        what: str,
        text: str,
        *,
        env: int,
        place: str,
        trace: str = "",
        told: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(text)
        self.what, self.text, self.env, self.place = what, text, env, place
        self.trace, self.told = trace, told or {}

    def as_error(self, where: str, hint: str = "") -> EnvironmentCrashed:
        """Return the error that this is where nothing is started anew."""
        trace = f"\n{self.trace.rstrip()}" if self.trace else ""
        return EnvironmentCrashed(f"{where}: {self.text}{hint}{trace}")
