"""The checkpoints inside tasks that a scenario asks for, or gets where it does not say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.registry import algorithm
from holdfast.scenarios.checks.messages import Finding
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.schema.sections import Checkpoint

LONG = 10
"""A task of so many intervals is long: then there are checkpoints inside the tasks."""

_WITHOUT_SUCCESSORS = (
    "with agent.optimize_memory_usage: true the replay buffer keeps no successor of its own, which "
    "the last step before a checkpoint needs; write checkpoint: {every: off}, or remove the other"
)


def interval(on_policy: bool, n_envs: int) -> int:
    """Return the default number of steps between checkpoints inside a task.

    What updates after every step or so is slower per step; what steps many environments is faster.

    >>> interval(True, 1), interval(False, 1), interval(True, 64)
    (25000, 10000, 400000)
    """
    return max(25_000, 6_250 * n_envs) if on_policy else max(10_000, 2_500 * n_envs)


def default_of(scenario: Scenario) -> Checkpoint:
    """Return the checkpoints of a scenario that does not say how often there are any.

    They are off where no task is long, and where they cannot be.
    """
    on_policy = None if scenario.is_supervised else algorithm(scenario.agent.algorithm).on_policy
    if on_policy is None or scenario.agent.arguments.get("optimize_memory_usage"):
        return scenario.checkpoint
    every = interval(on_policy, scenario.n_envs)
    if max(task.steps for task in scenario.tasks) < LONG * every:
        return scenario.checkpoint
    return scenario.checkpoint.model_copy(update={"every": every})


def check_checkpoint(data: Mapping[str, Any]) -> list[Finding]:
    """Return what is wrong with the checkpoints that a scenario's data ask for."""
    asked, agent = data.get("checkpoint"), data.get("agent")
    if not isinstance(asked, Mapping) or not isinstance(agent, Mapping):
        return []
    if asked.get("every", "off") != "off" and agent.get("optimize_memory_usage") is True:
        return [Finding(("checkpoint", "every"), _WITHOUT_SUCCESSORS)]
    return []
