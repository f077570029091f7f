"""Metrics of continual learning: pure functions of the stored scores.

They take ``Curves``, and those named like a metric return one number per task, shape (tasks,); not
measured, or not defined, is NaN and never zero. ``summary`` averages each over the tasks that it is
defined for (``averaged``), and is NaN as soon as one of those is NaN. That is the number of one
seed; ``statistics`` says what becomes of several.

Every metric is a named variant (``cw`` is Continual World's, arXiv:2105.10919, section 4.2;
``boundary`` is the same at the task boundaries alone, without a window; ``gem`` is that of
arXiv:1706.08840, equation 3; ``dense`` needs evaluations inside the tasks, after arXiv:2205.13452);
``FORMULAS`` holds the text that a report prints beside the numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

import numpy as np

from holdfast.continual.results.curves import (
    WINDOW,
    Array,
    Curves,
    Span,
    at_end,
    budgets,
    inside,
    matrix,
    own_end,
)


@dataclass(frozen=True)
class Formula:
    """Definition of a metric, as text for a report.

    Attributes:
        title: Plain name of the metric.
        formula: Its definition, in the words of ``NOTATION``.
        higher_is_better: False where a smaller number is the better one.
        tasks: Which ones it is averaged over: all that are ``trained``, the ``earlier`` ones (all
            but that trained last), the ``revisited`` ones (trained more than once), or those
            ``held out`` (never trained).
    """

    title: str
    formula: str
    higher_is_better: bool = True
    tasks: Literal["trained", "earlier", "revisited", "held out"] = "trained"


RULES = f"metrics: the end of a task is one in {WINDOW} of its evaluations"
"""What a number must share with another to be compared with it: a new rule, a new text."""

NOTATION = (
    "p_i(t) is the score of task i measured at step t. Its training span is (s_i, e_i], start "
    "excluded and end included; for a task that is trained several times this is the last span, "
    "except in area under the curve and forward transfer, which use the first. T is the end of the "
    f"stream. P_i(t) is the mean of the last max(1, n // {WINDOW}) values of p_i up to t, n the "
    "number of evaluation points inside the span that ends at t; where tasks take turns in being "
    "measured (`evaluation.tasks: {sample: n}`), of those among them at which i was. R[t,i] = "
    "p_i(t) is measured at a task boundary alone (no window). N is the number of tasks that the "
    "stream trains; tasks that are only evaluated do not enter the averages. A metric for which "
    "one task is missing is n/a."
)

NO_GAINS: Mapping[int, float] = MappingProxyType({})
"""Of a cell whose agents did not adapt to anything."""

FORMULAS: dict[str, Formula] = {
    "average_performance/cw": Formula("average performance", "1/N Σ_i P_i(T)"),
    "average_performance/boundary": Formula("performance at the boundary", "1/N Σ_i R[T,i]"),
    "forgetting/cw": Formula(
        "forgetting",
        "1/N Σ_i [P_i(e_i) - P_i(T)], including the last task (zero by definition); n/a for a "
        "stream of one task",
        higher_is_better=False,
    ),
    "forgetting/boundary": Formula(
        "forgetting at the boundary",
        "1/N Σ_i (R[e_i,i] - R[T,i]), including the last task; n/a for a stream of one task",
        higher_is_better=False,
    ),
    "forward_transfer/cw": Formula(
        "forward transfer",
        "1/N Σ_i (AUC_i - AUC_i^b) / (1 - AUC_i^b) over all i, where AUC_i^b is that of method "
        "`isolated`, the mean over all its seeds; over seeds AUC_i is a mean, too, so that it is a "
        "ratio of means; undefined where AUC_i^b ≥ 1, and for raw returns",
    ),
    "backward_transfer/gem": Formula(
        "backward transfer",
        "1/(N-1) Σ_{i≠last} (R[T,i] - R[e_i,i])",
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
    "adaptation/gain": Formula(
        "adaptation gain",
        "1/H Σ_h (A_h - A_h^b) over the H tasks that the stream does not train, where A_h is the "
        "mean score (trapezoidal rule) while the agent of the stream's end learns task h, and "
        "A_h^b that of a fresh agent of the same seed; needs `adapt:`",
        tasks="held out",
    ),
}


def averaged(name: str, curves: Curves) -> tuple[int, ...]:
    """Return the indices of the tasks that a metric of ``FORMULAS`` averages over."""
    visits = Counter(span.task for span in curves.spans)  # in the order of the first ones
    kind = FORMULAS[name].tasks
    if name.startswith("forgetting/") and len(visits) == 1:
        return ()  # of one task nothing can be forgotten: n/a, and no zero
    if kind == "revisited":
        return tuple(task for task, count in visits.items() if count > 1)
    if kind == "held out":
        every = range(curves.values.shape[1]) if visits else ()
        return tuple(task for task in every if task not in visits)
    return tuple(t for t in visits if kind == "trained" or t != curves.spans[-1].task)


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
    return plasticity(curves) - performance(curves)


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
        at = inside(curves, span)
        areas[span.task] = curves.values[at, span.task].mean() if at.stop > at.start else np.nan
    return areas


def forward_transfer(curves: Curves, references: Sequence[Curves]) -> Array:
    """Return (AUC_i - AUC_i^b) / (1 - AUC_i^b), the gain by earlier tasks. Variant ``cw``.

    NaN where AUC_i^b is 1 or more (no room to gain), and for raw returns (1 means nothing to them).

    AUC_i^b is the mean over the references. As it is the same for every seed, the mean of this over
    seeds is the ratio of means that Continual World publishes; a ratio for each seed with the
    reference of that seed would explode where a single AUC_i^b comes near 1.

    Args:
        curves: The cell that is judged.
        references: The cells of method ``isolated``, of any seeds; NaN without one.

    Raises:
        ValueError: If they were not trained on the same tasks, each as long.

    >>> run = Curves(np.array([0, 10]), np.array([[0.0], [0.8]]), (Span(0, 10, 0),))
    >>> alone = Curves(np.array([0, 10]), np.array([[0.0], [0.6]]), (Span(0, 10, 0),))
    >>> better = Curves(np.array([0, 10]), np.array([[0.0], [0.7]]), (Span(0, 10, 0),))
    >>> forward_transfer(run, [alone]).round(3), forward_transfer(run, [alone, better]).round(3)
    (array([0.5]), array([0.429]))
    """
    if any(budgets(curves) != budgets(reference) for reference in references):
        raise ValueError("forward transfer compares two runs of one stream; these have two streams")
    if not references or {one.unit for one in (curves, *references)} != {"score"}:
        return np.full(curves.values.shape[1], np.nan)
    alone = np.mean([auc(reference) for reference in references], axis=0)
    return np.asarray((auc(curves) - alone) / np.where(alone < 1, 1 - alone, np.nan))


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
    return np.asarray(matrix(curves)[-1] - _learned(curves))


def boundary_performance(curves: Curves) -> Array:
    """Return R[T,i], the score of every trained task at the end of the stream. No window.

    >>> run = Curves(
    ...     np.array([0, 10, 20]),
    ...     np.array([[0.0, 0.0], [1.0, 0.1], [0.4, 0.9]]),
    ...     (Span(0, 10, 0), Span(10, 20, 1)),
    ... )
    >>> boundary_performance(run)
    array([0.4, 0.9])
    """
    return np.asarray(matrix(curves)[-1])


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
    for span in curves.spans:  # a later span of the same task replaces the earlier one
        learned[span.task] = own_end(curves, span)
    return learned


def min_acc(curves: Curves) -> Array:
    """Return the lowest score of each task after its last training. Variant ``dense``.

    Of the points at which the task was measured. NaN for the task trained last, and where a span
    after the training has no evaluation point before its end: the fall right after a switch is not
    seen at the boundaries.

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
    # The last stage before which there is one without a point before its end.
    sparse = [stage for stage, span in enumerate(curves.spans) if not _is_dense(curves, span)]
    for stage, span in enumerate(curves.spans, start=1):
        known = stage < len(curves.spans) and stage > max(sparse, default=-1)
        lowest[span.task] = _lowest_after(curves, span) if known else np.nan
    return lowest


def _is_dense(curves: Curves, span: Span) -> bool:
    """Return whether there is an evaluation point inside a span before its end."""
    at = inside(curves, span)
    return at.stop > at.start and bool(curves.steps[at.start] < span.end)


def _lowest_after(curves: Curves, span: Span) -> float:
    after = curves.values[inside(curves, span).stop :, span.task]
    after = after[~np.isnan(after)]
    return float(after.min()) if after.size else float("nan")


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
    return np.asarray(_learned(curves) - min_acc(curves))


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
    found = np.full(curves.values.shape[1], np.nan)
    for task in averaged("recovery_time/steps", curves):
        visits = [span for span in curves.spans if span.task == task]
        before = [own_end(curves, visit) for visit in visits]
        times = [_recovery(curves, *pair) for pair in zip(visits[1:], before, strict=False)]
        found[task] = np.mean(times)
    return found


def per_task(
    curves: Curves, references: Sequence[Curves] = (), gains: Mapping[int, float] = NO_GAINS
) -> dict[str, Array]:
    """Return every metric of ``FORMULAS`` by its full name, shape (tasks,); NaN where it is n/a.

    Args:
        curves: One cell.
        references: As for ``forward_transfer``.
        gains: Adaptation gain by task, of those that were adapted to.
    """
    backward = backward_transfer(curves)
    adapted = np.array([gains.get(task, np.nan) for task in range(curves.values.shape[1])])
    return {
        "average_performance/cw": performance(curves),
        "average_performance/boundary": boundary_performance(curves),
        "forgetting/cw": forgetting(curves),
        "forgetting/boundary": 0.0 - backward,  # a true zero has no sign
        "forward_transfer/cw": forward_transfer(curves, references),
        "backward_transfer/gem": backward,
        "auc/cw": auc(curves),
        "plasticity/cw": plasticity(curves),
        "min_acc/dense": min_acc(curves),
        "stability_gap/dense": stability_gap(curves),
        "recovery_time/steps": recovery_time(curves),
        "adaptation/gain": adapted,
    }


def summary(
    curves: Curves,
    references: Sequence[Curves] = (),
    gains: Mapping[int, float] = NO_GAINS,
    *,
    sampled: bool = False,
) -> dict[str, float]:
    """Return every metric of ``FORMULAS``, averaged over its tasks; NaN where it is n/a.

    It is n/a where one of its tasks is, and where some tasks are normalised and others are not.

    Args:
        curves: One cell.
        references: As for ``forward_transfer``.
        gains: As for ``per_task``.
        sampled: Estimate what is missing, in the middle of a stream whose tasks take turns in
            being measured: see ``estimated``.
    """
    found = {}
    for name, values in per_task(curves, references, gains).items():
        tasks = list(averaged(name, curves))
        known = tasks and curves.unit != "mixed"
        newest = [place for place, task in enumerate(tasks) if task == curves.spans[-1].task]
        average = partial(estimated, last=newest[0] if newest else None) if sampled else np.mean
        found[name] = float(average(values[tasks])) if known else float("nan")
    return found


def estimated(values: Array, last: int | None) -> float:
    """Return the mean over tasks of which some were not measured; NaN where too few were.

    Those measured of the other tasks stand for all others. The one that was trained last is always
    measured and counts once: among them it would be too heavy.

    Args:
        values: Of each task.
        last: Place of the task trained last; None where it is not among them.

    >>> estimated(np.array([0.2, np.nan, np.nan, 0.4, 0.8]), last=4)  # (4 * 0.3 + 0.8) / 5
    0.4
    """
    others = values if last is None else np.delete(values, last)
    known = others[~np.isnan(others)]
    if others.size and not known.size:
        return float("nan")
    total = others.size * known.mean() if others.size else 0.0
    return float(total if last is None else total + values[last]) / values.size


def _learned(curves: Curves) -> Array:
    """Return R[e_i,i], the score of each task at the boundary that ends its last training."""
    rows = matrix(curves)
    learned = np.full(curves.values.shape[1], np.nan)
    for stage, span in enumerate(curves.spans, start=1):
        learned[span.task] = rows[stage, span.task]
    return learned


def _recovery(curves: Curves, span: Span, wanted: float) -> float:
    """Return the steps of one visit until the score is as wanted; NaN where they are not known."""
    at = slice(int(np.searchsorted(curves.steps, span.start)), inside(curves, span).stop)
    scores, steps = curves.values[at, span.task], curves.steps[at] - span.start
    if np.isnan([wanted, *scores]).any() or not (steps[:-1] > 0).any():
        return float("nan")
    reached = np.flatnonzero(scores >= wanted)
    return float(steps[reached[0]] if reached.size else span.end - span.start + 1)
