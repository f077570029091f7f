"""Shipped scenarios cut to two short tasks, with every method and everything else as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast.registry import algorithm
from holdfast.scenarios.load import load
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.shipped import shipped

STEPS, EPISODE = 64, 16
NEEDED = {
    "holdfast[envpool]": "envpool",
    "holdfast[marl]": "mpe2",
    "holdfast[mujoco]": "mujoco",
    "pettingzoo[sisl]": "pygame",
    "# Needs: pygame": "pygame",
}
_AGENT = {
    "n_steps": 16, "batch_size": 16, "n_epochs": 1, "learning_starts": 16, "buffer_size": 1000,
    "train_freq": 1, "gradient_steps": 1,
}  # fmt: skip
_FIRST = {"partners": ["tasks[0].partners={}", "tasks[1].partners={}", "tasks[2].partners={}"]}


def cut(name: str) -> Scenario:
    """Return a shipped scenario whose first two tasks are trained for few steps.

    Partners are left out; ``with_partners`` brings them back.
    """
    scenario = load(name, [*_FIRST.get(name, []), "sweep={}", "tune=null"])
    names = list(dict.fromkeys(scenario.tasks[index].name for index in scenario.stream_tasks))
    n_envs = min(scenario.n_envs, 4)
    seed = scenario.seeds[0]
    order = ", ".join(names[:2])
    plan = [] if scenario.is_supervised else ["episodes=2", f"most_steps={EPISODE}"]
    given = [
        *_FIRST.get(name, []),
        *("sweep={}", "tune=null", f"n_envs={n_envs}", f"seeds=[{seed}]"),
        *(f"tasks[{index}].steps={STEPS}" for index in range(len(scenario.tasks))),
        *(f"stream.{key}" for key in (f"order=[{order}]", "repeat=1", "steps=null")),
        *(f"evaluation.{key}" for key in ("every=32", *plan)),
        *_of_opponents(scenario),
        *_of_methods(scenario),
        *_of_agent(scenario, n_envs),
    ]
    return load(name, given)


def with_partners(name: str, runs: Path) -> Scenario:
    """Return ``partners`` cut likewise, beside a cut run of its own without partners."""
    scenario = cut(name)
    place = runs / scenario.name / "naive" / f"seed-{scenario.seeds[0]}"
    stated = [task.model_dump() for task in scenario.tasks]
    for task in stated:
        task["partners"] = {"partners": {"run": str(place)}}
    whole = Scenario.model_validate({**scenario.model_dump(), "name": "after", "tasks": stated})
    whole._source, whole._folder = scenario.source, scenario.folder
    return whole


def _of_agent(scenario: Scenario, n_envs: int) -> list[str]:
    if scenario.is_supervised:
        return []
    from holdfast.continual.training.memory_budget import argument

    known = {key: value for key, value in _AGENT.items() if argument(scenario, key) is not None}
    if algorithm(scenario.agent.algorithm).on_policy:
        known.pop("gradient_steps", None)
    return [f"agent.{key}={value}" for key, value in known.items()]


def _of_methods(scenario: Scenario) -> list[str]:
    """Return what spares the updates that methods do after a task."""
    return [
        f"methods[{index}].{part.name}.{key}=4"
        for index, method in enumerate(scenario.methods)
        for part in method.parts
        for key in ("retrain_updates", "updates")
        if key in part.arguments and len(method.parts) == 1
    ]


def _of_opponents(scenario: Scenario) -> list[str]:
    numbered: Any = enumerate(scenario.tasks)
    return [
        f"tasks[{index}].opponents.past.every=32"
        for index, task in numbered
        if task.opponents is not None and "past" in task.opponents.against
    ]


def lacking(name: str) -> str:
    """Return a package that a shipped scenario needs and that is not installed, or nothing."""
    from importlib.util import find_spec

    text = shipped()[name].read_text("utf-8")
    needs = [line for line in text.splitlines() if "Needs: " in line and "nothing" not in line]
    for words, package in NEEDED.items():
        if any(words in line for line in needs) and find_spec(package) is None:
            return package
    return ""
