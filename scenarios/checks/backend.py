"""Checks of ``backend:``: can EnvPool make the tasks? Nothing is built."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from holdfast.errors import MissingExtra
from holdfast.registry import suggestion
from holdfast.scenarios.checks.messages import Finding, entries, mapping, refused, tasks_of
from holdfast.scenarios.checks.references import check_environment, is_own, why_not
from holdfast.scenarios.schema.fields import Tracker
from holdfast.scenarios.schema.method_spec import parts_of, wrapper_of
from holdfast.scenarios.source.yaml_file import KeyPath

BATCH_WRAPPERS = ("gymnasium.wrappers:FilterObservation", "gymnasium.wrappers:FlattenObservation")
"""Wrappers that the EnvPool adapter applies to whole batches."""

_REMEDY = "write `backend: gymnasium`"
_NO_ATTRIBUTES = f"EnvPool's simulators have no attributes to set; {_REMEDY}"
_CHANGES = {
    "set": f"{_NO_ATTRIBUTES}, or see which kwargs: take",
    "mujoco": f"EnvPool's MuJoCo models cannot be changed; {_REMEDY}",
    "action_delay": f"a delay works on one environment at a time, EnvPool on all; {_REMEDY}",
}
_KEYS = {
    "exclusive": f"an EnvPool is many environments, not one robot; {_REMEDY}",
    "cost": f"costs are counted in one environment at a time, EnvPool steps all; {_REMEDY}",
    "rate": f"an EnvPool is many environments, not one in real time; {_REMEDY}",
    "python": f"EnvPool's simulators run in this interpreter; {_REMEDY}",
    **dict.fromkeys(("sample", "drift", "randomize"), _NO_ATTRIBUTES),
}


def check_backend(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what EnvPool cannot take, where the scenario asks for EnvPool.

    With ``backend: auto`` a task needs an id that both backends have; what else EnvPool cannot take
    decides for Gymnasium.
    """
    backend = data.get("backend")
    if backend not in ("envpool", "auto"):
        return
    pooled = backend == "envpool"
    if not is_installed():
        if pooled:
            yield Finding(("backend",), str(MissingExtra("backend: envpool", "envpool", "envpool")))
        return
    for index, task in tasks_of(data):
        for finding in cannot_take(task) if pooled else _check_both(task):
            yield finding._replace(path=("tasks", index, *finding.path))
    if pooled:
        yield from _check_methods(data.get("methods"))
        if mapping(data.get("pool")).get("workers"):
            yield Finding(("pool", "workers"), f"EnvPool has threads of its own; {_REMEDY}")


def cannot_take(task: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield why EnvPool cannot make a task, with paths inside the task."""
    env = task.get("env")
    if isinstance(env, str) and env:
        yield from _check_id(env)
    yield from refused(task, _KEYS)
    for index, entry in enumerate(entries(task.get("wrappers"))):
        yield from _check_wrapper(entry, ("wrappers", index))
    changes = mapping(task.get("changes"))
    yield from refused(changes, _CHANGES, ("changes",))
    if any(isinstance(entry, str) for entry in entries(changes.get("dead_actuators"))):
        message = "EnvPool knows no actuators by name; write their indices"
        yield Finding(("changes", "dead_actuators"), message)


def is_installed() -> bool:
    """Return whether EnvPool is installed."""
    return find_spec("envpool") is not None


@cache
def envpool_ids() -> Mapping[str, str]:
    """Return EnvPool's ids with the module that each comes from.

    Raises:
        MissingExtra: EnvPool is not installed.
    """
    if not is_installed():
        raise MissingExtra("backend: envpool", "envpool", "envpool")
    file = _cache_folder() / f"envpool-{version('envpool')}.json"
    with suppress(OSError, ValueError):
        return dict(json.loads(file.read_text("utf-8")))
    # In a process of its own: the import takes a second or two and brings every simulator with it.
    listed = subprocess.run(  # noqa: S603  # this interpreter, and a text of ours
        [sys.executable, "-c", _LIST_IDS], capture_output=True, text=True, check=True
    ).stdout
    ids: dict[str, str] = json.loads(listed.splitlines()[-1])
    with suppress(OSError):  # kept for the next time, where there is room
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(ids), "utf-8")
    return ids


_LIST_IDS = """
import json
from envpool.registration import registry
print(json.dumps({name: spec[0] for name, spec in registry.specs.items()}))
"""


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "holdfast"


def check_trackers(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield which tracker's package is not installed; forms are left to the model."""
    given = data.get("track")
    names = [given] if isinstance(given, str) else given
    for name in names if isinstance(names, list) else ():
        if name in get_args(Tracker) and find_spec(name) is None:
            message = f'{name} needs its package: pip install "holdfast[{name}]"; or remove it'
            yield Finding(("track",), message)


def no_id(env: str) -> str:
    """Return that EnvPool has no such id, and the nearest one."""
    hint = suggestion(env, envpool_ids(), otherwise="`holdfast list envs` shows its families")
    return f"EnvPool has no environment '{env}'; {hint}"


def _check_id(env: str) -> Iterator[Finding]:
    if is_own(env):
        message = f"EnvPool has environments of its own only, not '{env}'; {_REMEDY}"
        yield Finding(("env",), message)
    elif env not in envpool_ids():
        yield Finding(("env",), no_id(env))


def _check_both(task: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield where only one backend has a task's id."""
    env = task.get("env")
    if not isinstance(env, str) or not env or is_own(env) or env in envpool_ids():
        return
    if why_not(check_environment, env, None):
        return  # reported as no environment of Gymnasium's
    message = f"backend: auto compares two, but EnvPool has no environment '{env}'; {_REMEDY}"
    yield Finding(("env",), message)


def _check_wrapper(entry: Any, path: KeyPath) -> Iterator[Finding]:
    name = (wrapper_of(entry) or {}).get("name")
    if name and name not in BATCH_WRAPPERS:
        message = f"EnvPool steps all environments at once and takes {' and '.join(BATCH_WRAPPERS)}"
        hint = "; Atari's and ViZDoom's have stack_num, frame_skip, gray_scale among their kwargs:"
        own = hint if name in ("atari", "frame_stack") else ""
        yield Finding(path, f"{message} only, not '{name}'{own}; or {_REMEDY}")


def _check_methods(methods: Any) -> Iterator[Finding]:
    for index, entry in enumerate(entries(methods)):
        if any(part["name"] == "joint" for part in parts_of(entry)):
            message = f"joint changes the task between episodes, which a pool cannot; {_REMEDY}"
            yield Finding(("methods", index), message)
