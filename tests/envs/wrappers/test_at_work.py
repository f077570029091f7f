"""What environments do to the process that they are in, seen and undone."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from holdfast.envs.wrappers.at_work import BYTES, AtWork, read

SCRIPT = """
import fcntl, os, sys, time
from pathlib import Path
import gymnasium as gym
import numpy as np
from holdfast.envs.wrappers.at_work import AT_WORK
from holdfast.envs.wrappers.guard import Guard
from holdfast.errors import EnvironmentFailed

class Odd(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)
    count = 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {{}}

    def step(self, action):
        self.count += 1
        if self.count == 3:
            self.act()
        return np.zeros(2, np.float32), 0.0, False, self.count % 5 == 0, {{}}

    def act(self):
        {act}

lock = os.open("lock", os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
env = Guard(Odd(), "a")
said = ""
with AT_WORK.guests(), AT_WORK.keeping(lock):
    try:
        for _ in range(2):
            env.reset()
            for _ in range(5):
                env.step(0)
            with open("record", "a") as file:
                file.write(f"{{os.getpid()}}\\n")
    except EnvironmentFailed as error:
        said = str(error)
print(said, os.getcwd() == sys.argv[1], flush=True)
os.closerange(lock, lock + 1)
again = os.open("lock", os.O_RDWR)
for _ in range(200):
    try:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nothing that was forked holds it
        sys.exit()
    except BlockingIOError:  # a child that has not had its turn yet
        time.sleep(0.05)
sys.exit("held")
"""
FORKS = """
        if os.fork() == 0:
            os.setsid()
            os.closerange(0, 3)  # whoever reads them waits for the last who holds them
            Path("child").write_text(str(os.getpid()))
            time.sleep(60)
            os._exit(0)
"""


def done_by(folder: Path, act: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(act=act.strip()), str(folder)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_folder_that_was_left_is_come_back_to(tmp_path: Path) -> None:
    assert done_by(tmp_path, "os.chdir('/')") == " True\n"


@pytest.mark.parametrize(
    ("act", "said"),
    [
        ("os.close(2)", "2"),
        ("os.close(lock)", "and Holdfast's own"),
        ("os.close(lock); os.open('/dev/null', os.O_RDONLY)", "and Holdfast's own"),
        ("os.close(0); os.close(2); os.close(lock)", "0 2 and Holdfast's own"),
    ],
)
def test_what_was_closed_is_told_before_its_place_is_taken(
    tmp_path: Path, act: str, said: str
) -> None:
    text = "task 'a', step 5: the environment has closed file descriptors that are not its own"
    assert done_by(tmp_path, act) == f"{text}: {said} True\n"
    assert not (tmp_path / "record").exists()


def test_an_output_may_be_led_elsewhere(tmp_path: Path) -> None:
    act = "os.dup2(os.open('elsewhere', os.O_WRONLY | os.O_CREAT), 2)"
    assert done_by(tmp_path, act) == " True\n"


def test_a_child_that_comes_back_ends_and_records_nothing(tmp_path: Path) -> None:
    assert done_by(tmp_path, "os.fork()") == " True\n"
    first, second = (tmp_path / "record").read_text().splitlines()
    assert first == second


def test_a_child_that_stays_holds_no_lock(tmp_path: Path) -> None:
    assert done_by(tmp_path, FORKS.strip()) == " True\n"
    child, until = tmp_path / "child", time.monotonic() + 30
    while not (child.exists() and child.read_text()):  # it may come to that after its parent's end
        assert time.monotonic() < until
        time.sleep(0.01)
    subprocess.run(["kill", child.read_text()], check=False)


def test_a_note_is_cut_and_read_back() -> None:
    note, at_work = bytearray(BYTES), AtWork()
    at_work.share(memoryview(note))
    assert (read(note), read(note, of_folder=True)) == ("", "")
    with at_work.cell("runs/größe/naive/seed-0"):
        at_work.enter("ä" * 2000)
        assert set(read(note)) <= {"ä", "\ufffd"}
        at_work.enter("task 'a' (Odd)")
        assert read(note) == "task 'a' (Odd)"
        assert read(note, of_folder=True) == "runs/größe/naive/seed-0"
    assert read(note, of_folder=True) == ""
