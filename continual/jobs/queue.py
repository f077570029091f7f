"""Queue of cells: retries, outcomes, and who is told of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Literal, NamedTuple, Protocol

from holdfast.continual.progress import Progress
from holdfast.continual.results.failure import Failure
from holdfast.continual.run_folder.record import RunFolder
from holdfast.scenarios.schema.scenario import Scenario

RETRIES = 2
"""Attempts at a cell after the first, unless told otherwise."""


class Outcome(NamedTuple):
    """End of an attempt at a cell.

    Attributes:
        cell: ``<method label>/seed-<k>``.
        status: ``skipped`` where it was finished before; ``in use`` where another process runs it.
        wall_s: Seconds in this session.
        failure: Where it failed, why.
        attempt: Which attempt of this session it was, from 1.
        user: Of one in use: the process that runs it.
    """

    cell: str
    status: Literal["finished", "skipped", "failed", "in use"]
    wall_s: float = 0.0
    failure: Failure | None = None
    attempt: int = 1
    user: str = ""


class Watcher(Protocol):
    """Is told what happens while cells run."""

    def progress(self, progress: Progress) -> None:
        """Take where a cell is; an attempt's first one says where it starts."""

    def retrying(self, outcome: Outcome) -> None:
        """Take how an attempt failed after which there is another."""

    def ended(self, outcome: Outcome) -> None:
        """Take how a cell ended."""


class Unwatched:
    """A watcher that says nothing."""

    def progress(self, progress: Progress) -> None:
        """Do nothing."""

    def retrying(self, outcome: Outcome) -> None:
        """Do nothing."""

    def ended(self, outcome: Outcome) -> None:
        """Do nothing."""


class Turn(NamedTuple):
    """One attempt at a cell.

    Attributes:
        folder: Of the cell.
        attempt: Which attempt of this session it is, from 1.
        failed: Why the attempt before it failed, and the size of the record then.
    """

    folder: RunFolder
    attempt: int = 1
    failed: tuple[Failure, int] | None = None


class Turns:
    """The cells that wait. One that fails goes to the end of the line, as often as it may.

    :class:`~holdfast.continual.results.failure.Failure` says what is tried again. Two attempts that
    raise the same at the same place are enough: from the same seed, a third would raise it as well.
    A cell with an ``exclusive`` environment is not tried again: a robot must not start to move by
    itself.

    Args:
        folders: Of the cells, in order.
        retries: Attempts after the first.
        watcher: Is told what happens.

    Attributes:
        watcher: As given.
        outcomes: How each cell ended, by name; only the last attempt counts.
    """

    def __init__(self, folders: Iterable[RunFolder], retries: int, watcher: Watcher) -> None:
        self._line = deque(Turn(folder) for folder in folders)
        self._retries = retries
        self.watcher = watcher
        self.outcomes: dict[str, Outcome] = {}

    def __len__(self) -> int:
        return len(self._line)

    def take(self) -> tuple[Turn, ...]:
        """Return the first in the line, and others that learn in lockstep with it; they leave it.

        One that is tried again learns without others: what ended its process would end theirs.
        """
        first = self._line.popleft()
        if first.attempt > 1 or not first.folder.in_lockstep:
            return (first,)
        like = [turn for turn in self._line if _is_seed_of(turn, first)]
        others = like[: first.folder.scenario.agent.most_in_lockstep - 1]
        for turn in others:
            self._line.remove(turn)
        return (first, *others)

    def ended(self, turn: Turn, outcome: Outcome) -> None:
        """Take how an attempt ended: the cell comes back to the line, or that was it."""
        outcome = outcome._replace(attempt=turn.attempt)
        failure = outcome.failure
        if failure is not None and self._is_tried_again(turn, failure):
            failed = failure, turn.folder.size()
            self._line.append(Turn(turn.folder, turn.attempt + 1, failed))
            self.watcher.retrying(outcome)
            return
        self.outcomes[outcome.cell] = outcome
        if outcome.status != "in use":  # it may be free later on
            self.watcher.ended(outcome)

    def _is_tried_again(self, turn: Turn, failure: Failure) -> bool:
        if not failure.may_pass or turn.attempt > self._retries:
            return False
        before, size = turn.failed or (None, 0)
        if before is not None and failure.is_like(before) and turn.folder.size() == size:
            return False
        return not any(task.exclusive for task in turn.folder.scenario.tasks)


def _is_seed_of(turn: Turn, first: Turn) -> bool:
    """Return whether a cell differs from another in its seed alone, and may learn beside it."""
    is_like = turn.folder.path.parent == first.folder.path.parent
    return is_like and turn.attempt == 1 and turn.folder.in_lockstep


class Execute(Protocol):
    """Runs cells: here, in worker processes or on a Ray cluster."""

    def build(self, scenario: Scenario) -> None:
        """Build what the cells of a scenario will build: refusals come before anything is written.

        Raises:
            HoldfastError: As :func:`holdfast.continual.training.preflight.build` does.
        """

    def __call__(self, turns: Turns) -> None:
        """Run all cells in the line, tell their progress, and say how each attempt ended."""


def cell_name(folder: RunFolder) -> str:
    """Return ``<method label>/seed-<k>``."""
    return f"{folder.label}/{folder.path.name}"
