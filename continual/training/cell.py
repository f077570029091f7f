"""One cell, method x seed: runs what is unfinished in its folder."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from holdfast.agents.base import garbage
from holdfast.agents.compiled.lockstep import here
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.loop import run_stream
from holdfast.continual.policies.restore import initial_files
from holdfast.continual.progress import Progress, Tell
from holdfast.continual.run_folder.record import LEARNING_RULES, RunFolder, begun_by
from holdfast.continual.training.card import write_card
from holdfast.continual.training.cell_log import CellLog, EnvironmentFailures, logged
from holdfast.continual.training.device_failure import device_told
from holdfast.continual.training.journal import CellJournal
from holdfast.envs.processes.escapes import visible
from holdfast.errors import FolderUnwritable, HoldfastError, UsageError
from holdfast.scenarios.checks.own_code import offering_packages
from holdfast.scenarios.schema.scenario import Scenario

PACKAGES = ("holdfast", "gymnasium", "stable_baselines3", "sb3_contrib", "torch", "avalanche-lib")


def run_cell(
    folder: RunFolder, tell: Tell, *, capture: bool = False, patience_s: float = 0.0
) -> bool:
    """Run what is left of a cell; a finished one is left alone.

    Args:
        folder: The cell's run folder, as ``prepare`` returns it.
        tell: Takes progress.
        capture: Write all that this process prints to ``log.txt`` and nowhere else.
        patience_s: Seconds to wait for a process that still holds the folder.

    Returns:
        Whether there was something left.

    Raises:
        InUse: If another process runs it.
        HoldfastError: One of our errors; ``run.json`` holds its text.
    """
    if folder.info().get("status") == "finished":
        return False
    # Small networks are bound by overhead, not arithmetic; cells run side by side instead.
    torch.set_num_threads(1)
    with folder.lock(patience_s) as left:
        info = folder.info()
        if info.get("status") == "finished":  # meanwhile, by the process that held the lock
            return False
        failures, saved = _failures(info, left), _checkpoints(folder.scenario)
        if rules := folder.other_rules():
            raise UsageError(f"{folder.path} {begun_by(rules)}")
        folder.note(
            "running",
            learning_rules=LEARNING_RULES,
            failures=failures,
            checkpoints=saved,
            **_mode(folder.scenario),
            **_origin(folder.scenario),
        )
        with logged(folder.path, capture=capture) as log:
            where = f"process {os.getpid()} on {platform.node()}"
            log.write(f"== {_now()} attempt {len(failures) + 1}, {where}")
            _attempt(folder, tell, log)
    return True


def _attempt(folder: RunFolder, tell: Tell, log: CellLog) -> None:
    """Run what is left, and write down how that ended."""

    def tell_and_log(progress: Progress) -> None:
        if progress.note:
            log.write(progress.note)
        log.limit()
        tell(progress)

    try:
        costs = _run(folder, tell_and_log)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        reason = str(error) if isinstance(error, HoldfastError) else repr(error)
        reason = "stopped from outside" if stopped else reason
        if isinstance(error, OSError) and (told := FolderUnwritable.of(error)):
            reason = str(told)
        reason = visible(reason)
        log.write("".join(traceback.format_exception(error)))
        with suppress(OSError):  # a full disk; the lock file has the reason then
            folder.note("stopped" if stopped else "failed", reason, ended=_now())
        raise
    with suppress(OSError):  # a full disk; the card is a view of the run
        folder.update(ended=_now(), **costs)
        write_card(folder)
    # Last: a death in between is one of a cell that is not finished, and is cleaned up after.
    folder.note("finished", ended=_now(), **costs)


def _failures(info: dict[str, Any], left: str) -> list[dict[str, Any]]:
    """Return when and why earlier attempts failed.

    Args:
        info: What the last one left in ``run.json``.
        left: What it could leave in the lock file alone.
    """
    failures: list[dict[str, Any]] = list(info.get("failures", ()))
    if info.get("status") == "failed":
        failures.append({"ended": info.get("ended"), "reason": info.get("reason")})
    elif left or info.get("status") == "running":  # and yet the lock is free
        vanished = "its process was killed, or its machine or its disk stopped"
        failures.append({"ended": None, "reason": left or vanished})
    return failures


def _run(folder: RunFolder, tell: Tell) -> dict[str, Any]:
    scenario, kind = folder.scenario, kind_of(folder.scenario)
    failures = EnvironmentFailures(folder.path)
    stream = kind.stream(folder.seed, on_failure=failures)
    agent, methods = kind.agent(), kind.methods()
    measured = list(stream.eval_stream)
    with device_told(scenario, agent):
        journal = CellJournal(folder, agent, methods, measured, tell)
    failures.tell = journal.environment_failed
    finished = journal.resumed_at
    if scenario.agent.init is not None:
        agent.initial = initial_files(scenario)
    try:
        with device_told(scenario, agent), garbage.apart():
            if 0 < finished < len(scenario.stream_tasks):
                kind.bring_back(folder, agent, finished)
            run_stream(list(stream.train_stream)[finished:], agent, methods, journal)
        return journal.summary()
    finally:
        agent.close()
        for experience in measured:
            experience.close()
        journal.close()


def _origin(scenario: Scenario) -> dict[str, Any]:
    """Return what a reader needs to run the cell again: versions, commit, machine."""
    return {
        "started": _now(),
        "ended": None,
        "versions": {name: version(name) for name in PACKAGES}
        | {"python": sys.version.split()[0]}
        | offering_packages(scenario),
        "commit": _commit(),
        "host": platform.node(),
        "cores": os.cpu_count(),
    }


def _mode(scenario: Scenario) -> dict[str, Any]:
    """Return whether the cell learns in lockstep, in which it will go on."""
    is_compiled = scenario.agent.engine == "compiled"
    return {"lockstep": here() is not None} if is_compiled else {}


def _checkpoints(scenario: Scenario) -> dict[str, Any]:
    """Return how often there are checkpoints inside tasks, and what going on from one gives.

    A robot, and whatever keeps pace with the clock, never repeats itself.
    """
    real = any(task.exclusive or task.rate is not None for task in scenario.tasks)
    every = scenario.checkpoint.every
    return {"inside_tasks": every, "mode": "approximate" if real else "exact"}


def _commit() -> str | None:
    """Return the git commit of the working folder, with a ``+`` where files differ from it."""
    describe = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        found = subprocess.run(  # noqa: S603  # fixed words
            describe, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
