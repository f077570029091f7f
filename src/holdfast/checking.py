"""Output of `holdfast check-env`: findings and a verdict for every environment that is meant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import EnvironmentFailed, HoldfastError, UsageError
from holdfast.printing import console, failure_of, print_labelled

if TYPE_CHECKING:
    from holdfast.envs.checks.check_result import CheckResult
    from holdfast.scenarios.schema.scenario import Scenario, Task

_STYLES = {"ok": "green", "advice": "yellow", "error": "bold red"}


def is_scenario(named: str) -> bool:
    """Return whether a word of the command line means a scenario file, or a scenario's name.

    A module or a folder here of the same name wins, whose environments are meant.
    """
    from holdfast.scenarios.shipped import located

    is_here = any(Path(f"{named}{ending}").exists() for ending in ("", ".py"))
    return named.endswith((".yaml", ".yml")) or (not is_here and located(named).is_file())


def check_named(named: str, kwargs: dict[str, Any], folder: Path, python: str | None) -> int:
    """Check what a word means, print what was found, and return the exit code.

    Raises:
        UsageError: There is nothing of that name; or the one environment that it means has a wrong
            argument, or lacks a package.
    """
    from holdfast.envs.checks.environment import check_env
    from holdfast.envs.find import find
    from holdfast.scenarios.checks.references import is_team

    if python is None and is_team(named, folder):
        from holdfast.envs.checks.team import check_team
        from holdfast.envs.multiagent.parallel import build_parallel

        return _verdict(named, check_team(named, lambda: build_parallel(named, kwargs, folder)))
    found = find(named, folder, imports=python is None)
    if found.in_file:
        print(f"A scenario in {found.folder} names it so:  {'  '.join(found.targets)}\n")
    check = partial(check_env, kwargs=kwargs, folder=found.folder, python=python)
    if len(found.targets) == 1:
        return _verdict(found.targets[0], check(found.targets[0]))
    codes = [_told(target, partial(check, target))[0] for target in found.targets]
    return _sum("environment", codes)


def check_scenario(scenario: Scenario) -> int:
    """Check the environment of every task, print what was found, and return the exit code.

    Tasks whose environments are alike are checked once.

    Args:
        scenario: A scenario whose backend is settled.

    Raises:
        ScenarioError: Each environment works, but not all of them in one stream, or not with the
            agent.
        UsageError: The scenario learns data sets.
    """
    from holdfast.continual.kinds.kind import kind_of

    kind = kind_of(scenario)
    if kind.uncheckable:
        raise UsageError(f"{scenario.source}: {kind.uncheckable}")
    first: dict[str, tuple[str, int]] = {}
    codes: list[int] = []
    distinct: list[Task] = []
    results: list[CheckResult] = []
    for task in (_at_first_visit(task, scenario.seeds[0]) for task in scenario.tasks):
        like, code = first.get(kind.identity(task), ("", 0))
        name = f"task {task.name}"
        if like:
            print(f"{name} {_words(code)}: its environment is that of {like}\n")
        else:
            code, result = _told(name, partial(kind.check_task, task))
            first[kind.identity(task)] = name, code
            if result is not None:
                distinct.append(task)
                results.append(result)
        codes.append(code)
    if not any(codes):
        kind.check_fit(distinct, results)
    return _sum("task", codes)


def _at_first_visit(task: Task, seed: int) -> Task:
    from holdfast.scenarios.schema.streams import visited

    return visited(task, 1, seed) if task.sample else task


def _told(name: str, check: Callable[[], CheckResult]) -> tuple[int, CheckResult | None]:
    """Check one of several, print it under its name, and return its exit code."""
    print(name)
    try:
        result = check()
    except HoldfastError as error:
        failure = failure_of(error)
        print_labelled(console(), "error  ", _STYLES["error"], failure.trace + failure.text)
        print(f"{name} {_words(error.exit_code)}\n")
        return error.exit_code, None
    code = _verdict(name, result)
    print()
    return code, result


def _verdict(name: str, result: CheckResult) -> int:
    shown = console()
    for finding in result.findings:
        print_labelled(shown, f"{finding.level:<7}", _STYLES[finding.level], finding.text)
    code = 0 if result.ok else EnvironmentFailed.exit_code
    print(f"{name} {_words(code)}", flush=True)
    return code


def _words(code: int) -> str:
    return "does not work here yet" if code else "will work here"


def _sum(noun: str, codes: Sequence[int]) -> int:
    """Print how many work, and return the first exit code that is not 0."""
    good = codes.count(0)
    print(f"{good} of {len(codes)} {noun}s will work here")
    return next((code for code in codes if code), 0)
