"""A run, opened: its scenario, its scores, and its trained agent to act with."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.results.record import SCENARIO, Episode, RunFolder, find_cells, task_index
from holdfast.errors import CheckpointUnusable, UsageError
from holdfast.scenarios.schema.scenario import Scenario

if TYPE_CHECKING:
    from holdfast.continual.policies.restore import Restored
    from holdfast.continual.policies.trained_agent import TaskAgent, TaskClassifier
    from holdfast.continual.policies.trained_team import TaskTeam


def open_run(folder: str | Path) -> OpenedRun:
    """Return the run in a cell's folder, ``runs/<scenario>/<method>/seed-<k>``.

    Raises:
        UsageError: If it is not such a folder; the text names those inside it.
    """
    path = Path(folder)
    if not (path / SCENARIO).exists():
        cells = [str(cell.path) for cell in find_cells(path)]  # raises where there are none
        raise UsageError(f"{path} holds several runs; open one of them: {', '.join(cells)}")
    return OpenedRun(RunFolder(path))


class OpenedRun:
    """One cell's results.

    Attributes:
        folder: Its run folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"<run {self.folder.path}: {self.status}>"

    @property
    def status(self) -> str:
        """``finished``, or ``pending``, ``running``, ``failed``, ``stopped``."""
        return str(self.folder.info().get("status", "pending"))

    @property
    def scenario(self) -> Scenario:
        """Scenario that ran, with just this cell's method and seed."""
        return self.folder.scenario

    @property
    def scores(self) -> list[Episode]:
        """Every evaluation episode, as ``scores.jsonl`` holds them."""
        return self.folder.scores()

    def agent(self, task: str | None = None) -> TaskAgent | TaskTeam | TaskClassifier:
        """Return the agent as it was at the last task boundary, acting in one task.

        A team (``agent.policies``) acts as a whole: a dict of observations, a dict of actions.

        Args:
            task: Name of the task; by default the one that it was trained on last. In a task
                without a head or column of its own, it acts as in the newest.

        Raises:
            UsageError: If there is no such task, or no checkpoint yet.
            CheckpointUnusable: If no checkpoint can be read.
        """
        restored = self._restored
        index = restored.agent.current_task
        if task is not None:
            index = task_index(self.scenario, task, str(self.folder.path))
        acting: TaskAgent | TaskTeam | TaskClassifier = kind_of(self.scenario).act(restored, index)
        return acting

    @cached_property
    def _restored(self) -> Restored:
        try:
            return kind_of(self.scenario).restore(self.folder)
        except CheckpointUnusable as error:
            raise CheckpointUnusable(f"{self.folder.path}: {error}") from error
