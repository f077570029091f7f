"""The tables of the methods: every method, seed by seed, and what beats ``naive``.

Four scenarios are run as they are shipped. In ``methods-discrete`` (PPO) the references and the
first tier have seeds 0 to 4, the others seeds 0 to 2; ``methods-continuous`` (SAC) and
``split-digits``, which is supervised, have seeds 0 to 4, ``expandable``, with its ablations, has
seeds 0 to 2. Cells that are finished in the runs folder are not run again. A method is compared
with ``naive`` of the same seed: the mean of the differences in average performance, with Student's
95% interval, and one test for the table, corrected by Holm for all comparisons in it. Forgetting is
that at the task boundaries, which cells of an older window of evaluations have, too.

The strengths of ``methods-continuous`` come from ``methods-continuous-tuning``, on other seeds,
which is run before it. Both learn under the compiled engine; methods that need the other have it.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from overhead import header
from scipy.stats import t

import holdfast
from holdfast.continual.reports.tables import p_value, possible
from holdfast.continual.results.statistics import compare, holm
from holdfast.continual.results.study import gather
from holdfast.registry import NOT_COMPILED

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
SCENARIOS = ("methods-discrete", "methods-continuous", "expandable", "split-digits")
TUNING = "methods-continuous-tuning"
COMPILED = ("methods-continuous", TUNING)
REFERENCES = ("naive", "isolated", "joint", "frozen")
FIRST_TIER = (
    *("l2", "ewc", "mas", "si", "agem", "cloning"),
    *("replay", "packnet", "progressive", "redo"),
)
COSTS = ("parameters", "stored_bytes")
PERFORMANCE, BACKWARD = "average_performance/cw", "backward_transfer/gem"


class Row(NamedTuple):
    """One method over its seeds.

    Attributes:
        label: The method's label.
        performance: Average performance, per seed.
        forgetting: Forgetting at the boundaries, per seed.
        gain: Mean difference in average performance to ``naive`` of the same seed.
        interval: Half the width of its 95% interval.
        p: Of the test against ``naive``, uncorrected.
    """

    label: str
    performance: NDArray[np.float64]
    forgetting: NDArray[np.float64]
    gain: float
    interval: float
    p: float


def seeds_of(scenario: str, method: str) -> list[int]:
    """Return the seeds that a method is run with."""
    if scenario == "methods-discrete":
        return list(range(5 if method in (*REFERENCES, *FIRST_TIER) else 3))
    return list(range(3 if scenario == "expandable" else 5))


def run(scenario: str, runs: Path, jobs: int) -> None:
    """Run what is not finished yet, a seed of every method at a time."""
    shipped = holdfast.load(scenario)
    seeds = shipped.seeds if scenario == TUNING else range(5)
    for seed in seeds:
        methods = [
            method
            for method in shipped.methods
            if scenario == TUNING or seed in seeds_of(scenario, method.parts[0].name)
        ]
        for engine in ("compiled", "sb3") if scenario in COMPILED else ("sb3",):
            own = tuple(m for m in methods if _engine(scenario, m) == engine)
            agent = shipped.agent.model_copy(update={"engine": engine})
            changed = {"methods": own, "seeds": (seed,), "agent": agent}
            if own:
                holdfast.run(shipped.model_copy(update=changed), runs=runs, jobs=jobs)


def _engine(scenario: str, method: Any) -> str:
    """Return the engine that a method is run under."""
    needs_sb3 = any(part.name in NOT_COMPILED for part in method.parts)
    return "sb3" if needs_sb3 or scenario not in COMPILED else "compiled"


def write(folder: Path, path: Path) -> None:
    """Write a line per finished cell, in the order of the shipped scenario."""
    found = {method.label: method.cells for method in gather(folder).methods}
    labels = dict.fromkeys(cell.label for cell in holdfast.load(folder.name).cells())
    cells = [cell for label in labels for cell in found.get(label, ())]
    names = list(cells[0].metrics)
    with path.open("w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {line}\n" for line in header("methods.py", arguments=()))
        table = csv.writer(file)
        table.writerow(["method", "seed", *names, *COSTS, "engine"])
        for cell in cells:
            numbers = [f"{cell.metrics[name]:.4f}" for name in names]
            costs = [cell.info.get(cost, "") for cost in COSTS]
            engine = cell.folder.scenario.agent.engine
            table.writerow([cell.folder.label, cell.folder.seed, *numbers, *costs, engine])


def tuned(path: Path) -> dict[str, tuple[str, float]]:
    """Return the point of each method with the greatest mean average performance, and that mean."""
    best: dict[str, tuple[str, float]] = {}
    for label, values in _performances(path).items():
        method, mean = label.split("-strength=")[0], float(np.mean(values))
        if method not in best or mean > best[method][1]:
            best[method] = label, mean
    return best


def _performances(path: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for cell in cells_of(path):
        found.setdefault(cell["method"], []).append(float(cell[PERFORMANCE]))
    return found


def cells_of(path: Path) -> list[dict[str, str]]:
    """Return the lines of a file that ``write`` wrote, by column."""
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def rows(path: Path) -> list[Row]:
    """Return the table of one scenario, from what ``write`` wrote."""
    trained = len(set(holdfast.load(path.stem).stream_tasks))
    cells = cells_of(path)
    labels = dict.fromkeys(cell["method"] for cell in cells)
    return [_row(label, cells, trained) for label in labels]


def _row(label: str, cells: Sequence[dict[str, str]], trained: int) -> Row:
    own = [cell for cell in cells if cell["method"] == label]
    naive = {cell["seed"]: float(cell[PERFORMANCE]) for cell in cells if cell["method"] == "naive"}
    performance, backward = (
        np.array([float(cell[name]) for cell in own]) for name in (PERFORMANCE, BACKWARD)
    )
    # The mean over all tasks but the last, whose forgetting is zero, of what was gained since.
    forgetting = 0.0 - backward * (trained - 1) / trained
    theirs = np.array([naive[cell["seed"]] for cell in own])
    p = float("nan") if label == "naive" else compare(performance, theirs).p
    return Row(label, performance, forgetting, *paired(performance - theirs), p)


def paired(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean and half the width of Student's 95% interval of it.

    >>> gain, half = paired(np.array([0.0, 1.0, 2.0]))
    >>> gain, round(half, 3)  # t(.975, 2) = 4.303 times 1 / sqrt(3)
    (1.0, 2.484)
    """
    n = len(differences)
    error = float(differences.std(ddof=1)) / np.sqrt(n) if n > 1 else float("nan")
    return float(differences.mean()), float(t.ppf(0.975, n - 1) * error) if n > 1 else error


def markdown(table: Sequence[Row]) -> str:
    """Return the table as docs/methods.md shows it, and what its test can find."""
    lines = [
        "| method | seeds | average performance | forgetting | gain over naive, 95% | p (Holm) |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row, p in zip(table, holm([row.p for row in table]), strict=True):
        is_naive = row.label == "naive"
        low, high = row.gain - row.interval, row.gain + row.interval
        cells = (
            row.label,
            str(len(row.performance)),
            *(f"{v.mean():.2f} ± {v.std(ddof=1):.2f}" for v in (row.performance, row.forgetting)),
            "" if is_naive else f"{row.gain:+.2f} ({low:+.2f} to {high:+.2f})",
            "" if is_naive else p_value(float(p)).text,
        )
        lines.append(f"| {' | '.join(cells)} |")
    tested = [len(row.performance) for row in table if np.isfinite(row.p)]
    return "\n".join([*lines, "", possible(tested)])


def main(chosen: Sequence[str], runs: Path, jobs: int, only_tables: bool) -> None:
    """Run, print the tables, and write one file of results per scenario."""
    for scenario in chosen:
        if not only_tables:
            run(scenario, runs, jobs)
        path = RESULTS / f"{scenario}.csv"
        write(runs / scenario, path)
        found = markdown(rows(path)) if scenario != TUNING else str(tuned(path))
        print(f"{scenario}\n\n{found}\n")


if __name__ == "__main__":
    every = (TUNING, *SCENARIOS)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="the folder of results")
    parser.add_argument("--jobs", type=int, default=2, help="cells side by side")
    parser.add_argument("--tables", action="store_true", help="run nothing; read what is there")
    parser.add_argument("--only", choices=every, nargs="+", default=every, help="scenarios")
    options = parser.parse_args()
    main(options.only, options.runs, options.jobs, options.tables)
