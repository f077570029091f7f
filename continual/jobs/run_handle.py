"""A run, opened: its scenario, its scores, and its trained agent to act with."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.run_folder.cells import find_cells, task_index
from holdfast.continual.run_folder.episodes import Episode
from holdfast.continual.run_folder.record import SCENARIO, RunFolder
from holdfast.errors import UsageError
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.source.regular_file import is_there

if TYPE_CHECKING:
    from holdfast.continual.policies.restore import Restored
    from holdfast.continual.policies.trained_agent import TaskAgent, TaskClassifier
    from holdfast.continual.policies.trained_team import TaskTeam


def open_run(folder: str | Path, *, trust_code: bool = False) -> OpenedRun:
    """Return the run in a cell's folder, ``runs/<scenario>/<method>/seed-<k>``.

    It is read as data. To act with its agent, code that its scenario names is imported where the
    run is known to be your own, and refused otherwise.

    Args:
        folder: The folder.
        trust_code: Trust whoever made it: import and start what its scenario names.

    Raises:
        UsageError: If it is not such a folder; the text names those inside it.
    """
    path = Path(folder)
    if not is_there(path / SCENARIO):
        cells = [str(cell.path) for cell in find_cells(path)]  # raises where there are none
        raise UsageError(f"{path} holds several runs; open one of them: {', '.join(cells)}")
    return OpenedRun(RunFolder(path, trust_code=trust_code))


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

    def agent(
        self, task: str | None = None, *, stage: int | None = None
    ) -> TaskAgent | TaskTeam | TaskClassifier:
        """Return the agent as it was at a task boundary, acting in one task.

        A team (``agent.policies``) acts as a whole: a dict of observations, a dict of actions.

        Args:
            task: Name of the task; by default the one that it was trained on last. In a task
                without a head or column of its own, it acts as in the newest.
            stage: The agent at the end of this stage, from 0; by default of the last one that was
                finished. An older one is never taken in its place.

        Raises:
            UsageError: If there is no such task or stage, or no checkpoint yet.
            CheckpointUnusable: If that checkpoint cannot be read.
            CodeNotTrusted: If the run names code and is not known to be your own.
        """
        restored = self._restored if stage is None else self._at(stage)
        index = restored.agent.current_task
        if task is not None:
            index = task_index(self.scenario, task, str(self.folder.path))
        acting: TaskAgent | TaskTeam | TaskClassifier = kind_of(self.scenario).act(restored, index)
        return acting

    @cached_property
    def _restored(self) -> Restored:
        return self._at(None)

    def _at(self, stage: int | None) -> Restored:
        return kind_of(self.scenario).restore(self.folder, stage)


class Runs(list[OpenedRun]):
    """The cells of a scenario, opened."""

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each cell: what it is, how it went, and its metrics where it finished.

        Metrics have the names of the report (``average_performance``, ``forgetting``, ...), over
        the tasks; NaN is n/a. Swept keys are columns of their own.
        """
        from holdfast.continual.results.study import gather  # here: opening a run needs none of it

        finished = [run.folder.path for run in self if run.status == "finished"]
        methods = gather(*finished).methods if finished else ()
        measured = {cell.folder.path: cell.metrics for method in methods for cell in method.cells}
        rows = []
        for run in self:
            info = run.folder.info()
            known = {
                _plain(name): value for name, value in measured.get(run.folder.path, {}).items()
            }
            cell = {"method": run.folder.label, "seed": run.folder.seed, "status": run.status}
            rows.append(cell | dict(info.get("sweep", {})) | known | {"wall_s": info.get("wall_s")})
        return rows

    def table(self) -> Any:
        """Return ``rows`` as a pandas frame.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas  # here, because only this needs it
        except ImportError as error:
            text = "table() needs pandas: pip install pandas; rows() are the same as dicts"
            raise UsageError(text) from error
        return pandas.DataFrame(self.rows())


def _plain(metric: str) -> str:
    """Return the name of a metric: with its variant only where there are several.

    >>> _plain("forgetting/cw"), _plain("forgetting/boundary")
    ('forgetting', 'forgetting_boundary')
    """
    name, _, variant = metric.partition("/")
    return f"{name}_{variant}" if variant == "boundary" else name
