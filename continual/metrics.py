"""Metrics of continual learning: pure functions of the stored scores.

One array convention: ``Curves`` holds what was measured, one row per evaluation point in the order
of measuring and one column per task of the scenario. Not measured, or not defined, is NaN and never
zero. The functions named like a metric return one number per task, shape (tasks,); ``summary``
averages each over the tasks that it is defined for (``averaged``), and is NaN as soon as one of
those is NaN.

Every metric is a named variant (``cw`` is Continual World's, arXiv:2105.10919, section 4.2; ``gem``
is that of arXiv:1706.08840, equation 3; ``dense`` needs evaluations inside the tasks, after
arXiv:2205.13452); ``FORMULAS`` holds the text that a report prints beside the numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from holdfast.continual.record import Episode
    from holdfast.scenarios.schema import Scenario, Score

Array = NDArray[np.float64]
Quantity = Literal["score", "return", "success"]

WINDOW = 5
"""Most evaluation points that are averaged into a performance "at the end of a task"."""


@dataclass(frozen=True)
class Formula:
    """How a metric is defined, as text for a report.

    Attributes:
        title: Plain name of the metric.
        formula: Its definition, in the words of ``NOTATION``.
        higher_is_better: False where a smaller number is the better one.
        tasks: Which ones it is averaged over: all that are ``trained``, the ``earlier`` ones (all
            but that trained last), or the ``revisited`` ones (trained more than once).
    """

    title: str
    formula: str
    higher_is_better: bool = True
    tasks: Literal["trained", "earlier", "revisited"] = "trained"


NOTATION = (
    "p_i(t) is the score of task i measured at step t. Its training span is (s_i, e_i], start "
    "excluded and end included; for a task that is trained several times this is the last span, "
    "except in area under the curve and forward transfer, which use the first. T is the end of the "
    f"stream. P_i(t) is the mean of the last min({WINDOW}, evaluation points inside the span that "
    "ends at t) values of p_i up to t. N is the number of tasks that the stream trains; tasks that "
    "are only evaluated do not enter the averages. A metric for which one task is missing is n/a."
)

FORMULAS: dict[str, Formula] = {
    "average_performance/cw": Formula("average performance", "1/N Σ_i P_i(T)"),
    "forgetting/cw": Formula(
        "forgetting",
        "1/N Σ_i [P_i(e_i) - P_i(T)], including the last task (zero by definition)",
        higher_is_better=False,
    ),
    "forward_transfer/cw": Formula(
        "forward transfer",
        "1/N Σ_i (AUC_i - AUC_i^b) / (1 - AUC_i^b) over all i, where AUC_i^b is that of method "
        "`isolated` with the same seed; undefined where AUC_i^b ≥ 1, and for raw returns",
    ),
    "backward_transfer/gem": Formula(
        "backward transfer",
        "1/(N-1) Σ_{i≠last} (R[T,i] - R[e_i,i]), where R[t,i] = p_i(t) is measured at the task "
        "boundary alone (no window)",
        tasks="earlier",
    ),
    "auc/cw": Formula(
        "area under the curve",
        "1/N Σ_i AUC_i, AUC_i = mean of p_i at the evaluation points inside (s_i, e_i]",
    ),
    "plasticity/cw": Formula(
        "plasticity",
        "1/N Σ_i P_i(e_i), the performance on each task right after its own training; average "
        "performance is plasticity less forgetting",
    ),
    "min_acc/dense": Formula(
        "min-ACC",
        "1/(N-1) Σ_{i≠last} min of p_i(t) over e_i < t ≤ T; needs evaluations inside every task "
        "that follows",
        tasks="earlier",
    ),
    "stability_gap/dense": Formula(
        "stability gap",
        "1/(N-1) Σ_{i≠last} (p_i(e_i) - min of p_i(t) over e_i < t ≤ T), the deepest fall after "
        "the task was learned; needs evaluations inside every task that follows",
        higher_is_better=False,
        tasks="earlier",
    ),
    "recovery_time/steps": Formula(
        "recovery time",
        "mean over the tasks that are trained again, and over their visits but the first, of the "
        "steps of that visit until p_i is again what P_i was at the end of the visit before; the "
        "whole visit and one step more where that is not reached",
        higher_is_better=False,
        tasks="revisited",
    ),
}


@dataclass(frozen=True)
class Span:
    """The steps ``(start, end]`` of the stream in which ``task`` (an index) is trained."""

    start: int
    end: int
    task: int


@dataclass(frozen=True)
class Curves:
    """What was measured in one cell.

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
    unit: Literal["score", "return", "mixed"] = "score"

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
            without clipping (raw returns where a task has none); ``return`` and ``success`` take
            what was measured.
    """
    episodes = list(scores)
    points = sorted({(episode["stage"], episode["step"]) for episode in episodes})
    row = {point: index for index, point in enumerate(points)}
    column = {task.name: index for index, task in enumerate(scenario.tasks)}
    forms = [_form(scenario, task) for task in range(len(column))]
    shape = (len(points), len(column))
    total, counts = np.zeros(shape), np.zeros(shape)
    for episode in episodes:
        task = column[episode["task"]]
        place = row[episode["stage"], episode["step"]], task
        total[place] += _value(episode, forms[task] if quantity == "score" else quantity)
        counts[place] += 1
    values = np.divide(total, counts, out=np.full(shape, np.nan), where=counts > 0)
    steps = np.array([step for _, step in points], dtype=np.int64)
    return Curves(steps, values, spans(scenario), _unit(forms, quantity))


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


def window(curves: Curves, span: Span) -> int:
    """Return how many points count as "at the end of" a span: min(5, those inside it)."""
    return min(WINDOW, int(_inside(curves, span).sum()))


def at_end(curves: Curves, span: Span) -> Array:
    """Return P_i(span.end) of every task: its mean over the last ``window`` points of the span.

    >>> run = Curves(
    ...     np.array([0, 10, 20]), np.array([[0.0], [0.2], [0.6]]), (Span(0, 20, 0),)
    ... )
    >>> at_end(run, run.spans[0])
    array([0.4])
    """
    points = curves.values[_inside(curves, span)][-WINDOW:]  # (window, tasks)
    if not len(points):
        return np.full(curves.values.shape[1], np.nan)
    return np.asarray(points.mean(axis=0))


def averaged(name: str, curves: Curves) -> tuple[int, ...]:
    """Return the indices of the tasks that a metric of ``FORMULAS`` averages over."""
    order = [span.task for span in curves.spans]
    kind = FORMULAS[name].tasks
    if kind == "revisited":
        return tuple(task for task in trained(curves) if order.count(task) > 1)
    return tuple(task for task in trained(curves) if kind == "trained" or task != order[-1])


def performance(curves: Curves) -> Array:
    """Return P_i(T), the performance on every task at the end of the stream. Variant ``cw``.

    >>> run = Curves(
    ...     np.array([0, 10, 20]),
    ...     np.array([[0.0, 0.0], [1.0, 0.1], [0.4, 0.9]]),
    ...     (Span(0, 10, 0), Span(10, 20, 1)),
    ... )
    >>> performance(run)
    array([0.4, 0.9])
    """
    if not curves.spans:
        return np.full(curves.values.shape[1], np.nan)
    return at_end(curves, curves.spans[-1])


def forgetting(curves: Curves) -> Array:
    """Return P_i(e_i) - P_i(T): how far each task fell since its last training. Variant ``cw``.

    Positive means forgotten; the task trained last is zero; a task that is never trained is NaN.

    >>> run = Curves(
    ...     np.array([0, 10, 20]),
    ...     np.array([[0.0, 0.0], [1.0, 0.1], [0.4, 0.9]]),
    ...     (Span(0, 10, 0), Span(10, 20, 1)),
    ... )
    >>> forgetting(run)
    array([0.6, 0. ])
    """
    final = performance(curves)
    fallen = np.full_like(final, np.nan)
    for span in curves.spans:  # a later span of the same task replaces the earlier one
        fallen[span.task] = at_end(curves, span)[span.task] - final[span.task]
    return fallen


def auc(curves: Curves) -> Array:
    """Return AUC_i, the mean score of each task while it is first trained. Variant ``cw``.

    The mean of the evaluation points inside the span, its start excluded and its end included.

    >>> run = Curves(
    ...     np.array([0, 10, 20]), np.array([[0.0], [0.2], [0.6]]), (Span(0, 20, 0),)
    ... )
    >>> auc(run)
    array([0.4])
    """
    areas = np.full(curves.values.shape[1], np.nan)
    for span in reversed(curves.spans):  # the first span of a task is written last
        inside = _inside(curves, span)
        areas[span.task] = curves.values[inside, span.task].mean() if inside.any() else np.nan
    return areas


def forward_transfer(curves: Curves, reference: Curves) -> Array:
    """Return (AUC_i - AUC_i^b) / (1 - AUC_i^b), the gain by earlier tasks. Variant ``cw``.

    NaN where AUC_i^b is 1 or more (no room to gain), and for raw returns (1 means nothing to them).

    Args:
        curves: The cell that is judged.
        reference: The cell of method ``isolated`` with the same seed.

    Raises:
        ValueError: If the two were not trained on the same stream.

    >>> run = Curves(np.array([0, 10]), np.array([[0.0], [0.8]]), (Span(0, 10, 0),))
    >>> alone = Curves(np.array([0, 10]), np.array([[0.0], [0.6]]), (Span(0, 10, 0),))
    >>> forward_transfer(run, alone)
    array([0.5])
    """
    if curves.spans != reference.spans:
        raise ValueError("forward transfer compares two runs of one stream; these have two streams")
    if curves.unit != "score" or reference.unit != "score":
        return np.full(curves.values.shape[1], np.nan)
    area, alone = auc(curves), auc(reference)
    room = np.where(alone < 1, 1 - alone, np.nan)
    return np.asarray((area - alone) / room)


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
    for stage, step in enumerate([0, *(span.end for span in curves.spans)]):
        at = np.flatnonzero(curves.steps == step)
        if at.size:
            rows[stage] = curves.values[at[-1]]  # the last of them: after the method's own work
    return rows


def backward_transfer(curves: Curves) -> Array:
    """Return R[T,i] - R[e_i,i] of every trained task. Variant ``gem``.

    Negative means forgotten; that of the task trained last is zero, and does not enter the average.

    >>> run = Curves(
    ...     np.array([0, 10, 20]),
    ...     np.array([[0.0, 0.0], [1.0, 0.1], [0.4, 0.9]]),
    ...     (Span(0, 10, 0), Span(10, 20, 1)),
    ... )
    >>> backward_transfer(run)
    array([-0.6,  0. ])
    """
    rows = matrix(curves)
    changed = np.full(curves.values.shape[1], np.nan)
    for stage, span in enumerate(curves.spans, start=1):  # the last span of a task stays
        changed[span.task] = rows[-1, span.task] - rows[stage, span.task]
    return changed


def plasticity(curves: Curves) -> Array:
    """Return P_i(e_i), the performance on each task right after its last training. Variant ``cw``.

    >>> run = Curves(
    ...     np.array([0, 10, 20]),
    ...     np.array([[0.0, 0.0], [1.0, 0.1], [0.4, 0.9]]),
    ...     (Span(0, 10, 0), Span(10, 20, 1)),
    ... )
    >>> plasticity(run)
    array([1. , 0.9])
    """
    learned = np.full(curves.values.shape[1], np.nan)
    for span in curves.spans:
        learned[span.task] = at_end(curves, span)[span.task]
    return learned


def min_acc(curves: Curves) -> Array:
    """Return the lowest score of each task after its last training. Variant ``dense``.

    NaN for the task trained last, and where a span after the training has no evaluation point
    before its end: the fall right after a switch is not seen at the boundaries.

    Source: min-ACC of De Lange et al. 2023 (arXiv:2205.13452), definition 3.

    >>> run = Curves(
    ...     np.array([0, 10, 15, 20]),
    ...     np.array([[0.0, 0.0], [1.0, 0.1], [0.2, 0.5], [0.7, 0.9]]),
    ...     (Span(0, 10, 0), Span(10, 20, 1)),
    ... )
    >>> min_acc(run)
    array([0.2, nan])
    """
    lowest = np.full(curves.values.shape[1], np.nan)
    dense = [bool((_inside(curves, s) & (curves.steps < s.end)).any()) for s in curves.spans]
    for stage, span in enumerate(curves.spans, start=1):
        after = curves.values[curves.steps > span.end, span.task]
        known = stage < len(curves.spans) and all(dense[stage:]) and after.size
        lowest[span.task] = after.min() if known else np.nan
    return lowest


def stability_gap(curves: Curves) -> Array:
    """Return p_i(e_i) less ``min_acc``: the deepest fall of each task. Variant ``dense``.

    >>> run = Curves(
    ...     np.array([0, 10, 15, 20]),
    ...     np.array([[0.0, 0.0], [1.0, 0.1], [0.2, 0.5], [0.7, 0.9]]),
    ...     (Span(0, 10, 0), Span(10, 20, 1)),
    ... )
    >>> stability_gap(run)
    array([0.8, nan])
    """
    rows = matrix(curves)
    learned = np.full(curves.values.shape[1], np.nan)
    for stage, span in enumerate(curves.spans, start=1):
        learned[span.task] = rows[stage, span.task]
    return learned - min_acc(curves)


def recovery_time(curves: Curves) -> Array:
    """Return the steps until a task that is trained again is as good as it was. Variant ``steps``.

    Counted from the start of the visit to the first evaluation point with a score of at least P_i
    at the end of the visit before, zero where the task starts that well; the whole visit and one
    step more where none is. The mean over all visits but the first; NaN for a task with one visit,
    and where a visit has no evaluation point before its end.

    Source: the recovery time of l2metrics (Learning to Learn metrics, New et al. 2022,
    arXiv:2201.08278), in environment steps rather than experiences and without its smoothing.

    >>> run = Curves(
    ...     np.array([0, 10, 20, 25, 30]),
    ...     np.array([[0.0, 0.0], [0.8, 0.0], [0.1, 0.9], [0.9, 0.5], [1.0, 0.1]]),
    ...     (Span(0, 10, 0), Span(10, 20, 1), Span(20, 30, 0)),
    ... )
    >>> recovery_time(run)
    array([ 5., nan])
    """
    times: dict[int, list[float]] = {}
    before: dict[int, float] = {}
    for span in curves.spans:
        task = span.task
        if task in before:
            times.setdefault(task, []).append(_recovery(curves, span, before[task]))
        before[task] = float(at_end(curves, span)[task])
    found = np.full(curves.values.shape[1], np.nan)
    for task, of_visits in times.items():
        found[task] = np.mean(of_visits)
    return found


def per_task(curves: Curves, reference: Curves | None = None) -> dict[str, Array]:
    """Return every metric of ``FORMULAS`` by its full name, shape (tasks,); NaN where it is n/a.

    Args:
        curves: One cell.
        reference: The cell of method ``isolated`` with the same seed; without it forward transfer
            is n/a.
    """
    nothing = np.full(curves.values.shape[1], np.nan)
    return {
        "average_performance/cw": performance(curves),
        "forgetting/cw": forgetting(curves),
        "forward_transfer/cw": nothing
        if reference is None
        else forward_transfer(curves, reference),
        "backward_transfer/gem": backward_transfer(curves),
        "auc/cw": auc(curves),
        "plasticity/cw": plasticity(curves),
        "min_acc/dense": min_acc(curves),
        "stability_gap/dense": stability_gap(curves),
        "recovery_time/steps": recovery_time(curves),
    }


def summary(curves: Curves, reference: Curves | None = None) -> dict[str, float]:
    """Return every metric of ``FORMULAS``, averaged over its tasks; NaN where it is n/a.

    It is n/a where one of its tasks is, and where some tasks are normalised and others are not.

    Args:
        curves: One cell.
        reference: As in ``per_task``.
    """
    found = {}
    for name, values in per_task(curves, reference).items():
        tasks = list(averaged(name, curves))
        known = tasks and curves.unit != "mixed"
        found[name] = float(values[tasks].mean()) if known else float("nan")
    return found


def _recovery(curves: Curves, span: Span, wanted: float) -> float:
    """Return the steps of one visit until the score is as wanted; NaN where they are not known."""
    at = np.flatnonzero((curves.steps >= span.start) & (curves.steps <= span.end))
    scores, steps = curves.values[at, span.task], curves.steps[at] - span.start
    if np.isnan([wanted, *scores]).any() or not (steps[:-1] > 0).any():
        return float("nan")
    reached = np.flatnonzero(scores >= wanted)
    return float(steps[reached[0]] if reached.size else span.end - span.start + 1)


def _inside(curves: Curves, span: Span) -> NDArray[np.bool_]:
    return (curves.steps > span.start) & (curves.steps <= span.end)


def _form(scenario: Scenario, task: int) -> Score | Literal["return", "success"]:
    return scenario.tasks[task].score or scenario.score or "return"


def _value(episode: Episode, form: Score | Literal["return", "success"]) -> float:
    if form == "return":
        return episode["return"]
    if form == "success":
        return float("nan") if episode["success"] is None else episode["success"]
    return (episode["return"] - form.random) / (form.reference - form.random)


def _unit(
    forms: list[Score | Literal["return", "success"]], quantity: Quantity
) -> Literal["score", "return", "mixed"]:
    raw = quantity == "return" or (quantity == "score" and all(form == "return" for form in forms))
    if raw:
        return "return"
    return "mixed" if quantity == "score" and "return" in forms else "score"
