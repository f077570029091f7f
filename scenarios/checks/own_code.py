"""Own code: what a scenario would import or start that is neither registered nor Holdfast's.

A scenario in a file of the user's own may name any of it. One in a run folder is data: who reads
it asks here first. What an installed package offers by a name is known, as its user chose it. The
list of what is known is a list of what is allowed, never of what is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from holdfast.offers import Group, offers, versions
from holdfast.registry import AGENTS, BENCHMARKS, METHODS, PLUGINS, method_target
from holdfast.scenarios.checks.references import REGISTERED_BY
from holdfast.scenarios.schema.method_spec import WRAPPERS
from holdfast.scenarios.schema.scenario import Scenario, Task

_OF_TEAMS = {"mpe2", "pettingzoo"}
_PACKAGES = {"gymnasium", *REGISTERED_BY.values()}
_OF_HOLDFAST = (["holdfast", "envs"], ["holdfast", "scenarios"])
# Gymnasium's bridges to the old gym import whatever their arguments name.
_BRIDGES = ("GymV21Environment", "GymV26Environment")


class OwnCode(NamedTuple):
    """Code that a scenario names.

    Attributes:
        key: Where: ``tasks[0].env``.
        target: What: ``module:Class``, a module, or a program.
    """

    key: str
    target: str

    def __str__(self) -> str:
        return f"{self.key}: {self.target[:200]!r}"


def own_code(scenario: Scenario) -> tuple[OwnCode, ...]:
    """Return the code that the scenario names; nothing for registered names and Holdfast's own."""
    return tuple(OwnCode(key, str(target)) for key, target in _found(scenario))


def offering_packages(scenario: Scenario) -> dict[str, str]:
    """Return the version of each installed package whose offers the scenario names."""
    names: list[tuple[Group, str]] = [
        *(("environments", task.env) for task in scenario.tasks if task.env is not None),
        *(
            ("changes", w.name)
            for t in scenario.tasks
            for w in t.wrappers
            if w.name not in WRAPPERS
        ),
    ]
    if scenario.agent.algorithm not in AGENTS:
        names.append(("agents", scenario.agent.algorithm))
    parts = (part.name for method in scenario.methods for part in method.parts)
    names += [("methods", name) for name in parts if name not in METHODS and name not in PLUGINS]
    return versions(names)


def _found(scenario: Scenario) -> Iterator[tuple[str, Any]]:
    for index, task in enumerate(scenario.tasks):
        for key, target in _of_task(task, is_team=scenario.agent.policies is not None):
            yield f"tasks[{index}].{key}", target
    agent = scenario.agent
    if agent.algorithm not in AGENTS and agent.algorithm not in offers("agents"):
        yield "agent.algorithm", agent.algorithm
    if agent.arguments.get("model") is not None:
        yield "agent.model", agent.arguments["model"]
    if agent.arguments.get("replay_buffer_class") is not None:
        yield "agent.replay_buffer_class", agent.arguments["replay_buffer_class"]
    for index, callback in enumerate(agent.callbacks):
        yield f"agent.callbacks[{index}]", callback.name
    inner = agent.arguments.get("policy_kwargs")
    if isinstance(inner, dict) and inner.get("features_extractor") is not None:
        yield "agent.policy_kwargs.features_extractor", inner["features_extractor"]
    for index, method in enumerate(scenario.methods):
        for part in method.parts:
            if method_target(part.name) == part.name:
                yield f"methods[{index}]", part.name


def _of_task(task: Task, *, is_team: bool) -> Iterator[tuple[str, Any]]:
    if task.python is not None:
        yield "python", task.python
    plays_in_pettingzoo = is_team or task.opponents is not None
    if task.env is not None and not _is_known(task.env, of_team=plays_in_pettingzoo):
        yield "env", task.env
    if task.env is not None and task.env.rpartition("/")[2].startswith(_BRIDGES):
        yield "env", f"{task.env} {task.kwargs}"
    if task.benchmark is not None and task.benchmark not in BENCHMARKS:
        yield "benchmark", task.benchmark
    if "dataset_root" in task.kwargs and task.benchmark is not None:
        yield "kwargs.dataset_root", task.kwargs["dataset_root"]  # a folder that is written
    for index, wrapper in enumerate(task.wrappers):
        if wrapper.name not in WRAPPERS and wrapper.name not in offers("changes"):
            yield f"wrappers[{index}]", wrapper.name


def _is_known(env: str, *, of_team: bool) -> bool:
    """Return whether an environment is registered, or of a package that registers its own."""
    module, colon, _ = env.rpartition(":")
    if of_team:
        # An id has a slash; anything else is a module, whose parallel_env is called.
        package = env.partition(".")[0]
        own = env.split(".")[:2] in _OF_HOLDFAST
        known = "/" in env or package in _OF_TEAMS or own or env in offers("environments")
        return not colon and known
    if not colon:
        return True
    package = module.partition(".")[0]
    return package in _PACKAGES or module.split(".")[:2] in _OF_HOLDFAST
