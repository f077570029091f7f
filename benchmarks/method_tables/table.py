"""Which tables there are, the cells that each needs, and how they are run and written.

A table has one shipped scenario, every method of it on the same seeds. Cells are first restored
from those on file, so that only what is missing is run; then they are kept, and written with their
metrics as ``results/<scenario>.csv``, which every printed number is computed from. A table that is
begun has some of its cells on file, and stands on no page.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import holdfast
from holdfast.continual.results.curves import Curves, Span, inside, matrix
from holdfast.continual.results.study import CellResults, gather
from holdfast.registry import NOT_COMPILED
from holdfast.scenarios.schema.method_spec import Method, MethodPart
from holdfast.scenarios.schema.scenario import Scenario
from method_tables.comparison import PERFORMANCE
from method_tables.kept_cells import CELLS, keep, restore

RESULTS = CELLS.parent
COSTS = ("parameters", "stored_bytes", "wall_s")
FAILED = 0.05
"""A task failed if no score of its own training came above this."""


class Table(NamedTuple):
    """One table.

    Attributes:
        name: Of the table, its files and its run folder: that of a shipped scenario.
        seeds: Of every method.
        compiled: Whether what can learns under the compiled engine, whatever the scenario says.
        tuning: Whether it serves to choose arguments, on seeds that no other table reports.
        seeds_at_once: How many learn in lockstep where they learn under the compiled engine.
        measure: The metric that is compared.
    """

    name: str
    seeds: Sequence[int]
    compiled: bool = False
    tuning: bool = False
    seeds_at_once: int = 1
    measure: str = PERFORMANCE

    @property
    def scenario(self) -> Scenario:
        """What its cells are of, whatever their seeds."""
        return holdfast.load(self.name)

    @property
    def methods(self) -> dict[str, MethodPart]:
        """The method of each label, and its arguments."""
        return {cell.label: cell.method.parts[0] for cell in self.scenario.cells()}

    @property
    def cells(self) -> set[tuple[str, int]]:
        """Label and seed of each of its cells."""
        return {(label, seed) for label in self.methods for seed in self.seeds}

    @property
    def path(self) -> Path:
        """The file of its cells."""
        return RESULTS / f"{self.name}.csv"

    def plan(self) -> Iterator[Scenario]:
        """Yield what is run for it, a seed of every method at a time, or all that go together."""
        shipped = self.scenario
        engines = ("compiled", "sb3") if self.compiled else (shipped.agent.engine,)
        together = [(seed,) for seed in self.seeds] if self.seeds_at_once == 1 else [(*self.seeds,)]
        for seeds in together:
            for engine in engines:
                own = tuple(m for m in shipped.methods if engine == self._engine(m, engines))
                at_once = self.seeds_at_once if engine == "compiled" else 1
                how = {"engine": engine, "seeds_at_once": at_once}
                agent = shipped.agent.model_copy(update=how)
                if own:
                    changed = {"methods": own, "seeds": seeds, "agent": agent}
                    yield shipped.model_copy(update=changed)

    def _engine(self, method: Method, engines: Sequence[str]) -> str:
        needs_sb3 = any(part.name in NOT_COMPILED for part in method.parts)
        return engines[-1] if needs_sb3 else engines[0]


TABLES = (
    Table("quickstart", range(10)),
    Table("methods-discrete-tuning", range(100, 103), compiled=True, tuning=True),
    Table("methods-discrete", range(8), compiled=True),
    Table("methods-continuous-tuning", range(100, 103), compiled=True, tuning=True),
    Table("methods-continuous", range(5), compiled=True),
    Table("split-digits", range(5)),
    Table("continual-control-tuning", (100, 101), True, True, 8, "auc/cw"),
    Table("continual-control", range(10), compiled=True, seeds_at_once=8, measure="auc/cw"),
    Table("expandable", range(5), compiled=True),
    Table("cw10-lite-tuning", (100,), tuning=True),
    Table("cw10-lite", range(5)),
)


def run(table: Table, runs: Path, jobs: int) -> None:
    """Run what is neither in the runs folder nor on file, and keep it, seed by seed.

    What is finished is kept where the others fail or are stopped, too.
    """
    restore(table.name, runs)
    for planned in table.plan():
        try:
            holdfast.run(planned, runs=runs, jobs=jobs)
        finally:
            keep(finished(table, runs), table.name)


def finished(table: Table, runs: Path) -> list[CellResults]:
    """Return the finished cells of a table, methods and seeds in its order."""
    found = {method.label: method.cells for method in gather(runs / table.name).methods}
    labels = dict.fromkeys(cell.label for cell in table.scenario.cells())
    cells = [cell for label in labels for cell in found.get(label, ())]
    return [cell for cell in cells if cell.folder.seed in table.seeds]


def text_of(table: Table, cells: Sequence[CellResults]) -> str:
    """Return what the file of a table holds: what made its cells, then a line for each."""
    text = io.StringIO()
    text.writelines(f"# {line}\n" for line in _origin(table, cells))
    metrics = list(cells[0].metrics)
    finals = [f"final {task.name}" for task in cells[0].folder.scenario.tasks]
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["method", "seed", *metrics, *finals, "failed", *COSTS, "engine"])
    for cell in cells:
        numbers = [*(cell.metrics[name] for name in metrics), *matrix(cell.curves)[-1]]
        costs = [cell.info.get(cost, "") for cost in COSTS]
        lines.writerow(
            [
                *(cell.folder.label, cell.folder.seed),
                *(f"{number:.4f}" for number in numbers),
                *(failures(cell.curves), *costs, cell.folder.scenario.agent.engine),
            ]
        )
    return text.getvalue()


def _origin(table: Table, cells: Sequence[CellResults]) -> Iterator[str]:
    """Yield what made the cells, as they say themselves."""
    yield f"in benchmarks/: OMP_NUM_THREADS=1 python -m method_tables --only {table.name}"
    for versions, count in Counter(str(cell.info["versions"]) for cell in cells).items():
        yield f"{count} cells: " + versions.strip("{}").replace("'", "").replace(": ", " ")
    commits = Counter(str(cell.info.get("commit"))[:10] for cell in cells)
    yield "commits: " + ", ".join(f"{commit} ({count})" for commit, count in commits.items())
    hours = sum(float(cell.info.get("wall_s") or 0) for cell in cells) / 3600
    yield f"{hours:.1f} hours of cells, of one thread each"


def failures(curves: Curves) -> int:
    """Return how many tasks of the stream failed.

    >>> values = np.array([[0.0, 0.0], [0.3, 0.0], [0.9, 0.0], [0.0, 0.01], [0.0, 0.04]])
    >>> failures(Curves(np.arange(5), values, (Span(0, 2, 0), Span(2, 4, 1))))
    1
    """
    return sum(has_failed(curves, span) for span in curves.spans)


def has_failed(curves: Curves, span: Span) -> bool:
    """Return whether a task failed in a stage of its own."""
    return bool(own_scores(curves, span).max() < FAILED)


def own_scores(curves: Curves, span: Span) -> NDArray[np.float64]:
    """Return the scores of a task at the evaluations inside its training."""
    return np.asarray(curves.values[inside(curves, span), span.task])


def cells_of(text: str) -> list[dict[str, str]]:
    """Return the lines of what ``text_of`` returned, by column."""
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def changes(before: str, after: str) -> list[str]:
    r"""Return what became of a table's cells, a line each where it is new, gone or different.

    >>> old, new = "method,seed,auc\nnaive,0,.5\nnaive,1,.7\n", "method,seed,auc\nnaive,0,.6\n"
    >>> changes(old, new)
    ['naive, seed 0: auc .5 -> .6', 'naive, seed 1: is gone']
    """
    old, new = (
        {(cell["method"], cell["seed"]): cell for cell in cells_of(text)}
        for text in (before, after)
    )
    lines = []
    for method, seed in dict.fromkeys([*old, *new]):
        was, now = old.get((method, seed)), new.get((method, seed))
        if was is None or now is None:
            lines.append(f"{method}, seed {seed}: is {'new' if was is None else 'gone'}")
        elif differs := [name for name in now if was.get(name, now[name]) != now[name]]:
            values = [f"{name} {was[name]} -> {now[name]}" for name in differs]
            lines.append(f"{method}, seed {seed}: {', '.join(values)}")
    return lines
