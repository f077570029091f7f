"""Bounds of a scenario: how many tasks, stages, cells and networks it means, before any is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from holdfast.scenarios.checks.messages import Finding, entries, mapping
from holdfast.scenarios.schema.fields import whole
from holdfast.scenarios.source import bounds
from holdfast.scenarios.source.task_defaults import values_in


def few(found: Iterable[Finding]) -> list[Finding]:
    """Return the first findings; who makes that many is told the others later."""
    return list(islice(found, bounds.PROBLEMS + 1))


def check_bounds(data: Any) -> Iterator[Finding]:
    """Yield what a scenario's data have or mean too much of.

    Nothing is expanded, and values of a wrong form are left to the models.
    """
    if not isinstance(data, Mapping):
        return
    for key, most, what in _LISTS:
        if len(entries(data.get(key))) > most:
            message = f"{len(data[key]):,} {what} are too many; at most {most:,} are taken"
            yield Finding((key,), message, at_key=True)
            return
    methods, seeds = (len(entries(data.get(key))) or 1 for key in ("methods", "seeds"))
    if methods * seeds > bounds.CELLS:
        message = (
            f"{methods * seeds:,} cells are too many, {methods:,} methods x {seeds:,} seeds; at "
            f"most {bounds.CELLS:,} are taken"
        )
        yield Finding(("seeds",), message, at_key=True)
    yield from _check_stages(data)
    yield from _check_networks(mapping(data.get("agent")))


_LISTS = (
    ("tasks", bounds.TASKS, "tasks"),
    ("seeds", bounds.SEEDS, "seeds"),
    ("methods", bounds.METHODS, "methods"),
)


def _check_stages(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield where a stream has too many stages, or too much would be written out for them."""
    stages, key = _stages(data)
    tasks = entries(data.get("tasks"))
    sampled = [values_in(task) for task in tasks if mapping(task).get("sample")]
    most = bounds.SAMPLED if sampled else bounds.STAGES
    if stages <= most:
        written = stages * (max(sampled) + _OF_A_TASK) if sampled else 0
        if written > bounds.RESOLVED_VALUES:
            message = (
                f"{stages:,} visits to sampled tasks would be written out as {written:,} values; "
                f"at most {bounds.RESOLVED_VALUES:,} are: give the tasks fewer kwargs or changes, "
                "or visit fewer"
            )
            yield Finding(("stream", key), message, at_key=True)
        return
    what = "stages, each a task of its own as they are sampled" if sampled else "stages"
    advice = {
        "steps": "give the tasks more steps, or the stream fewer",
        "repeat": "repeat the tasks less often",
        "order": "list fewer",
    }[key]
    message = f"{stages:,} {what}, are too many" if sampled else f"{stages:,} stages are too many"
    yield Finding(("stream", key), f"{message}; at most {most:,} are taken: {advice}", at_key=True)


_OF_A_TASK = 40  # values of a task that says nothing, where its defaults are filled in


def _stages(data: Mapping[str, Any]) -> tuple[int, str]:
    """Return how many stages the stream has, and the key of ``stream:`` that says so."""
    stream, tasks = mapping(data.get("stream")), entries(data.get("tasks"))
    order = stream.get("order")
    once = len(order) if isinstance(order, list | tuple) else len(tasks)
    budget = _number(stream.get("steps"))
    if budget:
        steps = {mapping(task).get("name"): mapping(task).get("steps") for task in tasks}
        names: Sequence[Any] = order if isinstance(order, list | tuple) else [*steps]
        lap = sum(_number(steps.get(name)) for name in names if isinstance(name, str))
        return (-(-budget * once // lap) if lap else 0), "steps"
    repeat = _number(stream.get("repeat", 1))
    return once * repeat, "repeat" if repeat > 1 else "order"


def _number(value: Any) -> int:
    """Return a whole number, 0 for anything else and for what is not positive."""
    value = whole(value)
    return max(value, 0) if isinstance(value, int) and not isinstance(value, bool) else 0


def _check_networks(agent: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield layers that are too wide, and networks that are too deep."""
    arch = mapping(agent.get("policy_kwargs")).get("net_arch")
    path = ("agent", "policy_kwargs", "net_arch")
    lists = [((), arch)] if not isinstance(arch, Mapping) else [((k,), v) for k, v in arch.items()]
    lists = [((*path, *below), layers) for below, layers in lists]
    for place, layers in [*lists, (("agent", "hidden"), agent.get("hidden"))]:
        found = entries(layers) or ([layers] if _number(layers) else [])
        if len(found) > bounds.LAYERS:
            message = f"{len(found):,} layers are too many; at most {bounds.LAYERS} are taken"
            yield Finding(place, message)
        for index, units in enumerate(found):
            if _number(units) > bounds.UNITS:
                message = f"a layer of {units:,.0f} units is too wide; at most {bounds.UNITS:,}"
                at = (*place, index) if entries(layers) else place
                yield Finding(at, message + " are taken")
                break
