from pathlib import Path

import pytest

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.run_folder.record import RunFolder

# Mean returns of (left, right) at the start, after left, after right.
CURVES = {
    ("naive", 0): [(0, 0), (90, 10), (30, 70)],
    ("naive", 1): [(0, 0), (80, 10), (40, 90)],
    ("ewc", 0): [(0, 0), (90, 10), (85, 75)],
    ("ewc", 1): [(0, 0), (90, 10), (95, 85)],
    ("isolated", 0): [(0, 0), (80, 10), (30, 60)],
    ("isolated", 1): [(0, 0), (80, 10), (30, 80)],
}


@pytest.fixture
def finish(make_scores):
    def fill(folder: RunFolder, points: list[tuple[float, float]] | None = None) -> None:
        points = points or CURVES[folder.label, folder.seed]
        for stage, (left, right) in enumerate(points):
            folder.append(make_scores(stage, 10 * stage, left=left, right=right))
        folder.update(
            status="finished",
            wall_s=100.0 + folder.seed,
            steps_per_s=1234.0,
            parameters=5000,
            stored_bytes=20_000,
            extra_steps=0,
            energy_kwh=0.012,
            versions={"holdfast": "0.1.0"},
            commit="abc",
            host="node",
            cores=2,
            conventions={"ewc": "strength x half the distance"} if folder.label == "ewc" else {},
        )

    return fill


@pytest.fixture
def runs(tmp_path: Path, make_scenario, finish) -> Path:
    scenario = make_scenario(methods=["naive", "ewc", "isolated"], seeds=[0, 1])
    for folder in prepare(tmp_path, scenario):
        finish(folder)
    return tmp_path / "demo"
