"""A checkpoint exists whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.continual.run_folder import checkpoint
from holdfast.continual.training.cell import run_cell
from holdfast.errors import CheckpointUnusable

FILES = {"policy": {"w": torch.arange(4.0)}, "empty": {}}


def _save_two(folder: Path) -> None:
    for stage in range(2):
        checkpoint.save(folder, stage, FILES, {"scores_bytes": stage})


def test_stages_are_those_that_are_whole_and_asking_removes_nothing(tmp_path: Path) -> None:
    _save_two(tmp_path)
    checkpoint.save(tmp_path, 10, FILES, {})
    (tmp_path / "task-3.tmp-7").mkdir()  # of a process that is writing it
    (tmp_path / "task-3.tmp-7" / checkpoint.MANIFEST).touch()
    (tmp_path / "task-4").mkdir()
    assert checkpoint.stages(tmp_path) == [0, 1, 10]
    assert (tmp_path / "task-3.tmp-7").exists()
    assert checkpoint.stages(tmp_path / "nowhere") == []


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    _save_two(tmp_path)
    saved, damage = checkpoint.latest(tmp_path)
    assert saved is not None
    assert saved.state == {"schema": 1, "stage": 1, "scores_bytes": 1}
    assert list(saved.files) == ["policy"]
    assert torch.equal(saved.files["policy"]["w"], torch.arange(4.0))
    assert damage == []


def _truncate(folder: Path) -> None:
    data = (folder / "policy.safetensors").read_bytes()
    (folder / "policy.safetensors").write_bytes(data[:-1])


def _flip(folder: Path) -> None:
    data = bytearray((folder / "policy.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "policy.safetensors").write_bytes(bytes(data))


def _flip_state(folder: Path) -> None:
    text = (folder / "state.json").read_text()
    (folder / "state.json").write_text(text.replace('"scores_bytes": 1', '"scores_bytes": 3'))


def _remove(folder: Path) -> None:
    (folder / "policy.safetensors").unlink()


def _remove_manifest(folder: Path) -> None:
    (folder / "MANIFEST.json").unlink()


DAMAGES = [_truncate, _flip, _flip_state, _remove, _remove_manifest]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_falls_back_to_the_older(damage: Any, tmp_path: Path) -> None:
    _save_two(tmp_path)
    damage(tmp_path / "task-1")
    saved, notes = checkpoint.latest(tmp_path)
    assert saved is not None
    assert saved.state["stage"] == 0
    assert len(notes) == 1
    assert "task-1" in notes[0]


def test_when_all_are_damaged_nothing_is_loaded(tmp_path: Path) -> None:
    _save_two(tmp_path)
    for stage in range(2):
        _flip(tmp_path / f"task-{stage}")
    with pytest.raises(CheckpointUnusable, match="no checkpoint of this run can be read") as error:
        checkpoint.latest(tmp_path)
    assert error.value.exit_code == 5


def test_leftovers_of_a_killed_writer_do_not_count_and_go_when_the_run_goes_on(
    tmp_path: Path,
) -> None:
    _save_two(tmp_path)
    shutil.copytree(tmp_path / "task-1", tmp_path / "task-2.tmp-99")
    saved, _ = checkpoint.latest(tmp_path)
    assert saved is not None
    assert saved.state["stage"] == 1
    assert (tmp_path / "task-2.tmp-99").exists()  # whoever reads does not know who writes
    checkpoint.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["task-0", "task-1"]


def test_another_format_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 0, FILES, {})
    state = json.dumps({"schema": 99}).encode()
    (tmp_path / "task-0" / "state.json").write_bytes(state)
    manifest = json.loads((tmp_path / "task-0" / "MANIFEST.json").read_bytes())
    import hashlib

    manifest["state.json"]["bytes"] = len(state)
    manifest["state.json"]["sha256"] = hashlib.sha256(state).hexdigest()
    (tmp_path / "task-0" / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointUnusable, match="format 99"):
        checkpoint.load(tmp_path / "task-0")


def _save_blocks(folder: Path, *, stages: int) -> list[Path]:
    """Save stages that keep a settled block of each task; return the files of the first block."""
    for stage in range(stages):
        rows = {f"settled/{n}/rows": torch.full((100,), float(n)) for n in range(stage + 1)}
        checkpoint.save(
            folder, stage, FILES | {"method-0": rows | {"step": torch.tensor(stage)}}, {}
        )
    return [folder / f"task-{stage}" / "method-0.settled-0.safetensors" for stage in range(stages)]


def test_what_is_settled_is_written_once(tmp_path: Path) -> None:
    files = _save_blocks(tmp_path, stages=3)
    assert len({file.stat().st_ino for file in files}) == 1
    checkpoint.remove(tmp_path / "task-0")
    assert files[1].stat().st_nlink == 2
    found = checkpoint.load(tmp_path / "task-2").files["method-0"]
    assert sorted(found) == ["settled/0/rows", "settled/1/rows", "settled/2/rows", "step"]
    assert all(bool((found[f"settled/{n}/rows"] == n).all()) for n in range(3))
    assert int(found["step"]) == 2


def test_where_a_file_has_one_name_only_it_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.link", refuse)
    files = _save_blocks(tmp_path, stages=2)
    assert [file.stat().st_nlink for file in files] == [1, 1]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_block_that_is_cut_is_not_taken_over(tmp_path: Path) -> None:
    files = _save_blocks(tmp_path, stages=1)
    files[0].write_bytes(files[0].read_bytes()[:-1])
    rows = {"settled/0/rows": torch.zeros(100)}
    checkpoint.save(tmp_path, 1, {"method-0": rows}, {})
    assert torch.equal(
        checkpoint.load(tmp_path / "task-1").files["method-0"]["settled/0/rows"], torch.zeros(100)
    )


def test_damage_in_what_two_share_is_named_for_both(tmp_path: Path) -> None:
    files = _save_blocks(tmp_path, stages=2)
    content = bytearray(files[0].read_bytes())
    content[-1] ^= 1
    files[0].write_bytes(content)
    with pytest.raises(CheckpointUnusable) as error:
        checkpoint.latest(tmp_path)
    assert all(str(file) in str(error.value) for file in files)


@pytest.mark.slow
def test_a_run_goes_on_from_the_older_one_to_the_same_end(run: Any, weights: Any) -> None:
    straight, damaged = run(runs="a"), run(runs="b")
    _flip(damaged.path / "checkpoints" / "task-2")
    damaged.update(status="stopped")
    notes: list[str] = []
    run_cell(damaged, lambda progress: notes.append(progress.note))
    assert any("task-2" in note and "hash" in note for note in notes)
    assert damaged.scores() == straight.scores()
    one, other = weights(straight), weights(damaged)
    assert all(torch.equal(one[name], other[name]) for name in one)
