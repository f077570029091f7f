"""Sections of a report on what probes found: robustness, adaptation, loss, reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from holdfast.continual.probes import outcomes
from holdfast.continual.probes.outcomes import (
    Adapted,
    AdaptPlan,
    Alternative,
    CounterfactualPlan,
    Stressed,
)
from holdfast.continual.reports.axes import bounds
from holdfast.continual.reports.charts import Curves, Line
from holdfast.continual.reports.explanation_report import explain_sections
from holdfast.continual.reports.probe_results import Found, gathered, labels
from holdfast.continual.reports.tables import head, over
from holdfast.continual.results.curves import Array
from holdfast.continual.results.document import (
    Block,
    Bullets,
    Figure,
    Figures,
    Legend,
    Paragraph,
    Run,
    Section,
    Table,
    given,
    na,
    words,
)
from holdfast.continual.results.formatting import number
from holdfast.continual.results.statistics import mean_band
from holdfast.continual.results.study import Results
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import CheckpointUnusable

_TITLES = {
    "observation_noise": "noise",
    "action_delay": "delay",
    "action_gain": "gain",
    "dead_actuators": "a dead actuator",
    "observation_mask": "a masked entry",
    outcomes.ATTACK: "attack",
}
_UNITS = {
    "observation_noise": "standard deviation of the noise",
    "action_delay": "steps of delay",
    "action_gain": "gain",
    outcomes.ATTACK: "radius in deviations of the entry",
}


def probe_sections(results: Results) -> Iterator[Section]:
    """Return the sections on what probes found in the cells of a report."""
    cells = [cell.folder for method in results.methods for cell in method.cells]
    yield from stress_sections(cells, [method.label for method in results.methods])
    yield from adapt_sections(cells)
    yield from counterfactual_sections(cells)
    yield from explain_sections(cells)


# -- stress ----------------------------------------------------------------------------------------


def stress_sections(
    cells: Sequence[RunFolder], methods: Sequence[str] | None = None
) -> list[Section]:
    """Return the section on robustness; none where no cell was stressed.

    Args:
        cells: The cells.
        methods: Labels of all methods, whose places give colours; None for those of the cells.
    """
    plan, found, notes = gathered(cells, outcomes.stress_record)
    if plan is None:
        return []
    changes = [
        one for one in plan.grid if any(r.change == one for cell in found for r in cell.results)
    ]
    told = words(
        f"Scores of every stage's policy under changes on top of each task's own, {plan.episodes} "
        "episodes of each level, from the seeds of evaluation. An area is the mean score over the "
        "levels, from no change on, by the trapezoidal rule; of dead actuators and masked entries "
        "it is the mean over the entries. The attack is projected gradient ascent on the "
        "divergence of the policy from what it would do (arXiv:2003.08938); its radius is in "
        "standard deviations of each entry under random actions. Means over tasks, then over seeds."
    )
    order = list(methods or dict.fromkeys(cell.label for cell in cells))
    legend = Legend(tuple((order.index(label), label) for label in labels(found)))
    shown = [
        Figure(_title(one), _chart(found, one, order), spoken=_title(one))
        for one in changes
        if one in _UNITS
    ]
    blocks: list[Block] = [
        Paragraph(told),
        *([Bullets(notes)] if notes else []),
        _areas(found, changes, "the end of the stream", _at_end),
        _areas(found, changes, "the end of each task's own training", _when_learned),
    ]
    if shown:
        blocks += [legend, Figures(tuple(shown))]
    return [Section("Robustness", tuple(blocks))]


def _title(change: str) -> str:
    return f"Score under {_TITLES[change]}"


Pick = Callable[[Found], list[list[Stressed]]]
"""Returns the results of one policy and task each, of one cell."""


def _at_end(found: Found) -> list[list[Stressed]]:
    """Return the results of the last policy, by task."""
    last = len(found.cell.scenario.stream_tasks) - 1
    return _by_task(found, {task.name: last for task in found.cell.scenario.tasks})


def _when_learned(found: Found) -> list[list[Stressed]]:
    """Return the results of the policy at the end of each task's last training, by task."""
    scenario = found.cell.scenario
    ends = {scenario.tasks[index].name: stage for stage, index in enumerate(scenario.stream_tasks)}
    return _by_task(found, ends)


def _by_task(found: Found, stages: dict[str, int]) -> list[list[Stressed]]:
    each = (
        [one for one in found.results if (one.task, one.stage) == (task, stage)]
        for task, stage in stages.items()
    )
    return [results for results in each if results]


def _areas(found: Sequence[Found], changes: Sequence[str], when: str, pick: Pick) -> Table:
    def row(own: Sequence[Found]) -> Iterator[Any]:
        groups = [pick(cell) for cell in own]
        yield over(_mean([_unchanged(one) for one in of_cell]) for of_cell in groups)
        for change in changes:
            yield over(_mean([outcomes.area(one, change) for one in tasks]) for tasks in groups)

    rows = []
    for label in labels(found):
        own = [one for one in found if one.label == label]
        rows.append((given(label), *row(own)))
    titles = ("unchanged", *(_TITLES[change] for change in changes))
    caption = f"Area under each change at {when}; beside it the score where nothing is changed."
    return Table(head("method", *titles), tuple(rows), caption=caption)


def _unchanged(results: Sequence[Stressed]) -> float:
    return _mean([one.score for one in results if one.change == outcomes.UNCHANGED])


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]  # NaN differs from itself
    return float(np.mean(known)) if known else float("nan")


def _chart(found: Sequence[Found], change: str, order: Sequence[str]) -> Curves:
    """Return every method's curve at the end of the stream."""
    lines = []
    for label in labels(found):
        own = [_mean_curve(_at_end(one), change) for one in found if one.label == label]
        known = [one for one in own if len(one[0])]
        if known:
            x = known[0][0]
            alike = np.array([y for levels, y in known if np.array_equal(levels, x)])
            lines.append(Line(label, order.index(label), x, *mean_band(alike)))
    ends = [part for line in lines for part in line.ends]
    return Curves(lines, (_UNITS[change], "score"), bounds(*ends, least=(0, 1)))


def _mean_curve(groups: Sequence[Sequence[Stressed]], change: str) -> tuple[Array, Array]:
    curves = [one for one in (outcomes.curve(results, change) for results in groups) if len(one[0])]
    if not curves:
        return np.empty(0), np.empty(0)
    x = curves[0][0]
    return x, np.array([y for levels, y in curves if np.array_equal(levels, x)]).mean(axis=0)


# -- adaptation ------------------------------------------------------------------------------------


def adapt_sections(
    cells: Sequence[RunFolder], only: AdaptPlan | None = None, threshold: float | None = None
) -> list[Section]:
    """Return a section for each task that stages have adapted to.

    Args:
        cells: The cells.
        only: The one task to tell of; None for all on file.
        threshold: Score that counts as learned; see ``outcomes.threshold_of``.
    """
    plans = [only] if only is not None else _plans(cells, outcomes.adapt_plans)
    return [_adaptation(cells, plan, threshold) for plan in plans]


def _plans(cells: Sequence[RunFolder], plans_of: Callable[[RunFolder], Any]) -> list[Any]:
    """Return what is on file, one plan for each task and number of steps."""
    found: dict[tuple[str, int], Any] = {}
    for cell in cells:
        with suppress(CheckpointUnusable):  # told by the section of that cell, if it has one
            for plan in plans_of(cell):
                found.setdefault((plan.task, getattr(plan, "steps", 0)), plan)
    return [*found.values()]


def _adaptation(cells: Sequence[RunFolder], plan: AdaptPlan, threshold: float | None) -> Section:
    _, found, notes = gathered(cells, lambda cell: outcomes.adapt_record(cell, plan), plan)
    everything = [one for cell in found for one in cell.results]
    limit = outcomes.threshold_of(everything, threshold)
    told = words(
        "Every stage's checkpoint learned task ",
        Run(plan.task),
        f" for {plan.steps:,} steps, measured every {plan.every:,} steps in {plan.episodes} "
        "episodes; a fresh agent of the same method learned nothing before. Jumpstart: the score "
        "before the first step. Area: the mean score over the steps, by the trapezoidal rule. "
        f"Steps to {number(limit)}: at the first measurement of at least so much. Gain: the area "
        "less that of the fresh agent of the same seed. Mean over seeds.",
    )
    blocks: list[Block] = [Paragraph(told), *([Bullets(notes)] if notes else [])]
    if found:
        blocks += [_adapted(found, limit), *_adapting(found)]
    return Section(f"Adaptation to {plan.task} in {plan.steps:,} steps", tuple(blocks))


def _adapted(found: Sequence[Found], limit: float) -> Table:
    rows = []
    for label in labels(found):
        own = [one for one in found if one.label == label]
        for stage in _stages(own):
            results = [r for one in own for r in one.results if r.stage == stage]
            steps = [one.steps_to(limit) for one in results]
            rows.append(
                (
                    given(label),
                    given(_beginning(results[0])),
                    over(one.jumpstart for one in results),
                    over(one.area for one in results),
                    over(_gains(own, stage)) if stage != outcomes.FRESH else na(),
                    over(steps, lambda count: f"{count:,.0f}"),
                )
            )
    titles = ("from", "jumpstart", "area", "gain", f"steps to {number(limit)}")
    return Table(head("method", *titles), tuple(rows))


def _stages(own: Sequence[Found]) -> list[int]:
    return sorted({result.stage for one in own for result in one.results})


def _beginning(result: Adapted) -> str:
    if result.stage == outcomes.FRESH:
        return "fresh"
    return f"stage {result.stage}{', which had learned it' if result.had_learned else ''}"


def _gains(own: Sequence[Found], stage: int) -> Iterator[float]:
    """Yield by how much the area of a stage is above that of the fresh agent, of each seed."""
    for cell in own:
        areas = {result.stage: result.area for result in cell.results}
        if stage in areas and outcomes.FRESH in areas:
            yield areas[stage] - areas[outcomes.FRESH]


def _adapting(found: Sequence[Found]) -> Iterator[Block]:
    """Return the curves, a chart for each method, and what their colours are."""
    stages = _stages(found)
    names = ["fresh" if stage == outcomes.FRESH else f"stage {stage}" for stage in stages]
    ends, shown = [], []
    for label in labels(found):
        own, lines = [one for one in found if one.label == label], []
        for index, stage in enumerate(stages):
            results = [r for one in own for r in one.results if r.stage == stage]
            alike = [one.scores for one in results if one.steps == results[0].steps]
            if alike:
                band = mean_band(np.array(alike, dtype=np.float64))
                lines.append(Line(names[index], index, results[0].steps, *band))
        ends += [part for line in lines for part in line.ends]
        shown.append((label, lines))
    is_normalized = all(result.is_normalized for one in found for result in one.results)
    y = bounds(*ends, least=(0, 1) if is_normalized else ())
    yield Legend(tuple(enumerate(names)))
    figures = (
        Figure(label, Curves(lines, ("environment steps of the task", "score"), y))
        for label, lines in shown
    )
    yield Figures(tuple(figures))


# -- counterfactuals -------------------------------------------------------------------------------


_PARTS = ("first", "middle", "last")


def counterfactual_sections(
    cells: Sequence[RunFolder], only: CounterfactualPlan | None = None
) -> list[Section]:
    """Return a section for each task of which states were reached again.

    Args:
        cells: The cells.
        only: The one task to tell of; None for all on file.
    """
    plans = [only] if only is not None else _plans(cells, outcomes.counterfactual_plans)
    return [_counterfactuals(cells, plan) for plan in plans]


def _counterfactuals(cells: Sequence[RunFolder], plan: CounterfactualPlan) -> Section:
    record_of = outcomes.counterfactual_record
    _, found, notes = gathered(cells, lambda cell: record_of(cell, plan), plan)
    told = words(
        "States of the evaluation episodes at the end of the last training of ",
        Run(plan.task),
        ", reached again; from each, the rest of the episode was played, most likely actions. "
        "Factual: by the policy of the task's end, which repeated the recording. Lost: its return "
        "less that of the policy of the stream's end from the same state; also in each third of "
        "the episodes, by steps. Worse: the share of states in which something is lost. Another "
        "action: the factual return less that after another first action, mean over the actions. "
        "Under another task's changes: the same difference for the same policy in that world. "
        "Returns; means over states, then over seeds.",
    )
    blocks: list[Block] = [Paragraph(told), *([Bullets(notes)] if notes else [])]
    if found:
        blocks.append(_lost(found, plan))
    return Section(f"Counterfactuals in {plan.task}", tuple(blocks))


def _lost(found: Sequence[Found], plan: CounterfactualPlan) -> Table:
    def mean(measure: Callable[[Alternative], float | None], own: Sequence[Found]) -> Any:
        values = [[measure(one) for one in cell.results] for cell in own]
        return over(_mean([v for v in of_cell if v is not None]) for of_cell in values)

    def third(number: int) -> Callable[[Alternative], float | None]:
        return lambda one: one.lost if 3 * one.step // one.steps == number else None

    def elsewhere(name: str) -> Callable[[Alternative], float | None]:
        return lambda one: one.factual - one.worlds[name] if name in one.worlds else None

    measures: list[tuple[Any, Callable[[Alternative], float | None]]] = [
        ("factual", lambda one: one.factual),
        ("lost", lambda one: one.lost),
        *((f"{part} third", third(number)) for number, part in enumerate(_PARTS)),
        ("worse", lambda one: float(one.lost > 0)),
        ("another action", _regret),
        *((given(f"under {name}"), elsewhere(name)) for name in plan.worlds),
    ]
    rows = []
    for label in labels(found):
        own = [one for one in found if one.label == label]
        states = over((float(len(one.results)) for one in own), lambda count: f"{count:.0f}")
        rows.append((given(label), states, *(mean(measure, own) for _, measure in measures)))
    return Table(head("method", "states", *(title for title, _ in measures)), tuple(rows))


def _regret(one: Alternative) -> float | None:
    return one.factual - _mean([*one.actions.values()]) if one.actions else None
