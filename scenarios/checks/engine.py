"""What the compiled engine cannot take, each by its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from holdfast.offers import meant
from holdfast.registry import ALGORITHMS, COMPILED, NOT_COMPILED, SUPERVISED
from holdfast.scenarios.checks.messages import Finding, entries, mapping, refused, tasks_of
from holdfast.scenarios.schema.method_spec import parts_of

_REMEDY = "or write engine: sb3"
_CLOSED = {
    "use_sde": "state-dependent noise is drawn between its updates; remove it",
    "callbacks": "programs learn, and the model that they see is behind; remove them",
    "replay_buffer_class": "its programs draw from Stable-Baselines3's own buffers; remove it",
    "policies": "teams learn by Stable-Baselines3's own updates; remove it",
}
_TASKS = {
    "opponents": f"past selves are taken at every step; remove the opponents, {_REMEDY}",
}
_ONE = "remove it, or write seeds_at_once: 1"
_ALONE = {
    "exclusive": f"there is one of it, which cannot serve seeds at once; {_ONE}",
    "rate": f"what keeps pace with the clock waits for no seeds at once; {_ONE}",
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
    return [
        *_check_agent(agent, is_team=is_team),
        *_check_tasks(data, in_lockstep=in_lockstep),
        *_check_methods(data),
    ]


def _check_agent(agent: Mapping[str, Any], *, is_team: bool) -> Iterator[Finding]:
    path, name = ("agent", "engine"), agent.get("algorithm")
    is_known = isinstance(name, str) and (
        name in ALGORITHMS or name == SUPERVISED or ":" in meant("agents", name)
    )
    if is_known and name not in COMPILED:
        known = ", ".join(sorted(COMPILED))
        yield Finding(path, f"compiled does not know {name}, only {known}; take one, {_REMEDY}")
    if is_team and not agent.get("policies"):
        yield Finding(path, "compiled learns for no team; write engine: sb3")
    for key, why in _CLOSED.items():
        if agent.get(key):
            yield Finding(("agent", key), f"{why}, {_REMEDY}")
    if mapping(agent.get("policy_kwargs")).get("dropout_rate"):
        message = f"its programs draw no masks of dropout; remove it, {_REMEDY}"
        yield Finding(("agent", "policy_kwargs", "dropout_rate"), message)
    device = agent.get("device", "cpu")
    if device != "cpu":
        message = f"engine: compiled was not tried on {device}; write device: cpu, {_REMEDY}"
        yield Finding(("agent", "device"), message)


def _check_tasks(data: Mapping[str, Any], *, in_lockstep: bool) -> Iterator[Finding]:
    for index, task in tasks_of(data):
        yield from refused(task, _TASKS, ("tasks", index))
        if in_lockstep:
            yield from refused(task, _ALONE, ("tasks", index))


def _check_methods(data: Mapping[str, Any]) -> Iterator[Finding]:
    for index, entry in enumerate(entries(data.get("methods"))):
        for name in (part["name"] for part in parts_of(entry)):
            if why := NOT_COMPILED.get(name):
                message = f"'{name}' needs engine: sb3, as {why}"
                yield Finding(("methods", index), message)
