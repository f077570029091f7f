"""The published tables are those of their cells, which are on file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import holdfast
from holdfast.continual.results.study import gather
from holdfast.scenarios.load import load
from holdfast.scenarios.schema.scenario import Scenario

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from tables import control  # noqa: E402
from tables.__main__ import PAGES  # noqa: E402
from tables.comparison import markdown, rows, tuned  # noqa: E402
from tables.kept_cells import CELLS, keep, restore  # noqa: E402
from tables.published import TABLES, Table, cells_of, finished, text_of  # noqa: E402

NAMES = [table.name for table in TABLES]


@pytest.mark.parametrize("table", [t for t in TABLES if not t.tuning], ids=lambda t: t.name)
def test_the_pages_show_what_the_cells_say(table: Table) -> None:
    begin, end = f"<!-- {table.name}:begin -->", f"<!-- {table.name}:end -->"
    shown = [
        text.split(begin)[1].split(end)[0].strip()
        for text in (page.read_text("utf-8") for page in PAGES)
        if begin in text
    ]
    wanted = markdown(rows(cells_of(table.path.read_text("utf-8"))))
    assert shown == [wanted]


@pytest.mark.parametrize("table", TABLES, ids=NAMES)
def test_every_method_has_the_same_seeds(table: Table) -> None:
    """No fewer than five, and none of a tuning."""
    cells = cells_of(table.path.read_text("utf-8"))
    labels = dict.fromkeys(cell.label for cell in table.scenario.cells())
    found = {(cell["method"], int(cell["seed"])) for cell in cells}
    assert found == {(label, seed) for label in labels for seed in table.seeds}
    if table.tuning:
        reported = {seed for other in TABLES if not other.tuning for seed in other.seeds}
        assert reported.isdisjoint(table.seeds)
    else:
        assert len(table.seeds) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES, ids=NAMES)
def test_tables_come_from_the_scores_on_file(table: Table, tmp_path: Path) -> None:
    assert restore(table.name, tmp_path) > 0
    assert text_of(table, finished(table, tmp_path)) == table.path.read_text("utf-8")


def test_a_kept_cell_is_the_cell_that_ran(tmp_path: Path) -> None:
    """It is left alone by a run, and nothing of the machine is kept."""
    task = {"env": "CartPole-v1", "steps": 64, "changes": {"time_limit": 10}}
    name = "small"
    scenario = Scenario.model_validate(
        {
            "name": name,
            "tasks": [{"name": "one", **task}, {"name": "other", **task}],
            "agent": {"algorithm": "ppo", "n_steps": 32, "batch_size": 32},
            "methods": ["naive", {"l2": {"strength": 0.5}}],
            "seeds": [3],
            "evaluation": {"every": 32, "episodes": 2},
        }
    )
    holdfast.run(scenario, runs=tmp_path / "runs")
    ran = gather(tmp_path / "runs" / name)
    keep([cell for method in ran.methods for cell in method.cells], name, tmp_path / "kept")

    assert restore(name, tmp_path / "again", tmp_path / "kept") == 2
    assert restore(name, tmp_path / "again", tmp_path / "kept") == 0
    again = gather(tmp_path / "again" / name)
    for method, other in zip(ran.methods, again.methods, strict=True):
        (cell,), (kept,) = method.cells, other.cells
        files = (one.folder.path / "scores.jsonl" for one in (cell, kept))
        assert len({file.read_bytes() for file in files}) == 1
        assert repr(cell.metrics) == repr(kept.metrics)
        assert cell.folder.scenario == kept.folder.scenario
        assert str(tmp_path) not in (kept.folder.path / "run.json").read_text("utf-8")
    before = [*(tmp_path / "again").rglob("scores.jsonl")]
    times = [file.stat().st_mtime_ns for file in before]
    cells = holdfast.run(scenario, runs=tmp_path / "again")
    assert [cell.status for cell in cells] == ["finished", "finished"]
    assert [file.stat().st_mtime_ns for file in before] == times


def test_strengths_of_continuous_control_are_the_best_of_their_tuning() -> None:
    """As many trials for each."""
    (tuning,) = (table for table in TABLES if table.name == "methods-continuous-tuning")
    cells = cells_of(tuning.path.read_text("utf-8"))
    shipped = {m.parts[0].name: m.parts[0].arguments for m in load("methods-continuous").methods}
    found = tuned(cells)
    assert set(found) == {"l2", "ewc", "mas", "si", "rwalk", "vcl"}
    for name, (label, _) in found.items():
        given = shipped[name]
        point = f"{name}-strength={given['strength']:g}"
        floor = f"-floor={given.get('floor', 0):g}" if name == "ewc" else ""
        assert label == point + floor
        assert sum(cell["method"].startswith(f"{name}-") for cell in cells) == 6 * 3


def test_the_table_of_continual_control_is_that_of_its_cells() -> None:
    """Ten seeds a method, at the points that were best on others, as many trials for each."""
    table, cells = control.rows(), cells_of(control.TRIALS.read_text("utf-8"))
    text = (ROOT / "docs" / "methods.md").read_text("utf-8")
    shown = text.split("<!-- continual-control:begin -->")[1]
    assert shown.split("<!-- continual-control:end -->")[0].strip() == control.markdown(table)
    assert [(row["method"], row["p"]) for row in cells_of(control.TABLE.read_text("utf-8"))] == [
        (row.method, f"{row.p:.4g}") for row in table
    ]
    assert {row.seeds for row in table} == {len(control.SEEDS)}
    reported = {cell["seed"] for cell in cells_of(control.CELLS.read_text("utf-8"))}
    assert reported.isdisjoint(cell["seed"] for cell in cells)
    points = [f"{row.method}-{row.point}" for row in table if row.point]
    assert sorted(points) == sorted(label for label, _ in control.tuned().values())
    for name in control.tuned():
        assert sum(cell["method"].startswith(f"{name}-") for cell in cells) == 3 * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "path"),
    [(control.SCENARIO, control.CELLS), (control.TUNING, control.TRIALS)],
)
def test_continual_control_comes_from_the_scores_on_file(
    name: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert restore(name, tmp_path) > 0
    monkeypatch.setattr(control, "keep", lambda cells, name: None)
    control.write(tmp_path / name, tmp_path / "cells.csv")
    again, published = (one.read_text("utf-8") for one in (tmp_path / "cells.csv", path))
    assert cells_of(again) == cells_of(published)


def test_files_of_cells_belong_to_tables() -> None:
    names = {path.name.removesuffix(".csv.xz").rpartition("-")[0] for path in CELLS.iterdir()}
    assert names <= {*NAMES, control.SCENARIO, control.TUNING}
