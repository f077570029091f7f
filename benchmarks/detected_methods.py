"""What methods gain over ``naive`` where a detector finds the boundaries, and where they are known.

The shipped ``cartpole-detected`` is learned both ways, with the same seeds. The gain of a method is
its average performance minus that of ``naive`` under the same boundaries, seed by seed; intervals
are bootstrap intervals over seeds. A cell that is on file is not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from curves import on_file, write
from numpy.typing import NDArray

import holdfast
from holdfast.continual.reports.stream_report import outcome_of
from holdfast.continual.results.statistics import estimate
from holdfast.continual.results.study import CellResults, gather
from holdfast.scenarios.schema.scenario import Scenario

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "detected-methods.csv"
SCENARIO = "cartpole-detected"
BOUNDARIES = ("known", "detected")
COLUMNS = (
    "boundaries, method, seed, average performance, forgetting, then of the detector: changes, "
    "missed, false alarms"
)


def scenario(boundaries: str, seed: int) -> Scenario:
    """Return the shipped scenario with one seed, its boundaries as said."""
    made = holdfast.load(SCENARIO)
    stream = made.stream.model_copy(update={"boundaries": boundaries})
    name = f"{SCENARIO}-{boundaries}"
    return made.model_copy(update={"stream": stream, "name": name, "seeds": (seed,)})


def main(runs: Path, seeds: Sequence[int]) -> None:
    """Run what is not on file, and print what each method gains."""
    for seed in seeds:
        for boundaries in BOUNDARIES:
            if any(row[0] == boundaries and int(row[2]) == seed for row in on_file(RESULTS)):
                continue
            made = scenario(boundaries, seed)
            holdfast.run(made, runs=runs)
            found = gather(runs / made.name).methods
            cells = ((method.label, cell) for method in found for cell in method.cells)
            add([_row(boundaries, label, cell) for label, cell in cells])
    rows = on_file(RESULTS)
    for boundaries in BOUNDARIES:
        for method in dict.fromkeys(row[1] for row in rows):
            gains = performances(boundaries, method) - performances(boundaries, "naive")
            gain = estimate(gains)
            print(f"{boundaries}, {method}: {gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]")


def performances(boundaries: str, method: str) -> NDArray[np.float64]:
    """Return the average performance of each seed, in their order."""
    rows = [row for row in on_file(RESULTS) if row[:2] == [boundaries, method]]
    return np.array([float(row[3]) for row in rows])


def _row(boundaries: str, label: str, cell: CellResults) -> list[str]:
    numbers = [
        f"{cell.metrics[f'{name}/cw']:.4f}" for name in ("average_performance", "forgetting")
    ]
    counts: tuple[int, ...] = ()
    if boundaries == "detected":
        one = outcome_of(cell)
        counts = (len(one.delays), one.missed, one.false_alarms)
    own = [boundaries, label, str(cell.folder.seed)]
    return [*own, *numbers, *(str(count) for count in counts)]


def add(made: Sequence[list[str]]) -> None:
    """Write cells into the table, in the order of boundaries, methods and seeds."""
    known = {(row[0], row[1], row[2]) for row in on_file(RESULTS)}
    rows = [*on_file(RESULTS), *(row for row in made if (row[0], row[1], row[2]) not in known)]
    methods = list(dict.fromkeys(row[1] for row in rows))
    rows.sort(key=lambda row: (BOUNDARIES.index(row[0]), methods.index(row[1]), int(row[2])))
    seeds = sorted({row[2] for row in rows}, key=int)
    write(RESULTS, rows, "detected_methods", [("--seeds", *seeds)], COLUMNS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="the folder of results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(5)])
    options = parser.parse_args()
    main(options.runs, options.seeds)
