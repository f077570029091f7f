"""What a stream of many short tasks costs beside learning and the evaluation that is asked for.

300 tasks of 64 steps, CartPole with a pole of another length in each, PPO with ewc, cloning and
packnet. Every cell is a process of its own. Its time is cut into three parts, as processor time and
as wall time: *learning* (building models and environments, and the methods' own work), *evaluation*
(playing the episodes), and *the rest*: the record, TensorBoard, diagnostics, checkpoints, progress.
Start-up, until the first task begins, is none of them.

``share`` is the rest over all three, ``growth`` the rest of the second half of the stream over that
of the first: 1 where it is linear. ``memory_growth`` is the memory at the end less that after a
third of the stream.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
    """Seconds of each part of a cell, by processor and by wall; parts may lie inside others.

    Attributes:
        halves: What was counted by the middle of the stream.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {n: [0.0, 0.0] for n in ("learning", "evaluation")}
        self.halves: dict[str, Any] = {}
        self._open: list[str] = []
        self._since = _now()
        self.began = self._since

    def _switch(self) -> None:
        now = _now()
        if self._open:
            part = self.seconds[self._open[-1]]
            part[0] += now[0] - self._since[0]
            part[1] += now[1] - self._since[1]
        self._since = now

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Count what passes inside the block as a part, but for blocks inside it."""
        self._switch()
        self._open.append(name)
        try:
            yield
        finally:
            self._switch()
            self._open.pop()

    def rest(self) -> tuple[float, float]:
        """Return the seconds that are none of the parts so far."""
        now = _now()
        whole = (now[0] - self.began[0], now[1] - self.began[1])
        parts = [sum(part[clock] for part in self.seconds.values()) for clock in (0, 1)]
        return whole[0] - parts[0], whole[1] - parts[1]

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose time counts as a part."""

        def counted(*arguments: Any, **named: Any) -> Any:
            with self.of(name):
                return function(*arguments, **named)

        return counted


def _now() -> tuple[float, float]:
    return time.process_time(), time.monotonic()


def run(method: str, plan: str, tasks: int, steps: int, folder: Path) -> dict[str, Any]:
    """Run one cell in this process and return its row."""
    began = time.monotonic()
    from holdfast.agents.sb3.learner import StableBaselinesAgent
    from holdfast.continual.jobs.run_folders import prepare
    from holdfast.continual.training import journal
    from holdfast.continual.training.cell import run_cell
    from holdfast.continual.training.resource_usage import peak_memory
    from holdfast.registry import METHODS as KNOWN
    from holdfast.registry import load

    (cell,) = prepare(folder, scenario_of(method, plan, tasks, steps))
    parts, found = Parts(), dict[str, Any]()
    made, book = load(KNOWN[method]), journal.CellJournal
    for owner, names in ((StableBaselinesAgent, ("start", "learn")), (made, ("pre_adapt",))):
        for name in names:
            setattr(owner, name, parts.wrapped("learning", getattr(owner, name)))
    made.post_adapt = parts.wrapped("learning", made.post_adapt)
    journal.evaluate = parts.wrapped("evaluation", journal.evaluate)
    watch, finished = book.watch, book.finished

    def watched(self: Any, experience: Any) -> Any:
        return parts.wrapped("rest", watch(self, experience))

    def noted(self: Any, experience: Any) -> None:
        finished(self, experience)
        stages = experience.stage + 1
        if stages == tasks // 3:
            found["memory"] = _resident()
        if stages == tasks // 2:
            found["half"], found["disk"] = parts.rest(), _disk(cell.path)

    parts.seconds["rest"] = [0.0, 0.0]
    parts.rest = lambda: _rest_of(parts)  # type: ignore[method-assign]  # with what lies in learning
    book.watch, book.finished = watched, noted
    begin = book.__init__

    def begun(self: Any, *arguments: Any) -> None:
        begin(self, *arguments)
        parts.began = _now()
        found["start"] = time.monotonic() - began

    book.__init__ = begun  # type: ignore[method-assign]  # where start-up ends
    run_cell(cell, lambda progress: None)
    rest, half = parts.rest(), found["half"]
    own = [
        sum(parts.seconds[name][clock] for name in ("learning", "evaluation")) for clock in (0, 1)
    ]
    return {
        "method": method,
        "evaluation": plan,
        "tasks": tasks,
        "steps": steps,
        "start_s": round(found["start"], 1),
        "learning_s": round(parts.seconds["learning"][0], 1),
        "evaluation_s": round(parts.seconds["evaluation"][0], 1),
        "rest_s": round(rest[0], 1),
        "share": round(rest[0] / (rest[0] + own[0]), 3),
        "growth": round((rest[0] - half[0]) / half[0], 2),
        "wall_share": round(rest[1] / (rest[1] + own[1]), 3),
        "wall_growth": round((rest[1] - half[1]) / half[1], 2),
        "disk_mb": round(_disk(cell.path) / 1e6, 1),
        "disk_half_mb": round(found["disk"] / 1e6, 1),
        "tensorboard_mb": round(_disk(cell.path / "tb") / 1e6, 1),
        "peak_mb": round(peak_memory() / 1e6),
        "memory_growth_mb": round((_resident() - found["memory"]) / 1e6, 1),
    }


def _rest_of(parts: Parts) -> tuple[float, float]:
    now = _now()
    own = [
        sum(parts.seconds[name][clock] for name in ("learning", "evaluation")) for clock in (0, 1)
    ]
    return now[0] - parts.began[0] - own[0], now[1] - parts.began[1] - own[1]


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


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
        print(json.dumps(run(*given.cell, given.tasks, given.steps, runs)))
        return
    rows = []
    for plan in given.plans:
        for method in given.methods:
            sizes = ["--tasks", str(given.tasks), "--steps", str(given.steps)]
            command = [sys.executable, __file__, *sizes, "--runs", str(runs)]
            done = subprocess.run(  # this file
                [*command, "--cell", method, plan], check=True, stdout=subprocess.PIPE, text=True
            )
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(rows[-1], flush=True)
    if not given.runs:
        shutil.rmtree(runs)
    with given.out.open("w", encoding="utf-8", newline="") as file:
        versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
        file.write(f"# python benchmarks/long_streams.py {' '.join(sys.argv[1:])}\n".rstrip(" "))
        file.write(f"# {versions}\n# {os.cpu_count()} cores, {platform.platform()}\n")
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
