"""The report of one scenario: what was run, tables, charts, score matrices, formulas."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.continual.reports import figures, tables
from holdfast.continual.reports.axes import Bounds
from holdfast.continual.reports.game_report import game_sections
from holdfast.continual.reports.plasticity_report import plasticity_sections
from holdfast.continual.reports.probe_report import probe_sections
from holdfast.continual.reports.stream_report import (
    cost_sections,
    detection_sections,
    film_sections,
    online_sections,
)
from holdfast.continual.reports.summary import (
    BASELINE,
    COMPARED,
    TRANSFER,
    Summary,
    points_behind,
)
from holdfast.continual.reports.tables import over
from holdfast.continual.reports.team_report import team_sections
from holdfast.continual.reports.templates import environment
from holdfast.continual.results import document as doc
from holdfast.continual.results import metrics
from holdfast.continual.results.costs import COSTS
from holdfast.continual.results.curves import (
    Array,
    Curves,
    Quantity,
    inside,
    matrix,
    points,
    window,
)
from holdfast.continual.results.formatting import number, plural
from holdfast.continual.results.heat_map import MOST_DRAWN, shown_rows
from holdfast.continual.results.metrics import FORMULAS, NOTATION
from holdfast.continual.results.statistics import FEW, FEW_SEEDS
from holdfast.continual.results.study import CellResults, MethodResults, Results, spread
from holdfast.continual.run_folder.record import CROSS_PLAY, CROSS_PLAY_PAGE
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.source.regular_file import is_there


def study_section(
    results: Results, summary: Summary, picture: str, folder: Path, *, smooth: int = 1
) -> doc.Section:
    """Return the report of one scenario.

    Args:
        results: What was gathered.
        summary: Its numbers.
        picture: Name of the figure of curves, which lies beside the report.
        folder: Where the report will lie.
        smooth: Evaluation points that curves are averaged over.
    """
    done = [method for method in results.methods if method.cells]
    notes = _notes(results, summary)
    shown: list[doc.Block] = [
        tables.summary_table(summary),
        *([doc.Bullets(notes)] if notes else []),
    ]
    missing = _missing(results)
    parts = [
        doc.Section("Results", (*shown, *figures.result_figures(summary)), is_overview=True),
        *figures.stream_sections(results, summary, smooth),
        *figures.trade_off_figures(summary),
        doc.Section("Means and deviations", (tables.means_table(summary),), is_overview=True),
        doc.Section(
            "Costs", (tables.costs_table(summary), *figures.cost_figures(summary)), is_overview=True
        ),
    ]
    if missing:
        parts.append(doc.Section("Not in these numbers", (doc.Bullets(missing),), is_overview=True))
    if done:
        parts += _scores(results, done, summary)
    parts += [
        *detection_sections(results),
        *online_sections(results),
        *cost_sections(results),
        *team_sections(results),
        *game_sections(results),
    ]
    parts += plasticity_sections(results)
    parts += probe_sections(results)
    parts.append(doc.Section("Definitions", tuple(_definitions(results))))
    if done:
        parts.append(doc.Section("Origin", (_origin(done),)))
    parts += _cross_play(results)
    parts += film_sections(results, folder)
    lead = tuple(_lead(results, picture, smooth))
    return doc.Section(results.scenario.name, lead, tuple(parts))


def _cross_play(results: Results) -> Iterator[doc.Section]:
    """Return what came of cross-play in the folders of the results."""
    for folder in results.folders:
        if is_there(folder / CROSS_PLAY):
            yield doc.read_section(folder / CROSS_PLAY)
        elif is_there(folder / CROSS_PLAY_PAGE):
            text = doc.words(
                f"An older version wrote `{CROSS_PLAY_PAGE}`. To have it here, run "
                "`holdfast cross-play` again."
            )
            yield doc.Section("Cross-play", (doc.Paragraph(text),))


def _lead(results: Results, picture: str, smooth: int) -> Iterator[doc.Block]:
    """Return what stands above all sections."""
    scenario = results.scenario
    if scenario.description:
        yield doc.Paragraph((doc.Run(scenario.description),))
    yield doc.Paragraph(_setting(scenario))
    told = [
        "Every task's curve over the stream: mean over seeds, with a band of one standard "
        "deviation. The background has the colour of the task that is being trained."
    ]
    if smooth > 1:
        told.append(figures.smoothing(smooth))
    if not results.has_one_order:
        told.append(
            "The seeds learn the tasks in different orders, so that the background is that of the "
            "first seed alone; scores after each task are in the reports of the cells."
        )
    if any(method.cells for method in results.methods):
        shows = "Every task's curve over the stream, a panel for each method"
        yield doc.Image(picture, shows, tuple(told))
    missing = sum(len(method.missing) for method in results.methods)
    if missing:
        cells = missing + sum(len(method.cells) for method in results.methods)
        said = f"{missing} of {plural(cells, 'cell')} {'is' if missing == 1 else 'are'} not in "
        where = "these numbers; the section “Not in these numbers” says why."
        yield doc.Callout("Incomplete.", said + where)


def _setting(scenario: Scenario) -> doc.Text:
    stream, plan = scenario.stream, scenario.evaluation
    every = f"every {plan.every:,} steps and " if plan.every else ""
    choice = "most likely" if plan.deterministic else "sampled"
    return doc.words(
        f"{plural(len(scenario.tasks), 'task')} in {plural(len(scenario.stream_tasks), 'stage')}, "
        f"{scenario.total_steps:,} environment steps; agent ",
        doc.Run(scenario.agent.algorithm, "code"),
        f". The learner's task id is {stream.task_id}, boundaries are {stream.boundaries}, the "
        f"number of tasks is {stream.task_count}. Evaluated {every}at task boundaries: "
        f"{plural(plan.episodes, 'episode')} of {plan.words}, {choice} actions.",
    )


def _notes(results: Results, summary: Summary) -> tuple[doc.Text, ...]:
    """Return what a reader must know to read the table."""
    cells = [cell for method in results.methods for cell in method.cells]
    text = (
        environment()
        .get_template("notes.txt")
        .render(
            few=FEW,
            few_seeds=FEW_SEEDS,
            baseline=BASELINE,
            cells=cells,
            seeds=min((len(method.cells) for method in results.methods if method.cells), default=0),
            compared=any(method.comparison for method in summary.methods),
            possible=tables.possible([one.difference.seeds for one in summary.tested]),
            units={cell.curves.unit for cell in cells},
            has_success=any(np.isfinite(cell.successes.values).any() for cell in cells),
            highest=_highest(cells),
            referenced=all(cell.references for cell in cells),
            without_reference=_without_reference(summary),
            unmeasured=any(
                cell.curves.unit == "score" and math.isnan(cell.metrics[COMPARED]) for cell in cells
            ),
            cut=_cut(cells),
            fewest_points=min(
                (points(cell.curves, span) for cell in cells for span in cell.curves.spans),
                default=0,
            ),
        )
    )
    return tuple(map(doc.words, text.splitlines()))


NOTHING = 0.05
"""Score up to which an agent does as one that acts at random."""

_MOST_NAMED = 10
"""Tasks that a note names."""


def _highest(cells: Sequence[CellResults]) -> str:
    """Return the highest score of any task at any evaluation, where that is about nothing."""
    values = [cell.curves.values for cell in cells if cell.curves.unit == "score"]
    known = [value[np.isfinite(value)] for value in values]
    highest = max((float(value.max()) for value in known if value.size), default=np.inf)
    return number(highest) if highest <= NOTHING else ""


def _cut(cells: Sequence[CellResults]) -> str:
    """Return how many evaluation episodes were cut, and of which tasks; empty where none was."""
    counts = sum((Counter(cell.cut) for cell in cells), Counter[str]())
    if not counts:
        return ""
    named = ", ".join(f"{task} {count:,}" for task, count in counts.most_common(_MOST_NAMED))
    if len(counts) > _MOST_NAMED:
        named += f" and {len(counts) - _MOST_NAMED} more tasks"
    of = sum(cell.episodes for cell in cells)
    return (
        f"{counts.total():,} of {of:,} evaluation episodes did not end within "
        f"`evaluation.most_steps` and were cut there ({named}): their returns are of so many steps."
    )


def _without_reference(summary: Summary) -> str:
    """Return which seeds of which methods have no reference of their own, where others have."""
    named = [
        f"{method.label} {', '.join(map(str, method.without_reference))}"
        for method in summary.methods
        if method.without_reference and np.isfinite(method.measures[TRANSFER].estimate.value)
    ]
    return "; ".join(named)


def _missing(results: Results) -> tuple[doc.Text, ...]:
    return tuple(
        doc.words(doc.Run(method.label), ", ", doc.Run(name), ": ", doc.Run(why))
        for method in results.methods
        for name, why in method.missing.items()
    )


def _scores(
    results: Results, done: Sequence[MethodResults], summary: Summary
) -> Iterator[doc.Section]:
    """Return the sections on single tasks."""
    scenario = results.scenario
    if results.has_one_order and len(scenario.tasks) <= MOST_DRAWN:
        yield doc.Section("Scores of each task", (_heat_maps(results, summary),))
    shown: list[tuple[str, Quantity]] = [("Returns at the end of the stream", "return")]
    if np.isfinite(done[0].cells[0].successes.values).any():
        shown.append(("Success rates at the end", "success"))
    for title, quantity in shown:
        yield doc.Section(title, (_final_table(done, scenario, quantity),))


def _heat_maps(results: Results, summary: Summary) -> doc.HeatMaps:
    """Return the score matrix of each method, mean over its seeds."""
    done = [(index, method) for index, method in enumerate(results.methods) if method.cells]
    found = [spread(m.over_seeds(lambda cell: matrix(cell.curves)))[0] for _, m in done]
    ranges = figures.ranges(found, summary.unit)
    ends = "lowest of the task", "highest of the task"
    if summary.unit == "score":
        ends = number(ranges[0][0]), number(ranges[0][1])
    maps = tuple(
        (index, method.label, _matrix(method, values, summary.tasks, ranges))
        for (index, method), values in zip(done, found, strict=True)
    )
    unit = "return" if done[0][1].cells[0].curves.unit == "return" else "score"
    bold = doc.Run("bold", "strong")
    legend = f"Mean {unit} over seeds at the task boundaries; ", bold, " where the task was just"
    unseen = any(cell.unseen.any() for _, method in done for cell in method.cells)
    more = " In parentheses: the task had no head or column of its own yet (`unseen`)."
    return doc.HeatMaps((*legend, " trained.", *(doc.words(more) if unseen else ())), maps, ends)


def _matrix(
    method: MethodResults, values: Array, tasks: Sequence[str], ranges: Sequence[Bounds]
) -> doc.Table:
    low, high = np.array(ranges).T
    heat = np.clip((values - low) / np.where(high > low, high - low, 1), 0, 1)
    first = method.cells[0]
    rows = []
    after = (None, *(span.task for span in first.curves.spans))
    for stage in shown_rows(len(first.curves.spans)):
        task = after[stage]
        row = [doc.given("at the start" if task is None else f"after {stage}: {tasks[task]}")]
        for column, value in enumerate(values[stage]):
            text = f"({number(value)})" if first.unseen[stage, column] else number(value)
            number_cell = doc.Cell(text, float(value), heat=float(heat[stage, column]))
            row.append(replace(number_cell, style="strong") if column == task else number_cell)
        rows.append(tuple(row))
    known = [cell.per_task for cell in method.cells]
    foot = tuple(
        (
            doc.Cell(FORMULAS[name].title, style="emphasis"),
            *(over(found[name][task] for found in known) for task in range(len(tasks))),
        )
        for name in ("forgetting/cw", "forward_transfer/cw", "auc/cw")
    )
    return doc.Table((doc.EMPTY, *map(doc.given, tasks)), tuple(rows), foot=foot)


def _final_table(
    done: Sequence[MethodResults], scenario: Scenario, quantity: Quantity
) -> doc.Table:
    """Return what was measured at the end of the stream, before normalisation."""

    def final(cell: CellResults) -> Array:
        return metrics.performance(cell.returns if quantity == "return" else cell.successes)

    names = [doc.given(task.name) for task in scenario.tasks]
    return tables.by_method(done, names, lambda method: map(over, method.over_seeds(final).T))


def _definitions(results: Results) -> Iterator[doc.Block]:
    yield doc.paragraph(NOTATION)
    yield doc.definitions(
        (
            formula.title,
            f" (`{name}`): {formula.formula}. "
            f"{'Higher' if formula.higher_is_better else 'Lower'} is better.",
        )
        for name, formula in FORMULAS.items()
    )
    cells = [cell for method in results.methods for cell in method.cells]
    if cells:
        yield doc.Paragraph(_windows(cells[0].curves, results.scenario))
        if (behind := points_behind(cells)) is not None:
            yield doc.paragraph(_turns(behind))
    yield doc.Paragraph(_score_forms(results.scenario))
    yield doc.paragraph(STATISTICS)
    yield doc.paragraph("Costs:")
    yield doc.definitions(
        (cost.title, f" (`{name}`): {cost.meaning}") for name, cost in COSTS.items()
    )
    texts: dict[str, str] = {}
    for cell in cells:
        texts |= cell.info.get("conventions") or {}
    if texts:
        yield doc.paragraph("Conventions of the methods:")
        yield doc.definitions((name, ": ", doc.Run(text)) for name, text in texts.items() if text)


STATISTICS = (
    "Every number over seeds is of one number per seed, the mean over tasks; nothing is pooled "
    "over seeds and tasks. Forward transfer is a ratio of means over seeds: AUC_i and AUC_i^b are "
    "averaged first, as in Continual World's tables, also for seeds without a reference of their "
    "own. report.csv has the interquartile mean over seeds, too (arXiv:2108.13264). Intervals are "
    "percentiles of a bootstrap that draws seeds, the same for every method, 2.5% of it left out "
    "at each end. The p-value is two-sided, of the permutation test of the Mann-Whitney statistic; "
    "seeds change sides. All comparisons of a table are corrected together."
)
"""Definitions of the numbers over seeds."""


def _turns(behind: Array) -> str:
    """Return how many points stand behind the performance at the end; see ``points_behind``."""
    low, high = int(behind.min()), plural(int(behind.max()), "point")
    return (
        "Tasks took turns in being measured (`evaluation.tasks`). The performance of a task at the "
        f"end of the stream, and so its forgetting, is the mean of {low} to {high}, "
        f"{behind.mean():.1f} on average; report.csv has them by task (statistic `points`). Lowest "
        "scores (min-ACC, stability gap) are of the points at which a task was measured: of more "
        "points they would be no higher."
    )


def _windows(curves: Curves, scenario: Scenario) -> doc.Text:
    shown: list[str | doc.Run] = ["Windows (points averaged, of those in the span): "]
    if len(curves.spans) > MOST_DRAWN:
        counts = [window(curves, span) for span in curves.spans]
        return (f"{shown[0]}{min(counts)} to {max(counts)} at {len(counts)} stages.",)
    for stage, span in enumerate(curves.spans, start=1):
        at = inside(curves, span)
        count = at.stop - at.start
        shown += [", "] if stage > 1 else []
        shown += [f"{stage}: ", doc.Run(scenario.tasks[span.task].name)]
        shown.append(f" {window(curves, span)} of {count}")
    return (*shown, ".")


def _score_forms(scenario: Scenario) -> doc.Text:
    forms = [_score_form(task.score or scenario.score) for task in scenario.tasks]
    if len(set(forms)) == 1:
        return (f"Score of every task: {forms[0]}.",)
    shown: list[str | doc.Run] = ["Scores: "]
    for task, form in zip(scenario.tasks, forms, strict=True):
        shown += ["; "] if len(shown) > 1 else []
        shown += [doc.Run(task.name), f": {form}"]
    return (*shown, ".")


def _score_form(form: Any) -> str:
    if form is None:
        return "the return itself"
    if form == "success":
        return "the success rate"
    return f"(return - {form.random:g}) / ({form.reference:g} - {form.random:g})"


def _origin(done: Sequence[MethodResults]) -> doc.Bullets:
    """Return which versions, commits and machines the numbers come from."""
    cells = [cell for method in done for cell in method.cells]
    infos = [cell.info for cell in cells]
    versions: dict[str, set[str]] = {}
    for info in infos:
        for package, version in (info.get("versions") or {}).items():
            versions.setdefault(package, set()).add(str(version))
    shown = [f"{package} {' and '.join(sorted(found))}" for package, found in versions.items()]
    tuned: dict[str, str] = {}
    for cell in cells:
        tuned |= cell.folder.scenario.tuned
    lines = [
        ("Versions", shown),
        ("Learning rules", sorted({str(info.get("learning_rules", 1)) for info in infos})),
        ("Engines", sorted({name for cell in cells for name in _engines(cell)})),
        ("Commits", sorted({str(info["commit"]) for info in infos if info.get("commit")})),
        ("Machines", sorted({_machine(info) for info in infos if info.get("host")})),
        ("Ended", sorted({str(info["ended"])[:10] for info in infos if info.get("ended")})),
        ("Tuned", [f"{name}: {text}" for name, text in tuned.items()]),
    ]
    return doc.Bullets(
        tuple(doc.words(f"{title}: ", doc.Run(", ".join(found))) for title, found in lines if found)
    )


def _engines(cell: CellResults) -> list[str]:
    changed = [entry["engine"] for entry in cell.info.get("engines", ())]
    return changed or [cell.folder.scenario.agent.engine]


def _machine(info: dict[str, Any]) -> str:
    cores = info.get("cores")
    return f"{info['host']} ({cores} cores)" if cores else str(info["host"])
