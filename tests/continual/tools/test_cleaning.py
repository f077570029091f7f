"""Cleaning run folders: what is listed goes, nothing else does, and live runs are left alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cells import run_all
from typer.testing import CliRunner

from holdfast.cli import app
from holdfast.continual.jobs.run_handle import open_run
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.tools.cleaning import WHATS, clean, listed
from holdfast.errors import CheckpointUnusable
from holdfast.scenarios.schema.scenario import Scenario

GIVEN = {
    "name": "demo",
    "tasks": [{"name": name, "env": "CartPole-v1", "steps": 16} for name in "abc"],
    "agent": {"algorithm": "ppo", "n_steps": 16, "batch_size": 16, "n_epochs": 1},
    "methods": ["naive", "isolated"],
    "evaluation": {"episodes": 1},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    run_all(Scenario.model_validate(GIVEN), runs)
    return runs / "demo"


@pytest.fixture
def demo(made: Path, tmp_path: Path) -> Path:
    """Finished runs with something of every kind in one of them, and foreign files beside."""
    folder = tmp_path / "runs" / "demo"
    shutil.copytree(made, folder)
    cell = folder / "naive" / "seed-0"
    for name in ("videos/a.mp4", "exports/a.onnx", ".run.tmp-host-1.json", "log-earlier.txt"):
        (cell / name).parent.mkdir(exist_ok=True)
        (cell / name).write_text("x" * 100, "utf-8")
    for name in ("task-0.at-8", "task-0.parts", "task-9.at-8", "task-1.tmp-77"):
        (cell / "checkpoints" / name).mkdir()
    for name in ("report.md", "report.html", "thesis.md", "notes.tex"):
        (folder / name).write_text("x", "utf-8")
    (cell / "mine.txt").write_text("x", "utf-8")
    return folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.thorough
def test_by_default_what_comes_again_goes_and_nothing_else(demo: Path) -> None:
    before = files(demo)
    going = listed(demo)
    assert {one.what for one in going} == {"leftovers", "reports", "videos", "exports"}
    assert files(demo) == before  # a list is a list
    done = clean(going, demo)
    assert not done.left
    cell = "naive/seed-0"
    inside = {"task-0.at-8", "task-0.parts", "task-1.tmp-77"}  # 9 has no end yet
    assert before - files(demo) == {
        "report.md",
        "report.html",
        f"{cell}/.run.tmp-host-1.json",
        *(f"{cell}/checkpoints/{name}" for name in inside),
        *(f"{cell}/{name}" for name in ("videos", "videos/a.mp4", "exports", "exports/a.onnx")),
    }
    assert RunFolder(demo / cell).scores()


def test_what_is_named_goes(demo: Path) -> None:
    whats = ("tensorboard", "logs", "old-checkpoints")
    cell = demo / "naive" / "seed-0"
    clean(listed(demo, whats), demo)
    assert not (cell / "tb").exists()
    assert not list(cell.glob("log*.txt"))
    left = sorted(path.name for path in cell.glob("checkpoints/task-?"))
    assert left == ["task-1", "task-2"]
    agent = open_run(cell).agent("c")
    observation, _ = agent.make_env().reset(seed=0)
    assert agent.act(observation) in (0, 1)
    assert (cell / "videos").exists()


def test_probes_go_with_their_pages(demo: Path) -> None:
    cell = demo / "naive" / "seed-0"
    (cell / "adapt" / "a-16").mkdir(parents=True)
    places = [cell / "stress.jsonl", cell / "adapt" / "a-16" / "adapt.jsonl", demo / "adapt.csv"]
    for place in places:
        place.write_text("x", "utf-8")
    before = files(demo)
    assert not {one.path for one in listed(demo)} & {*places, cell / "adapt"}  # they take a while
    clean(listed(demo, ("probes",)), demo)
    gone = {str(place.relative_to(demo)) for place in (*places, cell / "adapt", places[1].parent)}
    # The lock takes what was left where it writes itself.
    assert before - files(demo) - {"naive/seed-0/.run.tmp-host-1.json"} == gone


def test_whole_cells_go_with_their_empty_folders_alone(demo: Path) -> None:
    (demo / "isolated" / "keep.txt").write_text("x", "utf-8")
    clean(listed(demo / "isolated", ("cells",)), demo / "isolated")
    assert files(demo / "isolated") == {"keep.txt"}
    clean(listed(demo, ("cells",)), demo)
    assert {"thesis.md", "notes.tex", "isolated/keep.txt"} <= files(demo)
    assert not (demo / "naive").exists()


def test_a_cell_that_runs_is_left_alone(demo: Path) -> None:
    cell = RunFolder(demo / "naive" / "seed-0")
    with cell.lock():
        before = files(cell.path)
        told = CliRunner().invoke(app, ["clean", str(demo), "cells", "--yes"])
        assert files(cell.path) == before
    assert told.exit_code == 6
    assert not (demo / "isolated").exists()


def test_what_is_behind_a_link_stays(demo: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "dear.txt").write_text("x", "utf-8")
    shutil.rmtree(demo / "naive" / "seed-0" / "videos")
    (demo / "naive" / "seed-0" / "videos").symlink_to(outside)
    with pytest.raises(CheckpointUnusable, match="is a link"):
        clean(listed(demo, WHATS[:4]), demo)
    assert (outside / "dear.txt").exists()


def test_the_command_lists_and_asks(demo: Path) -> None:
    before = files(demo)
    run = CliRunner().invoke
    told = run(app, ["clean", str(demo), "--dry-run"])
    assert told.exit_code == 0
    assert "videos" in told.output
    assert "in all" in told.output
    assert run(app, ["clean", str(demo)]).exit_code == 2  # nobody can be asked
    assert files(demo) == before
    assert run(app, ["clean", str(demo), "videos", "--yes"]).exit_code == 0
    assert not (demo / "naive" / "seed-0" / "videos").exists()
    assert "Nothing of this kind" in run(app, ["clean", str(demo), "videos"]).output
