"""Results: the cells of folders, read and measured; the unfinished are named, never averaged."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.continual.results import metrics
from holdfast.continual.results.curves import Array, Curves, budgets, curves_of, matrix, unseen
from holdfast.continual.run_folder.cells import cells_in, find_cells
from holdfast.continual.run_folder.episodes import Episode
from holdfast.continual.run_folder.plasticity_record import Point, read_points
from holdfast.continual.run_folder.readers import read_file
from holdfast.continual.run_folder.record import SCENARIO, RunFolder
from holdfast.continual.run_folder.scenario_diff import changed, difference, setting, undrawn
from holdfast.errors import CheckpointUnusable, UsageError
from holdfast.scenarios.schema.scenario import Scenario

REFERENCE = "isolated"
"""The method whose cells are the single-task reference of forward transfer."""


@dataclass(frozen=True)
class CellResults:
    """One finished cell.

    Attributes:
        folder: Its run folder.
        info: Its ``run.json``.
        curves: The record as curves, in scores.
        returns: The same in returns.
        successes: The same in success rates.
        costs: The same in costs; None where no task has any.
        violations: The same in shares of episodes that cost more than the limit.
        unseen: Shape (stages + 1, tasks), where the score matrix is of a task without a head of its
            own.
        references: The curves of ``isolated``, by seed: of the same tasks, whatever their seed.
        points: Its record of plasticity.
        episodes: How many evaluation episodes its record has.
        cut: How many of them were cut, by task, where any was.
        gains: Adaptation gain by the task's index, where ``adapt:`` asks for it.
    """

    folder: RunFolder
    info: dict[str, Any]
    curves: Curves
    returns: Curves
    successes: Curves
    unseen: NDArray[np.bool_]
    references: Mapping[int, Curves] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    costs: Curves | None = None
    violations: Curves | None = None
    episodes: int = 0
    cut: Mapping[str, int] = field(default_factory=dict)
    gains: Mapping[int, float] = field(default_factory=dict)

    @property
    def scores(self) -> list[Episode]:
        """Its record, read again each time: all of them together may be larger than memory."""
        return self.folder.scores()

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric under its full name; NaN where it is n/a."""
        return metrics.summary(self.curves, [*self.references.values()], self.gains)

    @property
    def per_task(self) -> dict[str, Array]:
        """Every metric under its full name, shape (tasks,); NaN where it is n/a."""
        return metrics.per_task(self.curves, [*self.references.values()], self.gains)


@dataclass(frozen=True)
class MethodResults:
    """All cells of one method.

    Attributes:
        label: The method's label.
        cells: The finished ones, which alone enter averages; all have the same evaluation points.
        missing: Why each of the others does not, by the name of its folder.
    """

    label: str
    cells: tuple[CellResults, ...]
    missing: dict[str, str]

    def over_seeds(self, measure: Callable[[CellResults], Any]) -> NDArray[np.float64]:
        """Return a measure of every finished cell, stacked along a first axis of seeds."""
        return np.array([measure(cell) for cell in self.cells], dtype=np.float64)


@dataclass(frozen=True)
class Results:
    """Results of one scenario from its folders, methods in the order of the scenario.

    Attributes:
        scenario: Of the first cell.
        methods: The methods.
        folders: Where they were found.
    """

    scenario: Scenario
    methods: tuple[MethodResults, ...]
    folders: tuple[Path, ...] = field(default=())

    @property
    def has_one_order(self) -> bool:
        """True where tasks come in one order in all cells: they may be shuffled by seed."""
        cells = [cell for method in self.methods for cell in method.cells]
        return len({cell.folder.scenario.stream_tasks for cell in cells}) < 2


def gather(*paths: Path) -> Results:
    """Return the results of one scenario, in its folder, or a method's, or a cell's, or several.

    Raises:
        UsageError: If there are none, or they are of several scenarios, or disagree.
        CheckpointUnusable: If no cell's scenario can be read.
    """
    found = gather_all(paths)
    if len(found) > 1:
        names = ", ".join(results.scenario.name for results in found)
        raise UsageError(f"the folders are of several scenarios: {names}")
    return found[0]


def gather_all(paths: Sequence[Path]) -> tuple[Results, ...]:
    """Return the results of every scenario in folders; those of one name are taken together.

    Args:
        paths: Scenarios', methods' or cells' folders.

    Raises:
        UsageError: If one holds no results, or two hold the same cell, or different scenarios under
            one name: those are never averaged together.
        CheckpointUnusable: If no cell's scenario in a folder can be read.
    """
    groups: dict[str, list[tuple[Path, list[RunFolder]]]] = {}
    for path in dict.fromkeys(path.resolve() for path in paths):
        cells = find_cells(path)
        _read_scenarios(cells)
        groups.setdefault(_readable(cells).scenario.name, []).append((path, cells))
    return tuple(_results(group) for group in groups.values())


def spread(values: Array) -> tuple[Array, Array]:
    """Return mean and standard deviation over the first axis, without its NaN.

    The mean of nothing is NaN. The standard deviation is that of a sample (n - 1), NaN for fewer
    than two values.

    >>> spread(np.array([[0.5, np.nan], [0.7, 1.0]]))[0]
    array([0.6, 1. ])
    """
    counts = np.isfinite(values).sum(axis=0)
    total = np.nansum(values, axis=0)
    mean = np.divide(total, counts, out=np.full(counts.shape, np.nan), where=counts > 0)
    squares = np.nansum((values - mean) ** 2, axis=0)
    variance = np.divide(squares, counts - 1, out=np.full(counts.shape, np.nan), where=counts > 1)
    return mean, np.sqrt(variance)


# -- reading ---------------------------------------------------------------------------------------


def _results(group: Sequence[tuple[Path, list[RunFolder]]]) -> Results:
    """Return the results of one scenario from all its folders."""
    path, cells = group[0]
    first = _readable(cells)
    for other, own in group[1:]:
        if text := difference(first, _readable(own)):
            raise UsageError(
                f"{path} and {other} hold different scenarios of one name:\n{text}\n"
                "report them one by one, or give one of them another `name:`"
            )
    by_label: dict[str, dict[str, RunFolder]] = {}
    for cell in [cell for _, own in group for cell in own]:
        known = by_label.setdefault(cell.label, {}).setdefault(cell.path.name, cell)
        if known is not cell:
            raise UsageError(
                f"{known.path} and {cell.path} are the same cell; leave one of them out"
            )
    methods = [_method(label, list(own.values()), first) for label, own in by_label.items()]
    names = dict.fromkeys(name for own in by_label.values() for name in own)
    for method in methods:
        absent = [name for name in names if name not in by_label[method.label]]
        method.missing.update(dict.fromkeys(absent, "there is no such folder"))
    methods = _with_references(methods, {path for path, _ in group})
    return Results(first.scenario, tuple(methods), tuple(path for path, _ in group))


_SEEDS = re.compile(rb"(?m)^seeds: \[(\d+)\]$")


def _read_scenarios(cells: Iterable[RunFolder]) -> None:
    """Read the scenarios, those that differ in the seed alone once: YAML is slow to read."""
    known: dict[bytes, Scenario] = {}
    for cell in cells:
        with suppress(CheckpointUnusable, OSError):  # told where the cell is measured
            content = read_file(cell.path / SCENARIO)
            folder = str(cell.info().get("folder")).encode()
            seed, text = _SEEDS.search(content), folder + _SEEDS.sub(b"", content)
            if seed is not None and text in known:
                cell.scenario = known[text].model_copy(update={"seeds": (int(seed[1]),)})
            else:
                known[text] = cell.scenario


def _readable(cells: Sequence[RunFolder]) -> RunFolder:
    """Return the first cell whose scenario can be read.

    Raises:
        CheckpointUnusable: If none can.
    """
    for cell in cells[:-1]:
        with suppress(CheckpointUnusable):
            _ = cell.scenario
            return cell
    _ = cells[-1].scenario
    return cells[-1]


def _method(label: str, folders: Sequence[RunFolder], first: RunFolder) -> MethodResults:
    found: dict[str, CellResults] = {}
    missing: dict[str, str] = {}
    for folder in folders:
        try:
            why = _unfinished(folder.info())
            if not why:
                same = [first, *(cell.folder for cell in [*found.values()][:1])]
                why = "" if folder is first else _strange(folder, same)
            if not why:
                found[folder.path.name] = _measure(folder)
        except CheckpointUnusable as error:
            why = str(error)
        except OSError as error:
            why = f"{error.filename or folder.path}: {error.strerror}"
        if why:
            missing[folder.path.name] = why
    most = max((len(cell.curves.steps) for cell in found.values()), default=0)
    for name, cell in list(found.items()):
        points = len(cell.curves.steps)
        if points < most or np.isnan(matrix(cell.curves)).all(axis=1).any():
            missing[name] = f"finished, but evaluation points are missing (it has {points})"
            del found[name]
    return MethodResults(label, tuple(found.values()), missing)


def _strange(folder: RunFolder, others: Sequence[RunFolder]) -> str:
    """Return why a cell cannot be compared with others, empty if it can."""
    names = [task.name for task in folder.scenario.tasks]
    for other in others:
        if names != [task.name for task in other.scenario.tasks]:
            return f"it has other tasks than {_place(other)}; report its folder by itself"
        if text := difference(other, folder):
            return f"it is of a different scenario than {_place(other)}: {changed(text)}"
    return ""


def _place(folder: RunFolder) -> str:
    return f"{folder.label}/{folder.path.name}"


def _measure(folder: RunFolder) -> CellResults:
    scores, scenario = folder.scores(), folder.scenario
    try:
        own, returns, successes = curves_of(scores, scenario, ("score", "return", "success"))
        marked = unseen(scores, scenario)
    except (ValueError, IndexError) as error:
        raise CheckpointUnusable(
            f"{folder.path}: scores.jsonl and scenario.yaml do not fit together ({error}); start "
            "the cell again with --overwrite"
        ) from error
    points = tuple(read_points(folder.path))
    cut = Counter(score["task"] for score in scores if score.get("cut"))
    found = CellResults(folder, folder.info(), own, returns, successes, marked, points=points)
    if any(task.cost is not None for task in scenario.tasks):
        costs, violations = curves_of(scores, scenario, ("cost", "violation"))
        found = replace(found, costs=costs, violations=violations)
    names = [task.name for task in scenario.tasks]
    kept = found.info.get("adaptation", {})
    gains = {names.index(name): gain for name, gain in kept.items() if name in names}
    return replace(found, episodes=len(scores), cut=cut, gains=gains)


def _with_references(methods: Sequence[MethodResults], roots: set[Path]) -> list[MethodResults]:
    """Return the methods, each cell with the curves of its single-task references.

    Those are the cells of ``isolated`` on the same tasks in otherwise the same scenario, whatever
    their seed; one that was moved here from elsewhere is none. They are looked for beside what is
    reported, too.
    """
    cells = [cell for method in methods for cell in method.cells]
    references = [cell for cell in cells if cell.folder.label.startswith(REFERENCE)]
    read = {cell.folder.path for cell in cells}
    beside = {path.parent.parent for path in read} - roots
    pattern = f"{REFERENCE}*/seed-*"
    for path in sorted(place for root in beside for place in cells_in(root, pattern, 2)):
        if path not in read:
            references += _method("", [RunFolder(path)], RunFolder(path)).cells
    known = [(cell, *_settings(cell)) for cell in references if _is_alone(cell)]

    def referred(cell: CellResults) -> CellResults:
        if not known:
            return cell
        whole, shared = _settings(cell)
        found: dict[int, Curves] = {}
        for one, own, own_shared in known:
            is_same_seed = one.folder.seed == cell.folder.seed
            is_same = own == whole if is_same_seed else own_shared == shared
            if is_same and budgets(one.curves) == budgets(cell.curves):
                found.setdefault(one.folder.seed, one.curves)
        return replace(cell, references=dict(sorted(found.items())))

    return [replace(method, cells=tuple(map(referred, method.cells))) for method in methods]


def _settings(cell: CellResults) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the setting of a cell, and what of it the cells of other seeds share."""
    found = setting(cell.folder.scenario)
    return found, undrawn(found)


def _is_alone(cell: CellResults) -> bool:
    return [part.name for part in cell.folder.scenario.methods[0].parts] == [REFERENCE]


def _unfinished(info: dict[str, Any]) -> str:
    """Return why a cell is not finished, empty if it is."""
    status, reason = info.get("status", "pending"), info.get("reason")
    if status == "finished":
        return ""
    if status == "pending":
        return "not started"
    if status == "running":
        return "running, or killed; running the scenario again continues it"
    return f"{status}: {reason}" if reason else str(status)
