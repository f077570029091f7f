"""Measures of a life without episodes: what it was paid while it learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.schema.task import Score


class Phase(NamedTuple):
    """What one stage of an endless stream was paid.

    Attributes:
        task: Index of its task.
        steps: Environment steps taken in it.
        total: Sum of their rewards.
    """

    task: int
    steps: int
    total: float


def phases_of(points: Sequence[dict[str, float]], scenario: Scenario) -> list[Phase]:
    """Return the phases that a record of rewards tells of, each as of its last point."""
    last = {int(point["stage"]): point for point in points}
    order = scenario.stream_tasks
    return [
        Phase(order[stage], int(point["phase_steps"]), point["phase_return"])
        for stage, point in sorted(last.items())
        if stage < len(order)
    ]


def online_return(phases: Sequence[Phase]) -> float:
    """Return the reward per step over the whole life; NaN where no step was taken.

    >>> online_return([Phase(0, 100, 20.0), Phase(1, 300, 20.0)])
    0.1
    """
    steps = sum(phase.steps for phase in phases)
    return sum(phase.total for phase in phases) / steps if steps else float("nan")


def regret(phases: Sequence[Phase], references: Sequence[float | None]) -> float:
    """Return how much less was earned than at the reference rate of each phase, summed up.

    Args:
        phases: Of one life.
        references: Reward per step of each task by the reference, by index; None where unknown.

    Returns:
        Sum of ``steps * reference - total``; NaN where a reference is unknown. Below 0, more was
        earned than by the reference.

    >>> regret([Phase(0, 100, 20.0), Phase(1, 300, 20.0)], [0.5, 0.1])
    40.0
    """
    lost = 0.0
    for phase in phases:
        reference = references[phase.task]
        if reference is None:
            return float("nan")
        lost += phase.steps * reference - phase.total
    return lost


def reference_rates(scenario: Scenario) -> list[float | None]:
    """Return the reference's reward per step in each task: ``score.reference / most_steps``."""
    scores = [scenario.score_of(index) for index in range(len(scenario.tasks))]
    steps = scenario.evaluation.most_steps
    return [s.reference / steps if isinstance(s, Score) and steps else None for s in scores]
