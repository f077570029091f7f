"""What a stream of many short tasks costs beside learning and the evaluation that is asked for.

300 tasks of 64 steps, CartPole with a pole of another length in each, PPO with ewc, cloning and
packnet. Every cell is a process of its own. Its time is cut into three parts, as processor time and
as wall time: *learning* (building models and environments, and the methods' own work), *evaluation*
(playing the episodes), and *the rest*: the record, TensorBoard, diagnostics, checkpoints, progress.
Start-up, until the first task begins, is none of them.

``share`` is the rest over all three, ``growth`` the rest of the second half of the stream over that
of the first: 1 where it is linear (the card that ends a run is in the second). ``memory_growth`` is
the memory at the end less that after a third of the stream.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
"""Seconds of the processor, and of the wall."""

RESULTS = Path(__file__).parent / "results" / "long-streams.csv"
METHODS = ("ewc", "cloning", "packnet")
PLANS: dict[str, Any] = {"sample": {"tasks": {"sample": 10}}, "default": {}}
PACKAGES = ("holdfast", "stable_baselines3", "torch", "gymnasium", "avalanche-lib")
COLUMNS = (
    *("method", "evaluation", "tasks", "steps", "start_s", "learning_s", "evaluation_s", "rest_s"),
    *("share", "growth", "wall_share", "wall_growth", "disk_mb", "disk_half_mb"),
    *("tensorboard_mb", "peak_mb", "memory_growth_mb"),
)


def scenario_of(method: str, plan: str, tasks: int, steps: int) -> Any:
    """Return the scenario of a cell."""
    from holdfast.scenarios.schema.scenario import Scenario

    return Scenario.model_validate(
        {
            "name": f"long-{plan}",
            "tasks": [
                {
                    "name": f"pole-{number}",
                    "env": "CartPole-v1",
                    "steps": steps,
                    "changes": {"set": {"length": 0.3 + 0.5 * number / tasks}},
                }
                for number in range(tasks)
            ],
            "stream": {"task_id": "observed", "task_count": "known"},
            "agent": {"algorithm": "ppo", "device": "cpu", "n_steps": 32, "batch_size": 32},
            "methods": [method],
            "score": {"random": 20.0, "reference": 500.0},
            "evaluation": PLANS[plan],
        }
    )


class Parts:
    """Seconds of each part of a cell, by processor and by wall; a part may lie inside another.

    Attributes:
        seconds: By part; what is in no block counts as the rest.
    """

    def __init__(self) -> None:
        self.seconds = {name: np.zeros(2) for name in ("learning", "evaluation", "rest")}
        self._open = ["rest"]
        self._since = _now()

    def start(self) -> None:
        """Begin here: what was counted before is start-up."""
        self.__init__()  # type: ignore[misc]  # all of it, again

    def so_far(self, name: str) -> Times:
        """Return the seconds of a part up to now."""
        now = _now()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now
        return self.seconds[name].copy()

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose time counts as a part."""

        def counted(*arguments: Any, **named: Any) -> Any:
            self.so_far(name)
            self._open.append(name)
            try:
                return function(*arguments, **named)
            finally:
                self.so_far(name)
                self._open.pop()

        return counted


def _now() -> Times:
    return np.array([time.process_time(), time.monotonic()])


def count(parts: Parts, method: str, tasks: int, folder: Path) -> dict[str, Any]:
    """Make everything that runs from now on count; return what is noted on the way."""
    from holdfast.agents.sb3.learner import StableBaselinesAgent
    from holdfast.continual.streams.evaluation import evaluate
    from holdfast.continual.training import journal
    from holdfast.registry import METHODS as KNOWN
    from holdfast.registry import load

    noted: dict[str, Any] = {}
    made, book, began = load(KNOWN[method]), journal.CellJournal, time.monotonic()
    learning = [(StableBaselinesAgent, name) for name in ("start", "learn")]
    for owner, name in (*learning, (made, "pre_adapt"), (made, "post_adapt")):
        setattr(owner, name, parts.wrapped("learning", getattr(owner, name)))
    vars(journal)["evaluate"] = parts.wrapped("evaluation", evaluate)
    begin, watch, finished = book.__init__, book.watch, book.finished

    def begun(self: Any, *arguments: Any) -> None:
        begin(self, *arguments)
        noted["start"] = time.monotonic() - began
        parts.start()

    def looked(self: Any, experience: Any) -> Any:
        return parts.wrapped("rest", watch(self, experience))  # it is called while the agent learns

    def ended(self: Any, experience: Any) -> None:
        finished(self, experience)
        if experience.stage + 1 == tasks // 3:
            noted["memory"] = _resident()
        if experience.stage + 1 == tasks // 2:
            noted["half"], noted["disk"] = parts.so_far("rest"), _disk(folder)

    for name, made_anew in (("__init__", begun), ("watch", looked), ("finished", ended)):
        setattr(book, name, made_anew)
    return noted


def run(method: str, plan: str, tasks: int, steps: int, folder: Path) -> dict[str, Any]:
    """Run one cell in this process and return its row."""
    from holdfast.continual.jobs.run_folders import prepare
    from holdfast.continual.training.cell import run_cell
    from holdfast.continual.training.resource_usage import peak_memory

    (cell,) = prepare(folder, scenario_of(method, plan, tasks, steps))
    parts = Parts()
    noted = count(parts, method, tasks, cell.path)
    run_cell(cell, lambda _: None)
    rest = parts.so_far("rest")
    shares, growths = rest / sum(parts.seconds.values()), (rest - noted["half"]) / noted["half"]
    processor = {f"{name}_s": round(float(own[0]), 1) for name, own in parts.seconds.items()}
    return {
        "method": method,
        "evaluation": plan,
        "tasks": tasks,
        "steps": steps,
        "start_s": round(noted["start"], 1),
        **processor,
        **dict(zip(("share", "wall_share"), shares.round(3).tolist(), strict=True)),
        **dict(zip(("growth", "wall_growth"), growths.round(2).tolist(), strict=True)),
        "disk_mb": round(_disk(cell.path) / 1e6, 1),
        "disk_half_mb": round(noted["disk"] / 1e6, 1),
        "tensorboard_mb": round(_disk(cell.path / "tb") / 1e6, 1),
        "peak_mb": round(peak_memory() / 1e6),
        "memory_growth_mb": round((_resident() - noted["memory"]) / 1e6, 1),
    }


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _disk(folder: Path) -> int:
    found = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum({stat.st_ino: stat.st_size for stat in found}.values())  # a hard link takes no room


def main() -> None:
    """Run the cells, each in a process of its own, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--plans", nargs="+", choices=PLANS, default=["sample"])
    parser.add_argument("--runs", type=Path, help="where run folders stay; else they are deleted")
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    runs = given.runs or Path(tempfile.mkdtemp())
    if given.cell:
        method, plan = given.cell
        print(json.dumps(run(method, plan, given.tasks, given.steps, runs)))
        return
    rows = []
    for plan in given.plans:
        for method in given.methods:
            sizes = ["--tasks", str(given.tasks), "--steps", str(given.steps)]
            command = [sys.executable, __file__, *sizes, "--runs", str(runs)]
            cell = [*command, "--cell", method, plan]
            done = subprocess.run(cell, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(rows[-1], flush=True)
    if not given.runs:
        shutil.rmtree(runs)
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    said = " ".join(["python benchmarks/long_streams.py", *sys.argv[1:]])
    with given.out.open("w", encoding="utf-8", newline="") as file:
        file.write(f"# {said}\n# {versions}\n# {os.cpu_count()} cores, {platform.platform()}\n")
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
