"""What keeping to a limit costs, and which methods keep what was kept.

The shipped ``safe-*`` scenarios, whose first task has a limit that their second one has not, are
learned without a constraint, with a fixed price of the cost, and with a multiplier that is moved.
Of a task: the return at its own end; while learning, mean cost and share of violating episodes
among those that ended in its last fifth; cost and violations once the stream is over. A cell that
is on file is not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from curves import on_file, write

import holdfast
from holdfast.continual.results.study import CellResults, gather
from holdfast.continual.run_folder.point_record import COSTS
from holdfast.scenarios.load import load
from holdfast.scenarios.schema.scenario import Scenario
from method_tables.comparison import spread

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "safety.csv"
PAGE = ROOT / "docs" / "safety.md"
SCENARIOS = ("safe-reach", "safe-cheetah")
CONSTRAINTS = {
    "none": "=null",
    "fixed": "={fixed: {multiplier: 1}}",
    "lagrangian": "={lagrangian: {}}",
    "pid": "",
    "pid, critic": ".critic=true",
    "price of 5": "={fixed: {multiplier: 5}}",
}
"""What each is called, and what makes it of the shipped scenario's, which is a controller's."""
EWC, PACKNET = "{ewc: {strength: 10.0}}", "{packnet: {prune: 0.5}}"
BY_COST = "{ewc: {strength: 10.0, by_cost: true}}"
METHODS = {
    **dict.fromkeys(CONSTRAINTS, ("naive",)),
    "pid": ("naive", "cloning", EWC, BY_COST, PACKNET),
    "price of 5": (EWC,),
}
"""Who learns under each, the same that is kept by several under one alone."""
COLUMNS = (
    "scenario, constraint, method, seed, task, then: return at its own end; cost and share of "
    "violating episodes in the last fifth of its training; cost and share of violating episodes at "
    "the end of the stream; sum of the costs of its training"
)
HEAD = (
    *("scenario", "constraint", "method", "seeds", "return", "cost, last fifth"),
    *(
        "violating, last fifth",
        "cost of training",
        "cost, end of stream",
        "violating, end of stream",
    ),
)


def scenario(name: str, constraint: str, seeds: Sequence[int], methods: Sequence[str]) -> Scenario:
    """Return a shipped scenario with one constraint, and methods as a scenario has them."""
    made = f"{name}-{constraint.replace(',', '').replace(' ', '-')}"
    changed = [f"name={made}", f"seeds={[*seeds]}"]
    if PACKNET in methods:  # it must be told how many tasks come, and nobody else is
        changed = [f"name={made}-counted", f"seeds={[*seeds]}", "stream.task_count=known"]
    if BY_COST in methods:  # alone it has the label of the other
        changed[0] += "-by-cost"
    changed += [f"methods=[{', '.join(methods)}]"]
    if own := CONSTRAINTS[constraint]:
        changed += [f"agent.constraint{own}"]
    return load(name, changed)


def main(scenarios: Sequence[str], seeds: Sequence[int], runs: Path) -> None:
    """Run what is not on file, write a line per cell and task, and the page's table."""
    for name in scenarios:
        for constraint, methods in METHODS.items():
            for method in methods:
                made = scenario(name, constraint, seeds, [method])
                label = made.methods[0].label
                called = f"{label} by cost" if method == BY_COST else label
                place = [name, constraint, called]
                known = {row[3] for row in on_file(RESULTS) if row[:3] == place}
                left = [seed for seed in seeds if str(seed) not in known]
                if not left:
                    continue
                made = scenario(name, constraint, left, [method])
                holdfast.run(made, runs=runs)
                cells = {cell.folder.path: cell for cell in _cells(runs / made.name)}
                own = [cells[runs / made.name / label / f"seed-{seed}"] for seed in left]
                add([row for cell in own for row in lines(place, cell)])
    show()


def _cells(folder: Path) -> list[CellResults]:
    return [cell for method in gather(folder).methods for cell in method.cells]


def lines(row: Sequence[str], cell: CellResults) -> Iterator[list[str]]:
    """Yield what a finished cell has to say of each task of its stream, after the row's names."""
    own = cell.folder
    episodes = [*own.scores()]
    end = max(episode["step"] for episode in episodes)
    for stage, task in enumerate(own.scenario.tasks):
        points = [point for point in COSTS.read(own.path) if point["stage"] == stage]
        steps = points[-1]["steps"]
        (before,) = (point for point in points if point["steps"] == 0.8 * steps)
        since = {key: points[-1][key] - before[key] for key in ("cost", "episodes", "violations")}
        of_task = [episode for episode in episodes if episode["task"] == task.name]
        at_own = [episode for episode in of_task if episode["step"] == points[-1]["step"]]
        at_end = [episode for episode in of_task if episode["step"] == end]
        assert task.cost is not None
        limit = task.cost.limit
        numbers = (
            np.mean([episode["return"] for episode in at_own]),
            since["cost"] / since["episodes"],
            since["violations"] / since["episodes"],
            np.mean([episode["cost"] for episode in at_end]),
            np.mean([episode["cost"] > limit for episode in at_end]),
        )
        rounded = (*(f"{number:.2f}" for number in numbers), f"{points[-1]['cost']:.0f}")
        yield [*row, str(own.seed), task.name, *rounded]


def add(made: Sequence[Sequence[str]]) -> None:
    """Write lines into the file, in the order of scenarios, constraints, methods and seeds."""
    rows = [*on_file(RESULTS), *map(list, made)]
    methods = list(dict.fromkeys(row[2] for row in rows))
    tasks = list(dict.fromkeys(row[4] for row in rows))
    rows.sort(
        key=lambda row: (
            *(SCENARIOS.index(row[0]), [*CONSTRAINTS].index(row[1])),
            *(methods.index(row[2]), int(row[3]), tasks.index(row[4])),
        )
    )
    seeds = sorted({row[3] for row in rows}, key=int)
    write(RESULTS, rows, "method_tables.safety", [("--seeds", *seeds)], COLUMNS)


def show() -> None:
    """Put the table of the first tasks between its marks on the page."""
    rows = on_file(RESULTS)
    first = {name: load(name).tasks[0].name for name in SCENARIOS}
    cells: dict[tuple[str, str, str], list[list[float]]] = {}
    for name, constraint, method, _, task, *numbers in rows:
        if task == first[name]:
            cells.setdefault((name, constraint, method), []).append([*map(float, numbers)])
    text = [f"| {' | '.join(HEAD)} |", f"| --- | --- | --- |{' ---: |' * (len(HEAD) - 3)}"]
    for names, found in cells.items():
        total, cost, broken, cost_end, broken_end, training = np.array(found).T
        shown = (
            *(spread(total, 1), spread(cost, 1), f"{broken.mean():.2f}", spread(training, 0)),
            *(spread(cost_end, 1), f"{broken_end.mean():.2f}"),
        )
        text.append(f"| {' | '.join((*names, str(len(found)), *shown))} |")
    page = PAGE.read_text("utf-8")
    head, _, rest = page.partition("<!-- safety:begin -->\n")
    tail = rest.partition("<!-- safety:end -->")[2]
    table = "\n".join(text)
    PAGE.write_text(
        f"{head}<!-- safety:begin -->\n\n{table}\n\n<!-- safety:end -->{tail}", encoding="utf-8"
    )
    print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=SCENARIOS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(5)])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="the folder of results")
    given = parser.parse_args()
    main(given.only, given.seeds, given.runs.resolve())
