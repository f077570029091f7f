"""Which tasks of Meta-World are learned alone within the budget of ``cw10-lite``.

Every task is a stream of its own, learned with the agent and the steps of the shipped scenario by
one seed that no table reports. Twenty episodes at each eighth of the steps, without exploration,
say how often it succeeds. Tasks that are on file with as many steps are not run again; those on
file with 120,000 were learned by seed 0 and with a LayerNorm in the first layer alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curves import curve, on_file, write

import holdfast
from holdfast.scenarios.schema.scenario import Scenario

SEED = 100
ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "single-tasks.csv"
CW10 = (
    *("Hammer", "PushWall", "FaucetClose", "PushBack", "StickPull"),
    *("HandlePressSide", "Push", "ShelfPlace", "WindowClose", "PegUnplugSide"),
)
OTHERS = (
    *("ButtonPress", "ButtonPressTopdown", "ButtonPressTopdownWall", "ButtonPressWall"),
    *("CoffeeButton", "DialTurn", "DoorClose", "DoorLock", "DoorOpen", "DoorUnlock"),
    *("DrawerClose", "DrawerOpen", "FaucetOpen", "HandlePress", "HandlePull", "HandlePullSide"),
    *("LeverPull", "PlateSlide", "PlateSlideBack", "PlateSlideBackSide", "PlateSlideSide"),
    *("Reach", "ReachWall", "Soccer", "SweepInto", "WindowOpen"),
)
"""Those of Continual World's fifty whose objects need not be lifted."""


def scenario(base: Scenario, task: str, seed: int) -> Scenario:
    """Return one task of Meta-World, learned as in a shipped scenario."""
    data: dict[str, Any] = base.model_dump(mode="json", exclude_unset=True)
    env = f"MetaWorld/{task}-v3"
    steps = next((one.steps for one in base.tasks if one.env == env), base.tasks[0].steps)
    one = {**data["tasks"][0], "name": "alone", "env": env, "steps": steps}
    data.update(name=f"alone-{task}", tasks=[one], methods=["naive"], seeds=[seed])
    data["stream"] = {"task_id": "hidden"}
    data["evaluation"] = {"every": steps // 8, "episodes": 20}
    return Scenario.model_validate(data)


def main(base: Scenario, tasks: Sequence[str], runs: Path, jobs: int) -> None:
    """Run what is not on file, print and write a line per task."""
    for task in tasks:
        rows = {(row[0], row[2]): row for row in on_file(RESULTS)}
        made = scenario(base, task, SEED)
        steps = str(made.tasks[0].steps)
        if (task, steps) not in rows:
            holdfast.run(made, runs=runs, jobs=jobs)
            values = curve(runs / made.name, SEED, "success")
            own = [task, str(SEED), steps]
            rows[task, steps] = [*own, *(f"{value:.2f}" for value in values)]
            places = [*CW10, *OTHERS]
            kept = sorted(rows.values(), key=lambda row: (places.index(row[0]), int(row[2])))
            known = dict.fromkeys(row[0] for row in kept)
            columns = "task, seed, steps, successes of 20 episodes at the start and each eighth"
            write(RESULTS, kept, "method_tables.single_tasks", [("--tasks", *known)], columns)
        print(*rows[task, steps], flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenario", default="cw10-lite")
    parser.add_argument("--tasks", nargs="+", default=[*CW10, *OTHERS])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "single-tasks")
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    main(holdfast.load(chosen.scenario), chosen.tasks, chosen.runs, chosen.jobs)
