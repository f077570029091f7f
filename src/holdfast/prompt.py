"""``holdfast.run`` as Python calls it: in scripts, at a prompt, in a notebook."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from holdfast.continual.jobs import run as cells
from holdfast.continual.jobs.queue import RETRIES
from holdfast.continual.jobs.run_handle import Runs
from holdfast.scenarios.schema.scenario import Scenario


def run(
    scenario: Scenario,
    *,
    runs: str | Path = "runs",
    jobs: int | None = None,
    overwrite: bool = False,
    retries: int = RETRIES,
    executor: cells.Executor = "processes",
    address: str | None = None,
    trust_code: bool = False,
    progress: bool | None = None,
) -> Runs:
    """Run every cell of a scenario and return them opened, in the order of ``scenario.cells()``.

    Finished cells are skipped and interrupted ones continue. One that another process runs is left
    to it, and comes back as it is: its ``status`` tells. With ``jobs`` above 1, call it below
    ``if __name__ == "__main__":`` in a script, as for all of Python's multiprocessing; at a prompt,
    in a notebook, with ``python -c`` or from standard input it needs none.

    Args:
        scenario: What ``holdfast.load`` returned.
        runs: The folder of all results.
        jobs: Cells run side by side, each in a process of its own; results are the same. Default:
            1; with ``ray``, as many as the cluster has room for.
        overwrite: Delete results of this scenario that are there, and start again.
        retries: How often a cell that crashed is tried again, from its last checkpoint.
        executor: ``processes`` of this machine, or tasks of a ``ray`` cluster.
        address: Of the cluster, ``HOST:6379``; ``auto`` finds one on this machine. Default:
            ``RAY_ADDRESS``, or else one that is started here and ends with the run.
        trust_code: Trust the code that earlier runs name which the scenario names (``partners:``,
            ``opponents:``); its own code needs no such word.
        progress: Show where cells are, as the command does: a table on a terminal, lines
            elsewhere. Default: at a prompt and in a notebook.

    Returns:
        A list of opened runs; its ``table()`` is a pandas frame of their metrics.

    Raises:
        UsageError: The scenario cannot be built, other results are in its place, or the cluster
            does not answer. Nothing was written then.
        HoldfastError: The first failure of a cell, after all others have run.
    """
    watched = _watched(is_interactive() if progress is None else progress)
    how: dict[str, Any] = {"jobs": jobs, "executor": executor, "address": address}
    if scenario.adapt is not None and not overwrite:
        _adaptation().check_held_out(Path(runs), scenario)
    own: dict[str, Any] = {"overwrite": overwrite, "retries": retries, "trust_code": trust_code}
    with watched(len(scenario.cells()), scenario.total_steps) as watcher:
        made = cells.run(scenario, runs=runs, watcher=watcher, **how, **own)
    if scenario.adapt is not None:
        with cells.made_executor(executor, scenario, jobs=jobs, address=address) as execute:
            folders = [one.folder for one in made]
            _adaptation().adapt_held_out(folders, scenario, watched, execute=execute)
    return made


def _adaptation() -> Any:
    from holdfast.continual.probes import adaptation  # here, as it imports what is heavy

    return adaptation


def _watched(shown: bool) -> Callable[[int, int], Any]:
    """Return what makes a display of cells, or nothing where none is to be shown."""
    from holdfast.printing import console  # here, as it needs rich, and scripts do not
    from holdfast.progress import Display

    return lambda count, steps: Display(console(), count, steps) if shown else nullcontext()


def is_interactive() -> bool:
    """Return whether somebody types: at Python's prompt, in IPython or a notebook."""
    ipython = sys.modules.get("IPython")
    return hasattr(sys, "ps1") or (ipython is not None and ipython.get_ipython() is not None)
