"""A report on 10 methods x 10 seeds x 10 tasks x 50 evaluation points: time and memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from study import write_study

# The peak of its own memory: the kernel's usage counts that of the process which started it, too.
MEASURED = """
import json, re, sys, time
from pathlib import Path
from holdfast.continual.reports.report import report
made = report(Path(sys.argv[1]))
peak_kb = re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]
found = {"cpu_s": time.process_time(), "peak_bytes": int(peak_kb) * 1024, "files": made.files}
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_large_study_is_reported_in_ten_seconds_and_a_gigabyte(tmp_path: Path) -> None:
    """Processor time, because other work on the machine makes no part of it."""
    folder = write_study(tmp_path)
    command = [sys.executable, "-c", MEASURED, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["cpu_s"] < 10
    assert found["peak_bytes"] < 1e9
    assert (folder / "report-points.csv").read_text().count("\n") == 1 + 100 * 51 * 10


def test_a_small_study_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither scenarios that differ in the seed alone, nor references, are read again."""
    from holdfast.continual.results.study import gather
    from holdfast.continual.run_folder import record

    folder = write_study(tmp_path, methods=3, seeds=3, tasks=2, points=4, episodes=2)
    scenarios, scores = [], []
    read, of_cell = record.load_resolved, record.RunFolder.scores

    def load(path: Path, **keys: object) -> object:
        scenarios.append(path)
        return read(path, **keys)  # type: ignore[arg-type]  # as given

    def counted(self: record.RunFolder) -> object:
        scores.append(self.path)
        return of_cell(self)

    monkeypatch.setattr(record, "load_resolved", load)
    monkeypatch.setattr(record.RunFolder, "scores", counted)
    results = gather(folder)
    assert len(scenarios) == 3
    assert len(scores) == 9
    cells = [cell for method in results.methods for cell in method.cells]
    assert [cell.folder.seed for cell in cells] == [0, 1, 2] * 3
    assert all(list(cell.references) == [0, 1, 2] for cell in cells)
