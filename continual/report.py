"""The report of a folder of results: tables, score matrices, formulas, a figure of the curves."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.continual import metrics
from holdfast.continual.game_report import game_parts
from holdfast.continual.markdown import NA, duration, number, over, plain, plural, size, table
from holdfast.continual.metrics import FORMULAS, NOTATION, Array, Curves, Quantity
from holdfast.continual.plasticity_report import plasticity_parts
from holdfast.continual.record import CROSS_PLAY, write_whole
from holdfast.continual.results import CellResults, MethodResults, Results, gather, spread
from holdfast.continual.team_report import team_parts
from holdfast.errors import UsageError
from holdfast.scenarios.schema import Scenario

FEW_SEEDS = 10
_COLUMNS = (
    "average_performance/cw",
    "forgetting/cw",
    "forward_transfer/cw",
    "backward_transfer/gem",
    "auc/cw",
)


@dataclass(frozen=True)
class Report:
    """A report as markdown; ``report.md`` and ``report.png`` lie in ``folder``."""

    markdown: str
    folder: Path


def report(path: Path) -> Report:
    """Write ``report.md`` and ``report.png`` into a folder of results, and return the report.

    Args:
        path: A scenario's, a method's or a cell's folder.

    Raises:
        UsageError: If it holds no results, or cannot be written to.
        CheckpointUnusable: If no cell's scenario can be read.
    """
    results = gather(path)
    text = markdown(results)
    if (path / CROSS_PLAY).exists():  # its headings one level lower: it is a section here
        text += "\n" + re.sub("^#", "##", (path / CROSS_PLAY).read_text("utf-8"), flags=re.M)
    try:
        if any(method.cells for method in results.methods):
            write_whole(path / "report.png", figure(results))
        write_whole(path / "report.md", text.encode())
    except OSError as error:
        raise UsageError(f"the report cannot be written to {path}: {error.strerror}") from error
    return Report(text, path)


def figure(results: Results) -> bytes:
    """Return a PNG of every task's curve, a panel for each method with finished cells."""
    from holdfast.continual.plots import Panel, curves_figure  # here: matplotlib is slow to import

    panels = []
    for method in results.methods:
        if method.cells:
            mean, deviation = spread(method.over_seeds(lambda cell: cell.curves.values))
            title = f"{method.label}  ({plural(len(method.cells), 'seed')})"
            panels.append(Panel(title, method.cells[0].curves.steps, mean, deviation))
    curves = next(method.cells[0].curves for method in results.methods if method.cells)
    names = [task.name for task in results.scenario.tasks]
    return curves_figure(panels, tasks=names, spans=curves.spans, unit=_unit_name(curves))


def markdown(results: Results) -> str:
    """Return the report as markdown."""
    scenario = results.scenario
    done = [method for method in results.methods if method.cells]
    parts = [f"# {plain(scenario.name)}", _setting(scenario)]
    if scenario.description:
        parts.insert(1, plain(scenario.description))
    if done:
        parts.append("![Every task's curve over the stream, a panel for each method](report.png)")
        parts.append(
            "Every task's curve over the stream: mean over seeds, with a band of one standard "
            "deviation. The background has the colour of the task that is being trained."
        )
    if not results.has_one_order:
        parts.append(
            "The seeds learn the tasks in different orders, so that the background is that of the "
            "first seed alone; scores after each task are in the reports of the cells."
        )
    parts += ["## Results", _results_table(results), _notes(results)]
    parts += ["## Costs", _costs_table(results)]
    if missing := _missing(results.methods):
        parts += ["## Not in these numbers", missing]
    if done:
        if results.has_one_order:
            parts += ["## Scores of each task", _matrix_legend(done)]
            for method in done:
                parts += [f"### {plain(method.label)}", _matrix_table(method, scenario)]
        parts += ["## Returns at the end of the stream", _final_table(done, scenario, "return")]
        if any(score["success"] is not None for score in done[0].cells[0].scores):
            parts += ["## Success rates at the end", _final_table(done, scenario, "success")]
    parts += team_parts(results)
    parts += game_parts(results)
    parts += plasticity_parts(results)
    parts += ["## Definitions", _definitions(results)]
    if done:
        parts += ["## Origin", _origin(done)]
    return "\n\n".join(part for part in parts if part) + "\n"


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


def _results_table(results: Results) -> str:
    head = ["method", "seeds", *(FORMULAS[name].title for name in _COLUMNS)]
    rows = []
    for method in results.methods:
        measured = [cell.metrics for cell in method.cells]
        numbers = [over([found[name] for found in measured]) for name in _COLUMNS]
        rows.append([plain(method.label), _seeds(method), *numbers])
    return table(head, rows)


def _costs_table(results: Results) -> str:
    head = ["method", "wall time", "steps/s", "parameters", "stored", "extra steps"]
    rows = []
    for method in results.methods:
        infos = [cell.info for cell in method.cells]
        rows.append(
            [
                plain(method.label),
                _cost(infos, "wall_s", duration),
                _cost(infos, "steps_per_s", _whole),
                _cost(infos, "parameters", _whole),
                _cost(infos, "stored_bytes", size),
                _cost(infos, "extra_steps", _whole),
            ]
        )
    return table(head, rows)


def _notes(results: Results) -> str:
    """Return what a reader must know to read the table."""
    cells = [cell for method in results.methods for cell in method.cells]
    notes = ["Mean ± standard deviation (n - 1) over seeds."]
    seeds = min((len(method.cells) for method in results.methods if method.cells), default=0)
    if 0 < seeds < FEW_SEEDS:
        notes.append(f"With {plural(seeds, 'seed')}, small differences mean nothing.")
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
    if any(cell.curves.unit == "score" and math.isnan(_performance(cell)) for cell in cells):
        notes.append("n/a: a task was not measured, or its environment reports no success.")
    if any(_points(cell.curves) == 1 for cell in cells):
        notes.append(
            "A task was measured once, at its end: its area under the curve is that one number. "
            "`evaluation: {every: steps}` measures learning."
        )
    return "\n".join(f"- {note}" for note in notes)


def _missing(methods: Iterable[MethodResults]) -> str:
    return "\n".join(
        f"- {plain(method.label)}, {plain(name)}: {plain(why)}"
        for method in methods
        for name, why in method.missing.items()
    )


def _matrix_legend(done: Sequence[MethodResults]) -> str:
    text = (
        f"Mean {_unit_name(done[0].cells[0].curves)} over seeds at the task boundaries; **bold** "
        "where the task was just trained."
    )
    if any(score["unseen"] for method in done for cell in method.cells for score in cell.scores):
        text += " In parentheses: the task had no head or column of its own yet (`unseen`)."
    return text


def _matrix_table(method: MethodResults, scenario: Scenario) -> str:
    names = [task.name for task in scenario.tasks]
    spans = method.cells[0].curves.spans
    mean, _ = spread(method.over_seeds(lambda cell: metrics.matrix(cell.curves)))
    unseen = metrics.unseen(method.cells[0].scores, scenario)
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
    for name, measure in (
        ("forgetting/cw", lambda cell: metrics.forgetting(cell.curves)),
        ("forward_transfer/cw", _gain),
        ("auc/cw", lambda cell: metrics.auc(cell.curves)),
    ):
        per_seed = method.over_seeds(measure)  # (seeds, tasks)
        rows.append([f"*{FORMULAS[name].title}*", *(over(column) for column in per_seed.T)])
    return table(["", *map(plain, names)], rows)


def _final_table(done: Sequence[MethodResults], scenario: Scenario, quantity: Quantity) -> str:
    """Return what was measured at the end of the stream, before normalisation."""

    def final(cell: CellResults) -> Array:
        return metrics.performance(metrics.curves(cell.scores, scenario, quantity))

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
    lines += ["", _score_forms(results.scenario)]
    texts: dict[str, str] = {}
    for cell in cells:
        texts |= cell.info.get("conventions") or {}
    if texts:
        lines += ["", "Conventions of the methods:", ""]
        lines += [f"- **{plain(name)}**: {plain(text)}" for name, text in texts.items() if text]
    return "\n".join(lines)


def _windows(curves: Curves, scenario: Scenario) -> str:
    shown = []
    for stage, span in enumerate(curves.spans, start=1):
        inside = int(((curves.steps > span.start) & (curves.steps <= span.end)).sum())
        name = plain(scenario.tasks[span.task].name)
        shown.append(f"{stage}: {name} {metrics.window(curves, span)} of {inside}")
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
    """Return which versions, commits and hosts the numbers come from."""
    infos = [cell.info for method in done for cell in method.cells]
    versions: dict[str, set[str]] = {}
    for info in infos:
        for package, version in (info.get("versions") or {}).items():
            versions.setdefault(package, set()).add(str(version))
    shown = [f"{package} {' and '.join(sorted(found))}" for package, found in versions.items()]
    lines = [
        ("Versions", shown),
        ("Commits", sorted({str(info["commit"]) for info in infos if info.get("commit")})),
        ("Hosts", sorted({str(info["host"]) for info in infos if info.get("host")})),
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


def _gain(cell: CellResults) -> Array:
    if cell.reference is None:
        return np.full(cell.curves.values.shape[1], np.nan)
    return metrics.forward_transfer(cell.curves, cell.reference)


def _performance(cell: CellResults) -> float:
    return cell.metrics["average_performance/cw"]


def _points(curves: Curves) -> int:
    return min(metrics.window(curves, span) for span in curves.spans)


def _unit_name(curves: Curves) -> str:
    return "return" if curves.unit == "return" else "score"


def _seeds(method: MethodResults) -> str:
    done, missing = len(method.cells), len(method.missing)
    return f"{done} of {done + missing}" if missing else str(done)


def _whole(count: float) -> str:
    return f"{count:,.0f}"


def _cost(infos: Iterable[dict[str, Any]], key: str, form: Callable[[float], str]) -> str:
    numbers = [info[key] for info in infos if info.get(key) is not None]
    return form(sum(numbers) / len(numbers)) if numbers else NA
