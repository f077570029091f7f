"""Checks of ``sweep:`` and ``tune:``: each key, and the scenario at each point."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import chain, product
from math import prod
from typing import Any

from holdfast.scenarios.checks.messages import Checked, Finding, entries, mapping
from holdfast.scenarios.schema.cells import Axis
from holdfast.scenarios.schema.studies import dimension, probes, values
from holdfast.scenarios.source import bounds
from holdfast.scenarios.source.override import NoSuchPlace, look, put, resolved, undotted
from holdfast.scenarios.source.yaml_file import KeyPath, Source

Check = Callable[[dict[str, Any]], Checked]
"""Returns what is wrong with a scenario's data, and the data as they are meant."""

OF_STUDIES = ("sweep", "tune", "tuned")

_REFUSED = {
    "seeds": "every cell is run with each of seeds: already; list them there",
    "name": "all cells of a study lie under one name",
    "description": "it changes nothing that runs",
    "pool": "it changes no result",
    "task_defaults": "vary the key of a task: 'tasks.<name>.steps'",
}
_METHODS = (
    "methods are compared by listing them; name an argument of one: 'methods.{name}.<argument>', "
    "which its cells alone take"
)


def without_studies(data: Any) -> dict[str, Any]:
    """Return a scenario's data without what only describes studies of it."""
    if not isinstance(data, dict):
        return {}
    return {key: value for key, value in data.items() if key not in OF_STUDIES}


def check_sweep(source: Source, base: Collection[Finding], check: Check) -> Checked:
    """Return ``sweep:`` with values as their keys take them, and what is wrong beyond its forms.

    Args:
        source: The scenario.
        base: What is wrong with the scenario itself.
        check: Checks a scenario's data.
    """
    given = source.data.get("sweep") if isinstance(source.data, dict) else None
    if not isinstance(given, dict):
        return Checked([], given)
    plain = without_studies(source.data)
    wrong, axes = _axes(source, plain, given)
    auto = [axis.key for axis in axes if axis.path == ("backend",) and "auto" in axis.values]
    if auto:
        message = "auto is settled once for all cells; sweep gymnasium and envpool"
        return Checked([*wrong, Finding(("sweep", auto[0]), message)], given)
    count = _count(axes)
    if count > bounds.POINTS:
        message = f"{count:,} points are too many (at most {bounds.POINTS:,}); `holdfast tune`"
        message += " looks for the best of many without trying all"
        return Checked([*wrong, Finding(("sweep",), message)], given)
    if many := _too_many_cells(count, plain):
        return Checked([*wrong, many], given)
    lists = {axis.key: isinstance(given[axis.key], list) for axis in axes}
    fitted = given | {axis.key: list(axis.values) for axis in axes}
    found: dict[Finding, None] = {}  # a set in order
    for point in _points(axes):
        data = deepcopy(plain)
        for axis, index in point:
            put(data, axis.path, axis.values[index])
        checked = check(data)
        new = [finding for finding in checked.findings if finding not in base]
        told = (_at_value(finding, point, lists) for finding in new)
        found |= dict.fromkeys(finding for finding in told if finding not in base)
        for axis, index in point:
            fitted[axis.key][index] = look(checked.data, axis.path)
    return Checked([*wrong, *found], fitted)


def _too_many_cells(points: int, plain: Mapping[str, Any]) -> Finding | None:
    """Return that a sweep with all methods and seeds has too many cells, None where it has not."""
    methods, seeds = (len(entries(plain.get(key))) or 1 for key in ("methods", "seeds"))
    if (count := points * methods * seeds) <= bounds.CELLS:
        return None
    message = (
        f"{count:,} cells are too many, {points:,} points x {methods:,} methods x {seeds:,} seeds; "
        f"at most {bounds.CELLS:,} are taken: list fewer values, methods or seeds"
    )
    return Finding(("sweep",), message)


def _axes(
    source: Source, plain: Mapping[str, Any], given: Mapping[Any, Any]
) -> tuple[list[Finding], list[Axis]]:
    """Return the keys of a sweep that can be varied, and what is wrong with the others."""
    found: list[Finding] = []
    axes: list[Axis] = []
    for key, value in given.items():
        try:
            taken = values(value)
        except ValueError:
            continue  # reported with the other wrong forms
        wrong = _wrong_key(key, plain, {axis.path: axis.key for axis in axes})
        if wrong := wrong or _set_elsewhere(source, key):
            found.append(Finding(("sweep", key), wrong, at_key=True))
        else:
            axes.append(Axis(key, resolved(plain, undotted(key)), taken))
    return found, axes


def check_tune(source: Source, base: Collection[Finding], check: Check) -> list[Finding]:
    """Return what is wrong with ``tune:``, beyond its forms; arguments as for ``check_sweep``."""
    tune = source.data.get("tune") if isinstance(source.data, dict) else None
    if not isinstance(tune, dict):
        return []
    plain, space = without_studies(source.data), tune.get("space")
    found = dict.fromkeys(_check_protocol(tune, source.data))  # a set in order
    paths: dict[KeyPath, str] = {}
    for key, given in mapping(space).items():
        try:
            tried = probes(dimension(given))
        except ValueError:
            continue  # reported with the other wrong forms
        if wrong := _wrong_key(key, plain, paths):
            found[Finding(("tune", "space", key), wrong, at_key=True)] = None
            continue
        path = resolved(plain, undotted(key))
        paths[path] = key
        for index, value in enumerate(tried):
            data = deepcopy(plain)
            put(data, path, value)
            at = (*("tune", "space", key), *((index,) if isinstance(given, list) else ()))
            for finding in check(data).findings:
                if finding not in base:
                    found[_at_probe(finding, path, f"{key}={value}", at)] = None
    return [finding for finding in found if finding not in base]


def _at_probe(finding: Finding, path: KeyPath, shown: str, place: KeyPath) -> Finding:
    """Return what is wrong with a value of a search space, at its place if it concerns the key."""
    if not _related(finding.path, path):
        return finding._replace(message=f"with {shown} (tune): {finding.message}")
    return finding._replace(path=place[:3] if finding.at_key else place)


def _check_protocol(tune: dict[str, Any], data: dict[str, Any]) -> Iterator[Finding]:
    percent, seeds = tune.get("percent"), tune.get("seeds")
    if percent is None and seeds is None:
        message = (
            "nothing says what tuning may look at; write percent: 10 (of the stream), or seeds: "
            "that the scenario does not run"
        )
        yield Finding(("tune",), message)
    for index, seed in enumerate(entries(seeds)):
        if seed in entries(data.get("seeds", [0])):
            message = f"seed {seed} is one of the scenario's own seeds:; hold others out"
            yield Finding(("tune", "seeds", index), message)


def _wrong_key(key: Any, plain: Any, others: Mapping[KeyPath, str]) -> str:
    """Return what is wrong with the path of a swept key, empty if nothing is.

    Args:
        key: As written.
        plain: The scenario's data.
        others: Keys that are swept with it, by their paths.
    """
    try:
        path = resolved(plain, undotted(str(key)))
    except NoSuchPlace as error:
        return str(error)
    if not path:
        return "expected the path of a key: agent.learning_rate"
    if path[0] in OF_STUDIES:
        return "a study is no part of itself; sweep a key of the scenario"
    if path[0] in _REFUSED:
        return f"'{path[0]}' cannot be varied: {_REFUSED[str(path[0])]}"
    composed = len(path) > 2 and isinstance(path[2], int)
    if path[0] == "methods" and len(path) < (5 if composed else 4):
        listed = plain.get("methods") or ["naive"]
        known = [name for name in listed if isinstance(name, str)] or ["ewc"]
        return _METHODS.format(name=path[2] if len(path) == 3 else known[-1])
    if path[-1] == "paper":
        return "a paper stands for many values; list the method twice instead"
    for other, written in others.items():
        if _related(path, other):
            same = "is the same key as" if path == other else "overlaps with"
            return f"'{key}' {same} '{written}'; keep one of them"
    return ""


def _set_elsewhere(source: Source, key: str) -> str:
    """Return what is wrong where an override sets a key that is swept."""
    path = resolved(source.data, undotted(key))
    place = source.values.get(path)
    if place is None or place.file == source.file:
        return ""
    return (
        f"{place.file} sets it too; write 'sweep.{key}=[...]' to sweep other values, or "
        "'sweep={}' to sweep nothing"
    )


def _related(path: KeyPath, other: KeyPath) -> bool:
    """Return whether one path is, or leads to, the other."""
    return bool(path) and (path == other[: len(path)] or other == path[: len(other)])


def _count(axes: Collection[Axis]) -> int:
    """Return the number of ``_points``."""
    shared, own = _groups(axes)
    sizes = [prod(len(axis.values) for axis in group) for group in (shared, *own)]
    return sizes[0] * max(sizes[1:], default=1)


def _groups(axes: Collection[Axis]) -> tuple[list[Axis], list[list[Axis]]]:
    """Return the axes that concern all methods, and those of each method."""
    own: dict[int, list[Axis]] = {}
    for axis in axes:
        if axis.method is not None:
            own.setdefault(axis.method, []).append(axis)
    return [axis for axis in axes if axis.method is None], list(own.values())


def _points(axes: Collection[Axis]) -> Iterator[list[tuple[Axis, int]]]:
    """Yield axes with indices of their values, such that every point of every method is there.

    The arguments of two methods are set at once: their cells are different ones.
    """
    shared, own = _groups(axes)
    turns = [list(_indices(group)) for group in own]
    for outer in _indices(shared):
        for turn in range(max(map(len, turns), default=1)):
            inner = chain.from_iterable(group[turn % len(group)] for group in turns)
            yield [*outer, *inner]


def _indices(axes: Sequence[Axis]) -> Iterator[tuple[tuple[Axis, int], ...]]:
    return product(*([(axis, index) for index in range(len(axis.values))] for axis in axes))


def _at_value(
    finding: Finding, point: Sequence[tuple[Axis, int]], lists: dict[str, bool]
) -> Finding:
    """Return what is wrong with a point at the swept value that it concerns."""
    for axis, index in point:
        if _related(finding.path, axis.path):
            place: KeyPath = ("sweep", axis.key)
            if lists[axis.key] and not finding.at_key:
                place = (*place, index)
            return finding._replace(path=place)
    shown = ", ".join(f"{axis.key}={axis.values[index]}" for axis, index in point)
    return finding._replace(message=f"with {shown} (sweep): {finding.message}")
