"""Checks of teams, of their partners, and of opponents in games."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from holdfast.registry import ALGORITHMS
from holdfast.scenarios.checks.messages import (
    Finding,
    did_you_mean,
    entries,
    mapping,
    refused,
    tasks_of,
    unwanted,
)
from holdfast.scenarios.checks.references import check_team_environment, run_inside, why_not
from holdfast.scenarios.schema.changes import OF_AN_AGENT, Changes
from holdfast.scenarios.schema.fields import whole
from holdfast.scenarios.schema.opponents import PAST, Past
from holdfast.scenarios.source.yaml_file import KeyPath

_SHIPPED = Path(__file__).resolve().parents[1]

MASKED = "maskable_ppo"
"""The algorithm that chooses among allowed moves."""

# They reach into an environment, or wrap its actions, through which opponents cannot play.
_INSIDE = ("sample", "randomize", "drift", "rate", "python", "exclusive")
_OF_NO_GAME = dict.fromkeys(
    ("changes", "demonstrations", *_INSIDE),
    "not for games with opponents; give the game's own kwargs instead",
)
_OF_ONE_AGENTS_TASK = dict.fromkeys(
    ("wrappers", *_INSIDE), "not for many agents; give the environment's own kwargs instead"
) | {
    "cost": "costs are counted for single agents; remove it",
    "demonstrations": "single agents alone are shown any; remove it",
}
# What single agents alone have, by section; the value that is left as it is, and what to do.
_OF_ONE_AGENT: tuple[tuple[KeyPath, Any, str], ...] = (
    (("pool", "workers"), 0, "a team's environments are stepped in this process; remove it"),
    (("backend",), "gymnasium", "PettingZoo's environments have no other backend; remove it"),
    (("on_nan",), "error", "a team's run stops at NaN; remove it"),
    (("agent", "constraint"), None, "costs are counted for single agents; remove it"),
    (("agent", "resets"), None, "single agents alone are reset; remove it"),
    (("agent", "init"), None, "a team begins with fresh weights; remove it"),
)
# Their loops are not a plain sequence of steps of all environments.
_ALGORITHMS = tuple(
    name for name, entry in ALGORITHMS.items() if name != "recurrent_ppo" and not entry.is_streaming
)


def is_team(data: Mapping[str, Any]) -> bool:
    """Return whether a scenario has many agents."""
    return mapping(data.get("agent")).get("policies") is not None


def check_team(data: Mapping[str, Any], folder: Path | None) -> Iterator[Finding]:
    """Yield what is wrong with a scenario that has ``agent.policies``."""
    yield from unwanted(data, _OF_ONE_AGENT)
    algorithm = data["agent"].get("algorithm")
    is_name = isinstance(algorithm, str)  # else what checks its form says so
    if is_name and algorithm in ALGORITHMS and algorithm not in _ALGORITHMS:
        message = f"'{algorithm}' cannot learn in a team; {', '.join(_ALGORITHMS)} can"
        yield Finding(("agent", "algorithm"), message)
    for index, task in tasks_of(data):
        yield from refused(task, _OF_ONE_AGENTS_TASK, ("tasks", index))
        for key in mapping(task.get("changes")):
            if key in Changes.model_fields and key not in OF_AN_AGENT:
                message = f"not for many agents; each can have {', '.join(OF_AN_AGENT)}"
                yield Finding(("tasks", index, "changes", key), message, at_key=True)
        env = task.get("env")
        if isinstance(env, str) and env and (wrong := why_not(check_team_environment, env, folder)):
            yield Finding(("tasks", index, "env"), wrong)


def check_opponents(data: Mapping[str, Any], index: int, folder: Path | None) -> Iterator[Finding]:
    """Yield what is wrong with a task that is a turn-based game."""
    task, path = data["tasks"][index], ("tasks", index)
    yield from refused(task, _OF_NO_GAME, path)
    env = task.get("env")
    if isinstance(env, str) and env and (wrong := why_not(check_team_environment, env, folder)):
        wrong = wrong.replace("agent.policies is", "opponents are")
        yield Finding((*path, "env"), wrong.replace("remove policies:", "remove opponents:"))
    agent = mapping(data.get("agent"))
    algorithm = agent.get("algorithm", MASKED)
    if algorithm != MASKED:
        message = f"'{algorithm}' also chooses moves that a game does not allow; write {MASKED}"
        yield Finding(("agent", "algorithm"), message)
    if data.get("backend", "gymnasium") != "gymnasium":
        yield Finding(("backend",), "games come from PettingZoo; remove it")
    opponents = task["opponents"]
    if not isinstance(opponents, Mapping):
        return  # reported with the other wrong forms
    place = (*path, "opponents")
    yield from _check_entries(data, place, folder)
    if PAST in entries(opponents.get("against")):
        yield from _check_past(data, agent, opponents, place)
    elif not _is_default(opponents.get("past", {})):
        message = "nobody plays against past selves; write `past` under against:, or remove this"
        yield Finding((*place, "past"), message, at_key=True)


def _check_entries(
    data: Mapping[str, Any], place: KeyPath, folder: Path | None
) -> Iterator[Finding]:
    opponents = data["tasks"][place[1]]["opponents"]
    for key in ("against", "measured"):
        for number, entry in enumerate(entries(opponents.get(key))):
            if isinstance(entry, Mapping) and "run" in entry:
                yield from _check_run(data, entry, (*place, key, number), folder)
            elif key == "measured" and entry == PAST:
                message = (
                    "past selves change while it learns, so that scores could not be compared; "
                    "measure against random, a minimax, or a run"
                )
                yield Finding((*place, key, number), message)


def _is_default(past: Any) -> bool:
    """Return whether a section says no more than a resolved scenario says anyway."""
    usual = Past().model_dump()
    return isinstance(past, Mapping) and all(usual.get(key) == past[key] for key in past)


def _check_past(
    data: Mapping[str, Any],
    agent: Mapping[str, Any],
    opponents: Mapping[str, Any],
    place: KeyPath,
) -> Iterator[Finding]:
    if mapping(data.get("pool")).get("workers"):
        message = "past selves play in the process that trains; write pool: {workers: 0}"
        yield Finding(("pool", "workers"), message)
    if mapping(agent.get("normalize")).get("observations"):
        message = "past selves see what the game shows, not scaled; remove it"
        yield Finding(("agent", "normalize", "observations"), message)
    for number, entry in enumerate(entries(data.get("methods"))):
        if "joint" in (entry if isinstance(entry, list | dict) else (entry,)):
            message = "'joint' has no task whose start past selves could be kept at"
            yield Finding(("methods", number), message)
    every, n_envs = whole(mapping(opponents.get("past")).get("every")), whole(data.get("n_envs", 1))
    if isinstance(every, int) and isinstance(n_envs, int) and n_envs > 0 and every % n_envs:
        message = f"{every} is not a multiple of n_envs ({n_envs}), by which steps are taken"
        yield Finding((*place, "past", "every"), message)


def check_partners(data: Mapping[str, Any], index: int, folder: Path | None) -> Iterator[Finding]:
    """Yield what is wrong with the partners of a task."""
    partners = mapping(data["tasks"][index].get("partners"))
    if data["tasks"][index].get("opponents") is not None and is_team(data):
        message = "opponents play inside a game with one learner; remove agent.policies, or this"
        yield Finding(("tasks", index, "opponents"), message, at_key=True)
    if not partners:
        return
    path: KeyPath = ("tasks", index, "partners")
    policies = mapping(data.get("agent")).get("policies")
    if policies is None:
        message = "partners are groups of a team: write agent.policies: {learners: [agent_0], ...}"
        yield Finding(path, message, at_key=True)
    if policies == "shared":
        message = (
            "agent.policies: shared is one group, so that nobody would learn; name groups: "
            "{learners: [agent_0], helpers: [agent_1]}"
        )
        yield Finding(path, message, at_key=True)
    for group, entry in partners.items():
        if isinstance(policies, Mapping) and group not in policies:
            message = f"no group '{group}'{did_you_mean(str(group), [*policies], 'agent.policies')}"
            yield Finding((*path, group), message, at_key=True)
        yield from _check_run(data, mapping(entry), (*path, group), folder)
    if isinstance(policies, Mapping) and policies and set(policies) <= set(partners):
        yield Finding(path, "every group is frozen, so that nobody would learn", at_key=True)


def _check_run(
    data: Mapping[str, Any], entry: Mapping[str, Any], path: KeyPath, folder: Path | None
) -> Iterator[Finding]:
    run = entry.get("run")
    if not isinstance(run, str) or not run:
        return
    place = (folder or Path()) / run
    if place.is_dir() and not (place / "checkpoints").is_dir():
        message = f"'{place}' is no run with a checkpoint{run_inside(place, run)}"
        yield Finding((*path, "run"), message)
    elif not place.is_dir():
        message = f"'{run}' is no run folder (paths count from {folder or Path()})"
        yield Finding((*path, "run"), f"{message}{_run_it_first(data, place, folder)}")


def _run_it_first(data: Mapping[str, Any], place: Path, folder: Path | None) -> str:
    """Return the command that makes a run which is named and not there, as far as it is known."""
    place = place.resolve()
    if not re.fullmatch(r"seed-\d+", place.name) or len(place.parents) < 3:
        return "; name one, like runs/x/naive/seed-0"
    runs, scenario, label = place.parents[2], place.parents[1].name, place.parents[0].name
    named = f"the scenario '{scenario}' with the method {label} and {place.name}"
    seeds, without = [place.name.removeprefix("seed-")], ""
    file = _file_of(scenario, folder)
    if file is None:  # perhaps this one without partners, under that name
        file, own = _file_of(str(data.get("name")), folder), _partners(data, place.parent, folder)
        if file is None or not own:
            return f"; run it first: {named}"
        without = f" name={scenario}" + "".join(f" 'tasks[{index}].partners={{}}'" for index in own)
        seeds = list(dict.fromkeys(seed for numbers in own.values() for seed in numbers))
    elsewhere = "" if runs == Path("runs").resolve() else f" --runs {runs}"
    return (
        f"; run it first: holdfast run {file}{without} 'methods=[{label}]' "
        f"'seeds=[{', '.join(seeds)}]'{elsewhere}"
    )


def _file_of(scenario: str, folder: Path | None) -> str | None:
    """Return what ``holdfast run`` is told for a scenario of this name; None: there is none."""
    if re.fullmatch(r"[\w.-]+", scenario) and any(_SHIPPED.glob(f"*/{scenario}.yaml")):
        return scenario
    file = (folder or Path()) / f"{scenario}.yaml"
    return str(file) if file.is_file() else None


def _partners(data: Mapping[str, Any], place: Path, folder: Path | None) -> dict[int, list[str]]:
    """Return the tasks with partners, and which seeds of one method's folder each is to have."""
    found: dict[int, list[str]] = {}
    for index, task in tasks_of(data):
        for entry in mapping(task.get("partners")).values():
            run = ((folder or Path()) / str(mapping(entry).get("run"))).resolve()
            seeds = found.setdefault(index, [])
            if run.parent == place:
                seeds.append(run.name.removeprefix("seed-"))
    return found
