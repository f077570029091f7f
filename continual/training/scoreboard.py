"""Scores of a running cell: kept in memory, and logged to TensorBoard at a bounded cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.results import metrics
from holdfast.continual.results.curves import Curves, Quantity, curves_of, matrix, trained, until
from holdfast.continual.results.heat_map import MOST_DRAWN, heat_map, shown_rows
from holdfast.continual.run_folder.episodes import Episode
from holdfast.continual.training.tensorboard import TensorBoard
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.schema.sections import Sample

MOST_LOGGED = 100
"""Boundaries at which metrics are logged; of a longer stream, so many evenly over it.

Metrics at a boundary look at all stages before it, so that logging them at each would take a time
that grows with the square of the stream.
"""


def metric_tag(name: str) -> str:
    """Return the tag of a metric: its name without the variant, but for what is beside another.

    >>> metric_tag("forgetting/cw"), metric_tag("forgetting/boundary")
    ('forgetting', 'forgetting_boundary')
    """
    metric, variant = name.split("/")
    return f"{metric}_{variant}" if variant == "boundary" else metric


class Scoreboard:
    """What was measured in one cell so far.

    Args:
        scenario: Of the cell.
        scores: Its record up to here.

    Attributes:
        latest: Latest score of every task, by name; NaN where it was not measured.
    """

    def __init__(self, scenario: Scenario, scores: Iterable[Episode]) -> None:
        self._scenario, self._kind = scenario, kind_of(scenario)
        self._names = [task.name for task in scenario.tasks]
        self._is_scored = [self._kind.has_own_score(index) for index in range(len(self._names))]
        self._order = scenario.stream_tasks
        self._has_costs = any(task.cost is not None for task in scenario.tasks)
        (known,) = curves_of(scores, scenario, ["score"])
        self._spans, self._unit = known.spans, known.unit
        self._steps, self._rows = known.steps.tolist(), list(known.values)
        self.latest = dict.fromkeys(self._names, math.nan)
        for row in self._rows:
            self._note(row.tolist())

    def _note(self, row: Sequence[float]) -> None:
        known = {n: v for n, v in zip(self._names, row, strict=True) if not math.isnan(v)}
        self.latest.update(known)

    @property
    def curves(self) -> Curves:
        """The record as curves, in scores."""
        values = np.array(self._rows).reshape(-1, len(self._names))
        return Curves(np.array(self._steps, dtype=np.int64), values, self._spans, self._unit)

    def add(self, scores: Sequence[Episode], step: int, board: TensorBoard) -> None:
        """Take one evaluation point, and log the tasks that were measured."""
        kinds: tuple[Quantity, ...] = ("return", "success", "score", "cost", "violation")
        kinds = kinds if self._has_costs else kinds[:3]
        found = curves_of(scores, self._scenario, kinds, self._spans)
        returns, successes, own, *costs = (one.values[0].tolist() for one in found)
        self._steps.append(step)
        self._rows.append(found[2].values[0])
        self._note(own)
        total, measured = self._kind.words.total, dict.fromkeys(one["task"] for one in scores)
        place = {name: index for index, name in enumerate(self._names)}
        named = [(returns, total), (successes, "success_rate"), (own, "score")]
        named += zip(costs, ("cost", "violations"), strict=False)
        for values, tag in named:
            indices = [place[name] for name in measured]
            tags = {
                f"task/{index}_{self._names[index]}/{tag}": values[index]
                for index in indices
                if values is not own or self._is_scored[index]
            }
            board.scalars(tags, step)

    def log_metrics(self, stages: int, step: int, board: TensorBoard) -> None:
        """Log the metrics over the tasks so far, and the score matrix as a picture."""
        every = -(-len(self._order) // MOST_LOGGED)
        if stages % every and stages != len(self._order):
            return
        so_far = until(self.curves, stages)
        if stages:
            is_sampled = isinstance(self._scenario.evaluation.tasks, Sample)
            named = metrics.summary(so_far, sampled=is_sampled).items()
            scalars = {f"continual/{metric_tag(name)}": value for name, value in named}
            if is_sampled:
                rows = matrix(so_far)[-1, list(trained(so_far))]
                scalars["continual/tasks_measured"] = float(np.isfinite(rows).sum())
            board.scalars(scalars, step)
        self._draw(so_far, stages, step, board)

    def _draw(self, so_far: Curves, stages: int, step: int, board: TensorBoard) -> None:
        """Log the score matrix as a picture, where it is small enough to be read."""
        drawn = [row for row in shown_rows(len(self._order)) if row <= stages]
        if len(self._names) > MOST_DRAWN or drawn[-1] != stages:
            return
        learned = [self._names[index] for index in self._order[:stages]]
        rows = ["before learning", *(f"after {name}" for name in learned)]
        values = matrix(so_far)[drawn]
        image = heat_map(values, rows=[rows[row] for row in drawn], columns=self._names)
        board.image("continual/scores", *image, step)
