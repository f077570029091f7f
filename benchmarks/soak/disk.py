"""A disk that runs full, and two processes on one folder.

The disk is a small tmpfs in a mount namespace of its own, which needs user namespaces and no other
right. The run must say that the disk is full, and go on once there is room, to the same result.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from soak import cells
from soak.lanes import Ended

LIMIT_S = 300.0
RUN = [sys.executable, "-m", "holdfast", "run"]

# $1: kilobytes; the rest: the command. Its exit status, a blank line, and then that of the second
# time are printed, between what it says.
SCRIPT = """
set -u
size=$1; shift
mkdir -p small
mount -t tmpfs -o size=${size}k tmpfs small
"$@" > first.txt 2>&1; echo $? > first.code
mount -o remount,size=500m small
"$@" > second.txt 2>&1; echo $? > second.code
cp -r small/runs after
"""


def can_mount() -> bool:
    """Return whether this machine lets a user mount a tmpfs of their own."""
    tried = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)  # noqa: S607
    return tried.returncode == 0


def _straight(folder: Path, name: str) -> dict[str, str]:
    command = [*RUN, f"{name}.yaml", "--runs", "straight"]
    subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=LIMIT_S)
    return cells.result(cells.cell_of(folder / "straight"))


def full_disk(numbers: range, name: str = "ppo") -> Iterator[Ended]:
    """Run a cell on disks of several sizes that are too small, then go on with room."""
    with tempfile.TemporaryDirectory(prefix="soak-disk-") as made:
        folder = Path(made)
        cells.write(name, folder)
        expected = _straight(folder, name)
        used_kb = sum(p.stat().st_size for p in (folder / "straight").rglob("*")) // 1024
        for case in numbers:
            size = random.Random(f"disk {case}").randint(8, max(9, used_kb))
            yield _one_disk(folder / f"case-{case}", name, case, size, expected)


def _one_disk(folder: Path, name: str, case: int, size: int, expected: dict[str, str]) -> Ended:
    cells.write(name, folder)
    command = [*RUN, f"{name}.yaml", "--runs", "small/runs", "--retries", "0"]
    script = ["unshare", "-rm", "sh", "-c", SCRIPT, "sh", str(size), *command]
    subprocess.run(script, cwd=folder, check=True, timeout=2 * LIMIT_S)
    said, code = (folder / "first.txt").read_text("utf-8"), _code(folder / "first.code")
    if "Traceback" in said or (code and "full" not in said and "No space" not in said):
        return Ended(case, "unclear", f"{size} kB, exit {code}: {said[-1500:]}")
    if _code(folder / "second.code"):
        return Ended(
            case, "stuck", f"{size} kB: {(folder / 'second.txt').read_text('utf-8')[-1500:]}"
        )
    found = cells.result(cells.cell_of(folder / "after"))
    word = "equal" if found == expected else "differs"
    return Ended(case, word if code else "fitted", f"{size} kB")


def _code(file: Path) -> int:
    return int(file.read_text("utf-8"))


def two_processes(numbers: range, name: str = "ppo") -> Iterator[Ended]:
    """Start one cell twice at once: one runs it, the other leaves it and says so."""
    with tempfile.TemporaryDirectory(prefix="soak-two-") as made:
        folder = Path(made)
        cells.write(name, folder)
        expected = _straight(folder, name)
        for case in numbers:
            command = [*RUN, f"{name}.yaml", "--runs", f"both-{case}"]
            both = [
                subprocess.Popen(
                    command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
                )
                for _ in range(2)
            ]
            said = [process.communicate(timeout=LIMIT_S)[0] for process in both]
            codes = sorted(process.returncode for process in both)
            found = cells.result(cells.cell_of(folder / f"both-{case}"))
            # The slower one may come when all is finished, and has nothing left to do.
            fine = codes in ([0, 6], [0, 0]) and found == expected
            yield Ended(
                case, "equal" if fine else "differs", "" if fine else json.dumps([codes, said])
            )
