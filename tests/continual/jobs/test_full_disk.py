"""Disks that are full or may only be read: real ones, small, in a namespace of their own.

No privilege is needed where the system lets users have such namespaces; elsewhere these tests are
skipped, with that as the reason. CI's machines let them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ALONE = ["unshare", "--map-root-user", "--mount", "sh", "-ec"]
WORLD = """
from pathlib import Path
from gymnasium.envs.classic_control import CartPoleEnv

class Filling(CartPoleEnv):
    def __init__(self, fills=False):
        super().__init__()
        self.fills = fills

    def step(self, action):
        filler = Path("runs/filler")
        if self.fills and not Path("emptied").exists() and not filler.exists():
            with filler.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(512))
                except OSError:
                    pass
        return super().step(action)
"""
SCENARIO = """
tasks:
  - {name: a, env: "filling:Filling", steps: 32}
  - {name: b, env: "filling:Filling", steps: 32, kwargs: {fills: true}}
agent: {algorithm: ppo, n_steps: 32, batch_size: 32, n_epochs: 1}
evaluation: {episodes: 1}
"""


@cache
def _is_allowed() -> bool:
    try:
        mount = [*ALONE, "mount -t tmpfs -o size=64k none /mnt"]
        return subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def alone(tmp_path: Path):
    """Run shell lines where ``runs`` is a disk of a few kilobytes; return what they printed."""
    if not _is_allowed():
        pytest.skip("this system gives users no mount namespace (unshare --map-root-user --mount)")
    (tmp_path / "runs").mkdir()

    def alone(size: str, *lines: str, within_s: float = 60) -> subprocess.CompletedProcess[str]:
        mounted = [f"mount -t tmpfs -o size={size} none runs", *lines]
        return subprocess.run(
            [*ALONE, "\n".join(mounted)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )

    return alone


NOTES = """
import sys
from pathlib import Path
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import FolderUnwritable

folder = RunFolder(Path("runs"))
with folder.lock() as left:
    assert left == "", left
    folder.update(status="running")
    with open("runs/filler", "wb", buffering=0) as file:
        try:
            while file.write(bytes(512)):
                pass
        except OSError:
            pass
    try:
        folder.note("failed", "the arm is stuck")
    except OSError as error:
        print(FolderUnwritable.of(error))
assert folder.info() == {"status": "running"}
with folder.lock() as left:
    print(left)
with folder.lock() as left:
    assert left == "", left
"""


@pytest.mark.thorough
def test_what_a_full_disk_keeps_from_run_json_the_next_one_finds(tmp_path: Path, alone) -> None:
    (tmp_path / "notes.py").write_text(NOTES)
    done = alone("64k", f"{sys.executable} notes.py")
    assert done.returncode == 0, done.stderr
    full, left = done.stdout.splitlines()
    assert full.startswith("runs/.run.tmp-")
    assert "no space is left on the disk" in full
    assert left == "the arm is stuck"


PREPARES = """
import sys
import typer
from pathlib import Path
from holdfast.continual.jobs.run_folders import prepare
from holdfast.printing import errors_told
from holdfast.scenarios.load import load

try:
    with errors_told():
        prepare(Path("runs"), load("quickstart"))
except typer.Exit as ended:
    sys.exit(ended.exit_code)
"""


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("size", "before", "said"),
    [
        ("64k", "mount -o remount,ro runs", "its file system is read-only (Read-only file system)"),
        ("64k,nr_inodes=2", "true", "no space is left on the disk"),
        ("4k,nr_inodes=9", "head -c 4k /dev/zero > runs/filler", "no space is left on the disk"),
    ],
)
def test_a_disk_that_cannot_be_written_is_told_before_anything_runs(
    tmp_path: Path, alone, size: str, before: str, said: str
) -> None:
    (tmp_path / "prepares.py").write_text(PREPARES)
    done = alone(size, before, f"{sys.executable} prepares.py")
    assert done.stderr.startswith("error: runs/quickstart"), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 5
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.slow
def test_a_run_on_a_full_disk_says_so_and_goes_on_when_there_is_room(tmp_path: Path, alone) -> None:
    (tmp_path / "filling.py").write_text(WORLD)
    (tmp_path / "filling.yaml").write_text(SCENARIO)
    run = f"{sys.executable} -m holdfast run filling.yaml"
    done = alone(
        "1m",
        f"{run} || echo code $?",
        "cat runs/filling/naive/seed-0/run.json > first.json",
        "touch emptied; rm runs/filler",
        f"{run}; echo code $?",
        "cat runs/filling/naive/seed-0/run.json > second.json",
        within_s=200,
    )
    assert [line for line in done.stdout.splitlines() if line.startswith("code")] == [
        "code 5",
        "code 0",
    ], done.stderr
    assert "no space is left on the disk" in done.stderr
    assert "free some space, and the same command continues" in done.stderr
    assert json.loads((tmp_path / "first.json").read_text())["status"] in ("failed", "running")
    second = json.loads((tmp_path / "second.json").read_text())
    assert second["status"] == "finished"
    (failure,) = second["failures"]
    assert "no space is left on the disk" in failure["reason"]


@pytest.mark.slow
def test_a_run_on_a_read_only_disk_is_refused(tmp_path: Path, alone) -> None:
    run = f"{sys.executable} -m holdfast run quickstart"
    done = alone("1m", "mount -o remount,ro runs", f"{run} || echo code $?", within_s=200)
    assert done.stdout.splitlines()[-1] == "code 5"
    assert "read-only" in done.stderr
    assert "Traceback" not in done.stderr


LIMITED = """
import resource, sys, warnings
from pathlib import Path
from holdfast.continual.training.tensorboard import TensorBoard

with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    board = TensorBoard(Path("tb"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    for step in range(500):
        board.scalars({"a": 1.0}, step)
    board.flush()
    board.close()
print(*(str(one.message) for one in told if "TensorBoard" in str(one.message)), sep="\\n")
"""


@pytest.mark.thorough
def test_a_view_that_cannot_be_written_ends_and_training_does_not(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("TensorBoard's view of this run ends here, as tb cannot be written")
    assert "File too large" in line
