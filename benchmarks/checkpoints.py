"""What checkpoints inside tasks cost at the default interval; with and without take turns.

Two settings: PPO, and SAC with a replay buffer of 10^6 rows that is full beforehand. Timed is
``agent.learn`` over two intervals, whose checkpoints are one inside and one at the end, written by
the pauses of a real cell: files, hashes, syncs, and environments that are built again. The share is
the median over pairs of time with over time without, less one; of the process's own time too,
which a busy machine disturbs less but which leaves out waiting for the disk. ``pause_s`` is the
mean time from the start of a checkpoint until learning goes on, measured inside the same runs, and
``direct`` its share of an interval: it scatters less than the difference of two long runs.

    OMP_NUM_THREADS=1 python benchmarks/checkpoints.py
    python benchmarks/checkpoints.py --pairs 1 --part 0.1     # a quick look: a tenth of the steps
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from holdfast.agents.base.buffers import ring_arrays
from holdfast.agents.sb3 import inside_task
from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.training.journal import CellJournal
from holdfast.scenarios.checks.checkpoint import interval
from holdfast.scenarios.schema.scenario import Scenario

RESULTS = Path(__file__).parent / "results" / "checkpoints.csv"
PACKAGES = ("holdfast", "stable_baselines3", "torch", "gymnasium")
GOAL = 0.02


class Setting(NamedTuple):
    """What learns where.

    Attributes:
        name: For the table.
        env: The environment.
        agent: The agent's section.
        rows: Rows of the replay buffer that are there beforehand.
    """

    name: str
    env: str
    agent: dict[str, Any]
    rows: int = 0


SETTINGS = (
    Setting("PPO on HalfCheetah-v5", "HalfCheetah-v5", {"algorithm": "ppo"}),
    Setting("PPO on CartPole-v1", "CartPole-v1", {"algorithm": "ppo"}),
    Setting(
        "SAC on HalfCheetah-v5, 10^6 rows",
        "HalfCheetah-v5",
        {"algorithm": "sac", "buffer_size": 1_000_000, "learning_starts": 0},
        rows=1_000_000,
    ),
)


class Timed(NamedTuple):
    """Times of one side: on the clock, of the process, and of each pause on the clock."""

    wall_s: float
    cpu_s: float
    pauses_s: list[float]


def learned(setting: Setting, steps: int, every: int | None, place: Path) -> Timed:
    """Learn one task of this many steps, with pauses or without; return the times."""
    scenario = Scenario.model_validate(
        {
            "name": "checkpoints",
            "tasks": [{"name": "a", "env": setting.env, "steps": steps}],
            "agent": setting.agent,
            "checkpoint": {"every": every or "off"},
        }
    )
    (folder,) = prepare(place, scenario)
    kind = kind_of(folder.scenario)
    agent: Any = kind.agent()
    stream = kind.stream(0)
    journal = CellJournal(folder, agent, kind.methods(), [], lambda _: None)
    experience = stream.train_stream[0]
    agent.start(experience)
    pauses: Any = journal.pauses(experience, experience.train())
    if setting.rows:
        fill(agent.model.replay_buffer, setting.rows)
    times: list[float] = []
    with timing(times):
        if every:
            # The rows that are there were written at earlier checkpoints.
            agent.model.set_logger(inside_task_logger())
            agent.model._setup_learn(steps, None)
            inside_task.Alone(agent, pauses, steps).pause(0, is_last=False)
            times.clear()
        wall, cpu = time.perf_counter(), time.process_time()
        agent.learn(experience, lambda _: None, journal.log, pauses)
        took = time.perf_counter() - wall, time.process_time() - cpu
    agent.close()
    journal.close()
    return Timed(*took, times)


def fill(buffer: Any, rows: int) -> None:
    """Fill a replay buffer with noise: what is in it does not change what it costs."""
    rng = np.random.default_rng(0)
    for array in ring_arrays(buffer).values():
        array[:rows] = rng.standard_normal(array[:rows].shape, np.float32)
    for name in ("dones", "timeouts"):
        getattr(buffer, name)[:] = 0.0
    buffer.pos, buffer.full = rows % buffer.buffer_size, rows >= buffer.buffer_size


def inside_task_logger() -> Any:
    """Return a logger that writes nowhere."""
    from stable_baselines3.common.logger import Logger

    return Logger(None, [])


class timing:  # noqa: N801  # a context
    """Note how long each pause takes, inside the block."""

    def __init__(self, times: list[float]) -> None:
        self.times, self.published = times, inside_task.Alone.pause

    def __enter__(self) -> None:
        """Put the clock around the pauses."""
        published, times = self.published, self.times

        def pause(alone: Any, step: int, *, is_last: bool) -> None:
            start = time.perf_counter()
            published(alone, step, is_last=is_last)
            times.append(time.perf_counter() - start)

        setattr(inside_task.Alone, "pause", pause)  # noqa: B010  # mypy knows no patches

    def __exit__(self, *_: object) -> None:
        """Take it away."""
        inside_task.Alone.pause = self.published  # type: ignore[method-assign]


def compared(setting: Setting, pairs: int, part: float) -> dict[str, Any]:
    """Return one line of the table."""
    on_policy = setting.agent["algorithm"] == "ppo"
    every = interval(on_policy, 1)
    steps = max(2, round(2 * every * part))
    walls, cpus, pauses, plain = [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        for pair in range(pairs):
            found: dict[bool, Timed] = {}
            for is_on in (False, True) if pair % 2 else (True, False):
                place = Path(name) / f"{pair}-{is_on}"
                found[is_on] = learned(setting, steps, steps // 2 if is_on else None, place)
            walls.append(found[True].wall_s / found[False].wall_s - 1)
            cpus.append(found[True].cpu_s / found[False].cpu_s - 1)
            pauses += found[True].pauses_s
            plain.append(found[False].wall_s / steps)
    pause_s, interval_s = statistics.mean(pauses), statistics.median(plain) * every
    return {
        "setting": setting.name,
        "interval_steps": every,
        "pairs": pairs,
        "steps": steps,
        "share_wall": f"{statistics.median(walls) / (1 / part if part < 1 else 1):.4f}",
        "share_cpu": f"{statistics.median(cpus) / (1 / part if part < 1 else 1):.4f}",
        "pause_s": f"{pause_s:.3f}",
        "interval_s": f"{interval_s:.1f}",
        "direct": f"{pause_s / interval_s:.4f}",
        "goal": GOAL,
    }


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--part", type=float, default=1.0, help="of an interval that is learned")
    parser.add_argument("--only", default="", help="settings whose name holds this")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for setting in SETTINGS:
        if given.only.lower() in setting.name.lower():
            rows.append(compared(setting, given.pairs, given.part))
            print(rows[-1], flush=True)
    if given.out is None and given.part == 1.0 and not given.only:
        given.out = RESULTS
    if given.out is not None:
        head = [
            f"# python benchmarks/checkpoints.py --pairs {given.pairs} --part {given.part}",
            f"# {', '.join(f'{name} {version(name)}' for name in PACKAGES)}",
            f"# {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        ]
        with given.out.open("w", newline="") as file:
            file.write("\n".join(head) + "\n")
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
