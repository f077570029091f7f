"""Read a scenario file and check it: every mistake at once, each with its place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from holdfast.errors import Problem, ScenarioError
from holdfast.registry import closest
from holdfast.scenarios.checks import papers
from holdfast.scenarios.checks.agent import argument_names, check_agent, meant_algorithm
from holdfast.scenarios.checks.backend import check_backend
from holdfast.scenarios.checks.messages import Finding, findings
from holdfast.scenarios.checks.methods import Setting, check_heads, check_methods
from holdfast.scenarios.checks.supervised import check_supervised
from holdfast.scenarios.checks.sweep import check_sweep, check_tune, without_studies
from holdfast.scenarios.checks.tasks import check_stream, check_tasks
from holdfast.scenarios.checks.team import check_team, is_team
from holdfast.scenarios.schema.scenario import Carry, Scenario, Stream
from holdfast.scenarios.source.override import override
from holdfast.scenarios.source.yaml_file import MAX_BYTES, Place, Source, read
from holdfast.signature import remembering

Section = TypeVar("Section", bound=BaseModel)


def load(
    path: str | Path, overrides: Iterable[str] = (), *, folder: str | Path | None = None
) -> Scenario:
    """Return the scenario in a YAML file, checked without importing what it names.

    Args:
        path: The file.
        overrides: ``key=value`` in YAML, checked like the file: ``agent.learning_rate=1e-4``,
            ``tasks[0].steps=1000``.
        folder: Where ``module:Name`` and ``agent.init`` are looked for. Default: the file's folder.

    Raises:
        ScenarioError: If anything is wrong; ``problems`` holds all of it.
    """
    path = Path(path)
    source = read(_content(path), str(path))
    for text in overrides:
        override(source, text)
    place = Path(folder) if folder else path.parent
    with remembering():
        found = list(_check_all(source, place, path.stem))
    problems = [*source.problems]
    for finding in found:
        problem = source.problem(finding.path, finding.message, at_key=finding.at_key)
        if problem.path not in source.unread and problem not in problems:
            problems.append(problem)
    if problems:
        raise ScenarioError(sorted(problems, key=_order))
    scenario = Scenario.model_validate(source.data)
    scenario._source, scenario._folder, scenario._document = path, place, source
    return scenario


def load_resolved(path: str | Path, *, folder: str | Path | None = None) -> Scenario:
    """Return the scenario in the ``scenario.yaml`` of a run folder.

    It was checked when it ran: neither environments nor packages need to be there any more.

    Args:
        path: The file.
        folder: Folder of the scenario that it came from, for ``module:Name``.

    Raises:
        ScenarioError: If the file is damaged.
    """
    path = Path(path)
    source = read(_content(path), str(path))
    try:
        scenario = Scenario.model_validate(source.data)
    except ValidationError as error:
        found = findings(error.errors(), source.data)
        problems = [source.problem(f.path, f.message, at_key=f.at_key) for f in found]
        raise ScenarioError([*source.problems, *problems]) from error
    scenario._source, scenario._folder = path, Path(folder) if folder else path.parent
    scenario._document = source
    return scenario


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        if path.is_dir():
            message = "is a folder; name a scenario file in it"
        elif not path.exists():
            near = closest(path.name, [file.name for file in path.parent.glob("*.y*ml")])
            hint = f"; did you mean '{path.parent / near}'?" if near else ""
            message = f"no such file{hint}"
        raise ScenarioError([Place(str(path)).problem(message)]) from error


def _order(problem: Problem) -> tuple[bool, int, int]:
    return (not problem.line, problem.line, problem.column)


def _check_all(source: Source, folder: Path, stem: str) -> Iterator[Finding]:
    """Yield every finding, those about points of a sweep or a search space last."""
    plain = without_studies(source.data)  # now: checking writes numbers out

    def check(data: dict[str, Any]) -> Iterator[Finding]:
        yield from _check(data, folder, stem)

    base = list(check(source.data))
    yield from base
    yield from check_sweep(source, plain, base, check)
    yield from check_tune(source, plain, base, check)


def _check(data: Any, folder: Path, stem: str) -> Iterator[Finding]:
    """Yield every finding; numbers in the data become what their arguments take."""
    if not isinstance(data, dict):
        yield Finding((), "a scenario is a mapping with at least tasks: and agent:")
        return
    data.setdefault("name", re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "scenario")
    yield from list(papers.expand(data))  # at once: what is checked below are its numbers
    known = argument_names(data.get("agent"), folder)
    beyond = list(_check_beyond_types(data, folder))
    try:
        Scenario.model_validate(data)
    except ValidationError as error:
        yield from findings(error.errors(), data, known)
    yield from beyond


def _has_scores(data: dict[str, Any]) -> bool:
    """Return whether every task says how its returns become scores, or the scenario for all."""
    tasks = data.get("tasks")
    own = [isinstance(task, dict) and task.get("score") is not None for task in tasks or ()]
    return data.get("score") is not None or (bool(own) and all(own))


def _check_beyond_types(data: dict[str, Any], folder: Path) -> Iterator[Finding]:
    agent = data["agent"] if isinstance(data.get("agent"), dict) else {}
    setting = Setting(
        algorithm=meant_algorithm(agent),
        stream=_section(Stream, data.get("stream", {})),
        carry=_section(Carry, data.get("carry", {})),
        arguments=agent,
        folder=folder,
        has_scores=_has_scores(data),
        is_team=is_team(data),
    )
    methods = data.get("methods", ["naive"])
    yield from chain(
        check_agent(agent, folder),
        check_heads(setting),
        check_methods(methods if isinstance(methods, list) else [], setting),
    )
    yield from check_supervised(data, setting.algorithm, folder)
    if isinstance(data.get("tasks"), list):
        yield from check_tasks(data, folder)
        yield from check_stream(data)
        yield from check_backend(data)
        if is_team(data):
            yield from check_team(data, folder)


def _section(model: type[Section], data: Any) -> Section | None:
    """Return a section of the scenario, or None where something in it is wrong."""
    try:
        return model.model_validate(data)
    except ValidationError:
        return None
