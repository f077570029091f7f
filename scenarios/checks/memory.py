"""Checks of memory: what buffers, networks and methods take at least, against what there is.

Nothing is built, so that spaces are mostly unknown: an observation counts as one number where no
wrapper says more. What is refused here can fit nowhere; ``validate --build`` and ``run`` know more.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, cycle, islice, pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from holdfast.registry import AGENTS, ALGORITHMS
from holdfast.scenarios.checks.agent import meant_algorithm
from holdfast.scenarios.checks.messages import Finding, entries, mapping
from holdfast.scenarios.checks.methods import method_signature
from holdfast.scenarios.checks.references import NotUsable
from holdfast.scenarios.schema.fields import whole
from holdfast.scenarios.schema.method_spec import parts_of, wrapper_of
from holdfast.scenarios.source import bounds
from holdfast.scenarios.source.yaml_file import KeyPath
from holdfast.signature import signature

_NUMBER = 4  # bytes of a float32
_BESIDE = 3 * _NUMBER  # reward, done and timeout of a transition
_SCREEN = 84  # pixels, the side of Atari's preprocessed screen
_LEARNING = 3  # a weight, its gradient, and one moment of the optimizer at least
_LEAST_LAYERS = (64, 64)  # the smallest default of any algorithm


class _Known(NamedTuple):
    """What is known of a scenario without building it.

    Attributes:
        memory: Bytes there are.
        row: Bytes of an observation, at least.
        steps: Of every stage.
        names: Of the task of every stage.
    """

    memory: int
    row: int
    steps: list[int]
    names: list[str]


def memory_bytes() -> int:
    """Return the memory that this process may have: the machine's, or its container's if less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdecimal() else machine


def check_memory(data: Mapping[str, Any], folder: Path | None) -> Iterator[Finding]:
    """Yield what cannot fit into the memory; of a cell elsewhere, into ``resources.memory_gb``."""
    agent = mapping(data.get("agent"))
    name = meant_algorithm(agent)
    elsewhere = mapping(data.get("resources")).get("memory_gb")
    memory = memory_bytes()
    if isinstance(elsewhere, int | float) and not isinstance(elsewhere, bool):
        memory = max(memory, int(min(elsewhere, 1e9) * 1e9))
    known = _Known(memory, _least_row(data), *_stages(data))
    yield from _check_networks(agent, known)
    if name in ALGORITHMS:
        yield from _check_buffers(data, agent, name, known)
    for index, entry in enumerate(entries(data.get("methods"))):
        for position, part in enumerate(parts_of(entry)):
            place = ("methods", index, *((position,) if isinstance(entry, list) else ()))
            yield from _check_method(part, place, agent, known, folder)


def _check_networks(agent: Mapping[str, Any], known: _Known) -> Iterator[Finding]:
    needed = _weights(agent) * _NUMBER * _LEARNING
    if needed > known.memory:
        text = (
            f"networks of these layers have {_weights(agent):,} weights and take at least "
            f"{_size(needed)} while they learn; this machine has {_size(known.memory)} of memory: "
            "write smaller layers"
        )
        yield Finding(("agent", "policy_kwargs", "net_arch"), text)


def _check_buffers(
    data: Mapping[str, Any], agent: Mapping[str, Any], name: str, known: _Known
) -> Iterator[Finding]:
    n_envs = max(_count(data.get("n_envs", 1)), 1)
    if ALGORITHMS[name].on_policy:
        key, rows = "n_steps", _count(_argument(agent, name, "n_steps"))
        row, held = known.row + _NUMBER + _BESIDE, rows * n_envs
        what = f"a rollout of {rows:,} steps in {n_envs:,} environments"
    else:
        key, rows = "buffer_size", _count(_argument(agent, name, "buffer_size"))
        copies = 1 if agent.get("optimize_memory_usage") else 2
        row, held = copies * known.row + _NUMBER + _BESIDE, rows
        what = f"a replay buffer of {rows:,} transitions"
    if held * row > known.memory:
        fit = known.memory // row // (held // rows) // 2
        text = (
            f"{what} takes at least {_size(held * row)}, and this machine has "
            f"{_size(known.memory)} of memory; {fit:,} would take half of it at most"
        )
        yield Finding(("agent", key), text)


def _check_method(
    part: Mapping[str, Any],
    place: KeyPath,
    agent: Mapping[str, Any],
    known: _Known,
    folder: Path | None,
) -> Iterator[Finding]:
    """Yield at which task what a method keeps of every task outgrows the memory."""
    try:
        method = method_signature(part["name"], folder)
    except NotUsable:
        return  # reported with the other names
    grows = method.attributes.get("grows")
    distinct = len(set(known.names))
    if grows == "columns" and distinct > bounds.COLUMNS:
        text = (
            f"'{part['name']}' would have {distinct:,} columns, each fed by all before it; at most "
            f"{bounds.COLUMNS} are taken: use a method that does not grow, or fewer tasks"
        )
        yield Finding(place, text)
        return
    if grows == "transitions" and agent and known.steps:
        yield from _check_longest(part["name"], agent, known)
    defaults = {argument.name: argument.default for argument in method.arguments}
    kept = _kept(str(grows), {**defaults, **part["arguments"]}, agent, known)
    if kept is None:
        return
    totals = list(accumulate(kept))
    if not totals or totals[-1] <= known.memory:
        return
    fits = sum(1 for _ in takewhile(lambda total: total <= known.memory, totals))
    text = (
        f"'{part['name']}' keeps at least {_size(totals[-1])} after {len(totals):,} tasks, and "
        f"this machine has {_size(known.memory)} of memory: task {fits + 1:,} would not fit; keep "
        "less of each (fewer samples, smaller networks), or use a method that does not grow"
    )
    yield Finding(place, text)


def _check_longest(name: str, agent: Mapping[str, Any], known: _Known) -> Iterator[Finding]:
    """Yield that the longest task does not fit into the buffer, from which all of it is kept."""
    algorithm = meant_algorithm(agent)
    size = _count(_argument(agent, algorithm, "buffer_size")) if algorithm in ALGORITHMS else 0
    longest = max(known.steps)
    if 0 < size < longest:
        text = (
            f"'{name}' keeps every transition of a task, the longest has {longest:,} steps, and "
            f"{size:,} are held; write at least {longest}"
        )
        yield Finding(("agent", "buffer_size"), text)


def _kept(
    grows: str, arguments: Mapping[str, Any], agent: Mapping[str, Any], known: _Known
) -> Iterable[int] | None:
    """Return the bytes that a method keeps of every stage at least; None where it does not grow."""
    if grows == "samples" and arguments.get("strategy", "per_task") == "per_task":
        most = _count(arguments.get("samples"))
        return (min(most, steps) * (known.row + _NUMBER) for steps in known.steps)
    if grows == "share":
        return _shared(arguments, known)
    if grows == "transitions":
        return (steps * (2 * known.row + _NUMBER + _BESIDE) for steps in known.steps)
    if grows in ("networks", "columns"):
        return _networks(grows, _weights(agent) * _NUMBER, known.names)
    return None


def _shared(arguments: Mapping[str, Any], known: _Known) -> Iterator[int]:
    """Yield the bytes that each stage adds to a store of a share of the stream's steps."""
    share, most = arguments.get("share"), _count(arguments.get("samples"))
    given = share if isinstance(share, int | float) else 0
    left = min(most, int(given * sum(known.steps)))
    for steps in known.steps:
        yield min(left, steps) * (known.row + _NUMBER + _BESIDE)
        left -= min(left, steps)


def _networks(grows: str, own: int, names: Sequence[str]) -> Iterator[int]:
    """Yield the bytes of the network that each stage adds; a task that comes again adds none."""
    seen: set[str] = set()
    for name in names:
        earlier = len(seen)
        new = name not in seen
        seen.add(name)
        # Adapters from all columns before are as large as the layers between them.
        yield own * (1 + (earlier if grows == "columns" else 0)) if new else 0


def _weights(agent: Mapping[str, Any]) -> int:
    """Return the weights between the hidden layers of one network of each kind, at least."""
    arch = mapping(agent.get("policy_kwargs")).get("net_arch", _LEAST_LAYERS)
    networks = arch.values() if isinstance(arch, Mapping) else [arch]
    units = ([_count(layer) for layer in entries(layers)] for layers in networks)
    return sum(one * other for layers in units for one, other in pairwise(layers))


def _least_row(data: Mapping[str, Any]) -> int:
    """Return the bytes of one observation at least: pixels where all tasks have Atari's screen."""
    rows = []
    for task in entries(data.get("tasks")):
        wrappers = [wrapper_of(entry) for entry in entries(mapping(task).get("wrappers"))]
        found = {one["name"]: one["arguments"] for one in wrappers if one is not None}
        if "atari" not in found:
            return _NUMBER
        side = _count(found["atari"].get("screen_size", _SCREEN))
        stacked = _count(found["frame_stack"].get("n", 1)) if "frame_stack" in found else 1
        rows.append(side * side * max(stacked, 1))
    return max(_NUMBER, min(rows, default=_NUMBER))


def _stages(data: Mapping[str, Any]) -> tuple[list[int], list[str]]:
    """Return the steps and the name of the task of every stage; the bounds were checked."""
    tasks = [task for task in entries(data.get("tasks")) if isinstance(task, Mapping)]
    steps = {str(task.get("name")): _count(task.get("steps")) for task in tasks}
    stream = mapping(data.get("stream"))
    order = stream.get("order")
    listed = [str(name) for name in order] if isinstance(order, list | tuple) else [*steps]
    once = [name for name in listed if steps.get(name)]
    budget = _count(stream.get("steps"))
    if budget and once:
        ends = accumulate(steps[name] for name in cycle(once))
        stages = 1 + sum(1 for _ in takewhile(lambda end: end < budget, ends))
        names = list(islice(cycle(once), stages))
    else:
        names = once * max(_count(stream.get("repeat", 1)), 1)
    return [steps[name] for name in names], names


def _argument(agent: Mapping[str, Any], name: str, key: str) -> Any:
    if key in agent:
        return agent[key]
    return {a.name: a.default for a in signature(AGENTS[name].target).arguments}.get(key)


def _count(value: Any) -> int:
    """Return a positive whole number, 0 for anything else, which is reported elsewhere."""
    value = whole(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _size(count: float) -> str:
    """Return bytes as text.

    >>> _size(1.2e9), _size(3.4e15)
    ('1.2 GB', '3,400,000.0 GB')
    """
    return f"{min(count, 1e21) / 1e9:,.1f} GB"  # a whole number may be beyond any float
