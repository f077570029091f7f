"""Presets: the constants of a paper (``paper:``), or of rl-zoo3 for an environment (``preset:``).

A method or the agent has a paper, the agent alone a preset. They are written out when the scenario
is read; what the scenario gives itself wins. The resolved scenario holds the numbers, not the name.
Counts of steps and updates belong to the paper's budget of a task: where the longest task of a
scenario has fewer steps, they shrink with it. Those of a preset are taken as they are published.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

from holdfast.scenarios.checks.messages import Checked, Finding, choice, did_you_mean, mapping
from holdfast.scenarios.source.yaml_file import KeyPath, read

KEY, PRESET = "paper", "preset"

Preset = dict[str, dict[str, Any]]
"""Arguments by method, and by algorithm for the agent."""

PAPERS: dict[str, Preset] = {
    # Wolczyk et al. 2021 (arXiv:2105.10919) with its published code, and for cloning ClonEx-SAC,
    # Wolczyk et al. 2022 (arXiv:2209.13900). Its strengths have no factor 1/2. Where it cannot be
    # said here: it takes 10,000 random steps at each task start and begins to update after 1,000
    # (Stable-Baselines3 has one number for both), and its target entropy, an output deviation of
    # .089, is -1 per action dimension: what `auto` means.
    "continual-world": {
        "sac": {
            "learning_rate": 1e-3,
            "batch_size": 128,
            "gamma": 0.99,
            "tau": 0.005,
            "buffer_size": 1_000_000,
            "learning_starts": 10_000,
            "train_freq": 50,
            "gradient_steps": 50,
            "ent_coef": "auto",
            "policy_kwargs": {
                "net_arch": [256, 256, 256, 256],
                "activation": "leaky_relu",
                "layer_norm": "first",
            },
        },
        "l2": {"strength": 1e5},
        "ewc": {
            "strength": 1e4,
            "kind": "summed",
            "fisher": "squashed",
            "floor": 1e-5,
            "samples": 2560,
        },
        "mas": {"strength": 1e4, "squashed": True},
        "vcl": {"strength": 1.0, "first_task_kl": False},
        "packnet": {"retrain_updates": 100_000, "clip_norm": 2e-5, "clip": "all"},
        "agem": {"samples": 10_000, "batch_size": 128, "dot_product": "joint"},
        "cloning": {
            "strength": 100.0,
            "samples": 10_000,
            "batch_size": 128,
            "clip_norm": 0.1,
            "merge": "mean",
            "exploration_steps": 10_000,
        },
        "perfect-memory": {},
    }
}

STEPS = {"continual-world": 1_000_000}
"""Of a task, in each paper."""
COUNTS = ("buffer_size", "learning_starts", "exploration_steps", "retrain_updates")
"""What is a number of steps or updates of a task, and shrinks with it."""


def expand(data: Mapping[str, Any]) -> Checked:
    """Return a scenario's data with its numbers for every ``paper:``, and what is wrong with it."""
    found: list[Finding] = []

    def filled(given: Any, name: Any, path: KeyPath) -> Any:
        if not isinstance(given, Mapping) or KEY not in given:
            return given
        paper, rest = given[KEY], {key: value for key, value in given.items() if key != KEY}
        if paper not in list(PAPERS):
            found.append(Finding((*path, KEY), choice(paper, list(PAPERS))))
        elif name not in list(PAPERS[paper]):
            known = ", ".join(PAPERS[paper])
            message = f"{paper} says nothing about '{name}'; it does about: {known}"
            found.append(Finding((*path, KEY), message))
        else:
            share = min(_longest(data.get("tasks")) / STEPS[paper], 1.0)
            return _merged(rest, _shrunk(PAPERS[paper][name], share))
        return rest

    def filled_method(entry: Any, path: KeyPath) -> Any:
        if isinstance(entry, list):
            return [filled_method(part, (*path, index)) for index, part in enumerate(entry)]
        if not isinstance(entry, Mapping):
            return entry
        return {name: filled(given, name, (*path, name)) for name, given in entry.items()}

    data, agent, methods = dict(data), data.get("agent"), data.get("methods")
    if isinstance(agent, Mapping):
        data["agent"] = filled(agent, agent.get("algorithm"), ("agent",))
    if isinstance(agent, Mapping) and PRESET in agent:
        found += _check_preset(agent)
        data = _with_preset(data, agent)
    if isinstance(methods, list):
        data["methods"] = filled_method(methods, ("methods",))
    return Checked(found, data)


# -- rl-zoo3 ---------------------------------------------------------------------------------------


@cache
def zoo() -> dict[str, Any]:
    """Return the presets of rl-zoo3 by algorithm and environment, with ``source`` and ``commit``.

    Of each: ``steps`` of its training, ``n_envs``, arguments of the ``agent``, and in ``left`` what
    it had beside them and scenarios do not take from a preset.
    """
    path = Path(__file__).with_name("presets.yaml")
    found: dict[str, Any] = read(path.read_bytes(), str(path)).data
    return found


def presets() -> dict[str, dict[str, Any]]:
    """Return the presets by algorithm and environment."""
    return {name: each for name, each in zoo().items() if isinstance(each, dict)}


def _check_preset(agent: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what is wrong with ``agent.preset``."""
    path, name, algorithm = ("agent", PRESET), agent[PRESET], agent.get("algorithm")
    known = presets()
    if agent.get(KEY) is not None:
        yield Finding(path, f"agent.{KEY} has the same keys; remove one of them")
    elif not isinstance(name, str):
        yield Finding(path, "expected the name of a preset, such as CartPole-v1")
    elif not isinstance(algorithm, str) or name in known.get(algorithm, ()):
        return
    elif with_it := [other for other, each in known.items() if name in each]:
        there = ", ".join(with_it)
        yield Finding(path, f"rl-zoo3 has none of '{name}' for '{algorithm}', but for {there}")
    elif algorithm not in known:
        yield Finding(path, f"rl-zoo3 has none for '{algorithm}'; it has for {', '.join(known)}")
    else:
        hint = did_you_mean(name, known[algorithm], f"of '{algorithm}' there are")
        yield Finding(path, f"no preset '{name}'{hint}")


def _with_preset(data: Mapping[str, Any], agent: Mapping[str, Any]) -> dict[str, Any]:
    """Return a scenario's data with the numbers of its agent's preset, and without the key."""
    preset = _preset_of(agent) or {"agent": {}}
    rest = {key: value for key, value in mapping(data.get("agent")).items() if key != PRESET}
    envs = {"n_envs": preset["n_envs"]} if "n_envs" in preset else {}
    return {**envs, **data, "agent": _merged(rest, preset["agent"])}


def _preset_of(agent: Mapping[str, Any]) -> dict[str, Any] | None:
    name, algorithm = agent.get(PRESET), agent.get("algorithm")
    if not isinstance(name, str) or not isinstance(algorithm, str):
        return None
    found: dict[str, Any] | None = presets().get(algorithm, {}).get(name)
    return found


def told(data: Mapping[str, Any]) -> list[str]:
    """Return in lines what the preset of a scenario's data sets, and what it leaves."""
    agent = mapping(data.get("agent"))
    preset = _preset_of(agent)
    if preset is None:
        return []
    keys = {"n_envs": preset["n_envs"], **preset["agent"]}
    given = {*agent, *({"n_envs"} & data.keys())}
    set_here = ", ".join(
        f"{key}: {_plain(value)}" for key, value in keys.items() if key not in given
    )
    merged = [key for key in _SECTIONS if key in given and key in keys]
    yours = [key for key in keys if key in given and key not in _SECTIONS]
    lines = [f"{agent[PRESET]} of {zoo()['source']} sets {set_here or 'nothing'}"]
    lines += [f"it fills in what is missing in {' and '.join(merged)}"] if merged else []
    lines += [f"yours stay: {', '.join(yours)}"] if yours else []
    lines += [f"not set by it: {each}" for each in preset.get("left", ())]
    steps, own = preset["steps"], _longest(data.get("tasks"))
    has = f"; the longest here has {own:,}" if own != inf else ""
    return [*lines, f"its numbers are for tasks of {steps:,} steps{has}"]


def _plain(value: Any) -> str:
    """Return a value as scenarios write it.

    >>> _plain({"linear": [0.001, 0]}), _plain(True), _plain([64, 64])
    ('{linear: [0.001, 0]}', 'true', '[64, 64]')
    """
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_plain(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


# -- merging ---------------------------------------------------------------------------------------


def _longest(tasks: Any) -> float:
    """Return the steps of the longest task; infinite where none says, or not rightly."""
    listed = tasks if isinstance(tasks, list) else []
    given = [task.get("steps") for task in listed if isinstance(task, Mapping)]
    return max((steps for steps in given if type(steps) is int and steps > 0), default=inf)


def _shrunk(preset: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Return a preset for tasks of a share of the paper's steps."""
    return {
        key: max(round(value * share), 1) if key in COUNTS else value
        for key, value in preset.items()
    }


_SECTIONS = ("policy_kwargs", "normalize")
"""Of an agent: what the scenario gives inside wins, and the preset fills in the rest."""


def _merged(given: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is given over a preset; a schedule, a noise or a network is one value."""
    merged = {**preset, **given}
    for key in _SECTIONS:
        if isinstance(preset.get(key), Mapping) and isinstance(given.get(key), Mapping):
            merged[key] = {**preset[key], **given[key]}
    return merged
