"""Cells run in this process, and interrupted on purpose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.training.cell import run_cell
from holdfast.scenarios.schema.scenario import Scenario


class Interrupted(Exception):
    """Stops a run."""


def run_all(scenario: Scenario, runs: Path) -> list[RunFolder]:
    """Run every cell of a scenario, one after another."""
    folders = prepare(runs, scenario)
    for folder in folders:
        run_cell(folder, lambda progress: None)
    return folders


def interrupting(*steps: int) -> Callable[[Any], None]:
    """Return what takes progress and interrupts the run once at each of these steps."""
    due = list(steps)

    def tell(progress: Any) -> None:
        if due and progress.step >= due[0]:
            due.pop(0)
            raise Interrupted

    return tell


def finish(folder: RunFolder, tell: Callable[[Any], None]) -> int:
    """Run a cell again until it is finished, and return how often that took."""
    attempts = 0
    while folder.info()["status"] != "finished":
        attempts += 1
        try:
            run_cell(folder, tell)
        except Interrupted:
            assert folder.info()["status"] == "failed"
    return attempts
