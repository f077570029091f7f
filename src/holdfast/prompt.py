"""``holdfast.run`` as Python calls it: in scripts, at a prompt, in a notebook."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from holdfast.continual.jobs import run as cells
from holdfast.continual.jobs.queue import RETRIES, Watcher
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
    from holdfast.continual.probes.adaptation import adapt_held_out, check_held_out
    from holdfast.printing import console  # here, as it needs rich, and scripts do not
    from holdfast.progress import Display

    shown = is_interactive() if progress is None else progress

    def watched(count: int, steps: int) -> AbstractContextManager[Watcher | None]:
        return Display(console(), count, steps) if shown else nullcontext()

    if scenario.adapt is not None and not overwrite:
        check_held_out(Path(runs), scenario)
    with watched(len(scenario.cells()), scenario.total_steps) as watcher:
        made = cells.run(
            scenario,
            runs=runs,
            jobs=jobs,
            overwrite=overwrite,
            retries=retries,
            executor=executor,
            address=address,
            trust_code=trust_code,
            watcher=watcher,
        )
    if scenario.adapt is not None:
        with cells.made_executor(executor, scenario, jobs=jobs, address=address) as execute:
            adapt_held_out([one.folder for one in made], scenario, watched, execute=execute)
    return made


def is_interactive() -> bool:
    """Return whether somebody types: at Python's prompt, in IPython or a notebook."""
    ipython = sys.modules.get("IPython")
    return hasattr(sys, "ps1") or (ipython is not None and ipython.get_ipython() is not None)
