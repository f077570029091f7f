"""What cannot hold where the stream hides its boundaries, or a detector is to find them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from holdfast.registry import AT_ONCE
from holdfast.scenarios.checks.messages import Finding, entries, mapping, refused, tasks_of
from holdfast.scenarios.schema.method_spec import parts_of

_REMEDY = "or write stream: {boundaries: known}"


def check_hidden(data: Mapping[str, Any], *, is_team: bool, is_supervised: bool) -> list[Finding]:
    """Return what a scenario asks for that cannot be where nothing happens at a boundary.

    Args:
        data: Of the scenario.
        is_team: Whether there are many agents.
        is_supervised: Whether tasks are data sets.
    """
    boundaries = mapping(data.get("stream")).get("boundaries", "known")
    found = [*_check_detector(data, boundaries)]
    if boundaries not in ("hidden", "detected"):
        return found if is_team or is_supervised else [*found, *_check_at_once(data)]
    if is_team or is_supervised:
        who = "a team" if is_team else "the supervised agent"
        message = f"{who} begins its models again at every task; write boundaries: known"
        return [Finding(("stream", "boundaries"), message)]
    return [*found, *_check_agent(data), *_check_worlds(data)]


def _check_detector(data: Mapping[str, Any], boundaries: Any) -> Iterator[Finding]:
    """Yield what does not go with a detector, or what a detector does not go with."""
    stream = mapping(data.get("stream"))
    if boundaries != "detected":
        if data.get("detector") is not None:
            message = (
                "nothing asks for what it finds; write stream: {boundaries: detected}, or remove it"
            )
            yield Finding(("detector",), message, at_key=True)
        return
    if stream.get("task_id", "observed") == "observed":
        message = (
            "an id that is seen tells where a task ends, and nothing is left to detect; write "
            f"task_id: hidden, {_REMEDY}"
        )
        yield Finding(("stream", "task_id"), message)
    if stream.get("task_count") == "known":
        message = f"a detector does not find how many tasks come; remove it, {_REMEDY}"
        yield Finding(("stream", "task_count"), message)
    if mapping(data.get("agent")).get("engine") == "compiled":
        message = f"compiled looks at no detector between its updates; write sb3, {_REMEDY}"
        yield Finding(("agent", "engine"), message)


def _check_at_once(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what a method that learns all tasks as one cannot have, of what others can."""
    wrong = []
    if mapping(data.get("agent")).get("optimize_memory_usage"):
        wrong.append("agent.optimize_memory_usage keeps no successors, which checkpoints need")
    if any(mapping(task).get("exclusive") for task in entries(data.get("tasks"))):
        wrong.append("an exclusive environment is given up to be measured")
    for index, entry in enumerate(entries(data.get("methods"))):
        for name in (part["name"] for part in parts_of(entry) if part["name"] in AT_ONCE):
            for why in wrong:
                message = f"'{name}' learns the stream as one task, and {why}; remove one of them"
                yield Finding(("methods", index), message)


def _check_agent(data: Mapping[str, Any]) -> Iterator[Finding]:
    if mapping(data.get("stream")).get("task_id") == "heads":
        message = f"a head per task tells where a task ends; write task_id: hidden, {_REMEDY}"
        yield Finding(("stream", "task_id"), message)
    agent = mapping(data.get("agent"))
    for key, value in mapping(agent.get("normalize")).items():
        if value in ("per_task", "first_task"):
            message = (
                f"{value} changes at boundaries, which stream: hides; write running, {_REMEDY}"
            )
            yield Finding(("agent", "normalize", key), message)
    if agent.get("use_sde"):
        message = (
            f"noise that lasts for a rollout cannot go on over a checkpoint; remove it, {_REMEDY}"
        )
        yield Finding(("agent", "use_sde"), message)
    if agent.get("optimize_memory_usage"):
        message = f"keeps no successors, which checkpoints at boundaries need; remove it, {_REMEDY}"
        yield Finding(("agent", "optimize_memory_usage"), message)
    for key, value in mapping(data.get("carry")).items():
        if value is False:
            message = f"nothing is dropped at a boundary that is hidden; remove it, {_REMEDY}"
            yield Finding(("carry", key), message)


def _check_worlds(data: Mapping[str, Any]) -> Iterator[Finding]:
    if data.get("backend") in ("envpool", "auto"):
        message = "a pool of EnvPool cannot turn into that of another task; write gymnasium"
        yield Finding(("backend",), f"{message}, {_REMEDY}")
    if mapping(data.get("pool")).get("workers"):
        message = "a process that is started again would not know where the stream is; remove it"
        yield Finding(("pool", "workers"), f"{message}, {_REMEDY}")
    for index, task in tasks_of(data):
        yield from refused(task, _WORLDS, ("tasks", index))


_KNOWN = "write stream: {boundaries: known}"
_WORLDS = {
    "opponents": "a game seats its learner again at every task, and boundaries are hidden; "
    f"{_KNOWN}",
    "exclusive": "an environment that exists once is given up to be measured, and boundaries are "
    f"hidden; {_KNOWN}",
}
