"""The published tables are those of their cells, which are on file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import holdfast
from holdfast.continual.results.study import gather
from holdfast.scenarios.schema.scenario import Scenario

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))  # last: its modules have names of every day

from method_tables.__main__ import PAGES, text_on_page  # noqa: E402
from method_tables.comparison import tuned  # noqa: E402
from method_tables.kept_cells import CELLS, keep, restore  # noqa: E402
from method_tables.table import TABLES, Table, cells_of, finished, text_of  # noqa: E402

BY_NAME = {table.name: table for table in TABLES}


def cells_on_file(name: str) -> list[dict[str, str]]:
    path = BY_NAME[name].path
    return cells_of(path.read_text("utf-8")) if path.exists() else []


def is_begun(table: Table) -> bool:
    """Return whether cells are missing."""
    return len(cells_on_file(table.name)) < len(table.cells)


BEGUN = [table for table in TABLES if is_begun(table)]
WHOLE = [table for table in TABLES if table not in BEGUN]


@pytest.mark.parametrize("name", [table.name for table in TABLES if not table.tuning])
def test_the_pages_show_what_the_cells_say(name: str) -> None:
    """Of those tables that are whole."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    shown = [
        text.split(begin)[1].split(end)[0].strip()
        for text in (page.read_text("utf-8") for page in PAGES)
        if begin in text
    ]
    whole = BY_NAME[name] in WHOLE
    assert shown == ([text_on_page(BY_NAME[name], cells_on_file(name))] if whole else [])


@pytest.mark.parametrize("table", TABLES, ids=BY_NAME)
def test_every_method_has_the_same_seeds(table: Table) -> None:
    """No fewer than five, and none of a tuning; a table that is begun has some of them."""
    found = [(cell["method"], int(cell["seed"])) for cell in cells_on_file(table.name)]
    assert len(found) == len({*found})
    assert {*found} <= table.cells if table in BEGUN else {*found} == table.cells
    if table.tuning:
        reported = {seed for other in TABLES if not other.tuning for seed in other.seeds}
        assert reported.isdisjoint(table.seeds)
    else:
        assert len(table.seeds) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("table", [t for t in TABLES if t.path.exists()], ids=lambda t: t.name)
def test_tables_come_from_the_scores_on_file(table: Table, tmp_path: Path) -> None:
    assert restore(table.name, tmp_path) > 0
    assert text_of(table, finished(table, tmp_path)) == table.path.read_text("utf-8")


@pytest.mark.thorough
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "points", "seeds"),
    [
        ("methods-discrete", 6, 3),
        ("methods-continuous", 6, 3),
        ("continual-control", 3, 2),
        ("cw10-lite", 2, 1),
    ],
)
def test_the_points_of_a_table_are_the_best_of_its_tuning(
    name: str, points: int, seeds: int
) -> None:
    """As many trials for each method that was tuned."""
    tuning = BY_NAME[f"{name}-tuning"]
    cells = cells_on_file(tuning.name)
    taken = {part.name: part.arguments for part in BY_NAME[name].methods.values()}
    best = tuned(cells, tuning.methods, tuning.measure)
    for method, (label, _) in best.items():  # some may wait for their row
        assert taken.get(method, tuning.methods[label].arguments) == tuning.methods[label].arguments
        own = [cell for cell in cells if tuning.methods[cell["method"]].name == method]
        assert len(own) == points * seeds


def test_files_of_cells_belong_to_tables() -> None:
    names = {path.name.removesuffix(".csv.xz").rpartition("-")[0] for path in CELLS.iterdir()}
    assert names == {table.name for table in TABLES if table.path.exists()}


@pytest.mark.slow
def test_where_methods_gain_on_continual_control(tmp_path: Path) -> None:
    """Scores while learning, by what naive did: docs/science.md, from the episodes on file."""
    restore("continual-control", tmp_path)
    tasks = ["plain", *(f"shifted-{number}" for number in range(1, 5))]
    learned: dict[str, dict[tuple[int, int], list[float]]] = {}
    for path in (tmp_path / "continual-control").glob("*/seed-*/scores.jsonl"):
        points: dict[tuple[int, int], list[float]] = {}
        for line in path.read_text("utf-8").splitlines():
            episode = json.loads(line)
            stage = tasks.index(episode["task"])
            if stage * 32_000 < episode["step"] <= (stage + 1) * 32_000:
                points.setdefault((stage, episode["step"]), []).append(episode["return"])
        seed = int(path.parent.name.removeprefix("seed-"))
        own = learned.setdefault(path.parents[1].name, {})
        for (stage, _), returns in points.items():
            own.setdefault((seed, stage), []).append((np.mean(returns) - 1.1) / (20 - 1.1))
    failed = {key for key, scores in learned["naive"].items() if max(scores) < 0.05}
    groups = {
        "the 17 tasks where `naive` fails": failed,
        "the other 23 shifted tasks": {key for key in learned["naive"] if key[1]} - failed,
        "the first, plain task": {key for key in learned["naive"] if not key[1]},
    }
    assert [len(keys) for keys in groups.values()] == [17, 23, 10]
    page = (ROOT / "docs" / "science.md").read_text("utf-8")
    table = page[page.index("| | naive | isolated | shrink-perturb") :].split("\n\n")[0]
    (_, *labels), _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    )
    assert {label.strip() for label in labels} == learned.keys()
    for name, *told in rows:
        means = [np.mean([np.mean(learned[one][key]) for key in groups[name]]) for one in labels]
        assert told == [f"{mean:.2f}".replace("0.", ".", 1) for mean in means], name
    for one, count in (("c-chain", 18), ("weight-clipping", 17), ("trac", 14), ("redo", 2)):
        assert sum(max(scores) < 0.05 for key, scores in learned[one].items() if key[1]) == count
