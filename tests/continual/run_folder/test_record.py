import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.continual.run_folder.cells import find_cells
from holdfast.continual.run_folder.files import write_whole
from holdfast.continual.run_folder.record import SCORES, RunFolder
from holdfast.errors import CheckpointUnusable, InUse, UsageError


@pytest.fixture
def folder(tmp_path: Path, make_scenario) -> RunFolder:
    return RunFolder.create(tmp_path / "runs" / "demo" / "naive" / "seed-0", make_scenario())


def test_a_new_folder_describes_itself(folder: RunFolder, make_scenario) -> None:
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "lock",
        "run.json",
        "scenario.yaml",
    ]
    assert RunFolder(folder.path).scenario == make_scenario()
    info = RunFolder(folder.path).info()
    assert info["status"] == "pending"
    assert (info["method"], info["seed"]) == ("naive", 0)
    assert info["information"] == {
        "task_id": "observed",
        "boundaries": "known",
        "task_count": "unknown",
    }
    assert (folder.label, folder.seed) == ("naive", 0)
    assert folder.scores() == []


def test_a_folder_says_where_paths_count_from_and_not_where_code_is(
    tmp_path: Path, make_scenario
) -> None:
    scenario = make_scenario()
    scenario._folder = tmp_path / "own"
    folder = RunFolder.create(tmp_path / "seed-0", scenario)
    assert folder.scenario.folder == tmp_path / "own"  # given by the user
    read = RunFolder(folder.path).scenario
    assert (read.folder, read.place) == (None, tmp_path / "own")


def test_update_keeps_what_it_does_not_change(folder: RunFolder) -> None:
    folder.update(status="finished", wall_s=1.5)
    assert folder.info()["seed"] == 0
    assert (folder.info()["status"], folder.info()["wall_s"]) == ("finished", 1.5)
    assert not list(folder.path.glob(".*.tmp-*"))


def test_scores_come_back_exactly(folder: RunFolder, make_scores) -> None:
    first, second = make_scores(0, 0, left=0.1 + 0.2, right=1e-300), make_scores(1, 10, left=5)
    folder.append(first)
    size = folder.size()
    folder.append(second)
    assert RunFolder(folder.path).scores() == first + second
    assert (folder.path / SCORES).read_bytes().count(b"\n") == 6
    folder.truncate(size)
    assert folder.scores() == first
    folder.truncate(0)
    assert folder.scores() == []


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_half_written_last_line_is_ignored_and_then_dropped(
    folder: RunFolder, make_scores, kept: int
) -> None:
    folder.append(make_scores(0, 0, left=1))
    path = folder.path / SCORES
    whole = path.read_bytes()
    line = whole.splitlines(keepends=True)[0]
    path.write_bytes(whole + line[:kept])  # -1: all but the newline
    assert folder.size() == len(whole)
    assert folder.scores() == make_scores(0, 0, left=1)
    folder.append(make_scores(1, 10, left=2))
    assert folder.scores() == make_scores(0, 0, left=1) + make_scores(1, 10, left=2)


def test_size_finds_a_newline_far_back(folder: RunFolder) -> None:
    (folder.path / SCORES).write_bytes(b"{}\n" + b"x" * 200_000)
    assert folder.size() == 3
    (folder.path / SCORES).write_bytes(b"x" * 200_000)
    assert folder.size() == 0


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (b"\0\0\0\n", "not JSON"),
        (b'{"stage": 0}\n', "lacks"),
        (b"3\n", "holds int"),
        (b"\n", "not JSON"),
        (b'1, {"stage": 0}\n', "not JSON"),
        (
            b'{"stage": 0, "step": 0, "task": "left", "episode": 0, "return": "much", "length": 7, '
            b'"success": null, "unseen": false}\n',
            "a value is of another type",
        ),
        (
            b'{"stage": 0, "step": 0, "task": "left", "episode": 0, "return": NaN, "length": 7, '
            b'"success": null, "unseen": false}\n',
            "not JSON",
        ),
    ],
)
def test_a_damaged_line_is_named(folder: RunFolder, make_scores, damage: bytes, what: str) -> None:
    folder.append(make_scores(0, 0, left=1))
    with (folder.path / SCORES).open("ab") as file:
        file.write(damage)
    folder.append(make_scores(1, 10, left=1))
    place = re.escape(f"{folder.path / SCORES}:3: {what}")
    with pytest.raises(CheckpointUnusable, match=place):
        folder.scores()


def test_truncate_refuses_what_the_file_never_had(folder: RunFolder, make_scores) -> None:
    folder.append(make_scores(0, 0, left=1))
    for size in (folder.size() + 1, folder.size() - 3):
        with pytest.raises(CheckpointUnusable, match="bytes of whole lines"):
            folder.truncate(size)
    assert folder.scores() == make_scores(0, 0, left=1)


def test_a_full_disk_leaves_the_scores_as_they_were(
    folder: RunFolder, make_scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.append(make_scores(0, 0, left=1))
    before = (folder.path / SCORES).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            folder.append(make_scores(1, 10, left=1))
        with pytest.raises(OSError, match="No space"):
            folder.update(status="finished")
    assert (folder.path / SCORES).read_bytes() == before
    assert folder.info()["status"] == "pending"
    assert not list(folder.path.glob(".*.tmp-*"))


def test_a_return_that_is_no_number_is_refused(folder: RunFolder, make_scores) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.append(make_scores(0, 0, left=float("nan")))
    assert folder.size() == 0


def test_damaged_run_files_are_named(folder: RunFolder) -> None:
    (folder.path / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointUnusable, match=r"run\.json: not JSON"):
        folder.info()
    (folder.path / "run.json").write_text("[]", encoding="utf-8")
    with pytest.raises(CheckpointUnusable, match="not a JSON object"):
        folder.info()
    folder.path.joinpath("run.json").unlink()
    (folder.path / "scenario.yaml").write_text("tasks: []", encoding="utf-8")
    with pytest.raises(CheckpointUnusable, match=r"scenario\.yaml: cannot be read"):
        _ = RunFolder(folder.path).scenario


@pytest.mark.thorough
@pytest.mark.kill
def test_one_process_at_a_time(folder: RunFolder) -> None:
    held = (
        "import sys; from pathlib import Path\n"
        "from holdfast.continual.run_folder.record import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).lock():\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", held, str(folder.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InUse, match=f"in use by process {other.pid} on "), folder.lock():
            pass
        other.kill()  # as by SIGKILL: its lock file stays
        other.wait()
    leftover = folder.path / ".run.json.tmp-123"
    leftover.touch()
    with folder.lock():
        assert (folder.path / "lock").read_text().startswith(f"process {os.getpid()} on ")
        assert not leftover.exists()


def test_cells_are_found_at_every_level(tmp_path: Path, make_scenario) -> None:
    root = tmp_path / "runs" / "demo"
    for position, method in enumerate(("naive", "ewc")):
        for seed in (10, 2):
            scenario = make_scenario(methods=[method], seeds=[seed])
            path = root / method / f"seed-{seed}"
            RunFolder.create(path, scenario, position=position)
    names = [str(cell.path.relative_to(root)) for cell in find_cells(root)]
    assert names == ["naive/seed-2", "naive/seed-10", "ewc/seed-2", "ewc/seed-10"]
    assert [cell.seed for cell in find_cells(root / "ewc")] == [2, 10]
    assert [cell.label for cell in find_cells(root / "ewc" / "seed-2")] == ["ewc"]
    with pytest.raises(UsageError, match="several scenarios; name one of them: demo"):
        find_cells(tmp_path / "runs")
    with pytest.raises(UsageError, match="there is no such folder"):
        find_cells(tmp_path / "nowhere")


def test_write_whole_replaces(tmp_path: Path) -> None:
    path = tmp_path / "größe.json"
    write_whole(path, b"old")
    write_whole(path, json.dumps({"a": 1}).encode())
    assert json.loads(path.read_bytes()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["größe.json"]
