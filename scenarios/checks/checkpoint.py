"""The checkpoints inside tasks that a scenario asks for, or gets where it does not say."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from holdfast.registry import algorithm
from holdfast.scenarios.checks.messages import Finding, mapping, tasks_of
from holdfast.scenarios.checks.references import NotUsable, is_derived
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.schema.sections import Checkpoint

LONG = 10
"""A task of so many intervals is long: then there are checkpoints inside the tasks."""

_WITHOUT_SUCCESSORS = (
    "with agent.optimize_memory_usage: true the replay buffer keeps no successor of its own, which "
    "the last step before a checkpoint needs; write checkpoint: {every: off}, or remove the other"
)


_WHOLE_EPISODES = (
    "HerReplayBuffer learns from whole episodes, which a checkpoint inside a task cuts; write "
    "checkpoint: {every: off}"
)
_REWARDS_AGAIN = (
    "HerReplayBuffer asks the environment itself for the reward of another goal, and does not see "
    "this factor; remove it"
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
    given = scenario.agent.arguments
    keeps_episodes = _keeps_episodes(given.get("replay_buffer_class"), scenario.folder)
    if on_policy is None or given.get("optimize_memory_usage") or keeps_episodes:
        return scenario.checkpoint
    every = interval(on_policy, scenario.n_envs)
    if max(task.steps for task in scenario.tasks) < LONG * every:
        return scenario.checkpoint
    return scenario.checkpoint.model_copy(update={"every": every})


def check_checkpoint(data: Mapping[str, Any], folder: Path | None) -> list[Finding]:
    """Return what is wrong with the checkpoints that a scenario's data ask for."""
    agent = mapping(data.get("agent"))
    is_inside = mapping(data.get("checkpoint")).get("every", "off") != "off"
    keeps_episodes = _keeps_episodes(agent.get("replay_buffer_class"), folder)
    found = []
    if is_inside and agent.get("optimize_memory_usage") is True:
        found.append(Finding(("checkpoint", "every"), _WITHOUT_SUCCESSORS))
    if is_inside and keeps_episodes:
        found.append(Finding(("checkpoint", "every"), _WHOLE_EPISODES))
    if mapping(data.get("carry")).get("replay_buffer") is True and agent.get("replay_buffer_class"):
        text = "what agent.replay_buffer_class keeps beside rows is not carried; remove one of them"
        found.append(Finding(("carry", "replay_buffer"), text))
    for index, task in tasks_of(data) if keeps_episodes else ():
        if mapping(task.get("changes")).get("reward_scale") is not None:
            path = ("tasks", index, "changes", "reward_scale")
            found.append(Finding(path, _REWARDS_AGAIN))
    return found


def _keeps_episodes(target: Any, folder: Path | None) -> bool:
    """Return whether a replay buffer is Stable-Baselines3's for hindsight, or derived from it."""
    with suppress(NotUsable):
        return isinstance(target, str) and is_derived(target, "HerReplayBuffer", folder)
    return False
