"""The ``task_defaults:`` section: keys of every task, written once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from holdfast.scenarios.source.yaml_file import KeyPath, Source

KEY = "task_defaults"
BY_KEY = ("kwargs", "changes")
"""Keys of a task that are mappings: a task's own entries join those of the defaults."""


def with_task_defaults(source: Source) -> Source:
    """Return a source whose tasks have what ``task_defaults:`` gives them, and the section no more.

    What a task says itself wins. Of ``kwargs`` and ``changes``, this holds for each of their keys;
    any other key is replaced whole. A mistake in a default is reported where the default stands.
    """
    data = source.data
    if not isinstance(data, dict) or KEY not in data:
        return source
    defaults, tasks = data[KEY], data.get("tasks")
    rest = {key: value for key, value in data.items() if key != KEY}
    wrong = _wrong(defaults)
    if wrong:
        path, message = wrong
        problems = [*source.problems, source.problem(path, message, at_key=len(path) > 1)]
        return replace(source, data=rest, problems=problems)
    if not isinstance(tasks, list):
        return replace(source, data=rest)
    origins: dict[KeyPath, KeyPath] = {}
    for index, task in enumerate(tasks):
        if isinstance(task, dict):
            origins |= {("tasks", index, *path): (KEY, *path) for path in _taken(defaults, task)}
    merged = [_merged(defaults, task) if isinstance(task, dict) else task for task in tasks]
    return replace(source, data={**rest, "tasks": merged}, origins=origins)


def _wrong(defaults: Any) -> tuple[KeyPath, str] | None:
    """Return the place of a mistake that no task could have, and what it is."""
    if not isinstance(defaults, dict):
        return (KEY,), "expected a mapping of keys of tasks; write {steps: 10000}"
    if "name" in defaults:
        return (KEY, "name"), "names tell tasks apart; give every task a name of its own"
    return None


def _merged(defaults: Mapping[Any, Any], task: Mapping[Any, Any]) -> dict[Any, Any]:
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
