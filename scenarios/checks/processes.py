"""Checks of other processes: ``pool:``, and the ``python:`` of a task."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from holdfast.scenarios.checks.messages import Finding, entries, mapping, refused, tasks_of
from holdfast.scenarios.checks.references import NotUsable, why_not
from holdfast.scenarios.schema.fields import whole
from holdfast.scenarios.source.yaml_file import KeyPath

OLDEST = (3, 8)
NEEDED = ("gymnasium", "numpy")

# Runs under any Python, even one that is too old.
_PROBE = f"""
import sys
missing = []
if sys.version_info >= {OLDEST}:
    import importlib.util
    missing = [name for name in {NEEDED} if importlib.util.find_spec(name) is None]
sys.stdout.write("%d %d %s" % (sys.version_info[0], sys.version_info[1], " ".join(missing)))
"""
_TIMEOUT_S = 20
_REACHES_IN = "reaches inside the environment, which runs under another interpreter (python:)"
_NOT_UNDER_PYTHON = {
    key: f"{key} {_REACHES_IN}; let its own reset draw, or give kwargs: to each task"
    for key in ("sample", "drift", "randomize")
}
_NO_CHANGES = {
    key: f"changes.{key} {_REACHES_IN}; give kwargs: instead, or subclass it there"
    for key in ("set", "mujoco")
}
_NOT_IN_WORKERS = {
    "drift": "what a drift sets is recorded by the process that trains, and these environments "
    "run in others; write pool: {workers: 0}",
    "exclusive": "an exclusive environment (a robot) must not be killed and started again by "
    "itself; write pool: {workers: 0}",
}


def interpreter(python: str, folder: Path | None) -> Path:
    """Return the path of an interpreter that a scenario names, relative to the scenario's folder.

    A name without a slash that is no file there is looked for as the shell does. Links are not
    followed: the place of a virtual environment's own link says which packages it has.
    """
    path = Path(os.path.abspath((folder or Path()) / Path(python).expanduser()))  # noqa: PTH100
    if os.sep not in python and not path.exists():
        found = shutil.which(python)
        return Path(found) if found else path
    return path


@cache
def check_interpreter(path: Path) -> None:
    """Raise if the interpreter cannot run environments; starts it once.

    Raises:
        NotUsable: What is wrong, and the command that mends it.
    """
    if path.is_dir():
        raise NotUsable(f"{path} is a folder; name the interpreter in it: {path / 'bin/python'}")
    if not path.exists():
        raise NotUsable(
            f"there is no {path}; make one with: python -m venv {path.parent.parent}"
            if path.parent.name == "bin"
            else f"there is no {path}"
        )
    if not os.access(path, os.X_OK):
        raise NotUsable(f"{path} is no program that can be started")
    try:
        done = subprocess.run(  # noqa: S603  # the interpreter is the user's choice
            [path, "-c", _PROBE], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
        major, minor, *missing = done.stdout.split()
        version = int(major), int(minor)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise NotUsable(f"{path} is no Python interpreter: {error}") from error
    if version < OLDEST:
        raise NotUsable(f"{path} is Python {major}.{minor}; environments need 3.8 or newer")
    if missing:
        raise NotUsable(
            f"{path} lacks {' and '.join(missing)}; install with: "
            f"{path} -m pip install {' '.join(missing)}"
        )


def check_pool(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what is wrong between ``pool:``, ``n_envs:`` and exclusive tasks."""
    workers = whole(mapping(data.get("pool")).get("workers"))
    if not isinstance(workers, int) or workers < 1:
        return
    n_envs = whole(data.get("n_envs", 1))
    if isinstance(n_envs, int) and 0 < n_envs < workers:
        message = f"{workers} processes have only {n_envs} environments (n_envs) to share"
        yield Finding(("pool", "workers"), message)
    for index, task in tasks_of(data):
        yield from refused(task, _NOT_IN_WORKERS, ("tasks", index))


def check_python(task: Mapping[str, Any], path: KeyPath, folder: Path | None) -> Iterator[Finding]:
    """Yield what is wrong with a task whose environment runs under another interpreter."""
    python = task.get("python")
    if not isinstance(python, str) or not python:
        return  # reported with the other wrong forms
    if wrong := why_not(check_interpreter, interpreter(python, folder)):
        yield Finding((*path, "python"), wrong)
    changes = mapping(task.get("changes"))
    yield from refused(changes, _NO_CHANGES, (*path, "changes"))
    yield from refused(task, _NOT_UNDER_PYTHON, path)
    if any(isinstance(entry, str) for entry in entries(changes.get("dead_actuators"))):
        message = f"an actuator's name {_REACHES_IN}; give its number"
        yield Finding((*path, "changes", "dead_actuators"), message, at_key=True)
    for index, entry in enumerate(entries(task.get("wrappers"))):
        if entry == "atari" or "atari" in mapping(entry):
            message = f"the wrapper 'atari' {_REACHES_IN}"
            yield Finding((*path, "wrappers", index), message)
