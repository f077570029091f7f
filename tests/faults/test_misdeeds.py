"""What environments do beside stepping: each said by its name, and nothing of it left behind.

Real processes of the command line: with the environment in the process of the command, in workers
of ``--jobs 2`` and in a pool's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from holdfast.envs.processes.escapes import without_controls

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are watched on Linux")

WORLD = """
import ctypes
import os
import subprocess
import sys
import threading
import time

from gymnasium.envs.classic_control import CartPoleEnv

IN_A_POOL = sys.argv[0].endswith("worker.py")


class Odd(CartPoleEnv):
    def __init__(self, what="nothing", pool=False):
        super().__init__()
        self.what, self.count, self.is_ready = what, 0, IN_A_POOL or not pool

    def step(self, action):
        self.count += self.is_ready
        if self.count == 10:
            getattr(self, self.what)()
        return super().step(action)

    def nothing(self):
        pass

    def exits(self):
        os._exit(0)

    def leaves(self):
        sys.exit(0)

    def goes(self):
        os.chdir("/")

    def escapes(self):
        print("\\x1b[2J gone")
        sys.stderr.write("\\x1b]0;mine\\x07 gone\\n")

    def closes_one(self):
        os.close(1)

    def closes(self):
        os.closerange(0, 256)

    def forks(self):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(603)
            os._exit(0)

    def clones(self):
        os.fork()

    def starts(self):
        subprocess.Popen(["sleep", "604"], start_new_session=True)

    def threads(self):
        threading.Thread(target=time.sleep, args=(605,)).start()

    def crashes(self):
        ctypes.string_at(0)
"""
SCENARIO = """
tasks: [{name: a, env: "odd:Odd", steps: 32}]
agent: {algorithm: ppo, n_steps: 32, batch_size: 32, n_epochs: 1}
evaluation: {episodes: 1}
"""


class Row(NamedTuple):
    """What comes of a misdeed.

    Attributes:
        code: Exit code with the environment in the process of the command.
        text: Part of what is told.
        in_a_pool: Whether it ends a pool's worker.
    """

    code: int
    text: str = ""
    in_a_pool: bool = False


ROWS = {
    "nothing": Row(0),
    "exits": Row(3, "ended by itself (exit code 0); perhaps an environment calls os._exit", True),
    "leaves": Row(3, "SystemExit: 0", True),
    "goes": Row(0),
    "escapes": Row(0),
    "closes_one": Row(3, "closed file descriptors that are not its own: 1"),
    "closes": Row(3, "closed file descriptors that are not its own: 0 1 2 and Holdfast's", True),
    "forks": Row(0),
    "clones": Row(0),
    "starts": Row(0),
    "threads": Row(0),
    "crashes": Row(139, "died of SIGSEGV", True),
}


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(tmp_path: Path):
    (tmp_path / "odd.py").write_text(WORLD)
    (tmp_path / "odd.yaml").write_text(SCENARIO)

    def run(*arguments: str) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "holdfast", "run", "odd.yaml", *arguments],
            cwd=tmp_path,
            capture_output=True,
            timeout=400,
            check=False,
            env=os.environ | {"HOLDFAST_TEST": str(tmp_path)},
        )
        for shown in (done.stdout, done.stderr):
            assert without_controls(shown) == shown
        assert left_of(tmp_path) == []
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


def left_of(folder: Path) -> list[str]:
    """Return the commands of processes that a run in this folder has left."""
    wanted, found = f"HOLDFAST_TEST={folder}".encode(), []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (path / "environ").read_bytes().split(b"\0"):
                found.append((path / "cmdline").read_text())
        except OSError:
            continue
    return found


def info(cell: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((cell / "run.json").read_text())
    return found


def check_folder(cell: Path, row: Row) -> None:
    """The folder says how its cell ended, in its own place, and its log has no power."""
    assert info(cell)["status"] == ("failed" if row.code else "finished")
    assert row.text in (info(cell)["reason"] or "")
    log = (cell / "log.txt").read_bytes()
    assert without_controls(log) == log
    if not row.code:
        scores = (cell / "scores.jsonl").read_text().splitlines()
        assert [json.loads(line)["stage"] for line in scores] == [0, 1]  # and no copy's


@pytest.mark.slow
@pytest.mark.parametrize("what", ["exits", "closes", "clones", "forks", "threads", "escapes"])
def test_in_the_process_of_the_command(tmp_path: Path, run, what: str) -> None:
    row = ROWS[what]
    ran = run(f"tasks.a.kwargs.what={what}", "--retries", "0")
    assert ran.code == row.code, ran.err
    assert row.text in ran.err
    assert ("task 'a'" in ran.err) == bool(row.code)
    check_folder(tmp_path / "runs" / "odd" / "naive" / "seed-0", row)


@pytest.mark.slow
def test_in_workers_of_several_jobs(tmp_path: Path, run) -> None:
    swept = f"sweep={{tasks.a.kwargs.what: [{', '.join(ROWS)}]}}"
    ran = run(swept, "--jobs", "2", "--retries", "0")
    assert ran.code == 3
    for what, row in ROWS.items():
        cell = f"naive-what={what}/seed-0"
        if row.code:
            line = next(line for line in ran.err.splitlines() if f"failed: {cell}:" in line)
            place = ran.err.index(line)
            assert row.text in ran.err[place:]
        check_folder(tmp_path / "runs" / "odd" / cell, row)
    assert "task 'a'" in ran.err


@pytest.mark.slow
@pytest.mark.parametrize("what", ["exits", "closes", "forks", "goes"])
def test_in_workers_of_a_pool(tmp_path: Path, run, what: str) -> None:
    row = ROWS[what]
    keys = f"tasks.a.kwargs={{what: {what}, pool: true}}", "pool={workers: 1, restarts: 0}"
    ran = run(*keys, "--retries", "0")
    cell = tmp_path / "runs" / "odd" / "naive" / "seed-0"
    if not row.in_a_pool:
        assert ran.code == 0, ran.err
        assert info(cell)["status"] == "finished"
        return
    assert ran.code == 3
    assert "task 'a', environment 0" in ran.err
    assert info(cell)["status"] == "failed"
