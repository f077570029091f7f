"""Differences of scenarios: which keys change no number, and diffs of the others."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from holdfast.continual.run_folder.record import SCENARIO, RunFolder
from holdfast.scenarios.schema.scenario import Pool, Scenario
from holdfast.scenarios.schema.sections import Resources
from holdfast.scenarios.source.override import NoSuchPlace, plain_data, put, resolved, undotted
from holdfast.scenarios.source.yaml_file import dump

NO_MATTER: dict[str, Any] = {
    "adapt": None,
    "description": "",
    "pool": Pool(),
    "resources": Resources(),
    "track": (),
    "tuned": {},
}
"""Keys that change no number, and their defaults; they may differ between equal scenarios."""

_VISIT = re.compile(r"-\d+$")
"""Ends the name of a task that was drawn for its seed."""


def setting(scenario: Scenario) -> dict[str, Any]:
    """Return all of a scenario but what its cells may differ in.

    Checkpoints inside tasks, the engine and lockstep decide on random numbers, as a seed does.
    """
    left_out = {"methods", "seeds", "checkpoint", *NO_MATTER}
    found = scenario.model_dump(exclude=left_out)
    for name in ("engine", "seeds_at_once"):
        del found["agent"][name]
    return found


def difference(one: RunFolder, other: RunFolder) -> str:
    """Return how the scenarios of two cells differ, as a diff; empty where they are the same.

    Not counted are what is drawn for each seed, where the seeds differ, and the keys that are
    swept, which ``run.json`` names.

    Raises:
        CheckpointUnusable: If a scenario cannot be read.
    """
    settings = [setting(folder.scenario) for folder in (one, other)]
    swept = {key for folder in (one, other) for key in folder.info().get("sweep", {})}
    settings = [_without(found, swept) for found in settings]
    if one.seed != other.seed:
        settings = [undrawn(found) for found in settings]
    if settings[0] == settings[1]:
        return ""
    before, after = map(dump, settings)
    return text_diff(before, after, one.path / SCENARIO, other.path / SCENARIO, around=1)


def text_diff(
    before: str, after: str, name: Path | str, new_name: Path | str, *, around: int = 2
) -> str:
    """Return how a text differs from another, as a diff with some lines around each difference."""
    texts = before.splitlines(), after.splitlines()
    lines = difflib.unified_diff(*texts, str(name), str(new_name), lineterm="", n=around)
    return "\n".join(lines)


def changed(diff: str) -> str:
    r"""Return the lines that differ alone, in one line.

    >>> changed("--- a\n+++ b\n@@ -1 +1 @@\n tasks:\n-n_envs: 1\n+n_envs: 2")
    '-n_envs: 1 +n_envs: 2'
    """
    lines = [line for line in diff.splitlines()[2:] if line[:1] in ("-", "+")]
    return " ".join(f"{line[0]}{line[1:].strip()}" for line in lines)


def _without(found: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return a ``setting`` without the values of keys; those of methods are in none."""
    plain = plain_data(found)
    for key in keys:
        with suppress(NoSuchPlace):
            put(plain, resolved(plain, undotted(key)), None)
    return cast("dict[str, Any]", plain)


def undrawn(found: dict[str, Any]) -> dict[str, Any]:
    """Return a ``setting`` without what may have been drawn for the seed."""
    stream = {key: v for key, v in found["stream"].items() if key not in ("order", "repeat")}
    tasks = [
        {key: v for key, v in task.items() if key not in ("changes", "kwargs")}
        if _VISIT.search(task["name"])
        else task
        for task in found["tasks"]
    ]
    return {**found, "stream": stream, "tasks": tasks}
