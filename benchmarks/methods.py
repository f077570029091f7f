"""The tables of the methods: every method, seed by seed, and what beats ``naive``.

Four scenarios are run as they are shipped. In ``methods-discrete`` (PPO) and ``methods-continuous``
(SAC) the references and the first tier have seeds 0 to 4, the others seeds 0 to 2; ``expandable``,
with its ablations, has seeds 0 to 2, ``split-digits``, which is supervised, seeds 0 to 4. Cells
that are finished in the runs folder are not run again. A method is compared with ``naive`` of the
same seed: the mean of the differences in average performance, with Student's 95% interval, and one
test for the table, corrected by Holm for all comparisons in it. Forgetting is that at the task
boundaries, which cells of an older window of evaluations have, too.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from overhead import header
from scipy.stats import t

import holdfast
from holdfast.continual.reports.tables import p_value, possible
from holdfast.continual.results.statistics import compare, holm
from holdfast.continual.results.study import gather

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
SCENARIOS = ("methods-discrete", "methods-continuous", "expandable", "split-digits")
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
    if scenario.startswith("methods"):
        return list(range(5 if method in (*REFERENCES, *FIRST_TIER) else 3))
    return list(range(3 if scenario == "expandable" else 5))


def run(scenario: str, runs: Path, jobs: int) -> None:
    """Run what is not finished yet, a seed of every method at a time."""
    for seed in range(5):
        loaded = holdfast.load(scenario, [f"seeds=[{seed}]"])
        methods = [m for m in loaded.methods if seed in seeds_of(scenario, m.parts[0].name)]
        if methods:
            holdfast.run(loaded.model_copy(update={"methods": methods}), runs=runs, jobs=jobs)


def write(folder: Path, path: Path) -> None:
    """Write a line per finished cell, in the order of the shipped scenario."""
    found = {method.label: method.cells for method in gather(folder).methods}
    shipped = holdfast.load(folder.name)
    cells = [cell for method in shipped.methods for cell in found.get(method.label, ())]
    names = list(cells[0].metrics)
    with path.open("w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {line}\n" for line in header("methods.py", arguments=()))
        table = csv.writer(file)
        table.writerow(["method", "seed", *names, *COSTS])
        for cell in cells:
            numbers = [f"{cell.metrics[name]:.4f}" for name in names]
            costs = [cell.info.get(cost, "") for cost in COSTS]
            table.writerow([cell.folder.label, cell.folder.seed, *numbers, *costs])


def rows(path: Path) -> list[Row]:
    """Return the table of one scenario, from what ``write`` wrote."""
    trained = len(set(holdfast.load(path.stem).stream_tasks))
    with path.open(encoding="utf-8") as file:
        cells = list(csv.DictReader(line for line in file if not line.startswith("#")))
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


def main(runs: Path, jobs: int, only_tables: bool) -> None:
    """Run, print the tables, and write one file of results per scenario."""
    for scenario in SCENARIOS:
        if not only_tables:
            run(scenario, runs, jobs)
        path = RESULTS / f"{scenario}.csv"
        write(runs / scenario, path)
        print(f"{scenario}\n\n{markdown(rows(path))}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="the folder of results")
    parser.add_argument("--jobs", type=int, default=2, help="cells side by side")
    parser.add_argument("--tables", action="store_true", help="run nothing; read what is there")
    options = parser.parse_args()
    main(options.runs, options.jobs, options.tables)
