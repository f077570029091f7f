"""What a start takes: from ``holdfast run`` to the first step, and the memory of a small cell.

``--against COMMIT`` measures the same at a commit, from a temporary git worktree, in turns with
this working folder: which goes first changes from pair to pair, so that a machine that is busy for
a while slows both. Every number is of new processes.

* The imports: a process that imports what every cell needs, and ends.
* The first step: seconds from the start of the command to the first step of an environment, with
  ``--jobs 1`` and ``--jobs 2``, and the processor time that the process which takes it has had by
  then: about what a machine needs that has nothing else to do.
* The command: processor time of all its processes, for one rollout of 16 steps and its report.
* Memory: the quickstart under ``naive`` and ``engine: sb3``, 2,048 steps a task. The cell's peak is
  what its ``run.json`` says. That of the command is a little higher: when a process ends, the
  libraries below torch read pages of theirs back in.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
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
            first.write_text(f"{time.time()!r} {time.process_time()!r}")
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
        measure: What was measured, with its unit.
        before: Median at the other commit; empty without one.
        now: Median here.
        goal: What it should be here, empty where nothing is asked.
        met: Whether it is.
        pairs: How often both were measured.
    """

    measure: str
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


def imports(source: Path) -> dict[str, float]:
    """Return what a process takes that imports what cells need."""
    with tempfile.TemporaryDirectory() as folder:
        ran = run(source, folder, "-c", IMPORTS)
    return {"imports, wall s": ran.wall_s, "imports, processor s": ran.processor_s}


def first_step(source: Path, jobs: int) -> dict[str, float]:
    """Return what two small cells take to their first step, and to the end."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "clock.py").write_text(CLOCK, "utf-8")
        Path(folder, "clock.yaml").write_text(SCENARIO, "utf-8")
        ran = run(source, folder, "-m", "holdfast", "run", "clock.yaml", "--jobs", str(jobs))
        stepped, processor_s = map(float, Path(folder, "first_step").read_text().split())
    return {
        f"first step, --jobs {jobs}, wall s": stepped - ran.began,
        f"first step, --jobs {jobs}, processor s of its process": processor_s,
        f"two cells of 16 steps, --jobs {jobs}, processor s": ran.processor_s,
    }


def memory(source: Path) -> dict[str, float]:
    """Return the peak memory of a small cell, and that of its command."""
    names_engine = "engine:" in (source / "scenarios" / "quickstart.yaml").read_text("utf-8")
    engine = ["agent.engine=sb3"] if names_engine else []  # older commits know no such key
    with tempfile.TemporaryDirectory() as folder:
        ran = run(source, folder, "-m", "holdfast", "run", "quickstart", *SMALL, *engine)
        (cell,) = Path(folder).rglob("run.json")
        peak_bytes = RunFolder(cell.parent).info()["peak_memory_bytes"]
    return {"memory of a cell, GB": peak_bytes / 1e9, "memory, command, GB": ran.peak_bytes / 1e9}


MEASURES: tuple[Callable[[Path], dict[str, float]], ...] = (
    imports,
    partial(first_step, jobs=1),
    partial(first_step, jobs=2),
    memory,
)
GOALS = {"first step, --jobs 1, wall s": 6.0, "memory of a cell, GB": 0.9}


def compare(
    measure: Callable[[Path], dict[str, float]], before: Path | None, pairs: int
) -> Iterator[Measured]:
    """Yield the lines of a measure."""
    found = alternate(lambda: measure(before) if before else {}, lambda: measure(ROOT), pairs)
    for name in found[0][1]:
        then = statistics.median(first[name] for first, _ in found) if before else ""
        now = statistics.median(second[name] for _, second in found)
        goal = GOALS.get(name)
        asked, met = ("", "") if goal is None else (f"<= {goal:g}", now <= goal)
        yield Measured(name, then, now, asked, met, pairs)


def main() -> None:
    """Measure, print the table, and write ``results/starting.csv``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", metavar="COMMIT", help="a commit to take turns with")
    parser.add_argument("--pairs", type=int, default=5, help="how often each is measured")
    options = parser.parse_args()
    rows: list[Measured] = []
    with ExitStack() as stack:
        before = stack.enter_context(worktree(options.against)) if options.against else None
        for measure in MEASURES:
            for row in compare(measure, before, options.pairs):
                rows.append(row)
                print(*row, sep="  ", flush=True)
    write_table(RESULTS, header("starting.py"), rows)


if __name__ == "__main__":
    main()
