"""Old stages hold what their policies need to act; whenever the process dies, they are whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.continual.run_folder import checkpoint, old_stages
from holdfast.errors import CheckpointUnusable

_OPERATIONS = (
    *((Path, name) for name in ("unlink", "replace", "open")),
    *((os, name) for name in ("open", "fsync")),
)
FILES = {
    "policy": {"w": torch.arange(4.0)},
    "optimizer": {"m": torch.ones(1000)},
    "method-0": {"mask/w": torch.ones(4), "rows": torch.ones(500), "stage": torch.tensor(3)},
    "method-1": {"rows": torch.ones(2000)},
}


def keeps(stem: str, name: str) -> bool:
    return stem == "policy" or name.startswith(("mask", "stage"))


def save(folder: Path, stages: int) -> None:
    for stage in range(stages):
        checkpoint.save(folder, stage, FILES, {"scores_bytes": stage})


def test_what_a_policy_needs_stays_and_the_rest_goes(tmp_path: Path) -> None:
    save(tmp_path, 4)
    old_stages.thin_out(tmp_path, keeps)
    old = checkpoint.load(tmp_path / "task-1")
    assert {stem: sorted(tensors) for stem, tensors in old.files.items()} == {
        "policy": ["w"],
        "method-0": ["mask/w", "stage"],
    }
    assert torch.equal(old.files["policy"]["w"], FILES["policy"]["w"])
    assert int(old.files["method-0"]["stage"]) == 3
    assert sorted(old.dropped) == ["method-0", "method-1", "optimizer"]
    assert old.state["scores_bytes"] == 1
    said = json.loads((tmp_path / "task-1" / checkpoint.DROPPED).read_bytes())
    assert said["method-1"]["bytes"] > 8000
    assert said["method-0"]["tensors"] == 1
    assert not (tmp_path / "task-1" / "optimizer.safetensors").exists()
    for stage in (2, 3):  # the two newest
        whole = checkpoint.load(tmp_path / f"task-{stage}")
        assert whole.files.keys() == FILES.keys()
        assert whole.dropped == ()


def test_thinning_out_again_changes_nothing(tmp_path: Path) -> None:
    save(tmp_path, 3)
    old_stages.thin_out(tmp_path, keeps)
    before = {p.name: p.read_bytes() for p in (tmp_path / "task-0").iterdir()}
    old_stages.thin_out(tmp_path, keeps)
    assert {p.name: p.read_bytes() for p in (tmp_path / "task-0").iterdir()} == before


def test_training_never_goes_on_from_an_old_stage(tmp_path: Path) -> None:
    save(tmp_path, 3)
    old_stages.thin_out(tmp_path, keeps)
    for stage in (1, 2):
        (tmp_path / f"task-{stage}" / "policy.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointUnusable) as error:
        checkpoint.latest(tmp_path)
    assert "task-0: an old stage" in str(error.value)
    assert "optimizer" in str(error.value)
    assert "method-1" in str(error.value)


class Killed(BaseException):
    """The process dies."""


def test_whenever_the_process_dies_a_stage_is_whole_or_thinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "made", 3)
    whole = checkpoint.load(tmp_path / "made" / "task-0")
    moments = 0
    for moment in range(100):
        folder = tmp_path / str(moment)
        shutil.copytree(tmp_path / "made", folder)
        with monkeypatch.context() as patched:
            left = [moment]

            def counted(function: Any, left: list[int] = left) -> Any:
                def act(*arguments: Any, **named: Any) -> Any:
                    left[0] -= 1
                    if left[0] < 0:
                        raise Killed
                    return function(*arguments, **named)

                return act

            for owner, name in _OPERATIONS:
                patched.setattr(owner, name, counted(getattr(owner, name)))
            try:
                old_stages.thin_out(folder, keeps)
            except Killed:
                moments += 1
        found = checkpoint.load(folder / "task-0")  # its hashes hold
        assert torch.equal(found.files["policy"]["w"], FILES["policy"]["w"])
        assert torch.equal(found.files["method-0"]["mask/w"], torch.ones(4))
        assert found.files.keys() == whole.files.keys() or found.dropped
        old_stages.thin_out(folder, keeps)  # the next process
        after = {path.name for path in (folder / "task-0").iterdir()}
        assert after == {
            *("MANIFEST.json", "state.json", "dropped.json"),
            *("policy.safetensors", "method-0.acting.safetensors"),
        }
        if left[0] >= 0:
            break
    assert moments > 15


def test_a_damaged_stage_is_left_as_it_is(tmp_path: Path) -> None:
    save(tmp_path, 3)
    file = tmp_path / "task-0" / "method-0.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\7")
    before = {p.name: p.read_bytes() for p in (tmp_path / "task-0").iterdir()}
    old_stages.thin_out(tmp_path, keeps)  # its new hash would vouch for what is damaged
    after = {p.name: p.read_bytes() for p in (tmp_path / "task-0").iterdir()}
    assert {name: after[name] for name in before} == before
    with pytest.raises(CheckpointUnusable, match=r"method-0\.safetensors"):
        checkpoint.load(tmp_path / "task-0")
