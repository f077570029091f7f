"""The cells of a scenario: every point of its sweep, with every method and seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from itertools import product
from typing import Any, NamedTuple

from holdfast.scenarios.schema.method_spec import Method, labelled, numbered, safe, short
from holdfast.scenarios.schema.studies import probes
from holdfast.scenarios.source.override import plain_data, put, resolved, undotted
from holdfast.scenarios.source.yaml_file import KeyPath, dotted

_LONGEST = 100


class Cell(NamedTuple):
    """One run of a scenario: a method, a seed, and a point of the sweep.

    Attributes:
        method: With the arguments that are swept.
        seed: The seed.
        label: Names its folder.
        sweep: Every swept key that concerns it, as written, and its value.
        point: What is swept and concerns all methods, as text: ``learning_rate=0.001``. Cells of
            one point are compared with each other.
        listed: Place of the method among those that the scenario lists.
    """

    method: Method
    seed: int
    label: str
    sweep: Mapping[str, Any] = {}
    point: str = ""
    listed: int = 0


class Axis(NamedTuple):
    """One key that is swept.

    Attributes:
        key: As written.
        path: Where it leads in the scenario's plain data.
        values: What it takes.
    """

    key: str
    path: KeyPath
    values: tuple[Any, ...]

    @property
    def method(self) -> int | None:
        """Index of the method that alone it concerns, or None where it concerns all."""
        index = self.path[1] if self.path[0] == "methods" and len(self.path) > 1 else None
        return index if isinstance(index, int) else None

    @property
    def argument(self) -> tuple[int, str]:
        """Position of the part of a method that takes the argument, and the argument's name."""
        composed = isinstance(self.path[2], int)
        name = self.path[4] if composed else self.path[3]
        return int(self.path[2]) if composed else 0, str(name)


def cells(
    methods: Sequence[Method], seeds: Sequence[int], axes: Sequence[Axis]
) -> tuple[Cell, ...]:
    """Return every run: for each point of the sweep all methods, for each method all seeds.

    Args:
        methods: As the scenario lists them.
        seeds: Of each method.
        axes: Of the sweep.
    """
    entries = list(_entries(methods, axes))
    compared = tuple(method for _, method, _ in entries)
    shared = [axis for axis in axes if axis.method is None]
    if len(axes) > len(shared):
        shown = [[a.argument for a in axes if a.method == index] for index, *_ in entries]
        compared = labelled(compared, shown)
    found: list[Cell] = []
    taken: set[str] = set()
    for of_all, point in _points(shared, axes):
        for (index, _, own), method in zip(entries, compared, strict=True):
            label = numbered(pointed(method.label, point), taken)
            method = method.model_copy()
            method._label = label
            found += [Cell(method, seed, label, {**of_all, **own}, point, index) for seed in seeds]
    return tuple(found)


def axes_of(plain: Any, given: Mapping[str, Any]) -> list[Axis]:
    """Return the keys of a sweep, or of a search space, whose axes hold what stands for it.

    Args:
        plain: The scenario's plain data.
        given: Values, or where they lie, by key.

    Raises:
        NoSuchPlace: If a key leads nowhere.
    """
    return [Axis(key, resolved(plain, undotted(key)), tuple(probes(v))) for key, v in given.items()]


def with_values(method: Method, values: Iterable[tuple[KeyPath, Any]]) -> Method:
    """Return a method with arguments set, at paths below ``methods[index]``."""
    plain = [plain_data(method.model_dump())]
    for path, value in values:
        put(plain, (0, *path), deepcopy(value))
    return Method.model_validate(plain[0])


def pointed(label: str, point: str) -> str:
    """Return the label of a method at a point of the sweep; no longer than a folder's name may be.

    >>> pointed("ewc", "learning_rate=0.001"), pointed("ewc", "")
    ('ewc-learning_rate=0.001', 'ewc')
    """
    whole = f"{label}-{point}" if point else label
    if len(whole) <= _LONGEST:
        return whole
    return f"{whole[: _LONGEST - 9]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def names(axes: Sequence[Axis], among: Sequence[Axis]) -> list[str]:
    """Return short names of keys: the last words of each that tell it from the others.

    >>> paths = ("agent", "rate"), ("methods", 0, "x", "rate")
    >>> rate, own = (Axis("", path, ()) for path in paths)
    >>> names([rate], [rate]), names([rate], [rate, own])
    (['rate'], ['agent.rate'])
    """
    found = []
    for axis in axes:
        others = [other.path for other in among if other.path != axis.path]
        for start in range(len(axis.path) - 1, -1, -1):
            end = axis.path[start:]
            if isinstance(end[0], str) and not any(path[-len(end) :] == end for path in others):
                break
        found.append(safe(dotted(end).replace("]", "")))
    return found


def _entries(
    methods: Sequence[Method], axes: Sequence[Axis]
) -> Iterable[tuple[int, Method, dict[str, Any]]]:
    """Yield each listed method with each combination of its own swept arguments."""
    for index, method in enumerate(methods):
        own = [axis for axis in axes if axis.method == index]
        for values in product(*(axis.values for axis in own)):
            given = [(axis.path[2:], value) for axis, value in zip(own, values, strict=True)]
            changed = with_values(method, given) if own else method
            yield index, changed, {axis.key: v for axis, v in zip(own, values, strict=True)}


def _points(shared: Sequence[Axis], axes: Sequence[Axis]) -> Iterable[tuple[dict[str, Any], str]]:
    """Yield the values of the keys that concern all methods, and their text."""
    called = names(shared, axes)
    taken: set[str] = set()
    for values in product(*(axis.values for axis in shared)):
        words = [f"{name}={short(value)}" for name, value in zip(called, values, strict=True)]
        text = numbered(safe("-".join(words)), taken) if words else ""
        yield {axis.key: value for axis, value in zip(shared, values, strict=True)}, text
