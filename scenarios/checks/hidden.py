"""What cannot hold where a stream hides its boundaries, has them detected, or has no episodes."""

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
    if data.get("endless") is True:
        found += _check_endless(data, boundaries)
    elif mapping(data.get("evaluation")).get("window"):
        message = "only an endless stream has a reward rate; write endless: true, or remove it"
        found.append(Finding(("evaluation", "window"), message, at_key=True))
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


def _check_endless(data: Mapping[str, Any], boundaries: Any) -> Iterator[Finding]:
    """Yield what needs episodes, or a world that begins again, where there is neither."""
    if boundaries == "known":
        message = (
            "a learner that is told of boundaries begins its world again at each; write stream: "
            "{boundaries: hidden} (or detected)"
        )
        yield Finding(("endless",), message, at_key=True)
    plan, agent = mapping(data.get("evaluation")), mapping(data.get("agent"))
    if not plan.get("most_steps"):
        message = (
            "an evaluation without episodes has no end; say how many steps one takes: evaluation: "
            "{most_steps: 1000}"
        )
        yield Finding(("endless",), message, at_key=True)
    if agent.get("engine") == "compiled":
        message = "compiled was not tried without episodes; write engine: sb3, or remove endless:"
        yield Finding(("agent", "engine"), message)
    if "ornstein_uhlenbeck" in mapping(agent.get("action_noise")):
        message = "this noise begins again with every episode; write normal, or remove endless:"
        yield Finding(("agent", "action_noise"), message)
    if mapping(data.get("detector")).get("signal") == "return":
        message = "there are no returns without episodes; write reward or dynamics"
        yield Finding(("detector", "signal"), message)
    if data.get("on_nan") == "truncate":
        yield Finding(("on_nan",), "no episode can be cut where there are none; write error")
    for index, entry in enumerate(entries(data.get("methods"))):
        for name in (part["name"] for part in parts_of(entry) if part["name"] in AT_ONCE):
            message = f"'{name}' takes tasks in turns by episodes, and there are none; remove it"
            yield Finding(("methods", index), message)
    if data.get("score") == "success":
        yield Finding(("score",), _NO_SUCCESS)
    resets = mapping(data.get("checkpoint")).get("resets") is True
    yield from _check_endless_tasks(data, resets=resets)


def _check_endless_tasks(data: Mapping[str, Any], *, resets: bool) -> Iterator[Finding]:
    worlds = set()
    for index, task in tasks_of(data):
        place = ("tasks", index)
        worlds.add((str(task.get("env")), str(task.get("python"))))
        yield from refused(task, _EPISODIC, place)
        if task.get("score") == "success":
            yield Finding((*place, "score"), _NO_SUCCESS)
        changes = mapping(task.get("changes"))
        if changes.get("time_limit"):
            yield Finding((*place, "changes", "time_limit"), _NO_LIMIT, at_key=True)
        for name, drift in mapping(task.get("drift")).items():
            if mapping(drift).get("per", "episode") == "episode":
                message = "it moves between episodes, and there are none; write per: step"
                yield Finding((*place, "drift", name), message)
        if not resets:
            yield from refused(task, {"wrappers": _STATE}, place)
            yield from refused(changes, dict.fromkeys(_STATEFUL, _STATE), (*place, "changes"))
    if len(worlds) > 1 and not resets:
        message = (
            "no world can go on as one of another environment; give all tasks the same env, or "
            f"{_RESETS}"
        )
        yield Finding(("tasks",), message)


_RESETS = "write checkpoint: {resets: true}, and they begin again at boundaries and checkpoints"
_STATE = f"its state is in no checkpoint of an endless world; remove it, or {_RESETS}"
_STATEFUL = ("action_delay", "observation_noise")
_NO_SUCCESS = "success is of an episode, and there are none; write {random: .., reference: ..}"
_NO_LIMIT = "a limit of steps ends episodes, and there are none; remove it, or endless:"
_EPISODIC = {
    "randomize": "it draws at every reset, and there are none; write drift:, or remove endless:",
    "exclusive": "it is given up to be measured, and an endless world goes on; remove one of them",
}


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
