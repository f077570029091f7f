"""Measure `--dry-run` and a short run of every shipped scenario, as CSV.

python benchmarks/shipped.py > benchmarks/results/shipped.csv
python benchmarks/shipped.py cw10 reach  # these alone

The run is that of tests/scenarios/test_shipped_runs.py: all methods, one seed, two tasks of 64
steps with evaluation episodes of 16, on the real simulator, and its report. Processor time stands
beside wall time: on a machine that does other work it is the one to compare. Both hold the imports.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUN = """
import sys
from pathlib import Path
from shipped_cuts import cut, with_partners
import holdfast
from holdfast.continual.reports.report import report
name, runs = sys.argv[1], Path(sys.argv[2])
scenario = cut(name)
holdfast.run(scenario, runs=runs)
if name == "partners":
    scenario = with_partners(name, runs)
    holdfast.run(scenario, runs=runs)
report(runs / scenario.name)
"""


def main(names: list[str]) -> None:
    """Print a header, then a line for each scenario as it is measured."""
    from holdfast.scenarios.shipped import shipped

    print("# python benchmarks/shipped.py")
    print(f"# {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f} at the start")
    print("scenario,dry run s,dry run cpu s,dry run exit,run s,run cpu s,run exit", flush=True)
    for name in names or list(shipped()):
        with tempfile.TemporaryDirectory() as runs:
            without = [f"tasks[{index}].partners={{}}" for index in range(3)]
            own = without if name == "partners" else []  # its partners are runs to be made first
            given = [name, *own, "--dry-run", "--runs", runs]
            dry = measured(["-m", "holdfast", "run", *given])
            run = measured(["-c", RUN, name, runs])
        print(",".join([name, *dry, *run]), flush=True)


def measured(command: list[str]) -> tuple[str, str, str]:
    """Return wall time, processor time and exit code of a Python process and its children."""
    path = os.pathsep.join([str(ROOT / "tests" / "helpers"), os.environ.get("PYTHONPATH", "")])
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    wall_s, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return f"{wall_s:.1f}", f"{cpu_s:.1f}", str(done.returncode)


if __name__ == "__main__":
    main(sys.argv[1:])
