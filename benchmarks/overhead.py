"""What Holdfast costs over plain Stable-Baselines3, and EWC over naive; the two sides take turns.

Two questions, answered in one run (``make bench``):

* ``naive`` against plain: environment steps per second while learning. One task, task id hidden,
  no evaluation inside. Timed is ``agent.learn`` as the loop calls it in a real cell (its watch,
  guarded environment, TensorBoard log), against ``model.learn`` with Stable-Baselines3's defaults:
  a logger that writes nowhere.
* ``ewc`` against ``naive``: the same, in the second task of two, where the penalty is active. The
  importance pass between tasks is not part of it.

The sides swap places from pair to pair, and a ratio is the median over pairs: a machine that slows
down for a while slows both.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unittest import mock

import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_util import make_vec_env

from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.training.cell import run_cell
from holdfast.scenarios.schema.scenario import Scenario

RESULTS = Path(__file__).parent / "results" / "overhead.csv"
PACKAGES = ("holdfast", "stable_baselines3", "torch", "gymnasium", "avalanche-lib")


class Setting(NamedTuple):
    """An algorithm, its environment, and the steps of one timing.

    A virtual machine changes its speed within seconds: many short timings, taking turns, scatter
    less than few long ones. ``rounds`` multiplies ``--pairs``.
    """

    algorithm: type[Any]
    env: str
    n_envs: int
    arguments: dict[str, Any]
    steps: int
    first_task_steps: int
    rounds: int

    @property
    def name(self) -> str:
        """Return the algorithm and environment, for the table."""
        return f"{self.algorithm.__name__} on {self.env}, n_envs {self.n_envs}"


SETTINGS = (
    Setting(PPO, "CartPole-v1", 8, {"n_steps": 256, "batch_size": 64}, 4096, 2048, 2),
    Setting(SAC, "Pendulum-v1", 1, {"learning_starts": 100}, 200, 150, 3),
)


class Comparison(NamedTuple):
    """One line of the table; ``first`` is what ``second`` is compared with.

    Attributes:
        measure: What was compared.
        first: Median of the reference.
        second: Median of ours.
        unit: Of both.
        result: Median over pairs of the quotient of speeds, or the difference of times.
        goal: What the result should be.
        met: Whether it is.
        pairs: Number of pairs.
    """

    measure: str
    first: float
    second: float
    unit: str
    result: float
    goal: str
    met: bool
    pairs: int


def plain_s(setting: Setting) -> float:
    """Return the seconds of ``learn`` in Stable-Baselines3 as published."""
    env = make_vec_env(setting.env, n_envs=setting.n_envs, seed=0)
    model = setting.algorithm("MlpPolicy", env, seed=0, device="cpu", **setting.arguments)
    began = time.perf_counter()
    model.learn(setting.steps)
    seconds = time.perf_counter() - began
    env.close()
    return seconds


def learn_s(setting: Setting, method: str, tasks: int) -> float:
    """Return the seconds of ``agent.learn`` in the last task of a cell, run as users run it."""
    budgets = [setting.first_task_steps] * (tasks - 1) + [setting.steps]
    scenario = Scenario.model_validate(
        {
            "name": "overhead",
            "tasks": [
                {"name": f"task{i}", "env": setting.env, "steps": steps}
                for i, steps in enumerate(budgets)
            ],
            "stream": {"task_id": "hidden"},
            "n_envs": setting.n_envs,
            "agent": {"algorithm": setting.algorithm.__name__.lower(), **setting.arguments},
            "methods": [method],
            "evaluation": {"episodes": 1},
        }
    )
    seconds: list[float] = []
    published = StableBaselinesAgent.learn

    def timed(*arguments: Any) -> None:
        began = time.perf_counter()
        published(*arguments)
        seconds.append(time.perf_counter() - began)

    with tempfile.TemporaryDirectory() as runs:
        (folder,) = prepare(Path(runs), scenario)
        with mock.patch.object(StableBaselinesAgent, "learn", timed):
            run_cell(folder, lambda _: None)
    return seconds[-1]


Side = TypeVar("Side")


def alternate(
    first: Callable[[], Side], second: Callable[[], Side], pairs: int
) -> list[tuple[Side, Side]]:
    """Return what both measured, pair by pair; the side that goes first changes each time."""
    measured = []
    for pair in range(pairs):
        if pair % 2:
            after, before = second(), first()
        else:
            before, after = first(), second()
        measured.append((before, after))
    return measured


def compare_speed(
    measure: str,
    setting: Setting,
    sides: tuple[Callable[[], float], Callable[[], float]],
    *,
    pairs: int,
    goal: float,
) -> Comparison:
    """Return how fast the second side is, as a share of the first."""
    pairs *= setting.rounds
    measured = alternate(*sides, pairs)
    before, after = (
        statistics.median(setting.steps / seconds for seconds in side)
        for side in zip(*measured, strict=True)
    )
    ratio = statistics.median(first / second for first, second in measured)
    return Comparison(
        f"{measure}, {setting.name}",
        first=before,
        second=after,
        unit="steps/s",
        result=ratio,
        goal=f">= {goal}",
        met=ratio >= goal,
        pairs=pairs,
    )


def header(
    script: str = "overhead.py", *more: str, arguments: Sequence[str] | None = None
) -> list[str]:
    """Return what made the numbers: command, versions, machine.

    Args:
        script: The file that was run, or a module, which is run in ``benchmarks/``.
        more: Further packages whose versions matter.
        arguments: What followed it; None for those that it got.
    """
    given = sys.argv[1:] if arguments is None else arguments
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    models = {line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")}
    versions = ", ".join(f"{name} {version(name)}" for name in (*PACKAGES, *more))
    is_file = script.endswith(".py")
    run = f"python benchmarks/{script}" if is_file else f"python -m {script}"
    place = "" if is_file else "in benchmarks/: "
    return [
        f"{place}OMP_NUM_THREADS=1 {' '.join([run, *given])}",
        f"Python {platform.python_version()}, {versions}",
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {', '.join(models)}",
    ]


def write_table(path: Path, lines: Sequence[str], rows: Sequence[Any]) -> None:
    """Write rows, named tuples of one kind, below the lines that say what made them."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {line}\n" for line in lines)
        table = csv.writer(file)
        table.writerow(rows[0]._fields)
        for row in rows:
            table.writerow([f"{cell:.4g}" if isinstance(cell, float) else cell for cell in row])


def main() -> None:
    """Measure, print the table, and write ``results/overhead.csv``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=12, help="pairs per comparison of speed")
    options = parser.parse_args()
    torch.set_num_threads(1)  # both sides; Holdfast does so for each cell
    rows: list[Comparison] = []

    def show(row: Comparison) -> None:
        rows.append(row)
        print(
            f"{row.measure:70} {row.first:9.1f} {row.second:9.1f} {row.unit:8}"
            f"{row.result:7.3f}  goal {row.goal:8} {'met' if row.met else 'MISSED'}",
            flush=True,
        )

    print(*header(), sep="\n")
    for setting in SETTINGS:
        sides = partial(plain_s, setting), partial(learn_s, setting, "naive", tasks=1)
        show(compare_speed("naive / plain", setting, sides, pairs=options.pairs, goal=0.97))
    for setting in SETTINGS:
        sides = (
            partial(learn_s, setting, "naive", tasks=2),
            partial(learn_s, setting, "ewc", tasks=2),
        )
        show(compare_speed("ewc / naive", setting, sides, pairs=options.pairs, goal=0.9))
    write_table(RESULTS, header(), rows)


if __name__ == "__main__":
    main()
