"""Presets: the constants of a paper, by the key ``paper:`` of a method or of the agent.

They are written out when the scenario is read; what the scenario gives itself wins. The resolved
scenario holds the numbers, not the name. Counts of steps and updates belong to the paper's budget
of a task: where the longest task of a scenario has fewer steps, they shrink with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from holdfast.scenarios.checks.messages import Checked, Finding, choice
from holdfast.scenarios.source.yaml_file import KeyPath

KEY = "paper"

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
    if isinstance(methods, list):
        data["methods"] = filled_method(methods, ("methods",))
    return Checked(found, data)


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


def _merged(given: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(given)
    for key, value in preset.items():
        inner = merged.setdefault(key, {} if isinstance(value, Mapping) else value)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            merged[key] = _merged(inner, value)
    return merged
