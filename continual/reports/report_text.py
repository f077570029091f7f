"""The report of one scenario as markdown: what was run, tables, score matrices, formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from holdfast.continual.reports.game_report import game_parts
from holdfast.continual.reports.plasticity_report import plasticity_parts
from holdfast.continual.reports.summary import BASELINE, COMPARED, Summary
from holdfast.continual.reports.tables import Table, costs_table, means_table, summary_table
from holdfast.continual.reports.team_report import team_parts
from holdfast.continual.results import metrics
from holdfast.continual.results.costs import COSTS
from holdfast.continual.results.curves import Array, Curves, Quantity, matrix, window
from holdfast.continual.results.formatting import number, over, plain, plural, table
from holdfast.continual.results.metrics import FORMULAS, NOTATION
from holdfast.continual.results.statistics import FEW, FEW_SEEDS
from holdfast.continual.results.study import CellResults, MethodResults, Results, spread
from holdfast.scenarios.schema.scenario import Scenario


def markdown(results: Results, summary: Summary, picture: str = "report.png") -> str:
    """Return the report of one scenario as markdown.

    Args:
        results: What was gathered.
        summary: Its numbers.
        picture: Name of the figure of curves, which lies beside the report.
    """
    scenario = results.scenario
    done = [method for method in results.methods if method.cells]
    parts = [f"# {plain(scenario.name)}", _setting(scenario)]
    if scenario.description:
        parts.insert(1, plain(scenario.description))
    if done:
        parts.append(f"![Every task's curve over the stream, a panel for each method]({picture})")
        parts.append(
            "Every task's curve over the stream: mean over seeds, with a band of one standard "
            "deviation. The background has the colour of the task that is being trained."
        )
    if not results.has_one_order:
        parts.append(
            "The seeds learn the tasks in different orders, so that the background is that of the "
            "first seed alone; scores after each task are in the reports of the cells."
        )
    parts += ["## Results", *_shown(summary_table(summary)), _notes(results, summary)]
    parts += ["## Means and deviations", *_shown(means_table(summary))]
    parts += ["## Costs", *_shown(costs_table(summary))]
    if missing := _missing(results.methods):
        parts += ["## Not in these numbers", missing]
    if done:
        parts += _scores(results, done)
    parts += team_parts(results)
    parts += game_parts(results)
    parts += plasticity_parts(results)
    parts += ["## Definitions", _definitions(results)]
    if done:
        parts += ["## Origin", _origin(done)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _shown(found: Table) -> list[str]:
    """Return a table and what it shows; names come from files, numbers are ours."""
    rows = [[plain(row[0]), *row[1:]] for row in found.rows]
    return [table([plain(name) for name in found.head], rows), found.caption]


def _setting(scenario: Scenario) -> str:
    stream, plan = scenario.stream, scenario.evaluation
    every = f"every {plan.every:,} steps and " if plan.every else ""
    choice = "most likely" if plan.deterministic else "sampled"
    return (
        f"{plural(len(scenario.tasks), 'task')} in {plural(len(scenario.stream_tasks), 'stage')}, "
        f"{scenario.total_steps:,} environment steps; agent `{plain(scenario.agent.algorithm)}`. "
        f"The learner's task id is {stream.task_id}, boundaries are {stream.boundaries}, the "
        f"number of tasks is {stream.task_count}. Evaluated {every}at task boundaries: "
        f"{plural(plan.episodes, 'episode')} of {plan.tasks} tasks, {choice} actions."
    )


def _notes(results: Results, summary: Summary) -> str:
    """Return what a reader must know to read the table."""
    cells = [cell for method in results.methods for cell in method.cells]
    notes = []
    seeds = min((len(method.cells) for method in results.methods if method.cells), default=0)
    if seeds == 1:
        notes.append("With 1 seed there is no interval and no p-value: differences mean nothing.")
    elif 1 < seeds < FEW:
        notes.append(f"With {plural(seeds, 'seed')}, small differences mean nothing. {FEW_SEEDS}")
    if cells and all(method.comparison is None for method in summary.methods):
        notes.append(
            f"Nothing is compared: that needs finished cells of `{BASELINE}` and of another method "
            "in the same scenario."
        )
    if any(cell.curves.unit == "return" for cell in cells):
        notes.append(
            "The numbers are raw returns: give the scenario `score:` (`{random: a, reference: b}` "
            "or `success`) to normalise them. Forward transfer of raw returns is not defined."
        )
    elif any(cell.curves.unit == "mixed" for cell in cells):
        notes.append(
            "Some tasks have a `score:` and others none, so that no average over them has a "
            "meaning; give every task one."
        )
    if any(cell.reference is None for cell in cells):
        notes.append(
            "Forward transfer needs the single-task reference: add `isolated` to `methods:` and "
            "run the scenario again; it is n/a for seeds without one."
        )
    if any(cell.curves.unit == "score" and math.isnan(cell.metrics[COMPARED]) for cell in cells):
        notes.append("n/a: a task was not measured, or its environment reports no success.")
    if any(_points(cell.curves) == 1 for cell in cells):
        notes.append(
            "A task was measured once, at its end: its area under the curve is that one number, "
            "and the stability gap is not seen. `evaluation: {every: steps}` measures learning."
        )
    return "\n".join(f"- {note}" for note in notes)


def _missing(methods: Iterable[MethodResults]) -> str:
    return "\n".join(
        f"- {plain(method.label)}, {plain(name)}: {plain(why)}"
        for method in methods
        for name, why in method.missing.items()
    )


def _scores(results: Results, done: Sequence[MethodResults]) -> list[str]:
    """Return the sections on single tasks."""
    scenario, parts = results.scenario, []
    if results.has_one_order:
        parts += ["## Scores of each task", _matrix_legend(done)]
        for method in done:
            parts += [f"### {plain(method.label)}", _matrix_table(method, scenario)]
    parts += ["## Returns at the end of the stream", _final_table(done, scenario, "return")]
    if np.isfinite(done[0].cells[0].successes.values).any():
        parts += ["## Success rates at the end", _final_table(done, scenario, "success")]
    return parts


def _matrix_legend(done: Sequence[MethodResults]) -> str:
    text = (
        f"Mean {_unit_name(done[0].cells[0].curves)} over seeds at the task boundaries; **bold** "
        "where the task was just trained."
    )
    if any(cell.unseen.any() for method in done for cell in method.cells):
        text += " In parentheses: the task had no head or column of its own yet (`unseen`)."
    return text


def _matrix_table(method: MethodResults, scenario: Scenario) -> str:
    names = [task.name for task in scenario.tasks]
    spans = method.cells[0].curves.spans
    mean, _ = spread(method.over_seeds(lambda cell: matrix(cell.curves)))
    unseen = method.cells[0].unseen
    rows = []
    for stage, values in enumerate(mean):
        trained = spans[stage - 1].task if stage else None
        row = [f"after {stage}: {plain(names[trained])}" if trained is not None else "at the start"]
        for task, value in enumerate(values):
            text = number(value)
            if task == trained:
                text = f"**{text}**"
            row.append(f"({text})" if unseen[stage, task] else text)
        rows.append(row)
    rows += [[f"*{title}*", *texts] for title, texts in per_task_rows(method)]
    return table(["", *map(plain, names)], rows)


def per_task_rows(method: MethodResults) -> list[tuple[str, list[str]]]:
    """Return what is said of each task below a matrix: the title, and one text for each task."""
    measures: dict[str, Callable[[CellResults], Array]] = {
        "forgetting/cw": lambda cell: metrics.forgetting(cell.curves),
        "forward_transfer/cw": _gain,
        "auc/cw": lambda cell: metrics.auc(cell.curves),
    }
    return [
        (FORMULAS[name].title, [over(column) for column in method.over_seeds(measure).T])
        for name, measure in measures.items()
    ]


def _final_table(done: Sequence[MethodResults], scenario: Scenario, quantity: Quantity) -> str:
    """Return what was measured at the end of the stream, before normalisation."""

    def final(cell: CellResults) -> Array:
        return metrics.performance(cell.returns if quantity == "return" else cell.successes)

    rows = [
        [plain(method.label), *(over(column) for column in method.over_seeds(final).T)]
        for method in done
    ]
    return table(["method", *(plain(task.name) for task in scenario.tasks)], rows)


def _definitions(results: Results) -> str:
    lines = [NOTATION, ""]
    lines += [
        f"- **{formula.title}** (`{name}`): {formula.formula}. "
        f"{'Higher' if formula.higher_is_better else 'Lower'} is better."
        for name, formula in FORMULAS.items()
    ]
    cells = [cell for method in results.methods for cell in method.cells]
    if cells:
        lines += ["", _windows(cells[0].curves, results.scenario)]
    lines += ["", _score_forms(results.scenario), "", STATISTICS, "", "Costs:", ""]
    lines += [f"- **{cost.title}** (`{name}`): {cost.meaning}" for name, cost in COSTS.items()]
    texts: dict[str, str] = {}
    for cell in cells:
        texts |= cell.info.get("conventions") or {}
    if texts:
        lines += ["", "Conventions of the methods:", ""]
        lines += [f"- **{plain(name)}**: {plain(text)}" for name, text in texts.items() if text]
    return "\n".join(lines)


STATISTICS = (
    "The interquartile mean leaves out the lowest and the highest quarter of the numbers of all "
    "seeds and tasks (arXiv:2108.13264). Intervals are percentiles of a bootstrap that draws whole "
    "seeds, the same for every method, 2.5% of it left out at each end. The p-value is two-sided, "
    "of the permutation test of the Mann-Whitney statistic averaged over tasks; whole seeds change "
    "sides."
)
"""How the numbers over seeds are made."""


def _windows(curves: Curves, scenario: Scenario) -> str:
    shown = []
    for stage, span in enumerate(curves.spans, start=1):
        inside = int(((curves.steps > span.start) & (curves.steps <= span.end)).sum())
        name = plain(scenario.tasks[span.task].name)
        shown.append(f"{stage}: {name} {window(curves, span)} of {inside}")
    return f"Windows (points averaged, of those in the span): {', '.join(shown)}."


def _score_forms(scenario: Scenario) -> str:
    shown = []
    for task in scenario.tasks:
        form = task.score or scenario.score
        if form is None:
            text = "the return itself"
        elif form == "success":
            text = "the success rate"
        else:
            text = f"(return - {form.random:g}) / ({form.reference:g} - {form.random:g})"
        shown.append(f"{plain(task.name)}: {text}")
    if len({entry.partition(": ")[2] for entry in shown}) == 1:
        return f"Score of every task: {shown[0].partition(': ')[2]}."
    return f"Scores: {'; '.join(shown)}."


def _origin(done: Sequence[MethodResults]) -> str:
    """Return which versions, commits and machines the numbers come from."""
    infos = [cell.info for method in done for cell in method.cells]
    versions: dict[str, set[str]] = {}
    for info in infos:
        for package, version in (info.get("versions") or {}).items():
            versions.setdefault(package, set()).add(str(version))
    shown = [f"{package} {' and '.join(sorted(found))}" for package, found in versions.items()]
    lines = [
        ("Versions", shown),
        ("Commits", sorted({str(info["commit"]) for info in infos if info.get("commit")})),
        ("Machines", sorted({_machine(info) for info in infos if info.get("host")})),
        ("Ended", sorted({str(info["ended"])[:10] for info in infos if info.get("ended")})),
        ("Tuned", [f"{name}: {text}" for name, text in _tuned(done).items()]),
    ]
    return "\n".join(f"- {title}: {plain(', '.join(found))}" for title, found in lines if found)


def _tuned(done: Sequence[MethodResults]) -> dict[str, str]:
    """Return how values were found, by the method that they were found for."""
    found: dict[str, str] = {}
    for method in done:
        for cell in method.cells:
            found |= cell.folder.scenario.tuned
    return found


def _machine(info: dict[str, Any]) -> str:
    cores = info.get("cores")
    return f"{info['host']} ({cores} cores)" if cores else str(info["host"])


def _gain(cell: CellResults) -> Array:
    if cell.reference is None:
        return np.full(cell.curves.values.shape[1], np.nan)
    return metrics.forward_transfer(cell.curves, cell.reference)


def _points(curves: Curves) -> int:
    return min(window(curves, span) for span in curves.spans)


def _unit_name(curves: Curves) -> str:
    return "return" if curves.unit == "return" else "score"
