"""Odd signals: rewards and observations that an agent can hardly learn from, told once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from holdfast.continual.results.formatting import plural
from holdfast.continual.run_folder.episodes import Episode
from holdfast.scenarios.schema.scenario import Scenario

LARGE = 1e6
"""Mean reward of a step above which values are far from what networks are made for."""


def odd_signals(scenario: Scenario, scores: Iterable[Episode], constant: Sequence[int]) -> str:
    """Return a warning of what the untrained agent met, in one line; empty where all is usual.

    Args:
        scenario: Of the cell.
        scores: Its first evaluation.
        constant: Indices of the tasks whose observations never changed in it.
    """
    found, normalize = [], scenario.agent.normalize
    rewards = {s["task"]: abs(s["return"]) / max(1, s["length"]) for s in scores}
    large = {task: reward for task, reward in rewards.items() if reward > LARGE}
    if large and (normalize is None or normalize.rewards is None):
        task = max(large, key=large.__getitem__)
        found.append(
            f"rewards of {plural(len(large), 'task')} are large ({task}: {large[task]:.1e} a step)"
            ": scale them by agent.normalize: {rewards: running} or changes: {reward_scale: ...}"
        )
    if constant:
        found.append(
            f"observations of {plural(len(constant), 'task')} never change "
            f"({scenario.tasks[constant[0]].name}): its policy cannot depend on them"
        )
    return "; ".join(found)
