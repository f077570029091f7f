"""Memory and disk of one long life in an endless world, as it is lived.

``endless-forage`` for as many steps as are asked for, in a process of its own, with twenty
evaluations and as many checkpoints. At each evaluation this process notes how much memory that one
holds and how much its run folder takes. What grows with the length of a life would grow here.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from curves import write

from holdfast.continual.run_folder.episodes import episodes

RESULTS = Path(__file__).parents[1] / "results" / "endless-life.csv"
POINTS = 20
COLUMNS = "steps lived, MB of memory held, kB of the run folder"


class Point(NamedTuple):
    """What a life takes at one evaluation.

    Attributes:
        step: Steps lived.
        memory: Resident memory, MB.
        disk: All files of the cell, kB.
    """

    step: int
    memory: float
    disk: float


def lived(steps: int, runs: Path) -> Iterator[Point]:
    """Yield a point at each evaluation of a life.

    Raises:
        subprocess.CalledProcessError: If it did not end well.
    """
    every = steps // POINTS
    keys = {"tasks.0.steps": steps, "evaluation.every": every, "checkpoint.every": every}
    command = [sys.executable, "-m", "holdfast", "run", "endless-forage", "--runs", str(runs)]
    command += [f"{key}={value}" for key, value in keys.items()]
    cell = runs / "endless-forage" / "naive" / "seed-0"
    known = -1
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            step = _newest(cell / "scores.jsonl")
            if step > known:
                known = step
                yield Point(step, _memory(process.pid), _disk(cell))
            time.sleep(0.5)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def _newest(path: Path) -> int:
    """Return the step of the newest evaluation; -1 where there is none yet."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return int(episodes(lines[-1:], path)[0]["step"]) if lines else -1


def _memory(process: int) -> float:
    """Return what a process and those that it started hold, the cell's among them (Linux)."""
    place = Path("/proc", str(process))
    status = (place / "status").read_text()
    held = int(re.search(r"^VmRSS:\s+(\d+) kB$", status, re.M)[1]) / 1e3  # type: ignore[index]
    started = (place / "task" / str(process) / "children").read_text().split()
    return held + sum(_memory(int(one)) for one in started)


def _disk(cell: Path) -> float:
    total = 0
    for path in cell.rglob("*"):
        with suppress(FileNotFoundError):  # a checkpoint that was replaced meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total / 1e3


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for point in lived(given.steps, Path(folder)):
            rows.append([str(point.step), f"{point.memory:.1f}", f"{point.disk:.1f}"])
            print(*rows[-1], flush=True)
    write(RESULTS, rows, "soak.life", [("--steps", str(given.steps))], COLUMNS)
