"""Values that replace those of a scenario: ``agent.learning_rate=1e-4``, or a file of such keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.errors import Problem, ScenarioError
from holdfast.registry import closest
from holdfast.scenarios.source import bounds
from holdfast.scenarios.source.yaml_file import KeyPath, Place, Source, dotted, read


class NoSuchPlace(ValueError):
    """A path leads nowhere in the data; the text says what to write."""


def override(source: Source, text: str, folder: Path = Path()) -> None:
    """Set values of a source from ``tasks[0].steps=100``, or from a file of them: ``@best.yaml``.

    A file that is not there is looked for in ``folder``, that of the scenario. The key is a path:
    ``tasks[0].steps``, ``tasks.0.steps``, or by name ``tasks.left.steps``. A mistake goes to
    ``source.problems``, placed as ``override tasks.0.steps=100``, or in the file.

    Raises:
        ScenarioError: If the scenario holds too much with it.
    """
    if text.startswith("@"):
        here, beside = Path(text[1:]), folder / text[1:]
        _override_by_file(source, beside if not _is_file(here) and _is_file(beside) else here)
        return
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    place = Place(f"override {shown}")
    key, equals, value_text = text.partition("=")
    path = undotted(key) if len(key) <= bounds.PATH_CHARACTERS else ()
    if not equals or not path:
        message = "an override is written key=value: agent.learning_rate=1e-4"
        source.problems.append(place.problem(message))
        return
    try:
        value = read(value_text.encode() or b"null", place.file)
    except ScenarioError as error:
        if value_text.startswith(("[", "{")) and not value_text.endswith(("]", "}")):
            message = f"not valid YAML: an open bracket; quote what holds spaces: '{key}=[0, 1]'"
            source.problems.append(place.problem(message))
            return
        source.problems += [_in_override(place, path, problem) for problem in error.problems]
        return
    source.problems += [_in_override(place, path, problem) for problem in value.problems]
    _count(source, value, place)
    source.unread |= {_joined(path, below) for below in value.unread}
    value.keys = dict.fromkeys(value.keys, place)
    value.values = dict.fromkeys(value.values, place)
    _set(source, path, value, (), place)


def _override_by_file(source: Source, path: Path) -> None:
    """Set every key of a YAML file that maps paths to values."""
    try:
        with path.open("rb") as file:
            given = read(file.read(bounds.FILE_BYTES + 1), str(path))
    except (OSError, ValueError) as error:  # no path holds a zero byte
        why = error.strerror if isinstance(error, OSError) else error
        message = f"cannot be read: {why}; '@' names a file of keys and their values"
        source.problems.append(Place(str(path)).problem(message))
        return
    except ScenarioError as error:
        source.problems += error.problems
        return
    source.problems += given.problems
    _count(source, given, Place(str(path), 1, 1))
    if not isinstance(given.data, dict):
        message = "expected keys and their values: 'agent.learning_rate: 1e-4'"
        source.problems.append(Place(str(path), 1, 1).problem(message))
        return
    if len(given.data) > bounds.OVERRIDES:
        message = (
            f"sets {len(given.data):,} keys; a file sets at most {bounds.OVERRIDES:,}: "
            "write them into the scenario"
        )
        source.problems.append(Place(str(path), 1, 1).problem(message))
        return
    for key in given.data:
        _set(source, undotted(str(key)), given, (key,), given.keys[(key,)])


def _is_file(path: Path) -> bool:
    """Return whether a file is there; a path that no file can have is none."""
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _count(source: Source, given: Source, place: Place) -> None:
    """Count what an override adds.

    Raises:
        ScenarioError: If the scenario holds too much with it.
    """
    if wrong := source.size.add(given.size.values, given.size.characters):
        problem = place.problem(f"the scenario with its overrides: {wrong}")
        raise ScenarioError([*source.problems, problem])


def _set(source: Source, path: KeyPath, given: Source, at: KeyPath, place: Place) -> None:
    """Take over the value of ``given`` that stands there, with its places."""
    value = given.data
    for part in at:
        value = value[part]
    try:
        if len(path) > bounds.DEPTH:
            raise NoSuchPlace(f"leads more than {bounds.DEPTH} levels deep")
        path = resolved(source.data, path)
        put(source.data, path, value)
    except NoSuchPlace as error:
        source.problems.append(place.problem(str(error), path))
        return
    for places in (source.keys, source.values):
        for old in [known for known in places if known[: len(path)] == path]:
            del places[old]
    source.keys[path] = place
    for mine, theirs in ((source.values, given.values), (source.keys, given.keys)):
        below = {inner: there for inner, there in theirs.items() if inner[: len(at)] == at}
        mine |= {(*path, *inner[len(at) :]): there for inner, there in below.items() if inner != at}
    source.values[path] = given.values[at]


def undotted(key: str) -> KeyPath:
    """Return the path that text names, ``tasks[1].env``; words of digits index lists.

    What follows ``sweep.`` is one key, the path of what is swept, and so is what follows
    ``tuned.``, the label of a method.

    >>> undotted("tasks[1].env"), undotted("sweep.agent.gamma")
    (('tasks', 1, 'env'), ('sweep', 'agent.gamma'))
    """
    section, _, rest = key.strip().partition(".")
    if section in ("sweep", "tuned") and rest:
        return section, rest
    parts = re.findall(r"[^.\[\]]+", key.strip())
    # An index of more digits is one of no list; Python refuses to read thousands of them.
    return tuple(int(part) if part.isdecimal() and len(part) < 10 else part for part in parts)


def resolved(data: Any, path: KeyPath) -> KeyPath:
    """Return a path with the entries of lists by their indices.

    An entry may be named instead: by its ``name:``, or by what it is, ``{name: {arguments}}``; the
    path then goes on with those arguments.

    Raises:
        NoSuchPlace: If the path leads through a value, or to no entry of a list.

    >>> resolved({"methods": ["naive", "ewc"]}, ("methods", "ewc", "strength"))
    ('methods', 1, 'ewc', 'strength')
    """
    if not isinstance(data, Mapping):
        raise NoSuchPlace("the scenario is not a mapping")
    found: KeyPath = ()
    target: Any = data
    for part in path:
        for step in _steps(target, part, found):
            target = _inside(target, step)
            found = (*found, step)
    return found


def put(data: Any, path: KeyPath, value: Any) -> None:
    """Set a value in plain data, at a path as ``resolved`` returns it; what is missing is made."""
    target = data
    for part in path[:-1]:
        inner = _inside(target, part)
        if isinstance(inner, str):  # a name in a list, which now takes arguments
            inner = {inner: None}
        target[part] = {} if inner is None else inner
        target = target[part]
    target[path[-1]] = value


def plain_data(data: Any) -> Any:
    """Return data with lists for tuples, which ``put`` can change."""
    if isinstance(data, Mapping):
        return {key: plain_data(value) for key, value in data.items()}
    return [plain_data(value) for value in data] if isinstance(data, list | tuple) else data


def look(data: Any, path: KeyPath) -> Any:
    """Return the value at a path as ``resolved`` returns it, None where there is none."""
    for part in path:
        data = _inside(data, part)
    return data


def _inside(target: Any, part: str | int) -> Any:
    if isinstance(target, list | tuple) and isinstance(part, int):
        return target[part]
    return target.get(part) if isinstance(target, Mapping) else None


def _steps(target: Any, part: str | int, found: KeyPath) -> KeyPath:
    """Return the steps that one part of a path means: two for the name of a list's entry."""
    name = dotted(found)
    if isinstance(target, list | tuple):
        if isinstance(part, str):
            return _named(target, part, name)
        if part >= len(target):
            entries = "1 entry" if len(target) == 1 else f"{len(target)} entries"
            raise NoSuchPlace(f"{name} has {entries}, counted from 0")
        return (part,)
    if isinstance(target, Mapping):
        return (part if part in target or not isinstance(part, int) else str(part),)
    bare = isinstance(target, str) and found and isinstance(found[-1], int)
    if target is None or (bare and part == target):
        return (str(part),)
    raise NoSuchPlace(f"'{name}' is {target!r}, which has no entries; set all of it: {name}=...")


def _named(entries: list[Any] | tuple[Any, ...], wanted: str, name: str) -> KeyPath:
    """Return the steps to the entry of a list that is called so."""
    steps: dict[int, tuple[str, KeyPath]] = {}
    for index, entry in enumerate(entries):
        if isinstance(entry, Mapping) and isinstance(entry.get("name"), str):
            steps[index] = entry["name"], (index,)
        elif isinstance(entry, Mapping) and len(entry) == 1:
            ((key, arguments),) = entry.items()
            if arguments is None or isinstance(arguments, Mapping):
                steps[index] = str(key), (index, key)
        elif isinstance(entry, str):
            steps[index] = entry, (index, entry)
    there = [index for index, (called, _) in steps.items() if called == wanted]
    if len(there) == 1:
        return steps[there[0]][1]
    if there:
        raise NoSuchPlace(f"{name} has several '{wanted}'; write an index: {name}[{there[0]}]")
    near = closest(wanted, [called for called, _ in steps.values()])
    hint = f"{name} has no '{wanted}'; did you mean '{near}'? Or" if near else f"{name} is a list;"
    raise NoSuchPlace(f"{hint} write an index: {name}[0]")


def _in_override(place: Place, path: KeyPath, problem: Problem) -> Problem:
    return replace(place.problem(problem.message), path=_joined(path, problem.path))


def _joined(path: KeyPath, below: str) -> str:
    return dotted(path) + (f".{below}" if below and below[0] != "[" else below)
