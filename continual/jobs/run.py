"""Run the cells of a scenario: those unfinished, one after another or side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

from holdfast.continual.jobs import queue
from holdfast.continual.jobs.backend import settle
from holdfast.continual.jobs.lockstep_cells import run_together
from holdfast.continual.jobs.main_guard import check_guard
from holdfast.continual.jobs.on_ray import connected
from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.jobs.run_handle import OpenedRun, Runs
from holdfast.continual.jobs.workers import Workers
from holdfast.continual.run_folder.record import RunFolder
from holdfast.envs.wrappers.at_work import AT_WORK
from holdfast.errors import UsageError
from holdfast.scenarios.schema.scenario import Scenario

Executor = Literal["processes", "ray"]


def run(
    scenario: Scenario,
    *,
    runs: str | Path = "runs",
    jobs: int | None = None,
    overwrite: bool = False,
    retries: int = queue.RETRIES,
    executor: Executor = "processes",
    address: str | None = None,
    trust_code: bool = False,
    watcher: queue.Watcher | None = None,
) -> Runs:
    """Run every cell of a scenario and return them opened, in the order of ``scenario.cells()``.

    ``watcher`` is told what happens; all else is as ``holdfast.run`` says.
    """
    check_guard(1 if executor == "ray" else jobs or 1)
    scenario = scenario.trusting_code() if trust_code else scenario
    runs = Path(runs).absolute()  # before anything runs: environments may go to another folder
    scenario = settle(scenario, runs, overwrite=overwrite).scenario
    with made_executor(executor, scenario, jobs=jobs, address=address) as execute:
        execute.build(scenario)
        folders = prepare(runs, scenario, overwrite=overwrite)
        outcomes = run_cells(folders, retries=retries, watcher=watcher, execute=execute)
        for outcome in outcomes:
            if outcome.failure is not None:
                raise outcome.failure.as_error()
    return Runs(OpenedRun(folder) for folder in folders)


def made_executor(
    name: Executor, scenario: Scenario, *, jobs: int | None = None, address: str | None = None
) -> AbstractContextManager[queue.Execute]:
    """Make an executor ready for the block; arguments are those of ``run``.

    Raises:
        UsageError: If an argument is not for this executor, or the cluster does not answer.
    """
    if name == "ray":
        return connected(scenario, jobs=jobs, address=address)
    if address is not None:
        raise UsageError(f"address {address!r} is of a Ray cluster; it needs the executor ray")
    return _local(jobs or 1)


def _local(jobs: int) -> AbstractContextManager[queue.Execute]:
    return Workers(jobs) if jobs > 1 else nullcontext(_InThisProcess())


class _InThisProcess:
    """Runs cells one after another; a debugger and a robot are at home here."""

    def build(self, scenario: Scenario) -> None:
        from holdfast.continual.training import preflight  # here: it imports torch and avalanche

        with AT_WORK.guests():
            preflight.build(scenario)

    def __call__(self, turns: queue.Turns) -> None:
        while turns:
            run_together(turns.take(), turns.watcher.progress, turns.ended)


def run_cells(
    folders: Sequence[RunFolder],
    *,
    jobs: int = 1,
    retries: int = queue.RETRIES,
    watcher: queue.Watcher | None = None,
    execute: queue.Execute | None = None,
) -> list[queue.Outcome]:
    """Run what is unfinished of these cells and return how each ended, in their order.

    A cell that fails does not stop the others. One that another process runs is left to it, unless
    that process is gone when all others have run. KeyboardInterrupt stops all at once; the cells
    that were running are marked ``stopped``.

    Args:
        folders: As ``prepare`` returns them.
        jobs: Above 1: spawned processes that take one cell after another.
        retries: Attempts after the first.
        watcher: Is told what happens.
        execute: Instead of ``jobs``: runs them.
    """
    if execute is None:
        with _local(jobs) as local:
            return run_cells(folders, retries=retries, watcher=watcher, execute=local)
    watcher = watcher or queue.Unwatched()
    # Absolute, because an environment may change the working directory.
    folders = [RunFolder(folder.path.absolute(), given=folder.given) for folder in folders]
    outcomes: dict[str, queue.Outcome] = {}
    left, in_use = folders, list[RunFolder]()
    while left:
        finished = [folder for folder in left if folder.info().get("status") == "finished"]
        for folder in finished:
            outcomes[queue.cell_name(folder)] = queue.Outcome(queue.cell_name(folder), "skipped")
            watcher.ended(outcomes[queue.cell_name(folder)])
        turns = queue.Turns([folder for folder in left if folder not in finished], retries, watcher)
        execute(turns)
        outcomes |= turns.outcomes
        in_use = [f for f in left if outcomes[queue.cell_name(f)].status == "in use"]
        left = in_use if len(in_use) < len(turns.outcomes) else []
    for folder in in_use:
        watcher.ended(outcomes[queue.cell_name(folder)])
    return [outcomes[queue.cell_name(folder)] for folder in folders]
