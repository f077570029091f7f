"""Kills of cold processes: a cell is killed at a moment, run again, and so on until it is done.

What it leaves must then equal the run that was never killed: scores byte for byte, the last
checkpoint tensor for tensor. No run may begin before the newest checkpoint that another has left.
"""

from __future__ import annotations

import json
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from soak import cells
from soak.lanes import Ended
from soak.victim import MOMENTS

LIMIT_S = 300.0
VICTIM = Path(__file__).with_name("victim.py")


class Chain:
    """One cell, killed again and again.

    Args:
        name: Of the cell.
        rng: Chooses when it dies.
        folder: An empty folder.
    """

    def __init__(self, name: str, rng: random.Random, folder: Path) -> None:
        self.name, self.rng, self.folder = name, rng, folder
        self.scenario = cells.write(name, folder)
        counted = self._start("count", 0, "straight")
        if counted.returncode:
            raise RuntimeError(f"{name} does not run at all:\n{counted.stderr}")
        self.counts: dict[str, int] = json.loads(counted.stdout.splitlines()[-1])
        self.expected = cells.result(cells.cell_of(folder / "straight"))
        self.runs = 0

    def _start(self, moment: str, nth: int, runs: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(VICTIM), moment, str(nth), self.scenario.name, runs]
        return subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )

    def kills(self, moments: Iterator[str]) -> Iterator[tuple[str, str]]:
        """Kill runs of the cell until one of them ends; yield each moment and what was wrong."""
        runs = f"killed-{self.runs}"
        self.runs += 1
        while True:
            moment = next(moments)
            nth = self.rng.randint(1, max(1, self.counts[moment] // 3))
            before = self._position(runs)
            (self.folder / "began.json").unlink(missing_ok=True)
            ended = self._start(moment, nth, runs)
            if ended.returncode == 0:
                yield "", self._difference(runs)
                return
            if ended.returncode != -signal.SIGKILL:
                yield moment, f"exit {ended.returncode}: {ended.stderr[-3000:]}"
                return
            yield moment, self._lost(before)

    def _position(self, runs: str) -> tuple[int, int]:
        found = list((self.folder / runs).glob("*/*/seed-*"))
        return cells.position(found[0]) if found else (0, 0)

    def _lost(self, before: tuple[int, int]) -> str:
        """Return what is wrong with where the run that was just killed began."""
        file = self.folder / "began.json"
        if not file.exists():
            return ""  # it died before its first step
        stage, step = json.loads(file.read_text("utf-8"))
        return "" if (stage, step) > before else f"began at {(stage, step)}, saved was {before}"

    def _difference(self, runs: str) -> str:
        found = cells.result(cells.cell_of(self.folder / runs))
        names = found.keys() | self.expected.keys()
        unequal = [name for name in sorted(names) if found.get(name) != self.expected.get(name)]
        return f"differs from the run that was never killed: {unequal}" if unequal else ""


def run(cases_: range, lanes: int, names: tuple[str, ...] = tuple(cells.CELLS)) -> Iterator[Ended]:
    """Kill as many processes as there are cases; yield how each kill and each chain of them ended.

    Args:
        cases_: How many, and the number that chance begins with.
        lanes: Cells that are killed side by side.
        names: The cells.
    """
    found: queue.Queue[Ended | None] = queue.Queue()
    shares = [names[lane::lanes] for lane in range(min(lanes, len(names)))]
    count = -(-len(cases_) // len(shares))

    def work(lane: int) -> None:
        try:
            for ended in _killed(count, f"kills {cases_.start} {lane}", shares[lane]):
                found.put(ended)
        except Exception as error:  # a cell that does not run at all, say
            found.put(Ended(lane, "raised", repr(error)))
        finally:
            found.put(None)

    for lane in range(len(shares)):
        threading.Thread(target=work, args=(lane,)).start()
    left = len(shares)
    while left:
        ended = found.get()
        left -= ended is None
        if ended is not None:
            yield ended


def _killed(count: int, seed: str, names: Sequence[str]) -> Iterator[Ended]:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="soak-kills-") as folder:
        chains = [Chain(name, rng, Path(folder) / name) for name in names]
        killed, turn = 0, _turns(rng)
        while killed < count:
            chain = chains[rng.randrange(len(chains))]
            for moment, wrong in chain.kills(turn):
                killed += bool(moment)
                word = "differs" if wrong else f"killed at {moment}" if moment else "equal"
                yield Ended(killed, word, f"{chain.name}: {wrong}" if wrong else "")


def _turns(rng: random.Random) -> Iterator[str]:
    """Yield every moment equally often, in an order of chance."""
    while True:
        yield from rng.sample(MOMENTS, len(MOMENTS))


# -- a long task -----------------------------------------------------------------------------------

LONG = {
    "name": "long",
    "tasks": [{"name": "long", "env": "CartPole-v1", "steps": 1_000_000}],
    "n_envs": 8,
    "agent": {"algorithm": "ppo", "n_steps": 128, "batch_size": 256, "n_epochs": 4},
    "evaluation": {"every": 250_000, "episodes": 2},
}


def long_task(cases_: range, every_s: float = 60.0) -> Iterator[Ended]:
    """Learn a long task straight, and beside it killed every minute; both must end equal.

    Args:
        cases_: Seeds, one after another.
        every_s: Seconds between kills.
    """
    for seed in cases_:
        yield _one_long(seed, every_s)


def _one_long(seed: int, every_s: float) -> Ended:
    with tempfile.TemporaryDirectory(prefix="soak-long-") as made:
        folder = Path(made)
        (folder / "long.yaml").write_text(yaml.safe_dump({**LONG, "seeds": [seed]}), "utf-8")
        command = [sys.executable, "-m", "holdfast", "run", "long.yaml", "--runs"]
        began, kills = time.monotonic(), 0
        with subprocess.Popen([*command, "straight"], cwd=folder, stdout=subprocess.DEVNULL) as one:
            while (code := _timed([*command, "killed"], folder, every_s)) is None:
                kills += 1
            one.wait()
        both = [cells.result(cells.cell_of(folder / name)) for name in ("straight", "killed")]
        word = "equal" if code == 0 and both[0] == both[1] else "differs"
        return Ended(seed, word, f"exit {code} after {kills} kills", time.monotonic() - began)


def _timed(command: list[str], folder: Path, limit_s: float) -> int | None:
    """Return a command's exit status; None where it was killed after ``limit_s``."""
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return None
