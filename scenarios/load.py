"""Read a scenario file and check it: every mistake at once, each with its place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from holdfast.errors import Problem, ScenarioError
from holdfast.registry import SUPERVISED, closest, suggestion
from holdfast.scenarios.checks import papers
from holdfast.scenarios.checks.agent import argument_names, check_agent
from holdfast.scenarios.checks.backend import check_backend, check_trackers
from holdfast.scenarios.checks.bounds import check_bounds, few
from holdfast.scenarios.checks.checkpoint import check_checkpoint, default_of
from holdfast.scenarios.checks.engine import check_engine
from holdfast.scenarios.checks.hidden import check_hidden
from holdfast.scenarios.checks.memory import check_memory
from holdfast.scenarios.checks.messages import Checked, Finding, entries, findings
from holdfast.scenarios.checks.methods import check_methods, setting_of
from holdfast.scenarios.checks.multiagent import check_team, is_team
from holdfast.scenarios.checks.streaming import check_streaming
from holdfast.scenarios.checks.supervised import check_supervised
from holdfast.scenarios.checks.sweep import check_sweep, check_tune
from holdfast.scenarios.checks.tasks import check_adapt, check_stream, check_tasks
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.shipped import located, offered, shipped
from holdfast.scenarios.source import bounds
from holdfast.scenarios.source.override import override
from holdfast.scenarios.source.task_defaults import with_task_defaults
from holdfast.scenarios.source.yaml_file import Place, Source, read
from holdfast.signature import remembering


def load(
    path: str | Path, overrides: Iterable[str] = (), *, folder: str | Path | None = None
) -> Scenario:
    """Return the scenario in a YAML file, checked without importing what it names.

    Args:
        path: The file, or the name of a shipped scenario: ``cw10``.
        overrides: ``key=value`` in YAML, checked like the file: ``agent.learning_rate=1e-4``,
            ``tasks[0].steps=1000``; or ``@best.yaml``, a file of them, here or beside the scenario.
        folder: Where ``module:Name`` and ``agent.init`` are looked for. Default: the file's folder.

    Raises:
        ScenarioError: If anything is wrong; ``problems`` holds all of it.
    """
    path = located(path)
    if path.suffix == ".py" and path.is_file():
        message = (
            "is Python, and a scenario is YAML that names classes as module:Class; `holdfast new "
            f"scenario NAME` writes one, `holdfast check-env {path}` checks environments in a file"
        )
        raise ScenarioError([Place(str(path)).problem(message)])
    source = read(_content(path, bounds.FILE_BYTES), str(path))
    _override(source, list(overrides), path.parent)
    source = with_task_defaults(source)
    place = Path(folder) if folder else path.parent
    with remembering():
        found, _, scenario = _check_all(source, place, _name(path))
    problems = dict.fromkeys(source.problems)  # a set in order
    for finding in found:
        problem = source.problem(finding.path, finding.message, at_key=finding.at_key)
        if problem.path not in source.unread:
            problems[problem] = None
    if problems or scenario is None:
        raise ScenarioError(_few(sorted(problems, key=_order), path))
    # Absolute: an environment may change the working folder.
    scenario._document, scenario._source, scenario._folder = source, path, place.absolute()
    if scenario.states("checkpoint", "every"):
        return scenario
    return scenario.model_copy(update={"checkpoint": default_of(scenario)})


def load_resolved(
    path: str | Path, *, content: bytes | None = None, place: Path | None = None
) -> Scenario:
    """Return the scenario in the ``scenario.yaml`` of a run folder.

    It was checked when it ran: neither environments nor packages need to be there any more. It has
    no ``folder``, so that nothing beside it is imported.

    Args:
        path: The file.
        content: What it holds, where that was read already.
        place: Where the paths of other runs count from. Default: the file's folder.

    Raises:
        ScenarioError: If the file is damaged.
    """
    path = Path(path)
    if content is None:
        content = _content(path, bounds.RESOLVED_BYTES)
    source = read(content, str(path), resolved=True)
    found, scenario = list(check_bounds(source.data)), None
    if not found:
        found, scenario = _modelled(source.data)
    if scenario is None or source.problems:
        problems = [source.problem(f.path, f.message, at_key=f.at_key) for f in found]
        raise ScenarioError([*source.problems, *problems])
    scenario._document, scenario._source = source, path
    scenario._place = place or path.parent
    return scenario


def _override(source: Source, texts: Sequence[str], folder: Path) -> None:
    """Set values of a source; see ``override``."""
    if len(texts) > bounds.OVERRIDES:
        message = (
            f"{len(texts):,} are too many, at most {bounds.OVERRIDES:,} are taken; "
            "write them into the scenario"
        )
        raise ScenarioError([Place("overrides").problem(message)])
    for text in texts:
        override(source, text, folder)


def _content(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        if path.is_dir():
            message = "is a folder; name a scenario file in it"
        elif not path.exists():
            message = _no_file(path)
        raise ScenarioError([Place(str(path)).problem(message)]) from error


def _no_file(path: Path) -> str:
    near = closest(path.name, [file.name for file in path.parent.glob("*.y*ml")])
    if near:
        return f"no such file; did you mean '{path.parent / near}'?"
    if len(path.parts) > 1 or path.suffix:
        return "no such file"
    there = "`holdfast list scenarios` shows those there are"
    known = [*shipped(), *(name for family in offered() for name in family.files)]
    hint = suggestion(path.name, known, otherwise=there)
    return f"no such file, and no shipped scenario of that name; {hint}"


def _name(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._") or "scenario"


def _few(problems: list[Problem], path: Path) -> list[Problem]:
    """Return the first mistakes, and how many more there are."""
    more = len(problems) - bounds.PROBLEMS
    if more <= 0:
        return problems
    rest = Place(str(path)).problem(f"there are more mistakes; mend the first {bounds.PROBLEMS}")
    return [*problems[: bounds.PROBLEMS], rest]


def _order(problem: Problem) -> tuple[bool, int, int]:
    return (not problem.line, problem.line, problem.column)


class _Result(NamedTuple):
    """The mistakes in a scenario, its data as they are meant, and its model where it has none."""

    findings: list[Finding]
    data: Any
    scenario: Scenario | None


def _check_all(source: Source, folder: Path, name: str) -> _Result:
    """Check the scenario, then the points of its sweep and of its search space."""

    def check(data: dict[str, Any]) -> Checked:
        return Checked(*_check(data, folder, name)[:2])

    base, data, scenario = _check(source.data, folder, name)
    wrong, swept = check_sweep(source, base, check)
    if scenario is not None and scenario.sweep:
        taken = {key: tuple(values) for key, values in swept.items()}
        scenario = scenario.model_copy(update={"sweep": taken})
    return _Result([*base, *wrong, *check_tune(source, base, check)], data, scenario)


def _check(data: Any, folder: Path, name: str) -> _Result:
    """Check a scenario's data, whose name is that of its file unless it has another."""
    if not isinstance(data, dict):
        message = "a scenario is a mapping with at least tasks: and agent:"
        return _Result([Finding((), message)], data, None)
    if of_bounds := list(check_bounds(data)):
        return _Result(of_bounds, data, None)
    of_papers, data = papers.expand({"name": name, **data})
    of_all, data = _check_beyond_forms(data, folder)
    of_forms, scenario = _modelled(data, argument_names(data.get("agent"), folder))
    return _Result([*of_papers, *of_forms, *of_all], data, scenario)


def _modelled(
    data: Any, agent_arguments: Iterable[str] = ()
) -> tuple[list[Finding], Scenario | None]:
    """Return the model of a scenario's data, or what is wrong with their forms."""
    try:
        return [], Scenario.model_validate(data)
    except ValidationError as error:
        return few(findings(error.errors(), data, tuple(agent_arguments))), None


def _check_beyond_forms(data: dict[str, Any], folder: Path) -> Checked:
    """Check what needs several sections, or what is installed; arguments become what is meant."""
    found: list[Finding] = []
    data = dict(data)
    if isinstance(data.get("agent"), dict):
        wrong, data["agent"] = check_agent(data["agent"], folder)
        found += wrong
    setting = setting_of(data, folder)
    wrong, methods = check_methods(entries(data.get("methods", ["naive"])), setting)
    found += wrong
    if isinstance(data.get("methods"), list):
        data["methods"] = methods
    found += few(check_memory(data, folder))
    found += check_trackers(data)
    of_data = setting.algorithm == SUPERVISED
    found += check_engine(data, is_team=is_team(data))
    found += check_streaming(data)
    found += check_hidden(data, is_team=is_team(data), is_supervised=of_data)
    wrong, tasks = check_supervised(data, setting.algorithm, folder)
    found += wrong
    if isinstance(data.get("tasks"), list):
        data["tasks"] = tasks
        adapted = check_adapt(data, is_team=is_team(data), is_supervised=of_data)
        of_tasks = (check_tasks(data, folder), check_stream(data), adapted, check_backend(data))
        found += [finding for each in of_tasks for finding in few(each)]
        found += check_checkpoint(data, folder)
        if is_team(data):
            found += few(check_team(data, folder))
    return Checked(found, data)
