"""A report's numbers are those of Continual World's formulas, which are worked out here.

Source: Wolczyk et al. 2021 (arXiv:2105.10919), section 4.2, and how their tables are made:
performance at the end is the mean of the last five of a task's fifty evaluations, of all tasks and
then of all seeds; forward transfer is a ratio of means over seeds for each task, and then the mean
of the tasks.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.reports.report import report
from holdfast.continual.reports.summary import MethodSummary
from holdfast.continual.run_folder.record import RunFolder
from holdfast.scenarios.schema.scenario import Scenario

EVERY = 10
EXACT = {"rel": 0, "abs": 1e-12}


def write(
    runs: Path, cells: dict[tuple[str, int], np.ndarray], order: Sequence[int], points: int
) -> Path:
    """Write finished cells, whose curves have the shape (points of all stages + 1, tasks)."""
    tasks = max(order) + 1
    steps = EVERY * points
    scenario = Scenario.model_validate(
        {
            "name": "study",
            "tasks": [
                {"name": f"task-{i}", "env": "CartPole-v1", "steps": steps} for i in range(tasks)
            ],
            "stream": {"order": [f"task-{i}" for i in order]},
            "agent": {"algorithm": "ppo"},
            "methods": list(dict.fromkeys(method for method, _ in cells)),
            "seeds": sorted({seed for _, seed in cells}),
            "evaluation": {"every": EVERY, "episodes": 1},
            "score": {"random": 0.0, "reference": 1.0},
        }
    )
    for folder in prepare(runs, scenario):
        if (folder.label, folder.seed) in cells:
            fill(folder, cells[folder.label, folder.seed], points)
    return runs / "study"


def fill(folder: RunFolder, values: np.ndarray, points: int) -> None:
    lines = []
    for point, row in enumerate(values.tolist()):
        for task, value in enumerate(row):
            line: dict[str, Any] = {"stage": point // points, "step": point * EVERY}
            line |= {"task": f"task-{task}", "episode": 0, "return": value, "length": 1}
            lines.append(json.dumps(line | {"success": None, "unseen": False}) + "\n")
    (folder.path / "scores.jsonl").write_text("".join(lines), encoding="utf-8")
    folder.update(status="finished")


def curves(order: Sequence[int], points: int, seed: int, low: float = 0.0) -> np.ndarray:
    shape = len(order) * points + 1, max(order) + 1
    return np.random.default_rng([seed, points]).uniform(low, 0.9, shape)


def formulas(
    runs: np.ndarray, references: np.ndarray, order: Sequence[int], points: int, last: int
) -> tuple[float, float, float]:
    """Return average performance, forgetting and forward transfer, as Continual World does.

    Args:
        runs: Shape (seeds, points, tasks).
        references: Shape (their seeds, points, tasks).
        order: The task of each stage.
        points: Of each stage.
        last: How many evaluations are "at the end".
    """
    tasks = max(order) + 1
    performance, forgetting, transfer = [], [], []
    for task in range(tasks):
        first = order.index(task)
        newest = len(order) - 1 - list(reversed(order)).index(task)
        end = runs[:, -last:, task].mean(axis=1)  # (seeds,)
        stop = 1 + (newest + 1) * points
        learned = runs[:, stop - last : stop, task].mean(axis=1)
        performance.append(end)
        forgetting.append(learned - end)
        rows = slice(1 + first * points, 1 + (first + 1) * points)
        own = runs[:, rows, task].mean(axis=1).mean()
        alone = references[:, rows, task].mean(axis=1).mean()
        transfer.append((own - alone) / (1 - alone))
    of_seeds = [np.mean(found, axis=0) for found in (performance, forgetting)]
    return float(of_seeds[0].mean()), float(of_seeds[1].mean()), float(np.mean(transfer))


def reported(folder: Path, label: str) -> MethodSummary:
    (study,) = report(folder).studies
    return next(method for method in study.summary.methods if method.label == label)


def values(method: MethodSummary) -> list[float]:
    names = "average_performance/cw", "forgetting/cw", "forward_transfer/cw"
    return [method.measures[name].estimate.value for name in names]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("order", "points", "last"),
    [
        pytest.param((0, 1, 2), 10, 1, id="window of 1"),
        pytest.param((0, 1, 2), 50, 5, id="window of 5"),
        pytest.param((0, 1, 2), 100, 10, id="window of 10"),
        pytest.param((0, 1, 2, 0, 1, 2), 20, 2, id="repeated tasks"),
        pytest.param((2, 0, 1, 0), 10, 1, id="one repeated task"),
        pytest.param(
            *(tuple(range(20)), 50, 5), id="20 tasks of 50 points", marks=pytest.mark.slow
        ),
    ],
)
def test_random_curves(tmp_path: Path, order: tuple[int, ...], points: int, last: int) -> None:
    seeds = range(5)
    runs = [curves(order, points, seed) for seed in seeds]
    references = [curves(order, points, 100 + seed, low=0.3) for seed in seeds]
    cells = {("naive", seed): runs[seed] for seed in seeds}
    cells |= {("isolated", seed): references[seed] for seed in seeds}
    method = reported(write(tmp_path, cells, order, points), "naive")
    wanted = formulas(np.array(runs), np.array(references), order, points, last)
    assert values(method) == pytest.approx(wanted, **EXACT)
    # What is printed for each seed averages to the same.
    per_seed = [method.measures[n].per_seed.mean() for n in list(method.measures)]
    found = dict(zip(method.measures, per_seed, strict=True))
    assert found["forward_transfer/cw"] == pytest.approx(wanted[2], **EXACT)
    # At the boundaries alone, the same formulas with the last evaluation.
    alone = formulas(np.array(runs), np.array(references), order, points, 1)
    assert found["average_performance/boundary"] == pytest.approx(alone[0], **EXACT)
    assert found["forgetting/boundary"] == pytest.approx(alone[1], **EXACT)


def test_curves_made_by_hand(tmp_path: Path) -> None:
    """Two tasks, ten points each; the second seed learns nothing of the first task."""
    order, points = (0, 1), 10
    rising = np.arange(1, 11) / 10
    first, second = np.zeros((2, 21, 2))
    first[1:11, 0], first[11:, 0] = rising, 0.25
    first[11:, 1] = rising
    second[11:, 1] = 0.5
    alone = np.full((21, 2), 0.5)
    cells = {("naive", 0): first, ("naive", 1): second, ("isolated", 0): alone}
    cells["isolated", 1] = alone
    found = values(reported(write(tmp_path, cells, order, points), "naive"))
    # Seed 0 ends at .25 and 1, seed 1 at 0 and .5; seed 0 had 1 of the first task, seed 1 nothing.
    # Areas: .55 and 0 of the first task, .55 and .5 of the second.
    transfer = (((0.55 + 0) / 2 - 0.5) / 0.5 + ((0.55 + 0.5) / 2 - 0.5) / 0.5) / 2
    assert found == pytest.approx([(0.625 + 0.25) / 2, (0.375 + 0) / 2, transfer], **EXACT)


def test_a_seed_without_reference_counts_and_is_marked(tmp_path: Path) -> None:
    order, points, seeds = (0, 1, 2), 10, range(5)
    runs = [curves(order, points, seed) for seed in seeds]
    references = [curves(order, points, 100 + seed, low=0.3) for seed in (1, 3)]
    cells = {("naive", seed): runs[seed] for seed in seeds}
    cells |= {("isolated", seed): found for seed, found in zip((1, 3), references, strict=True)}
    folder = write(tmp_path, cells, order, points)
    method = reported(folder, "naive")
    wanted = formulas(np.array(runs), np.array(references), order, points, 1)
    assert values(method) == pytest.approx(wanted, **EXACT)
    assert method.without_reference == (0, 2, 4)
    text = (folder / "report.md").read_text("utf-8")
    assert "(reference of 2 of 5)" in text
    assert "Seeds without a single-task reference of their own: naive 0, 2, 4." in text
    with (folder / "report.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["statistic"] == "no reference"]
    assert [(row["method"], row["seed"]) for row in rows] == [("naive", seed) for seed in "024"]


def test_one_reference_near_one_decides_nothing(tmp_path: Path) -> None:
    """Areas of both sides are alike on average; the mean of a ratio per seed would be -1.2."""
    order, points = (0, 1), 10
    own, alone = np.array([0.9, 0.8, 0.9, 0.8, 0.85]), np.array([0.8, 0.85, 0.9, 0.72, 0.98])
    cells = {("naive", seed): np.full((21, 2), own[seed]) for seed in range(5)}
    cells |= {("isolated", seed): np.full((21, 2), alone[seed]) for seed in range(5)}
    per_seed = (own - alone) / (1 - alone)
    assert per_seed.mean() < -1.2
    method = reported(write(tmp_path, cells, order, points), "naive")
    assert values(method)[2] == pytest.approx((0.85 - 0.85) / 0.15, **EXACT)


def test_forgotten_tasks_are_not_trimmed(tmp_path: Path) -> None:
    """Two of ten tasks end at zero in all of five seeds: the mean is .8, the trimmed one was 1."""
    order, points = tuple(range(10)), 1
    run = np.zeros((11, 10))
    for stage in order:
        run[stage + 1 :, stage] = 1.0
    run[-1, :2] = 0.0
    cells = {("naive", seed): run for seed in range(5)}
    method = reported(write(tmp_path, cells, order, points), "naive")
    for name, wanted in (("average_performance/cw", 0.8), ("forgetting/cw", 0.2)):
        measure = method.measures[name]
        assert measure.estimate.value == pytest.approx(wanted, **EXACT)
        assert measure.middle.value == pytest.approx(wanted, **EXACT)


@pytest.mark.parametrize(("points", "says"), [(1, True), (2, False), (8, False)])
def test_only_a_task_that_was_measured_once_is_said_to_be(
    tmp_path: Path, points: int, says: bool
) -> None:
    """Also where the window is one point, of eight."""
    order = (0, 1)
    cells = {("naive", seed): curves(order, points, seed) for seed in range(2)}
    folder = write(tmp_path, cells, order, points)
    report(folder)
    shown = (folder / "report.md").read_text("utf-8")
    assert ("A task was measured once" in shown) is says
