"""How long a report takes, and how much memory, on run folders that are made up.

python benchmarks/report.py > benchmarks/results/report.csv

10 methods x 10 seeds x 10 tasks x 50 evaluation points of 5 episodes, by the command itself.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from study import write_study  # noqa: E402  # of the tests


def main() -> None:
    """Print wall and processor time of ``holdfast report``, and its peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        study = write_study(Path(folder))
        command = [sys.executable, "-m", "holdfast", "report", str(study)]
        start = time.monotonic()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        wall_s = time.monotonic() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print("# python benchmarks/report.py")
    print("wall_s,cpu_s,peak_memory_bytes")
    print(f"{wall_s:.1f},{used.ru_utime + used.ru_stime:.1f},{used.ru_maxrss * 1024}")


if __name__ == "__main__":
    main()
