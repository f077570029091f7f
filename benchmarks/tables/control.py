"""Loss of plasticity in classic control: what each method against it gains over ``naive``.

The shipped scenario ``continual-control`` with ten seeds, each method at the point that was best in
``continual-control-tuning`` (three points, two seeds that the table does not report). Methods that
the compiled engine takes learn under it, eight seeds at once; the others under ``sb3``. Finished
cells are not run again.

What is compared is the return while a task is being learned, over all of its evaluations and all
tasks (the metric ``auc/cw``, as a return): the published figures beside it are of that kind. They
are C-CHAIN's (arXiv:2506.00592, table 1, C-CartPole: mean and standard error over six seeds), from
ten tasks of 160,000 steps.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from overhead import header, write_table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import holdfast
from holdfast.continual.reports.tables import p_value, possible
from holdfast.continual.results.curves import Curves, Span, inside
from holdfast.continual.results.statistics import compare, holm
from holdfast.continual.results.study import gather
from holdfast.registry import NOT_COMPILED
from tables.comparison import paired
from tables.kept_cells import keep, restore
from tables.published import RESULTS, cells_of

ROOT = Path(__file__).parents[2]
SCENARIO, TUNING = "continual-control", "continual-control-tuning"
SEEDS = tuple(range(10))
TABLE, CELLS, TRIALS = (RESULTS / f"{name}.csv" for name in (SCENARIO, f"{SCENARIO}-cells", TUNING))
LEARNING, LEARNED, PERFORMANCE, FORGETTING = MEASURES = (
    *("auc/cw", "plasticity/cw"),
    *("average_performance/cw", "forgetting/cw"),
)
FAILED = 0.05
"""A task failed if no score of its own training came above this, some 40 steps of 400."""
PUBLISHED = {
    "naive": "61.8 ± 6.9",
    "isolated": "299.9 ± 6.0",
    "l2-init": "266.1 ± 5.3",
}
"""C-CHAIN's Vanilla, Oracle and L2 Init."""


class Row(NamedTuple):
    """One method over its seeds; ``sd`` are standard deviations over them.

    Attributes:
        method: Its name.
        point: What its arguments are.
        seeds: Number of seeds.
        learning: Return while tasks are learned, the mean of all evaluations of each in its turn.
        learning_sd: Of it.
        gain: Mean difference in ``learning`` to ``naive`` of the same seed.
        low: Lower end of Student's 95% interval of it.
        high: Upper end.
        p: Of the permutation test against ``naive``, corrected by Holm for the table.
        learned: Score at the end of each task's own training.
        learned_sd: Of it.
        performance: Average performance at the end of the stream, a score.
        performance_sd: Of it.
        forgetting: Score lost since the end of each task's own training.
        forgetting_sd: Of it.
        failed: Tasks that failed, of all seeds.
        published: The figure of C-CHAIN's table.
    """

    method: str
    point: str
    seeds: int
    learning: float
    learning_sd: float
    gain: float
    low: float
    high: float
    p: float
    learned: float
    learned_sd: float
    performance: float
    performance_sd: float
    forgetting: float
    forgetting_sd: float
    failed: int
    published: str


def run(name: str, seeds: Sequence[int], runs: Path, jobs: int) -> None:
    """Run what is not finished yet, all seeds of a method in turn."""
    restore(name, runs)
    shipped = holdfast.load(name)
    for engine, at_once in (("compiled", 8), ("sb3", 1)):
        own = [m for m in shipped.methods if _engine(part.name for part in m.parts) == engine]
        agent = shipped.agent.model_copy(update={"engine": engine, "seeds_at_once": at_once})
        changed = {"methods": tuple(own), "seeds": tuple(seeds), "agent": agent}
        holdfast.run(shipped.model_copy(update=changed), runs=runs, jobs=jobs)


def _engine(names: Iterable[str]) -> str:
    return "sb3" if any(name in NOT_COMPILED for name in names) else "compiled"


def write(folder: Path, path: Path) -> None:
    """Keep the finished cells, and write a line for each, in the order of the shipped scenario."""
    found = {method.label: method.cells for method in gather(folder).methods}
    labels = dict.fromkeys(cell.label for cell in holdfast.load(folder.name).cells())
    keep([cell for label in labels for cell in found.get(label, ())], folder.name)
    with path.open("w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {line}\n" for line in header("tables.control", arguments=()))
        table = csv.writer(file)
        table.writerow(["method", "seed", *MEASURES, "failed", "engine"])
        for cell in (cell for label in labels for cell in found.get(label, ())):
            numbers = [f"{cell.metrics[name]:.4f}" for name in MEASURES]
            engine = cell.folder.scenario.agent.engine
            table.writerow(
                [cell.folder.label, cell.folder.seed, *numbers, failures(cell.curves), engine]
            )


def failures(curves: Curves) -> int:
    """Return how many tasks failed.

    >>> values = np.array([[0.0, 0.0], [0.3, 0.0], [0.9, 0.0], [0.0, 0.01], [0.0, 0.04]])
    >>> failures(Curves(np.arange(5), values, (Span(0, 2, 0), Span(2, 4, 1))))
    1
    """
    return sum(_failed(curves, span) for span in curves.spans)


def _failed(curves: Curves, span: Span) -> bool:
    return bool(_own(curves, span).max() < FAILED)


def _own(curves: Curves, span: Span) -> NDArray[np.float64]:
    """Return the scores of a task at the evaluations inside its training."""
    return np.asarray(curves.values[inside(curves, span), span.task])


def why(folder: Path) -> None:
    """Print where methods gain and lose, and what else is known of the tasks that fail."""
    cells = {m.label: {c.folder.seed: c for c in m.cells} for m in gather(folder).methods}
    failed = {
        (seed, stage)
        for seed, cell in cells["naive"].items()
        for stage, span in enumerate(cell.curves.spans)
        if _failed(cell.curves, span)
    }
    print("score while learning (tasks); of the actor: gradient norm, dormant share, entropy")
    for label, own in cells.items():
        scores: dict[str, list[float]] = {}
        states: dict[str, list[tuple[float, float, float]]] = {}
        for seed, cell in own.items():
            for stage, span in enumerate(cell.curves.spans):
                at = "where naive fails" if (seed, stage) in failed else "elsewhere"
                mean = float(_own(cell.curves, span).mean())
                scores.setdefault(at if stage else "first", []).append(mean)
                kind = "failed" if _failed(cell.curves, span) else "others"
                states.setdefault(kind, []).append(_state(cell.folder.path, stage, span))
        print(label, *(f"{k}: {np.mean(v):.2f} ({len(v)})" for k, v in sorted(scores.items())))
        for kind, found in sorted(states.items()):
            norm, dormant, entropy = np.array(found).T
            print(
                f"  {kind} ({len(found)}): {np.median(norm):.2f} (at most {norm.max():.4f}), "
                f"{dormant.mean():.2f}, {np.median(entropy):.2g} (at most {entropy.max():.2g})"
            )


def _state(cell: Path, stage: int, span: Span) -> tuple[float, float, float]:
    """Return the median gradient norm, the dormant share at the end, and the median entropy."""
    looks = json.loads((cell / "plasticity.json").read_text("utf-8"))
    rows = [look for look in looks if look["stage"] == stage]
    norms = [row["gradient_norm/actor"] for row in rows if "gradient_norm/actor" in row]
    entropies = [value for step, value in _entropies(cell / "tb") if span.start < step <= span.end]
    return float(np.median(norms)), rows[-1]["dormant_fraction/actor"], float(np.median(entropies))


@cache
def _entropies(folder: Path) -> list[tuple[int, float]]:
    """Return the policy's mean entropy at each rollout, with its step."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, -event.value) for event in events.Scalars("train/entropy_loss")]


def returns(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scores of the scenario as returns of the environment, before ``reward_scale``.

    >>> returns(np.array([0.0, 1.0])).round().tolist()
    [22.0, 400.0]
    """
    scenario = holdfast.load(SCENARIO)
    rule, scale = scenario.score, scenario.tasks[0].changes.reward_scale
    assert rule is not None
    assert rule != "success"
    return (rule.random + scores * (rule.reference - rule.random)) / (scale or 1.0)


def tuned(path: Path = TRIALS) -> dict[str, tuple[str, float]]:
    """Return the point of each method with the greatest return while learning, and that mean."""
    best: dict[str, tuple[str, float]] = {}
    methods = {m.label: m.parts[0].name for m in holdfast.load(TUNING).methods}
    for label, cells in groupby(cells_of(path.read_text("utf-8")), lambda cell: cell["method"]):
        mean = float(returns(_column(list(cells), LEARNING)).mean())
        name = methods[label]
        if name not in best or mean > best[name][1]:
            best[name] = label, mean
    return best


def _column(cells: Sequence[dict[str, str]], name: str) -> NDArray[np.float64]:
    return np.array([float(cell[name]) for cell in cells])


def rows(path: Path = CELLS) -> list[Row]:
    """Return the table, from what ``write`` wrote."""
    of = {
        k: list(v)
        for k, v in groupby(cells_of(path.read_text("utf-8")), lambda cell: cell["method"])
    }
    learning = {label: returns(_column(cells, LEARNING)) for label, cells in of.items()}
    naive = dict(zip((cell["seed"] for cell in of["naive"]), learning["naive"], strict=True))
    theirs = {label: np.array([naive[c["seed"]] for c in cells]) for label, cells in of.items()}
    p = [
        float("nan") if label == "naive" else compare(own, theirs[label]).p
        for label, own in learning.items()
    ]
    corrected = dict(zip(of, holm(p), strict=True))
    return [
        _row(label, cells, learning[label], theirs[label], float(corrected[label]))
        for label, cells in of.items()
    ]


def _row(
    label: str,
    cells: Sequence[dict[str, str]],
    learning: NDArray[np.float64],
    naive: NDArray[np.float64],
    p: float,
) -> Row:
    (part,) = next(m.parts for m in holdfast.load(SCENARIO).methods if m.label == label)
    gain, half = paired(learning - naive)
    learned, performance, forgetting = (
        _column(cells, column) for column in (LEARNED, PERFORMANCE, FORGETTING)
    )
    return Row(
        method=part.name,
        point="-".join(f"{key}={value:g}" for key, value in part.arguments.items()),
        seeds=len(cells),
        learning=float(learning.mean()),
        learning_sd=float(learning.std(ddof=1)),
        gain=gain,
        low=gain - half,
        high=gain + half,
        p=p,
        learned=float(learned.mean()),
        learned_sd=float(learned.std(ddof=1)),
        performance=float(performance.mean()),
        performance_sd=float(performance.std(ddof=1)),
        forgetting=float(forgetting.mean()),
        forgetting_sd=float(forgetting.std(ddof=1)),
        failed=int(_column(cells, "failed").sum()),
        published=PUBLISHED.get(part.name, ""),
    )


def markdown(table: Sequence[Row]) -> str:
    """Return the table as docs/methods.md shows it, and what its test can find."""
    lines = [
        "| method | seeds | return while learning | gain over naive, 95% | p (Holm) "
        "| learned | failed | average performance | forgetting | published |",
        f"| --- |{' ---: |' * 9}",
    ]
    for row in table:
        is_naive = row.method == "naive"
        cells = (
            row.method,
            str(row.seeds),
            f"{row.learning:.0f} ± {row.learning_sd:.0f}",
            "" if is_naive else f"{row.gain:+.0f} ({row.low:+.0f} to {row.high:+.0f})",
            "" if is_naive else p_value(row.p).text,
            f"{row.learned:.2f} ± {row.learned_sd:.2f}",
            str(row.failed),
            f"{row.performance:.2f} ± {row.performance_sd:.2f}",
            f"{row.forgetting:.2f} ± {row.forgetting_sd:.2f}",
            row.published,
        )
        lines.append(f"| {' | '.join(cells)} |")
    tested = [row.seeds for row in table if row.method != "naive"]
    return "\n".join([*lines, "", possible(tested)])


def main(runs: Path, jobs: int, only: Sequence[str], only_tables: bool) -> None:
    """Run, print the table, and write the files of results."""
    for name, seeds, path in ((TUNING, (100, 101), TRIALS), (SCENARIO, SEEDS, CELLS)):
        if name in only:
            if not only_tables:
                run(name, seeds, runs, jobs)
            write(runs / name, path)
    if TUNING in only:
        print(*(f"{label}: {mean:.0f}" for label, mean in tuned().values()), sep="\n")
    if SCENARIO in only:
        table = rows()
        write_table(TABLE, header("tables.control", arguments=()), table)
        print(markdown(table))


if __name__ == "__main__":
    every = (TUNING, SCENARIO)
    parser = argparse.ArgumentParser(prog="python -m tables.control", description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="the folder of results")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("--only", choices=every, nargs="+", default=every, help="scenarios")
    parser.add_argument("--tables", action="store_true", help="run nothing; read what is there")
    parser.add_argument("--why", action="store_true", help="print what is known of failures")
    options = parser.parse_args()
    if options.why:
        why(options.runs / SCENARIO)
    else:
        main(options.runs, options.jobs, options.only, options.tables)
