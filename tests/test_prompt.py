"""``holdfast.run`` from a notebook, IPython and a prompt, and the table that it returns."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast
from holdfast.prompt import is_interactive

SCENARIO = """\
tasks: [{name: a, env: CartPole-v1, steps: 32}, {name: b, env: CartPole-v1, steps: 32}]
agent: {algorithm: ppo, n_steps: 32, batch_size: 32, n_epochs: 1}
methods: [naive, isolated]
evaluation: {episodes: 1}
score: {random: 0, reference: 500}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "s.yaml").write_text(SCENARIO, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.thorough
def test_the_table_has_the_numbers_of_the_report(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = holdfast.run(holdfast.load("s.yaml", ["sweep={agent.gamma: [0.9, 0.99]}"]))
    assert capsys.readouterr().out == ""  # a script that shows nothing
    table = runs.table()
    labels = [f"{method}-gamma={g}" for g in (0.9, 0.99) for method in ("naive", "isolated")]
    assert list(table["method"]) == labels
    assert list(table["agent.gamma"]) == [0.9, 0.9, 0.99, 0.99]
    assert set(table["status"]) == {"finished"}
    for row, run in zip(runs.rows(), runs, strict=True):
        last = [s["return"] / 500 for s in run.scores if s["stage"] == 2]
        assert row["average_performance"] == pytest.approx(sum(last) / 2)
    assert not table["forgetting"].isna().any()


def test_what_is_unfinished_has_a_row_without_numbers(place: Path) -> None:
    runs = holdfast.run(holdfast.load("s.yaml", ["methods=[naive]"]))
    runs[0].folder.update(status="stopped")
    (row,) = runs.rows()
    assert (row["method"], row["seed"], row["status"]) == ("naive", 0, "stopped")
    assert math.isnan(row.get("average_performance", math.nan))


def test_progress_is_shown_on_request(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_interactive()
    holdfast.run(holdfast.load("s.yaml", ["methods=[naive]"]), progress=True)
    assert "naive/seed-0" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Jupyter's packages
def test_a_notebook_runs(place: Path) -> None:
    """Cells here and in two workers, progress, and the table; no guard is needed."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    cells = [
        "import holdfast\nscenario = holdfast.load('s.yaml')",
        "found = holdfast.run(scenario)",
        "more = holdfast.run(holdfast.load('s.yaml', ['seeds=[0, 1]']), jobs=2)",
        "print([run.status for run in more])\nmore.table()[['method', 'seed', 'forgetting']]",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    nbclient.NotebookClient(book, timeout=500, kernel_name="python3").execute(cwd=str(place))
    shown = [str(cell.outputs) for cell in book.cells]
    assert "naive/seed-0" in shown[1]  # its progress
    assert "isolated/seed-1" in shown[2]
    assert str(["finished"] * 4) in shown[3]
    assert "<table" in shown[3]
    assert not any("Traceback" in text for text in shown)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [["-m", "IPython", "--no-banner", "--colors=nocolor", "-c"], ["-c"]]
)
def test_ipython_and_python_c_run_with_workers(place: Path, command: list[str]) -> None:
    if "IPython" in command:
        pytest.importorskip("IPython")
    text = (
        "import holdfast\n"
        "found = holdfast.run(holdfast.load('s.yaml'), jobs=2, progress=True)\n"
        "print(found.table().shape[0], [run.status for run in found])\n"
    )
    done = subprocess.run(
        [sys.executable, *command, text], capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert "2 ['finished', 'finished']" in done.stdout
    assert "naive/seed-0" in done.stdout
