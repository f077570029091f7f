"""Checks of ``tasks:`` and ``stream:``: environments, wrappers, budgets and order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from holdfast.offers import offers
from holdfast.registry import ALGORITHMS, AT_ONCE, WITH_COST_CRITIC
from holdfast.scenarios.checks.messages import Finding, did_you_mean, entries, mapping, tasks_of
from holdfast.scenarios.checks.multiagent import check_opponents, check_partners, is_team
from holdfast.scenarios.checks.processes import check_pool, check_python
from holdfast.scenarios.checks.references import (
    NotUsable,
    action_space,
    check_environment,
    is_mujoco,
    is_offered,
    is_own,
    read_offered,
    read_own,
    why_not,
)
from holdfast.scenarios.schema.changes import Changes
from holdfast.scenarios.schema.fields import whole
from holdfast.scenarios.schema.method_spec import WRAPPERS, parts_of, wrapper_of
from holdfast.scenarios.source import bounds
from holdfast.scenarios.source.yaml_file import KeyPath

_WRAPPER_ARGUMENTS = {
    "frame_stack": ("n", "padding_type"),
    "atari": (
        *("noop_max", "frame_skip", "screen_size", "terminal_on_life_loss"),
        *("grayscale_obs", "grayscale_newaxis", "scale_obs"),
    ),
}


def check_tasks(data: Mapping[str, Any], folder: Path | None) -> Iterator[Finding]:
    """Yield what is wrong with ``tasks:``, one by one and among each other."""
    n_envs = _count(data.get("n_envs", 1))
    algorithm = mapping(data.get("agent")).get("algorithm")
    every = mapping(data.get("evaluation")).get("every")
    names: dict[str, int] = {}
    yield from check_pool(data)
    yield from _check_costs(data)
    yield from _check_demonstrations(data, folder)
    for index, task in tasks_of(data):
        path: KeyPath = ("tasks", index)
        name = task.get("name")
        if isinstance(name, str) and name.casefold() in names:
            other = names[name.casefold()]
            yield Finding(
                (*path, "name"), f"tasks[{other}] has this name too; names tell tasks apart"
            )
        elif isinstance(name, str):
            names[name.casefold()] = index
        if not is_team(data):  # check_team looks at those
            yield from _check_one_agents(data, index, folder, algorithm)
        yield from _check_wrappers(task.get("wrappers"), path, folder)
        yield from _check_sample(task.get("sample"), path)
        yield from _check_steps(task.get("steps"), path, n_envs)
        yield from check_partners(data, index, folder)
        if task.get("exclusive") is True:
            yield from _check_exclusive(path, n_envs, every)


def _check_costs(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what does not go with costs, or with what holds an agent to their limits."""
    agent, place = mapping(data.get("agent")), ("agent", "constraint")
    costs = {index: task.get("cost") for index, task in tasks_of(data)}
    if data.get("endless") is True:
        for index in (index for index, cost in costs.items() if cost is not None):
            message = "a limit is of an episode, and there are none; remove it, or endless:"
            yield Finding(("tasks", index, "cost"), message, at_key=True)
    limits = {str(mapping(cost).get("limit")) for cost in costs.values()}
    if len(limits) > 1 and (why := _one_for_all(data)):
        first = next(index for index, cost in costs.items() if cost is not None)
        message = f"{why}, and cannot tell whose limit holds; give all tasks the same cost:"
        yield Finding(("tasks", first, "cost"), message, at_key=True)
    if agent.get("constraint") is None:
        return
    for index in (index for index, cost in costs.items() if cost is None):
        message = (
            "agent.constraint holds an agent to a limit, and this task has none; write cost: "
            "{limit: .., terms: [..]}, or remove the constraint"
        )
        yield Finding(("tasks", index), message)
    if why := _one_for_all(data):
        message = f"{why}: a multiplier of its own for each task needs known ones; remove it"
        yield Finding(place, message, at_key=True)
    if agent.get("replay_buffer_class") is not None:
        message = "a buffer of your own gives rewards that no multiplier has weighed; remove it"
        yield Finding(place, message, at_key=True)
    known = ALGORITHMS.get(str(agent.get("algorithm")))
    if known is not None and known.is_streaming:
        message = f"'{agent['algorithm']}' scales rewards itself as they come; remove it"
        yield Finding(place, message, at_key=True)
    asks_critic = mapping(agent["constraint"]).get("critic") is True
    if asks_critic and known is not None and agent["algorithm"] not in WITH_COST_CRITIC:
        fitting = ", ".join(WITH_COST_CRITIC)
        message = f"'{agent['algorithm']}' takes no critic of costs ({fitting} do); remove it"
        yield Finding((*place, "critic"), message, at_key=True)


def _check_demonstrations(data: Mapping[str, Any], folder: Path | None) -> Iterator[Finding]:
    """Yield what does not go with demonstrations, which take the place of rows of a batch."""
    agent = mapping(data.get("agent"))
    name = agent.get("algorithm")
    known = ALGORITHMS.get(name) if isinstance(name, str) else None
    why = _one_for_all(data)
    if known is not None and known.on_policy:
        why = f"'{name}' learns from rollouts of its own; take an off-policy algorithm"
    elif why:
        why = f"{why}, and is shown nothing where one begins"
    elif agent.get("constraint") is not None:
        why = "demonstrations tell no cost, which agent.constraint weighs"
    elif data.get("endless") is True:
        why = "an endless stream is one long episode of its own"
    for index, task in tasks_of(data):
        path, asked = ("tasks", index, "demonstrations"), task.get("demonstrations")
        if asked is None or task.get("opponents") is not None:
            continue  # of games it is refused elsewhere
        if why:
            yield Finding(path, f"{why}; remove it", at_key=True)
        target = mapping(asked).get("data")
        if isinstance(target, str) and target and not ((folder or Path()) / target).is_file():
            message = (
                f"there is no '{(folder or Path()) / target}' (paths count from the scenario's "
                "folder); `holdfast record` writes such a file"
            )
            yield Finding((*path, "data"), message)


def _one_for_all(data: Mapping[str, Any]) -> str:
    """Return why one learner goes through several tasks; empty where each begins by itself."""
    boundaries = mapping(data.get("stream")).get("boundaries", "known")
    if boundaries != "known":
        return f"boundaries are {boundaries}"
    names = [part["name"] for entry in entries(data.get("methods")) for part in parts_of(entry)]
    together = next((name for name in names if name in AT_ONCE), None)
    return f"'{together}' learns all tasks as one" if together else ""


def _check_one_agents(
    data: Mapping[str, Any], index: int, folder: Path | None, algorithm: Any
) -> Iterator[Finding]:
    """Yield what is wrong with the environment of one agent: a game, a backend's, or its own."""
    task, path = data["tasks"][index], ("tasks", index)
    if task.get("opponents") is not None:
        yield from check_opponents(data, index, folder)
    elif task.get("python") is not None:
        if task.get("env") is not None:  # what there is, only that interpreter knows
            yield from check_python(task, path, folder)
    elif data.get("backend") != "envpool":
        yield from _check_environment(task, path, folder, algorithm)


def check_stream(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what is wrong between ``stream:`` and ``tasks:``."""
    stream = data.get("stream", {})
    if not isinstance(stream, Mapping):
        return
    names = [task["name"] for _, task in tasks_of(data) if isinstance(task.get("name"), str)]
    if stream.get("steps") is not None and _count(stream.get("repeat", 1)) != 1:
        message = "how long the stream is stands in stream.repeat too; remove one of the two"
        yield Finding(("stream", "steps"), message, at_key=True)
    n_envs, budget = _count(data.get("n_envs", 1)), _count(stream.get("steps"))
    if budget:
        yield from _check_steps(budget, ("stream",), n_envs)
    for index, name in enumerate(entries(stream.get("order"))):
        if isinstance(name, str) and name not in names:
            message = f"no task '{name}'{did_you_mean(name, names, 'tasks')}"
            yield Finding(("stream", "order", index), message)
    widest = _count(stream.get("max_tasks"))
    if widest and widest < len(data["tasks"]):
        message = f"must be at least {len(data['tasks'])}, the number of tasks, got {widest}"
        yield Finding(("stream", "max_tasks"), message)


def check_adapt(data: Mapping[str, Any], *, is_team: bool, is_supervised: bool) -> list[Finding]:
    """Return what is wrong between ``adapt:`` and the stream that is to be followed by a task.

    Args:
        data: Of the scenario.
        is_team: Whether there are many agents.
        is_supervised: Whether tasks are data sets.
    """
    asked, stream = data.get("adapt"), mapping(data.get("stream"))
    if not isinstance(asked, Mapping):
        return []
    here: KeyPath = ("adapt",)
    if is_team or is_supervised:
        who = "a team does" if is_team else "a supervised agent does"
        return [Finding(here, f"{who} not adapt to single tasks; remove it", at_key=True)]
    found = [*_check_followed(data, stream)]
    n_envs = _count(data.get("n_envs", 1))
    for key in ("steps", "every"):
        found += _check_steps(asked.get(key), here, n_envs, key)
    if asked.get("stages", "all") == "all" and mapping(data.get("checkpoint")).get("keep") not in (
        None,
        "all",
    ):
        message = "every stage is to adapt, from its whole checkpoint; remove it, or write adapt: "
        found.append(Finding(("checkpoint", "keep"), message + "{stages: last}"))
    return found


def _check_followed(data: Mapping[str, Any], stream: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield why no task can come after a stage, or none is there that could."""
    order, tasks = stream.get("order"), dict(tasks_of(data))
    names = [task.get("name") for task in tasks.values()]
    if not isinstance(order, list | tuple) or not [name for name in names if name not in order]:
        message = (
            "the stream trains every task, so that none is left to adapt to; list in stream.order "
            "those that it trains, without the others"
        )
        yield Finding(("adapt",), message, at_key=True)
    if data.get("endless") is True or stream.get("boundaries", "known") != "known":
        message = "needs a stream whose stages can go on: write boundaries: known, or remove it"
        yield Finding(("adapt",), message, at_key=True)
    if stream.get("task_count") == "known":
        message = "methods were told how many tasks come, and adapt: adds one; write unknown"
        yield Finding(("stream", "task_count"), message)
    if stream.get("steps") is not None:
        message = "may cut a stage short, and no task can follow it then; write repeat instead"
        yield Finding(("stream", "steps"), message, at_key=True)
    for index, task in tasks.items():
        for key in ("sample", "exclusive", "opponents", "rate"):
            if task.get(key):
                message = f"a task with {key}: cannot be adapted to, nor after; remove it or adapt:"
                yield Finding(("tasks", index, key), message, at_key=True)


def _count(value: Any) -> int | None:
    """Return a positive whole number, or None for anything else, which pydantic reports."""
    value = whole(value)
    is_count = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return value if is_count else None


def _check_environment(
    task: Mapping[str, Any], path: KeyPath, folder: Path | None, algorithm: Any
) -> Iterator[Finding]:
    env = task.get("env")
    if not isinstance(env, str) or not env:
        return
    if wrong := why_not(check_environment, env, folder):
        yield Finding((*path, "env"), wrong)
        return
    yield from _check_kwargs(env, task.get("kwargs"), path, folder)
    kwargs, changes = task.get("kwargs"), task.get("changes")
    # Arguments and wrappers may change the action space; the built environment tells then.
    space = None if kwargs or task.get("wrappers") else action_space(env)
    table = ALGORITHMS.get(algorithm) if isinstance(algorithm, str) else None
    if table and space and space not in table.actions:
        able = ", ".join(name for name, entry in ALGORITHMS.items() if space in entry.actions)
        message = (
            f"'{env}' has {space} actions, which '{algorithm}' cannot take; algorithms that can: "
        )
        yield Finding((*path, "env"), message + able)
    if mapping(changes).get("mujoco") and is_mujoco(env) is False:
        message = f"'{env}' is not a MuJoCo environment; its attributes are changed with set:"
        yield Finding((*path, "changes", "mujoco"), message, at_key=True)


def _check_kwargs(env: str, kwargs: Any, path: KeyPath, folder: Path | None) -> Iterator[Finding]:
    """Yield arguments that the constructor of a class of one's own does not have."""
    if not is_own(env):
        return
    try:
        found = read_own(env, folder, "environment")
    except NotUsable:  # an id that the module registers
        return
    known = [argument.name for argument in found.arguments]
    if found.takes_any or not known:  # or inherited from what is not Python's
        return
    for key in mapping(kwargs):
        if key not in known:
            hint = did_you_mean(str(key), known, "it takes")
            message = f"'{env}' has no argument '{key}'{hint}"
            yield Finding((*path, "kwargs", key), message, at_key=True)


def _check_wrappers(wrappers: Any, path: KeyPath, folder: Path | None) -> Iterator[Finding]:
    for index, entry in enumerate(entries(wrappers)):
        wrapper = wrapper_of(entry)
        if wrapper is None:
            continue  # reported with the other wrong forms
        name, arguments = wrapper["name"], wrapper["arguments"]
        place = (*path, "wrappers", index)
        takes_any = False
        if name in WRAPPERS:
            known = _WRAPPER_ARGUMENTS[name]
        elif is_own(name) or is_offered("changes", name):
            try:
                found = read_offered("changes", name, folder, "wrapper")
            except NotUsable as error:
                yield Finding(place, str(error))
                continue
            known = tuple(argument.name for argument in found.arguments[1:])
            takes_any = found.takes_any
        else:
            hint = did_you_mean(name, [*WRAPPERS, *offers("changes"), "module:Class"])
            yield Finding(place, f"no wrapper '{name}'{hint}")
            continue
        for key in arguments:
            if key not in known and not takes_any:
                hint = did_you_mean(key, known, "it takes")
                message = f"'{name}' has no argument '{key}'{hint}"
                yield Finding((*place, name, key), message, at_key=True)
        size = whole(arguments.get("n", 1))
        if name == "frame_stack" and _count(size) is None:
            message = f"frame_stack takes how many frames, a whole number, got {size!r}"
            yield Finding((*place, name), message)
        elif name == "frame_stack" and size > bounds.FRAMES:
            message = f"stacks {size:,} frames; at most {bounds.FRAMES:,} are taken"
            yield Finding((*place, name), message)


def _check_sample(sample: Any, path: KeyPath) -> Iterator[Finding]:
    for key in mapping(sample):
        section, _, rest = str(key).partition(".")
        change = rest.partition(".")[0]
        if section == "changes" and change not in Changes.model_fields:
            hint = did_you_mean(change, Changes.model_fields)
            yield Finding((*path, "sample", key), f"no change '{change}'{hint}", at_key=True)


def _check_steps(
    steps: Any, path: KeyPath, n_envs: int | None, key: str = "steps"
) -> Iterator[Finding]:
    budget = _count(steps)
    if not budget or not n_envs or budget % n_envs == 0:
        return
    below, above = budget // n_envs * n_envs, -(-budget // n_envs) * n_envs
    if below and budget - below < above - budget:
        near = f"{below} (or {above})"
    else:
        near = f"{above} (or {below})" if below else str(above)
    message = (
        f"{budget} is not a multiple of n_envs ({n_envs}), so it cannot be exact; write {near}"
    )
    yield Finding((*path, key), message)


def _check_exclusive(path: KeyPath, n_envs: int | None, every: Any) -> Iterator[Finding]:
    if n_envs and n_envs > 1:
        message = f"an exclusive environment exists once, but n_envs is {n_envs}; write n_envs: 1"
        yield Finding((*path, "exclusive"), message)
    if every is not None:
        message = "an exclusive environment is measured between tasks only; remove evaluation.every"
        yield Finding((*path, "exclusive"), message)
