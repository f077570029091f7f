"""Parts of a report that some runs have alone: detected changes, endless lives, costs, films."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from holdfast.continual.reports.tables import by_method, over
from holdfast.continual.results import document as doc
from holdfast.continual.results.detection import (
    Outcome,
    Recognition,
    changes_of,
    outcome,
    recognition_of,
)
from holdfast.continual.results.online import (
    online_return,
    phases_of,
    reference_rates,
    regret,
)
from holdfast.continual.results.safety import safety_of
from holdfast.continual.results.study import CellResults, MethodResults, Results
from holdfast.continual.run_folder.detections import read_detections
from holdfast.continual.run_folder.point_record import ONLINE

_TITLES = (
    "changes",
    "missed",
    "false alarms",
    "median delay (steps)",
    "the same, missed ones counted",
)
_AGAIN = ("worlds that came again", "recognised", "false recognitions")


def detection_sections(results: Results) -> list[doc.Section]:
    """Return a table of detections; none where boundaries were not detected."""
    done = [method for method in results.methods if method.cells]
    if not results.scenario.detects_boundaries or not done:
        return []
    recurs = results.scenario.recurs
    legend = doc.words(
        "Mean ± standard deviation over seeds. The first detection after a change of the world and "
        "before the next has the delay; all others are false alarms. Where missed ones count, "
        "they have the length of their phase. Every detection is in the run folder's "
        "`detections.json`." + (_RECOGNISED if recurs else "")
    )
    table = by_method(done, (*_TITLES, *(_AGAIN if recurs else ())), _cells)
    return [doc.Section("Detected changes", (doc.Paragraph(legend), table))]


_RECOGNISED = (
    " A world that came again is recognised where its first detection took up a slot that had "
    "begun in it; a recognition is false where the slot had begun in another world."
)

_LIFE = ("online return", "reward rate at the end", "regret", "late steps")


def online_sections(results: Results) -> list[doc.Section]:
    """Return a table of what endless lives were paid; none where there are episodes."""
    done = [method for method in results.methods if method.cells]
    if not results.scenario.endless or not done:
        return []
    window = results.scenario.evaluation.rate_steps
    legend = doc.words(
        "Mean ± standard deviation over seeds, of the rewards while it learned. Online return: "
        f"reward per step over the whole life. Reward rate: over the last {window:,} steps. "
        "Regret: what the reference (`score: reference`, over `evaluation: most_steps`) would have "
        "earned more, summed over all phases. Late steps: those that came too late for the task's "
        "`rate`."
    )
    table = by_method(done, _LIFE, _life)
    return [doc.Section("Life without episodes", (doc.Paragraph(legend), table))]


def _life(method: MethodResults) -> Iterator[doc.Cell]:
    points = [ONLINE.read(cell.folder.path) for cell in method.cells]
    cells = zip(points, method.cells, strict=True)
    lives = [(phases_of(p, c.folder.scenario), c.folder.scenario) for p, c in cells]
    yield over([online_return(phases) for phases, _ in lives], _exact)
    yield over([p[-1]["reward_rate"] if p else float("nan") for p in points], _exact)
    yield over([regret(phases, reference_rates(of)) for phases, of in lives], _whole)
    yield over([p[-1]["late_steps"] if p else float("nan") for p in points], _whole)


_COSTS = (
    "violating episodes at the end",
    "forgetting of safety",
    "cost of an episode at the end",
    "violating episodes while learning",
    "cost of learning",
)


def cost_sections(results: Results) -> list[doc.Section]:
    """Return a table of what methods cost; none where no task has a cost."""
    done = [method for method in results.methods if method.cells]
    if not done or all(task.cost is None for task in results.scenario.tasks):
        return []
    legend = doc.words(
        "Mean ± standard deviation over seeds, each the mean over the tasks with a `cost:` that "
        "were trained. An episode violates if it costs more than its task's limit. Forgetting of "
        "safety: the share of violating episodes at the end of the stream, less that at the end of "
        "the task's own training; above 0, a limit that was held is held no more. What learning "
        "cost is that of the episodes learned from, all stages together (`costs.json`)."
    )
    return [doc.Section("Costs of tasks", (doc.Paragraph(legend), by_method(done, _COSTS, _cost)))]


def _cost(method: MethodResults) -> Iterator[doc.Cell]:
    found = [safety_of(cell) for cell in method.cells]
    yield over([one.violations for one in found])
    yield over([one.forgetting for one in found])
    yield over([one.cost for one in found], _whole)
    yield over([one.violations_learning for one in found])
    yield over([one.cost_learning for one in found], _whole)


def film_sections(results: Results, folder: Path) -> list[doc.Section]:
    """Return links to the films of the runs; none where nothing was filmed.

    Args:
        results: What was gathered.
        folder: Where the report will lie.
    """
    rows = []
    for method in results.methods:
        for cell in method.cells:
            films = tuple((path.stem, Path(os.path.relpath(path, folder))) for path in _films(cell))
            if films:
                rows.append((f"{method.label}, seed {cell.folder.seed}", films))
    if not rows:
        return []
    told = "Made by `holdfast video`: the final policy, and the best one where that was another."
    return [doc.Section("Films", (doc.paragraph(told), doc.Links(tuple(rows))))]


def _films(cell: CellResults) -> Iterator[Path]:
    """Yield the films of a cell that are named as films are, and are files, not links."""
    names = [task.name for task in cell.folder.scenario.tasks]
    place = cell.folder.path / "videos"
    if place.is_symlink():
        return
    for path in sorted(place.glob("*")):
        task = _FILM.fullmatch(path.name)
        if task and task[1] in names and path.is_file() and not path.is_symlink():
            yield path


_FILM = re.compile(r"(.+?)-(?:final|best-after-stage-\d+)\.(?:mp4|gif)")


def _exact(value: float) -> str:
    return f"{value:.4f}"


def outcome_of(cell: CellResults) -> Outcome:
    """Return what the detector of a finished cell made of its changes."""
    scenario = cell.folder.scenario
    detected = [found.step for found in read_detections(cell.folder.path)]
    return outcome(changes_of(scenario), detected, scenario.total_steps)


def recognition_in(cell: CellResults) -> Recognition:
    """Return what the detector of a finished cell made of worlds that came again."""
    scenario = cell.folder.scenario
    found = read_detections(cell.folder.path)
    slots = [(one.step, -1 if one.slot is None else one.slot) for one in found]
    return recognition_of(scenario, slots, scenario.total_steps)


def _cells(method: MethodResults) -> Iterator[doc.Cell]:
    found = [outcome_of(cell) for cell in method.cells]
    yield over([len(one.delays) for one in found], _whole)
    yield over([one.missed for one in found], _whole)
    yield over([one.false_alarms for one in found], _whole)
    yield over([_median([d for d in one.delays if d is not None]) for one in found], _whole)
    yield over([_median(one.counted) for one in found], _whole)
    again = [recognition_in(cell) for cell in method.cells if cell.folder.scenario.recurs]
    if again:
        yield over([one.revisits for one in again], _whole)
        yield over([one.recognised for one in again], _whole)
        yield over([one.false for one in again], _whole)


def _median(values: list[int]) -> float:
    """Return the median; NaN of none."""
    return float(np.median(values)) if values else float("nan")


def _whole(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"
