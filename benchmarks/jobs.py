"""What ``--jobs 2`` saves, and how often ten small cells pay for the heavy imports.

* Two cells of at least half a minute: seconds of the whole command with ``--jobs 2`` against
  ``--jobs 1``, imports, builds, evaluation and the report included. The two take turns.
* Ten cells of one rollout each with ``--jobs 2``: how many processes import torch, which takes most
  of the time of a start, as Python's own record of imports counts them.

It needs two cores that have nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

from overhead import header, write_table

RESULTS = Path(__file__).parent / "results" / "jobs.csv"
_TELL = "PYTHONPROFILEIMPORTTIME"
SCENARIO = """\
tasks:
  - {{name: left, env: CartPole-v1, steps: {steps}}}
  - {{name: right, env: CartPole-v1, steps: {steps}, changes: {{action_map: [1, 0]}}}}
n_envs: 8
agent: {{algorithm: ppo, n_steps: {rollout}, batch_size: 64, n_epochs: {epochs}}}
seeds: {seeds}
evaluation: {{episodes: 1}}
"""


class Measured(NamedTuple):
    """One line of the table.

    Attributes:
        measure: What was compared or counted.
        first: Of ``--jobs 1``: median of seconds; empty where nothing is compared.
        second: Of ``--jobs 2``.
        least_cell_s: Seconds of the shortest cell.
        result: The median quotient, or the count.
        goal: What the result should be.
        met: Whether it is.
        rounds: How often it was measured.
    """

    measure: str
    first: float | str
    second: float
    least_cell_s: float
    result: float
    goal: str
    met: bool
    rounds: int


class Ran(NamedTuple):
    """A run: seconds of the whole command, those of its cells, what its processes said."""

    wall_s: float
    cells_s: list[float]
    said: str


def run(jobs: int, *, steps: int, rollout: int, epochs: int, cells: int, tell: bool = False) -> Ran:
    """Run cells by the command line, in a new folder.

    Args:
        jobs: Cells side by side.
        steps: Of each of two tasks.
        rollout: Steps of each of eight environments between updates.
        epochs: Of an update.
        cells: How many seeds.
        tell: Let each process tell what it imports: on stderr, or in the log of the cell it runs.
    """
    with tempfile.TemporaryDirectory() as folder:
        runs, path = Path(folder, "runs"), Path(folder, "jobs.yaml")
        seeds = list(range(cells))
        text = SCENARIO.format(steps=steps, rollout=rollout, epochs=epochs, seeds=seeds)
        path.write_text(text, "utf-8")
        command = [sys.executable, "-m", "holdfast", "run", str(path), "--runs", str(runs)]
        began = time.monotonic()
        done = subprocess.run(
            [*command, "--jobs", str(jobs)],
            env=os.environ | {"OMP_NUM_THREADS": "1"} | ({_TELL: "1"} if tell else {}),
            capture_output=True,
            text=True,
            check=False,
        )
        wall_s = time.monotonic() - began
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        infos = [json.loads(file.read_text("utf-8")) for file in runs.rglob("run.json")]
        logs = [file.read_text("utf-8") for file in runs.rglob("log.txt")]
        return Ran(wall_s, [info["wall_s"] for info in infos], "\n".join([done.stderr, *logs]))


def importing_processes(jobs: int, cells: int) -> int:
    """Return how many processes import torch while small cells run."""
    ran = run(jobs, steps=64, rollout=8, epochs=1, cells=cells, tell=True)
    return len(re.findall(r"^import time:.*\| +torch$", ran.said, re.M))


def compare(steps: int, rounds: int) -> Measured:
    """Return what two cells side by side take against one after the other."""
    work = partial(run, steps=steps, rollout=256, epochs=10, cells=2)
    pairs = [(work(1), work(2)) for _ in range(rounds)]
    result = statistics.median(two.wall_s / one.wall_s for one, two in pairs)
    return Measured(
        "two cells, --jobs 2 / --jobs 1, whole command, s",
        statistics.median(one.wall_s for one, _ in pairs),
        statistics.median(two.wall_s for _, two in pairs),
        min(seconds for pair in pairs for ran in pair for seconds in ran.cells_s),
        result,
        "<= 0.6",
        result <= 0.6,
        rounds,
    )


def main() -> None:
    """Measure, print the table, and write ``results/jobs.csv``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=81920, help="steps of each of two tasks")
    parser.add_argument("--rounds", type=int, default=1, help="how often both are timed")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file of results")
    options = parser.parse_args()
    count = importing_processes(jobs=2, cells=10)
    name = "ten small cells, --jobs 2, processes that import torch"
    rows = [
        compare(options.steps, options.rounds),
        Measured(name, "", count, 0.0, count, "<= 2", count <= 2, 1),
    ]
    for row in rows:
        print(row)
    write_table(options.output, header("jobs.py"), rows)


if __name__ == "__main__":
    main()
