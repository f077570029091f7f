"""Outcomes of probes, as their records hold them, and the numbers computed from them.

Reports read them without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from holdfast.continual.probes.record import Record, plans_in
from holdfast.continual.results.curves import Array
from holdfast.continual.run_folder.files import csv_table
from holdfast.continual.run_folder.readers import Count, Short
from holdfast.continual.run_folder.record import RunFolder

Real = Annotated[float, Field(allow_inf_nan=False)]


# -- stress ----------------------------------------------------------------------------------------


STRESS = "stress.jsonl"
"""Record of robustness, in the folder of a cell."""

ATTACK, UNCHANGED = "attack", "unchanged"

BY_ENTRY = ("dead_actuators", "observation_mask")
"""Changes whose levels are entries, which have no order."""

Levels = Annotated[list[float], Field(min_length=1, max_length=1000)] | Literal["each"]


class StressPlan(BaseModel):
    """What is measured.

    Attributes:
        grid: Levels of each change.
        episodes: Of each level.
        is_default: Whether a change that does not fit a task is left out rather than refused.
    """

    model_config = ConfigDict(extra="forbid")

    grid: dict[Short, Levels]
    episodes: Count
    is_default: bool = False


class Stressed(BaseModel):
    """Result at one level: means over its episodes.

    Attributes:
        stage: The policy at the end of this stage, from 0.
        task: Name of the task.
        change: Key of the grid, or ``unchanged``.
        level: Of the change; an entry's number; 0 where nothing is changed.
        score: Mean score.
        total: Mean return.
        success: Success rate; None where the task reports none.
        length: Mean steps.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    stage: Count
    task: Short
    change: Short
    level: Real
    score: Real
    total: Real
    success: Real | None
    length: Real

    @property
    def place(self) -> tuple[int, str, str, float]:
        """What was measured."""
        return self.stage, self.task, self.change, self.level


def stress_record(folder: RunFolder) -> Record[StressPlan, Stressed]:
    """Return the record of a cell's robustness."""
    return Record(folder.path / STRESS, StressPlan, Stressed)


def curve(results: Sequence[Stressed], change: str) -> tuple[Array, Array]:
    """Return the levels of a change, and the score at each, of one policy in one task.

    The level at which nothing is changed is among them; of entries, levels are their numbers.
    """
    neutral = 1.0 if change == "action_gain" else 0.0
    found = {one.level: one.score for one in results if one.change == change}
    unchanged = [one.score for one in results if one.change == UNCHANGED]
    if found and unchanged and change not in BY_ENTRY:
        found[neutral] = unchanged[0]
    x = np.array(sorted(found))
    return x, np.array([found[level] for level in x])


def area(results: Sequence[Stressed], change: str) -> float:
    """Return the mean score over a range of levels, by the trapezoidal rule; NaN without any.

    Of entries, which have no order, it is the mean over them.
    """
    x, y = curve(results, change)
    if not len(x):
        return float("nan")
    if change in BY_ENTRY or len(x) < 2:
        return float(y.mean())
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def stress_table(cells: Sequence[RunFolder]) -> str:
    """Return every result of cells as CSV, a row for each level."""
    head = ("method", "seed", "stage", "task", "change", "level")
    rows = []
    for cell in cells:
        for one in stress_record(cell).read()[1]:
            values = (one.score, one.total, one.success, one.length)
            rows.append((cell.label, cell.seed, *one.place, *values))
    return csv_table((*head, "score", "return", "success", "length"), rows)


# -- adapt -----------------------------------------------------------------------------------------


ADAPT, ADAPTED = "adapt", "adapt.jsonl"
"""Of the folder of a cell: ``adapt/<task>-<steps>/``, and the record in it."""

FRESH = -1
"""In place of a stage: the same agent and method, which have learned nothing."""

THRESHOLD = 0.8
"""Score that counts as learned, where nobody says which."""


class AdaptPlan(BaseModel):
    """What is learned.

    Attributes:
        task: Name of the task.
        steps: Environment steps of it.
        every: Steps between two measurements.
        episodes: Of each measurement.
    """

    model_config = ConfigDict(extra="forbid")

    task: Short
    steps: Count
    every: Count
    episodes: Count


class Adapted(BaseModel):
    """Result of one stage: the curve of adaptation.

    Attributes:
        stage: Whose policy began, from 0; ``FRESH`` for none.
        steps: Of the task, 0 before it.
        scores: At each of them, mean over the episodes.
        totals: Mean returns, likewise.
        had_learned: Whether the task is among the stages up to this one.
        is_normalized: Whether scores are normalised returns or success rates.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    stage: Annotated[int, Field(ge=FRESH, lt=2**31)]
    steps: Annotated[list[Count], Field(min_length=2)]
    scores: list[Real]
    totals: list[Real]
    had_learned: bool
    is_normalized: bool

    @property
    def jumpstart(self) -> float:
        """Score before the first step."""
        return self.scores[0]

    @property
    def area(self) -> float:
        """Mean score over the steps, by the trapezoidal rule."""
        return float(np.trapezoid(self.scores, self.steps) / (self.steps[-1] - self.steps[0]))

    def steps_to(self, threshold: float) -> float:
        """Return the steps at the first measurement of at least so much; NaN without one."""
        reached = [at for at, s in zip(self.steps, self.scores, strict=True) if s >= threshold]
        return float(reached[0]) if reached else float("nan")


def adapt_work(folder: RunFolder, plan: AdaptPlan) -> Path:
    """Return the folder of a cell in which the stages of a plan go on."""
    return folder.path / ADAPT / f"{plan.task}-{plan.steps}"


def adapt_record(folder: RunFolder, plan: AdaptPlan) -> Record[AdaptPlan, Adapted]:
    """Return the record of a cell for the task and the steps of a plan."""
    return Record(adapt_work(folder, plan) / ADAPTED, AdaptPlan, Adapted, folders=3)


def adapt_plans(folder: RunFolder) -> list[AdaptPlan]:
    """Return what stages of a cell have adapted to before.

    Raises:
        CheckpointUnusable: If a record cannot be read.
    """
    found = plans_in(folder.path / ADAPT, ADAPTED, AdaptPlan, Adapted)
    return [plan for plan, place in found if adapt_work(folder, plan) == place]


def threshold_of(results: Sequence[Adapted], asked: float | None = None) -> float:
    """Return what counts as learned: what was asked for, ``THRESHOLD``, or what fresh agents reach.

    The last is for raw returns, of which no number is good by itself: the mean over fresh agents of
    their last measurement.
    """
    if asked is not None:
        return asked
    if all(one.is_normalized for one in results):
        return THRESHOLD
    ends = [one.scores[-1] for one in results if one.stage == FRESH]
    return float(np.mean(ends)) if ends else float("nan")


def adapt_table(cells: Sequence[RunFolder], plan: AdaptPlan) -> str:
    """Return every curve of cells as CSV, a row for each measurement."""
    rows = []
    for cell in cells:
        for one in adapt_record(cell, plan).read()[1]:
            name = "fresh" if one.stage == FRESH else one.stage
            whose = (cell.label, cell.seed, name, one.had_learned, plan.task)
            rows += [(*whose, *at) for at in zip(one.steps, one.scores, one.totals, strict=True)]
    head = ("method", "seed", "stage", "had_learned", "task", "step", "score", "return")
    return csv_table(head, rows)


# -- counterfactual --------------------------------------------------------------------------------


COUNTERFACTUAL, ALTERNATIVES = "counterfactual", "counterfactual.jsonl"
"""Of the folder of a cell: ``counterfactual/<task>/``, and the record in it."""

FINAL = "final"
"""Names the action that the policy of the stream's end takes."""


class CounterfactualPlan(BaseModel):
    """What is asked.

    Attributes:
        task: Name of the task.
        states: How many, at even distances over the episodes.
        worlds: Tasks whose changes are tried in its place.
    """

    model_config = ConfigDict(extra="forbid")

    task: Short
    states: Count
    worlds: list[Short]


class Alternative(BaseModel):
    """What came from one state: returns from there to the episode's end.

    Attributes:
        episode: Of the evaluation at the end of the task's last training, from 0.
        step: Of the episode, from 0.
        steps: Of the whole episode.
        factual: As it was: by the policy of the task's end.
        final: By the policy of the stream's end.
        actions: By the policy of the task's end after another first action, by that action.
        worlds: By the policy of the task's end under the changes of another task, by its name.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    episode: Count
    step: Count
    steps: Count
    factual: Real
    final: Real
    actions: dict[Short, Real]
    worlds: dict[Short, Real]

    @property
    def lost(self) -> float:
        """Value of what was lost in this state."""
        return self.factual - self.final


def counterfactual_record(
    folder: RunFolder, plan: CounterfactualPlan
) -> Record[CounterfactualPlan, Alternative]:
    """Return the record of a cell for the task of a plan."""
    path = folder.path / COUNTERFACTUAL / plan.task / ALTERNATIVES
    return Record(path, CounterfactualPlan, Alternative, folders=3)


def counterfactual_plans(folder: RunFolder) -> list[CounterfactualPlan]:
    """Return what was asked of a cell before.

    Raises:
        CheckpointUnusable: If a record cannot be read.
    """
    found = plans_in(folder.path / COUNTERFACTUAL, ALTERNATIVES, CounterfactualPlan, Alternative)
    return [plan for plan, place in found if place.name == plan.task]


def counterfactual_table(cells: Sequence[RunFolder], plan: CounterfactualPlan) -> str:
    """Return every branch of cells as CSV, a row for each."""
    head = ("method", "seed", "task", "episode", "step", "branch", "of", "return", "factual")
    rows = []
    for cell in cells:
        for one in counterfactual_record(cell, plan).read()[1]:
            branches = [("policy", FINAL, one.final)]
            branches += [("action", name, value) for name, value in one.actions.items()]
            branches += [("world", name, value) for name, value in one.worlds.items()]
            place = (cell.label, cell.seed, plan.task, one.episode, one.step)
            rows += [(*place, *branch, one.factual) for branch in branches]
    return csv_table(head, rows)
