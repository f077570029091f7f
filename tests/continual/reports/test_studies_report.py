"""Studies side by side, and what of curves can be chosen: smoothing, success rates, films."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from study import write_study

from holdfast.continual.reports.charts import Curves
from holdfast.continual.reports.figures import smoothed
from holdfast.continual.reports.report import Report, report
from holdfast.continual.results.document import Figure, Figures, Section, Table

SCORE = {"random": 0.0, "reference": 100.0}
SMALL = {"seeds": 2, "tasks": 2, "points": 20, "episodes": 3}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    write_study(runs, methods=3, name="one", score=SCORE, **SMALL)
    write_study(runs, methods=4, name="two", score=SCORE, n_envs=2, **SMALL)
    return runs


@pytest.fixture(scope="module")
def both(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return report(runs / "one", runs / "two", into=tmp_path_factory.mktemp("both"))


def measured(runs: Path, cell: str, key: str) -> np.ndarray:
    """Return the mean of each point and task, shape (points, tasks), by hand."""
    found: dict[tuple[int, str], list[float]] = {}
    for line in (runs / cell / "scores.jsonl").read_text().splitlines():
        row = json.loads(line)
        found.setdefault((row["step"], row["task"]), []).append(row[key])
    steps, names = sorted({step for step, _ in found}), sorted({name for _, name in found})
    return np.array([[np.mean(found[step, name]) for name in names] for step in steps])


def part(made: Report, *titles: str) -> Section:
    sections = made.document.sections
    for title in titles:
        (found,) = (section for section in sections if section.title == title)
        sections = found.sections
    return found


def drawn(section: Section) -> dict[str, Curves]:
    """Return the frames of a section by their titles."""
    figures: list[Figure] = [
        figure for one in section.blocks if isinstance(one, Figures) for figure in one.figures
    ]
    return {figure.title: figure.drawing for figure in figures}  # type: ignore[misc]  # all are


@pytest.mark.thorough
def test_the_table_has_every_method_and_the_numbers_of_both(both: Report, runs: Path) -> None:
    (table,) = part(both, "Side by side", "Metrics").blocks
    assert isinstance(table, Table)
    titles = [cell.text for cell in table.head]
    assert titles[:3] == ["method", "average performance, one", "average performance, two"]
    rows = {row[0].text: row for row in table.rows}
    assert list(rows) == ["naive", "ewc", "isolated", "ewc-strength=1", "ewc-strength=10"]
    with (both.folder / "report.csv").open(newline="") as file:
        numbers = [row for row in csv.DictReader(file) if row["statistic"] == "mean"]
    for column, title in enumerate(titles[1:], start=1):
        metric, study = title.rsplit(", ", 1)
        for label, row in rows.items():
            known = [
                float(one["value"])
                for one in numbers
                if (one["scenario"], one["method"]) == (study, label)
                and one["metric"].startswith(metric.replace(" ", "_") + "/")
                and not one["metric"].endswith("/boundary")
                and not one["task"]
            ]
            shown = [] if row[column].text == "" else [row[column].value]
            assert shown == pytest.approx(known, rel=1e-8), title
    # By hand: the last tenth of 10 points in a task is one point.
    finals = [measured(runs, f"two/naive/seed-{k}", "return")[-1].mean() / 100 for k in range(2)]
    assert rows["naive"][2].value == pytest.approx(np.mean(finals))
    assert "two differs from the first in: -n_envs: 1 +n_envs: 2." in both.markdown


def test_curves_of_shared_methods_are_in_one_frame(both: Report, runs: Path) -> None:
    frames = drawn(part(both, "Side by side", "Curves"))
    assert list(frames) == ["naive: mean of all tasks", "isolated: mean of all tasks"]
    lines = frames["naive: mean of all tasks"].lines
    assert [(line.name, line.index) for line in lines] == [("one", 0), ("two", 1)]
    for line in lines:
        cells = [f"{line.name}/naive/seed-{k}" for k in range(2)]
        by_hand = np.mean([measured(runs, cell, "return").mean(axis=1) / 100 for cell in cells], 0)
        np.testing.assert_allclose(line.y, by_hand)


@pytest.mark.thorough
def test_returns_are_compared_task_by_task(runs: Path, tmp_path: Path) -> None:
    write_study(tmp_path, methods=2, name="raw", score=None, **SMALL)
    made = report(runs / "one", tmp_path / "raw", into=tmp_path)
    frames = drawn(part(made, "Side by side", "Curves"))
    assert list(frames) == [
        f"{method}: task-{k}" for method in ("naive", "isolated") for k in range(2)
    ]
    assert "Units differ" in made.markdown


def test_success_rates_have_curves_where_they_are_no_scores(both: Report, runs: Path) -> None:
    frames = drawn(part(both, "one", "Every task over the stream", "Success rates"))
    assert list(frames) == ["task-0", "task-1"]
    cells = [measured(runs, f"one/naive/seed-{k}", "success") for k in range(2)]
    for task, frame in enumerate(frames.values()):
        assert frame.y == (0, 1)
        assert [span.start for span in frame.spans] == [1000 * task]
        np.testing.assert_allclose(frame.lines[0].y, np.mean(cells, axis=0)[:, task])


def test_success_that_is_the_score_is_drawn_once(tmp_path: Path) -> None:
    folder = write_study(tmp_path, methods=2, **SMALL)
    sections = part(report(folder), "study", "Every task over the stream").sections
    assert [section.title for section in sections] == ["Methods compared"]


def test_smoothing_is_of_curves_alone(both: Report, runs: Path, tmp_path: Path) -> None:
    made = report(runs / "one", into=tmp_path, smooth=4)
    frame = drawn(part(made, "one", "Every task over the stream", "Methods compared"))["task-1"]
    curves = [measured(runs, f"one/naive/seed-{k}", "return")[:, 1] / 100 for k in range(2)]
    by_hand = [
        np.mean([curve[max(0, point - 3) : point + 1].mean() for curve in curves])
        for point in range(len(curves[0]))
    ]
    np.testing.assert_allclose(frame.lines[0].y, by_hand)
    assert "each point is the mean of the last 4 at which the task was measured" in made.markdown
    tables = [table for name, table in both.document.tables if name == "one"]
    assert [table for _, table in made.document.tables] == tables


def test_smoothing_goes_over_what_was_measured() -> None:
    values = np.array([[1.0, np.nan], [np.nan, 4.0], [3.0, 8.0], [5.0, np.nan]])
    expected = [[1.0, np.nan], [np.nan, 4.0], [2.0, 6.0], [4.0, np.nan]]
    np.testing.assert_array_equal(smoothed(values, 2), expected)
    np.testing.assert_array_equal(smoothed(values, 1), values)


def test_films_are_linked_and_nothing_else(runs: Path, tmp_path: Path) -> None:
    videos = runs / "one" / "naive" / "seed-1" / "videos"
    videos.mkdir()
    (tmp_path / "secret.mp4").touch()
    for name in ("task-0-final.mp4", "task-1-best-after-stage-1.gif", "other-final.mp4", "x.html"):
        (videos / name).touch()
    (videos / "task-1-final.mp4").symlink_to(tmp_path / "secret.mp4")
    made = report(runs / "one")
    place = "naive/seed-1/videos/task"
    assert (
        f"- naive, seed 1: [task-0-final]({place}-0-final.mp4), "
        f"[task-1-best-after-stage-1]({place}-1-best-after-stage-1.gif)\n"
    ) in made.markdown
    page = (runs / "one" / "report.html").read_text("utf-8")
    assert page.count("<a href") - page.count('<a href="#') == 2
    assert f'<a href="{place}-0-final.mp4">task-0-final</a>' in page
