"""Learning curves: what was measured in one cell, as arrays.

One array convention: ``Curves`` holds one row per evaluation point in the order of measuring and
one column per task of the scenario. Not measured, or not defined, is NaN and never zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from holdfast.continual.run_folder.episodes import Episode
    from holdfast.scenarios.schema.scenario import Scenario, Score

Array = NDArray[np.float64]
Quantity = Literal["score", "return", "success", "cost", "violation"]
Unit = Literal["score", "return", "mixed"]
Form: TypeAlias = "Score | Literal['return', 'success']"
"""The score of a task, in what is measured."""

WINDOW = 10
"""One in so many evaluation points of a span is averaged into a performance "at its end"."""


@dataclass(frozen=True)
class Span:
    """The steps ``(start, end]`` of the stream in which ``task`` (an index) is trained."""

    start: int
    end: int
    task: int


@dataclass(frozen=True)
class Curves:
    """Measurements of one cell.

    Attributes:
        steps: Shape (points,), environment steps over the stream, never falling.
        values: Shape (points, tasks), mean over the episodes; NaN where not measured.
        spans: The training span of each stage of the stream.
        unit: ``score`` if every column is normalised or a success rate, ``return`` if none is, else
            ``mixed``: then no average over tasks has a meaning.
    """

    steps: NDArray[np.int64]
    values: Array
    spans: tuple[Span, ...]
    unit: Unit = "score"

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            ValueError: If rows and steps, or columns and spans, do not fit together.
        """
        points, tasks = self.values.shape
        if self.steps.shape != (points,):
            raise ValueError(f"{points} rows of values for steps of shape {self.steps.shape}")
        if points and (np.diff(self.steps) < 0).any():
            raise ValueError("steps must never fall from one evaluation point to the next")
        if any(not 0 <= span.task < tasks or span.end <= span.start for span in self.spans):
            raise ValueError(f"spans {self.spans} do not fit {tasks} tasks")


def spans(scenario: Scenario) -> tuple[Span, ...]:
    """Return the training span of every stage of the scenario's stream."""
    found: list[Span] = []
    for task, steps in zip(scenario.stream_tasks, scenario.stage_steps, strict=True):
        start = found[-1].end if found else 0
        found.append(Span(start, start + steps, task))
    return tuple(found)


def curves(scores: Iterable[Episode], scenario: Scenario, quantity: Quantity = "score") -> Curves:
    """Return the curve of every task, averaged over the episodes of each evaluation point.

    Args:
        scores: The record of one cell, in any order.
        scenario: The scenario that was run.
        quantity: ``score`` normalises each task's return by its ``score:`` key, linearly and
            without clipping (raw returns where a task has none); ``return``, ``success`` and
            ``cost`` take what was measured; ``violation`` is the share of episodes that cost more
            than the task's limit.
    """
    return curves_of(scores, scenario, [quantity])[0]


def curves_of(
    scores: Iterable[Episode],
    scenario: Scenario,
    quantities: Sequence[Quantity],
    known_spans: tuple[Span, ...] | None = None,
) -> list[Curves]:
    """Return the curves of each quantity, as ``curves`` does, from one look at the record.

    Args:
        scores: As for ``curves``.
        scenario: As for ``curves``.
        quantities: What is wanted.
        known_spans: What ``spans`` returned, where that is known already.

    Raises:
        ValueError: If a task is none of the scenario's.
    """
    episodes = list(scores)
    names = [task.name for task in scenario.tasks]
    if strange := {episode["task"] for episode in episodes}.difference(names):
        raise ValueError(f"no task {min(strange)!r}")
    column = {name: index for index, name in enumerate(names)}
    points = sorted({(episode["stage"], episode["step"]) for episode in episodes})
    row = {point: index for index, point in enumerate(points)}
    rows = [row[episode["stage"], episode["step"]] for episode in episodes]
    columns = np.array([column[episode["task"]] for episode in episodes], dtype=np.intp)
    place = np.array(rows, dtype=np.intp) * len(names) + columns  # (episodes,)
    shape = (len(points), len(names))
    counts = np.bincount(place, minlength=len(points) * len(names)).reshape(shape)
    steps = np.array([step for _, step in points], dtype=np.int64)
    forms: list[Form] = [scenario.score_of(task) or "return" for task in range(len(names))]
    returns = np.array([episode["return"] for episode in episodes], dtype=np.float64)
    # A None becomes NaN: no success was reported.
    successes = np.array([episode["success"] for episode in episodes], dtype=np.float64)
    measured = {"return": returns, "success": successes}
    if {"cost", "violation"} & {*quantities}:
        measured |= _costs(episodes, columns, scenario)
    stretches = spans(scenario) if known_spans is None else known_spans
    found = []
    for quantity in quantities:
        own = forms if quantity == "score" else [quantity] * len(names)
        values = np.empty(len(episodes))
        for task in np.unique(columns).tolist():
            at = columns == task
            values[at] = _values(own[task], {name: of[at] for name, of in measured.items()})
        total = np.bincount(place, values, minlength=counts.size).reshape(shape)
        means = np.divide(total, counts, out=np.full(shape, np.nan), where=counts > 0)
        found.append(Curves(steps, means, stretches, _unit(forms, quantity)))
    return found


def unseen(scores: Iterable[Episode], scenario: Scenario) -> NDArray[np.bool_]:
    """Return which entries of ``matrix`` were measured without a head or column of their own."""
    column = {task.name: index for index, task in enumerate(scenario.tasks)}
    boundary = [0, *(span.end for span in spans(scenario))]
    marked = np.zeros((len(boundary), len(column)), dtype=np.bool_)
    for episode in scores:
        if episode["unseen"] and episode["step"] == boundary[episode["stage"]]:
            marked[episode["stage"], column[episode["task"]]] = True
    return marked


def until(curves: Curves, stages: int) -> Curves:
    """Return the curves as they stood after the first ``stages`` stages of the stream.

    Its metrics are over the tasks trained so far; a running run logs them at each task boundary.
    """
    end = curves.spans[stages - 1].end if stages else 0
    kept = curves.steps <= end
    return Curves(curves.steps[kept], curves.values[kept], curves.spans[:stages], curves.unit)


def trained(curves: Curves) -> tuple[int, ...]:
    """Return the indices of the tasks that are trained, in the order of their first training."""
    return tuple(dict.fromkeys(span.task for span in curves.spans))


def budgets(curves: Curves) -> dict[int, int]:
    """Return the steps of the first training of each task, by its index."""
    return {span.task: span.end - span.start for span in reversed(curves.spans)}


def points(curves: Curves, span: Span) -> int:
    """Return how many evaluation points lie inside a span, its end included."""
    found = inside(curves, span)
    return int(found.stop - found.start)


def window(curves: Curves, span: Span) -> int:
    """Return how many points count as "at the end of" a span: a tenth of its own, at least one.

    Rounded down, and none where the span has none. Continual World averages 5 of the 50 in a task.

    >>> steps = np.arange(0, 51)
    >>> run = Curves(steps, np.zeros((51, 1)), (Span(0, 50, 0),))
    >>> window(run, run.spans[0]), window(run, Span(0, 9, 0)), window(run, Span(50, 60, 0))
    (5, 1, 0)
    """
    return len(_last(curves, span))


def at_end(curves: Curves, span: Span) -> Array:
    """Return P_i(span.end) of every task: its mean over the last ``window`` points of the span.

    Of those points, the ones at which the task was measured; NaN where it was at none.

    >>> run = Curves(
    ...     np.array([0, 10, 20]), np.array([[0.0], [0.2], [0.6]]), (Span(0, 20, 0),)
    ... )
    >>> at_end(run, run.spans[0])
    array([0.6])
    """
    points = _last(curves, span)  # (window, tasks)
    known = ~np.isnan(points)
    counts, total = known.sum(axis=0), np.where(known, points, 0.0).sum(axis=0)
    return np.asarray(np.divide(total, counts, out=np.full_like(total, np.nan), where=counts > 0))


def own_end(curves: Curves, span: Span) -> float:
    """Return P_i(span.end) of the span's own task i alone; see ``at_end``."""
    own = _last(curves, span)[:, span.task]
    own = own[~np.isnan(own)]
    return float(own.sum() / own.size) if own.size else float("nan")


def measured_at_end(curves: Curves, span: Span) -> NDArray[np.int64]:
    """Return how many points stand behind ``at_end`` of every task, shape (tasks,).

    >>> values = np.full((21, 1), 0.6)
    >>> values[19] = np.nan
    >>> run = Curves(np.arange(21), values, (Span(0, 20, 0),))
    >>> window(run, run.spans[0]), measured_at_end(run, run.spans[0])
    (2, array([1]))
    """
    return np.asarray((~np.isnan(_last(curves, span))).sum(axis=0), dtype=np.int64)


def matrix(curves: Curves) -> Array:
    """Return the score matrix R at the task boundaries, shape (stages + 1, tasks).

    Row 0 is before any learning, row k after the k-th stage of the stream; NaN where not measured.

    >>> run = Curves(
    ...     np.array([0, 5, 10]), np.array([[0.0], [0.5], [1.0]]), (Span(0, 10, 0),)
    ... )
    >>> matrix(run)
    array([[0.],
           [1.]])
    """
    rows = np.full((len(curves.spans) + 1, curves.values.shape[1]), np.nan)
    boundaries = np.array([0, *(span.end for span in curves.spans)])
    # The last point of that step: after the method's own work.
    last = np.searchsorted(curves.steps, boundaries, side="right") - 1
    found = np.flatnonzero(last >= 0)
    found = found[curves.steps[last[found]] == boundaries[found]]
    rows[found] = curves.values[last[found]]
    return rows


def inside(curves: Curves, span: Span) -> slice:
    """Return which evaluation points lie inside a span, its end included."""
    # Steps never fall: to compare all of them for every span would be slow for many spans.
    start, end = np.searchsorted(curves.steps, (span.start, span.end), side="right").tolist()
    return slice(start, end)


def _last(curves: Curves, span: Span) -> Array:
    """Return the points that count as the end of a span, shape (window, tasks)."""
    points = curves.values[inside(curves, span)]
    return points[-max(1, len(points) // WINDOW) :]


def _costs(
    episodes: Sequence[Episode], columns: NDArray[np.intp], scenario: Scenario
) -> dict[str, Array]:
    """Return what each episode cost, and whether that was more than its task's limit."""
    costs = np.array([episode.get("cost", np.nan) for episode in episodes], dtype=np.float64)
    limits = np.array([np.nan if t.cost is None else t.cost.limit for t in scenario.tasks])
    over = costs > limits[columns]
    return {"cost": costs, "violation": np.where(np.isnan(costs), np.nan, over)}


def _values(form: Form | Quantity, measured: Mapping[str, Array]) -> Array:
    if isinstance(form, str):
        return measured[form]
    returns = measured["return"]
    return (returns - form.random) / (form.reference - form.random)


def _unit(forms: Sequence[Form], quantity: Quantity) -> Unit:
    if quantity in ("return", "cost") or (
        quantity == "score" and all(form == "return" for form in forms)
    ):
        return "return"
    return "mixed" if quantity == "score" and "return" in forms else "score"
