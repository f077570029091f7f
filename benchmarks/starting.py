"""What a start takes: from ``holdfast run`` to the first step, and the memory of a small cell.

``--against COMMIT`` measures the same at a commit, from a temporary git worktree, in turns with
this working folder: which goes first changes from pair to pair, so that a machine that is busy for
a while slows both. Every number is of new processes.

* The imports: a process that imports what every cell needs, and ends.
* The first step: seconds from the start of the command to the first step of an environment, with
  ``--jobs 1`` and ``--jobs 2``.
* The command: processor time of all its processes, for one rollout of 16 steps and its report.
* Memory: the quickstart under ``naive`` with 2,048 steps a task. The cell's peak is what its
  ``run.json`` says. That of the command is a little higher: when a process ends, the libraries
  below torch read pages of theirs back in.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from golden import ROOT, worktree
from overhead import alternate, header, write_table

from holdfast.continual.run_folder.record import RunFolder

RESULTS = Path(__file__).parent / "results" / "starting.csv"
IMPORTS = "import holdfast.continual.training.cell, holdfast.continual.streams.task_stream"
CLOCK = """
import pathlib, time
from gymnasium.envs.classic_control import CartPoleEnv

class Clock(CartPoleEnv):
    def step(self, action):
        first = pathlib.Path(__file__).with_name("first_step")
        if not first.exists():
            first.write_text(repr(time.time()))
        return super().step(action)
"""
SCENARIO = """
tasks: [{name: only, env: "clock:Clock", steps: 16, changes: {time_limit: 4}}]
agent: {algorithm: ppo, n_steps: 16, batch_size: 16}
evaluation: {episodes: 1}
seeds: [0, 1]
"""
SMALL = ("methods=[naive]", *(f"tasks.{i}.steps=2048" for i in range(3)), "evaluation.every=1024")


class Ran(NamedTuple):
    """A command that was run: when it began, and what all its processes took."""

    began: float
    wall_s: float
    processor_s: float
    peak_bytes: int


class Measured(NamedTuple):
    """One line of the table.

    Attributes:
        measure: What was measured.
        unit: Of the medians.
        before: Median at the other commit; empty without one.
        now: Median here.
        goal: What it should be here, empty where nothing is asked.
        met: Whether it is.
        pairs: How often both were measured.
    """

    measure: str
    unit: str
    before: float | str
    now: float
    goal: str
    met: bool | str
    pairs: int


def run(source: Path, folder: str, *arguments: str) -> Ran:
    """Run Python with the Holdfast of a source tree, in a folder."""
    environment = os.environ | {"PYTHONPATH": str(source / "src"), "OMP_NUM_THREADS": "1"}
    environment |= {"XDG_STATE_HOME": folder}
    began, since = time.time(), time.monotonic()
    with Path(folder, "said").open("w+", encoding="utf-8") as said:
        command = [sys.executable, *arguments]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(said.read())
    processor_s = used.ru_utime + used.ru_stime
    return Ran(began, time.monotonic() - since, processor_s, used.ru_maxrss * 1024)


def imports(source: Path) -> tuple[float, ...]:
    """Return wall and processor seconds of a process that imports what cells need."""
    with tempfile.TemporaryDirectory() as folder:
        ran = run(source, folder, "-c", IMPORTS)
    return ran.wall_s, ran.processor_s


def first_step(source: Path, jobs: int) -> tuple[float, ...]:
    """Return seconds to the first step, and processor seconds of the command to its end."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "clock.py").write_text(CLOCK, "utf-8")
        Path(folder, "clock.yaml").write_text(SCENARIO, "utf-8")
        ran = run(source, folder, "-m", "holdfast", "run", "clock.yaml", "--jobs", str(jobs))
        return float(Path(folder, "first_step").read_text()) - ran.began, ran.processor_s


def memory(source: Path) -> tuple[float, ...]:
    """Return the peak memory of a small cell, and that of its command, in GB."""
    with tempfile.TemporaryDirectory() as folder:
        ran = run(source, folder, "-m", "holdfast", "run", "quickstart", *SMALL)
        (cell,) = Path(folder).rglob("run.json")
        return RunFolder(cell.parent).info()["peak_memory_bytes"] / 1e9, ran.peak_bytes / 1e9


MEASURES: tuple[tuple[Callable[[Path], tuple[float, ...]], tuple[tuple[str, str, float], ...]], ...]
MEASURES = (
    (
        imports,
        (("imports of a cell, wall time", "s", 0), ("imports of a cell, processor time", "s", 0)),
    ),
    (
        lambda source: first_step(source, jobs=1),
        (
            ("holdfast run to the first step, wall time", "s", 6),
            ("two cells of 16 steps and their report, processor time", "s", 0),
        ),
    ),
    (
        lambda source: first_step(source, jobs=2),
        (
            ("holdfast run --jobs 2 to the first step, wall time", "s", 0),
            ("the same with --jobs 2, processor time", "s", 0),
        ),
    ),
    (memory, (("peak memory of a small cell", "GB", 0.9), ("peak memory of its command", "GB", 0))),
)
"""What returns the numbers of a source tree; name, unit and goal of each, 0 where there is none."""


def compare(index: int, before: Path | None, pairs: int) -> list[Measured]:
    """Return the lines of one row of ``MEASURES``."""
    measure, lines = MEASURES[index]
    found = alternate(lambda: measure(before) if before else (), lambda: measure(ROOT), pairs)
    rows = []
    for place, (name, unit, goal) in enumerate(lines):
        then = statistics.median(b[place] for b, _ in found) if before else ""
        now = statistics.median(n[place] for _, n in found)
        asked, met = (f"<= {goal}", now <= goal) if goal else ("", "")
        rows.append(Measured(name, unit, then, now, asked, met, pairs))
    return rows


def main() -> None:
    """Measure, print the table, and write ``results/starting.csv``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", metavar="COMMIT", help="a commit to take turns with")
    parser.add_argument("--pairs", type=int, default=5, help="how often each is measured")
    options = parser.parse_args()
    rows: list[Measured] = []
    with ExitStack() as stack:
        before = stack.enter_context(worktree(options.against)) if options.against else None
        for index in range(len(MEASURES)):
            for row in compare(index, before, options.pairs):
                rows.append(row)
                print(*row, sep="  ", flush=True)
    write_table(RESULTS, header("starting.py"), rows)


if __name__ == "__main__":
    main()
