"""Steps of `reach-and-push` until 80% of episodes succeed, with demonstrations and without.

Steps count from the task's start to the first evaluation in it with that success.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from curves import on_file, write

import holdfast
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.tools.recording import Plan, record
from holdfast.scenarios.shipped import shipped

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "reach-and-push.csv"
THRESHOLD = 0.8
CONTROLLERS = {"reach": "push:reach", "push": "push:push"}
ARMS = {
    "plain": [],
    "ratio": ["agent.gradient_steps=4"],
    "demonstrations": [],
    "cloning": [],
    "both": ["agent.gradient_steps=4"],
}
"""What each differs in from the scenario, but for the demonstrations themselves."""
CLONING = {"demonstrations": 0.0, "cloning": 10.0, "both": 0.0}
"""Weight of what is done there, for those that are shown any."""
SHOWN = "tasks[{index}].demonstrations={{data: '{data}', share: 0.25, cloning: {cloning}}}"


def demonstrations(folder: Path) -> dict[str, Path]:
    """Return the files of thirty episodes of each task's controller, recorded where missing."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for task, controller in CONTROLLERS.items():
        found[task] = path = folder / f"{task}.safetensors"
        if not path.exists():
            scenario = shipped()["reach-and-push"]
            record(scenario, Plan(task, episodes=30), path, controller=controller)
    return found


def overrides(arm: str, folder: Path) -> list[str]:
    """Return what an arm changes about the scenario."""
    if arm not in CLONING:
        return ARMS[arm]
    files = demonstrations(folder).values()
    shown = [
        SHOWN.format(index=index, data=data.absolute(), cloning=CLONING[arm])
        for index, data in enumerate(files)
    ]
    return [*ARMS[arm], *shown]


def steps_to_threshold(folder: RunFolder) -> list[str]:
    """Return for each task the steps to the threshold; empty where it is never reached."""
    scenario, found, first = folder.scenario, [], 0
    for task, steps in zip(scenario.tasks, scenario.stage_steps, strict=True):
        points: dict[int, list[float]] = {}
        for episode in folder.scores():
            if episode["task"] == task.name and first < episode["step"] <= first + steps:
                points.setdefault(episode["step"] - first, []).append(episode["success"] or 0.0)
        reached = [step for step in sorted(points) if np.mean(points[step]) >= THRESHOLD]
        found.append(str(reached[0]) if reached else "")
        first += steps
    return found


def run(arm: str, runs: Path) -> None:
    """Run an arm, or go on with it."""
    changed = overrides(arm, runs / "reach-and-push-demonstrations")
    path = shipped()["reach-and-push"]
    scenario = holdfast.load(path, [*changed, f"name=reach-and-push-{arm}"])
    holdfast.run(scenario, runs=runs)


def note(arm: str, runs: Path) -> None:
    """Write the cells of an arm into the table, as far as they have come."""
    for folder in sorted((runs / f"reach-and-push-{arm}" / "naive").glob("seed-*")):
        cell = RunFolder(folder)
        seen = max(episode["step"] for episode in cell.scores())
        row = [arm, str(cell.seed), *steps_to_threshold(cell), str(seen)]
        print(*row, flush=True)
        add(row)


def add(row: list[str]) -> None:
    """Write a cell into the table, below the command."""
    order = [*ARMS]
    others = [other for other in on_file(RESULTS) if other[:2] != row[:2]]
    rows = sorted([*others, row], key=lambda row: (order.index(row[0]), int(row[1])))
    columns = (
        "arm, seed, steps to 80% success in reach (of 1,000) and push (of 3,000), empty where it "
        "did not come there; steps of the stream that were looked at"
    )
    write(RESULTS, rows, "method_tables.efficiency", [()], columns)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arm", choices=ARMS, nargs="+", default=[*ARMS])
    parser.add_argument("--note", action="store_true", help="run nothing, write what there is")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="the folder of results")
    options = parser.parse_args()
    for arm in options.arm:
        if not options.note:
            run(arm, options.runs)
        note(arm, options.runs)
