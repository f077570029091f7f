"""What the compiled engine cannot take, each by its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from holdfast.registry import ALGORITHMS, COMPILED, NOT_COMPILED, SUPERVISED
from holdfast.scenarios.checks.messages import Finding, entries, mapping
from holdfast.scenarios.schema.method_spec import parts_of

_REMEDY = "or write engine: sb3"
_CLOSED = {
    "use_sde": "state-dependent noise is drawn between its updates; remove it",
    "policies": "teams learn by Stable-Baselines3's own updates; remove it",
}


def check_engine(data: Mapping[str, Any], *, is_team: bool) -> list[Finding]:
    """Return what a scenario asks for that its engine cannot do.

    Args:
        data: Of the scenario.
        is_team: Whether there are many agents.
    """
    agent = mapping(data.get("agent"))
    in_lockstep = agent.get("seeds_at_once", 1) != 1
    if agent.get("engine", "sb3") != "compiled":
        message = "only engine: compiled takes seeds at once; add it, or remove this"
        return [Finding(("agent", "seeds_at_once"), message)] if in_lockstep else []
    lockstep = _check_lockstep(data) if in_lockstep else ()
    return [
        *_check_agent(agent, is_team=is_team),
        *_check_tasks(data),
        *_check_methods(data),
        *lockstep,
    ]


def _check_agent(agent: Mapping[str, Any], *, is_team: bool) -> Iterator[Finding]:
    path, name = ("agent", "engine"), agent.get("algorithm")
    is_known = isinstance(name, str) and (name in ALGORITHMS or ":" in name or name == SUPERVISED)
    if is_known and name not in COMPILED:
        known = ", ".join(sorted(COMPILED))
        yield Finding(path, f"compiled does not know {name}, only {known}; take one, {_REMEDY}")
    if is_team and not agent.get("policies"):
        yield Finding(path, "compiled learns for no team; write engine: sb3")
    for key, why in _CLOSED.items():
        if agent.get(key):
            yield Finding(("agent", key), f"{why}, {_REMEDY}")
    device = agent.get("device", "cpu")
    if device != "cpu":
        message = f"engine: compiled was not tried on {device}; write device: cpu, {_REMEDY}"
        yield Finding(("agent", "device"), message)


def _check_tasks(data: Mapping[str, Any]) -> Iterator[Finding]:
    for index, task in enumerate(entries(data.get("tasks"))):
        if mapping(task).get("opponents"):
            message = f"past selves are taken at every step; remove the opponents, {_REMEDY}"
            yield Finding(("tasks", index, "opponents"), message)


def _check_lockstep(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Find what keeps seeds from waiting for each other."""
    for index, task in enumerate(entries(data.get("tasks"))):
        for key, why in _ALONE.items():
            if mapping(task).get(key):
                message = f"{why} seeds at once; remove it, or write seeds_at_once: 1"
                yield Finding(("tasks", index, key), message)


_ALONE = {
    "exclusive": "there is one of it, which cannot serve",
    "rate": "what keeps pace with the clock waits for no",
}


def _check_methods(data: Mapping[str, Any]) -> Iterator[Finding]:
    for index, entry in enumerate(entries(data.get("methods"))):
        for name in (part["name"] for part in parts_of(entry)):
            if why := NOT_COMPILED.get(name):
                message = f"'{name}' needs engine: sb3, as {why}"
                yield Finding(("methods", index), message)
