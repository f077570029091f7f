"""The ``task_defaults:`` section: keys of every task, written once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

from holdfast.errors import ScenarioError
from holdfast.scenarios.source import bounds
from holdfast.scenarios.source.yaml_file import KeyPath, Source

KEY = "task_defaults"
BY_KEY = ("kwargs", "changes")
"""Keys of a task that are mappings: a task's own entries join those of the defaults."""


def with_task_defaults(source: Source) -> Source:
    """Return a source whose tasks have what ``task_defaults:`` gives them, and the section no more.

    What a task says itself wins. Of ``kwargs`` and ``changes``, this holds for each of their keys;
    any other key is replaced whole. A mistake in a default is reported where the default stands.

    Raises:
        ScenarioError: If the tasks would hold too much with them.
    """
    data = source.data
    if not isinstance(data, dict) or KEY not in data:
        return source
    defaults, tasks = data[KEY], data.get("tasks")
    problems = [*source.problems]
    if not isinstance(defaults, dict):
        message = "expected a mapping of keys of tasks; write {steps: 10000}"
        problems.append(source.problem((KEY,), message))
        defaults = {}
    if "name" in defaults:
        message = "names tell tasks apart; give every task a name of its own"
        problems.append(source.problem((KEY, "name"), message, at_key=True))
        defaults = {key: value for key, value in defaults.items() if key != "name"}
    count = len(tasks) if isinstance(tasks, list) else 0
    if (total := count * values_in(defaults)) > bounds.RESOLVED_VALUES:
        message = (
            f"{values_in(defaults):,} values for each of {count:,} tasks are {total:,}; at most "
            f"{bounds.RESOLVED_VALUES:,} are taken: list fewer tasks, or give them fewer values"
        )
        raise ScenarioError([*problems, source.problem((KEY,), message, at_key=True)])
    data = {key: value for key, value in data.items() if key != KEY}
    origins: dict[KeyPath, KeyPath] = {}
    if isinstance(tasks, list):
        data["tasks"] = list(tasks)
        for index, task in enumerate(tasks):
            if isinstance(task, dict):
                data["tasks"][index] = _merged(defaults, task)
                taken = _taken(defaults, task)
                origins |= {("tasks", index, *path): (KEY, *path) for path in taken}
    return replace(source, data=data, problems=problems, origins=origins)


def values_in(data: Any) -> int:
    """Return how many values plain data hold."""
    inside = data.values() if isinstance(data, Mapping) else data
    return 1 + sum(map(values_in, inside)) if isinstance(data, Mapping | list) else 1


def _merged(defaults: Mapping[Any, Any], task: Mapping[Any, Any]) -> dict[Any, Any]:
    defaults = deepcopy(dict(defaults))  # a task's own: an override or a sweep may change it
    merged = {**defaults, **task}
    for key in BY_KEY:
        common, own = defaults.get(key), task.get(key)
        if isinstance(common, Mapping) and isinstance(own, Mapping):
            merged[key] = {**common, **own}
    return merged


def _taken(defaults: Mapping[Any, Any], task: Mapping[Any, Any]) -> Iterator[KeyPath]:
    """Yield the paths inside a task of what comes from the defaults."""
    for key, common in defaults.items():
        own = task.get(key)
        if key not in task:
            yield (key,)
        elif key in BY_KEY and isinstance(common, Mapping) and isinstance(own, Mapping):
            yield from ((key, inner) for inner in common if inner not in own)
