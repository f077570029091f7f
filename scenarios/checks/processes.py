"""Whether what runs in other processes can run there: ``pool:``, and ``python:`` of a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from holdfast.scenarios.checks.interpreter import check_interpreter, interpreter
from holdfast.scenarios.checks.messages import Finding
from holdfast.scenarios.checks.references import NotUsable
from holdfast.scenarios.schema.fields import whole
from holdfast.scenarios.source.yaml_file import KeyPath

_REACHES_IN = "reaches inside the environment, which runs under another interpreter (python:)"


def check_pool(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what is wrong between ``pool:``, ``n_envs:`` and exclusive tasks."""
    pool = data.get("pool")
    workers = whole(pool.get("workers")) if isinstance(pool, Mapping) else None
    if not isinstance(workers, int) or workers < 1:
        return
    n_envs = whole(data.get("n_envs", 1))
    if isinstance(n_envs, int) and 0 < n_envs < workers:
        message = f"{workers} processes have only {n_envs} environments (n_envs) to share"
        yield Finding(("pool", "workers"), message)
    for index, task in enumerate(data["tasks"]):
        if not isinstance(task, Mapping):
            continue
        if task.get("drift"):
            message = (
                "what a drift sets is recorded by the process that trains, and these environments "
                "run in others; write pool: {workers: 0}"
            )
            yield Finding(("tasks", index, "drift"), message, at_key=True)
        if task.get("exclusive") is True:
            message = (
                "an exclusive environment (a robot) must not be killed and started anew by itself; "
                "write pool: {workers: 0}"
            )
            yield Finding(("tasks", index, "exclusive"), message, at_key=True)


def check_python(task: Mapping[str, Any], path: KeyPath, folder: Path | None) -> Iterator[Finding]:
    """Yield what is wrong with a task whose environment runs under another interpreter."""
    python = task.get("python")
    if not isinstance(python, str) or not python:
        return  # reported with the other wrong forms
    try:
        check_interpreter(interpreter(python, folder))
    except NotUsable as error:
        yield Finding((*path, "python"), str(error))
    changes, wrappers = task.get("changes"), task.get("wrappers")
    changes = changes if isinstance(changes, Mapping) else {}
    for key in ("set", "mujoco"):
        if changes.get(key):
            message = f"changes.{key} {_REACHES_IN}; give kwargs: instead, or subclass it there"
            yield Finding((*path, "changes", key), message, at_key=True)
    for key in ("sample", "drift", "randomize"):
        if task.get(key):
            message = f"{key} {_REACHES_IN}; let its own reset draw, or give kwargs: to each task"
            yield Finding((*path, key), message, at_key=True)
    dead = changes.get("dead_actuators")
    if isinstance(dead, list) and any(isinstance(entry, str) for entry in dead):
        message = f"an actuator's name {_REACHES_IN}; give its number"
        yield Finding((*path, "changes", "dead_actuators"), message, at_key=True)
    for index, entry in enumerate(wrappers if isinstance(wrappers, list) else ()):
        if entry == "atari" or (isinstance(entry, Mapping) and "atari" in entry):
            message = f"the wrapper 'atari' {_REACHES_IN}"
            yield Finding((*path, "wrappers", index), message)
