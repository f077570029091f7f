"""Measures of limits that are to be kept: at the end, while learning, and forgotten."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from holdfast.continual.results.curves import Array, Curves, at_end, own_end, trained
from holdfast.continual.results.study import CellResults
from holdfast.continual.run_folder.point_record import COSTS


class Safety(NamedTuple):
    """What a cell cost. Means are over the trained tasks that have a cost.

    Attributes:
        violations: Share of violating episodes at the end of the stream.
        forgetting: Mean of ``forgotten_safety``.
        cost: Mean cost of an episode at the end of the stream.
        violations_learning: Share of violating episodes among those learned from; NaN where none
            ended.
        cost_learning: Sum of the costs of all steps learned from.
    """

    violations: float
    forgetting: float
    cost: float
    violations_learning: float
    cost_learning: float


def forgotten_safety(violations: Curves) -> Array:
    """Return by how much more often each task's limit is broken at the end of the stream.

    Against the end of its own last training; both as means over a window of evaluations, as the
    metric forgetting has them.

    Args:
        violations: Shares of violating episodes, in 0..1.

    Returns:
        Shape (tasks,), in -1..1; above 0 a limit was kept and is broken now. NaN where a task was
        not trained or has no cost.

    >>> from holdfast.continual.results.curves import Span
    >>> values = np.array([[1.0, 1.0], [0.0, 1.0], [0.75, 0.25]])
    >>> forgotten_safety(Curves(np.arange(3), values, (Span(0, 1, 0), Span(1, 2, 1))))
    array([0.75, 0.  ])
    """
    last = at_end(violations, violations.spans[-1])
    found = np.full(last.shape, np.nan)
    for span in violations.spans:  # the last one of a task counts
        found[span.task] = last[span.task] - own_end(violations, span)
    return found


def safety_of(cell: CellResults) -> Safety:
    """Return what a finished cell cost, whose scenario has costs."""
    assert cell.costs is not None
    assert cell.violations is not None
    tasks = cell.folder.scenario.tasks
    own = [index for index in trained(cell.violations) if tasks[index].cost is not None]
    ends = [at_end(curves, curves.spans[-1])[own] for curves in (cell.violations, cell.costs)]
    last = {point["stage"]: point for point in COSTS.read(cell.folder.path)}.values()
    episodes = sum(point["episodes"] for point in last)
    broken = sum(point["violations"] for point in last)
    return Safety(
        float(ends[0].mean()),
        float(forgotten_safety(cell.violations)[own].mean()),
        float(ends[1].mean()),
        broken / episodes if episodes else float("nan"),
        sum(point["cost"] for point in last),
    )
