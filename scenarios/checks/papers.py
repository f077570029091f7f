"""Presets: the constants of a paper, by the key ``paper:`` of a method or of the agent.

They are written out when the scenario is read; what the scenario gives itself wins. The resolved
scenario holds the numbers, not the name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from holdfast.scenarios.checks.messages import Finding, choice

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
            "fisher": "analytic",
            "floor": 1e-5,
            "samples": 2560,
        },
        "mas": {"strength": 1e4},
        "vcl": {"strength": 1.0, "first_task_kl": False},
        "packnet": {"retrain_updates": 100_000, "clip_norm": 2e-5},
        "agem": {"samples": 10_000, "batch_size": 128, "dot_product": "joint"},
        "cloning": {
            "strength": 100.0,
            "samples": 10_000,
            "batch_size": 128,
            "clip_norm": 0.1,
            "exploration_steps": 10_000,
        },
        "perfect-memory": {},
    }
}


def expand(data: dict[str, Any]) -> Iterator[Finding]:
    """Replace every ``paper:`` in a scenario's data by its numbers; yield what is wrong with it."""
    agent = data.get("agent")
    if isinstance(agent, dict) and KEY in agent:
        yield from _fill(agent, agent.get("algorithm"), ("agent", KEY))
    methods = data.get("methods")
    for index, entry in enumerate(methods if isinstance(methods, list) else []):
        parts = entry if isinstance(entry, list) else [entry]
        for position, part in enumerate(parts):
            place = ("methods", index, position) if isinstance(entry, list) else ("methods", index)
            for name, given in part.items() if isinstance(part, Mapping) else ():
                if isinstance(given, dict) and KEY in given:
                    yield from _fill(given, name, (*place, name, KEY))


def _fill(given: dict[str, Any], name: Any, path: tuple[str | int, ...]) -> Iterator[Finding]:
    paper = given.pop(KEY)
    if paper not in PAPERS:
        yield Finding(path, choice(paper, list(PAPERS)))
    elif name not in PAPERS[paper]:
        known = ", ".join(PAPERS[paper])
        yield Finding(path, f"{paper} says nothing about '{name}'; it does about: {known}")
    else:
        _merge(given, PAPERS[paper][name])


def _merge(given: dict[str, Any], preset: Mapping[str, Any]) -> None:
    for key, value in preset.items():
        if isinstance(value, Mapping):
            inner = given.setdefault(key, {})
            if isinstance(inner, dict):
                _merge(inner, value)
        else:
            given.setdefault(key, value)
