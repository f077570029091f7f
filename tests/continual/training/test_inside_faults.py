"""Checkpoints inside tasks under kills at bad moments, damage, and worlds without an end."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from cells import Interrupted
from kills import Kills, assert_same, cell, silent

from holdfast.continual.methods.regularization.ewc import EWC
from holdfast.continual.run_folder import checkpoint, inside_task
from holdfast.continual.run_folder.cells import find_cells
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.training import journal as journals
from holdfast.continual.training.cell import run_cell
from holdfast.errors import CheckpointUnusable

SMALL = {"policy_kwargs": {"net_arch": [16]}}
PPO = {"algorithm": "ppo", "n_steps": 16, "batch_size": 16, "n_epochs": 2, **SMALL}
SAC = {
    "algorithm": "sac",
    "learning_starts": 16,
    "batch_size": 16,
    "buffer_size": 60,
    "train_freq": 5,
    **SMALL,
}


def slow(*values: Any) -> list[Any]:
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def data(agent: dict[str, Any] = PPO, env: str = "CartPole-v1", **more: Any) -> dict[str, Any]:
    task = {"env": env, "steps": 160}
    return {
        "name": "demo",
        "tasks": [{"name": n, **task, **more.pop("task", {})} for n in "ab"],
        "agent": agent,
        "evaluation": {"every": 64, "episodes": 1},
        "checkpoint": {"every": 48},
        **more,
    }


def of_sac() -> dict[str, Any]:
    task = {"changes": {"time_limit": 25}}
    return data(SAC, "Pendulum-v1", stream={"steps": 240}, task=task)


def straight(place: Path, given: dict[str, Any]) -> RunFolder:
    folder = cell(place / "straight", given)
    run_cell(folder, silent)
    return folder


class Breaking:
    """Calls a function, and raises after, or in place of, chosen ones of the calls."""

    def __init__(self, function: Callable[..., Any], at: set[int], *, after: bool = False) -> None:
        self.function, self.at, self.after, self.calls = function, at, after, 0

    def __call__(self, *given: Any, **named: Any) -> Any:
        self.calls += 1
        is_due = self.calls in self.at
        if is_due and not self.after:
            raise Interrupted
        found = self.function(*given, **named)
        if is_due:
            raise Interrupted
        return found

    def __get__(self, instance: Any, owner: Any) -> Any:
        return lambda *given, **named: self(instance, *given, **named)


@pytest.mark.thorough
@pytest.mark.parametrize("after", [False, *slow(True)])
def test_killed_in_a_methods_own_work_repeats_no_step(
    after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = data(methods=[{"ewc": {"samples": 40}}])
    whole = straight(tmp_path, given)
    monkeypatch.setattr(EWC, "post_adapt", Breaking(EWC.post_adapt, {1, 3}, after=after))
    kills = Kills(monkeypatch, [])
    assert_same(kills.run(cell(tmp_path / "killed", given)), whole)
    assert kills.begun == [1, 161]  # each task was stepped once, from its start to its end


@pytest.mark.thorough
def test_killed_in_evaluations_measures_again_and_writes_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The points: before learning, 64, 128, the end of the first task, 192, 256, the end."""
    whole = straight(tmp_path, data())
    calls = {1, 3, 5, 6, 9, 12, 14}
    monkeypatch.setattr(journals, "evaluate", Breaking(journals.evaluate, calls, after=True))
    assert_same(Kills(monkeypatch, []).run(cell(tmp_path / "killed", data())), whole)


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_file_operations(
    after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third write, rename and removal of a checkpoint is the last thing that happens."""
    whole = straight(tmp_path, of_sac())
    with monkeypatch.context() as patch:
        broken = []
        for module, name in (
            (checkpoint, "write_synced"),
            (inside_task, "write_whole"),
            (checkpoint, "sync"),
            (inside_task, "remove"),
        ):
            broken.append(Breaking(getattr(module, name), {*range(2, 40, 5)}, after=after))
            patch.setattr(module, name, broken[-1])
        kills = Kills(patch, [])
        killed = kills.run(cell(tmp_path / "killed", of_sac()))
        assert all(one.calls > 5 for one in broken)
    assert_same(killed, whole)


def killed_at(
    place: Path, patch: pytest.MonkeyPatch, given: dict[str, Any], step: int
) -> RunFolder:
    folder = cell(place / "killed", given)
    with patch.context() as inner:
        Kills(inner, [step])
        with pytest.raises(Interrupted):
            run_cell(folder, silent)
    return folder


def saved(folder: RunFolder) -> list[Path]:
    found = folder.path.glob("checkpoints/task-*.at-*")
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("policy", marks=pytest.mark.slow),
        pytest.param("manifest", marks=pytest.mark.slow),
        "part",
        pytest.param("shape", marks=pytest.mark.slow),
        pytest.param("missing part", marks=pytest.mark.slow),
    ],
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = straight(tmp_path, of_sac())
    folder = killed_at(tmp_path, monkeypatch, of_sac(), 158)
    older, newest = saved(folder)
    parts = {
        name
        for name in checkpoint.load(newest).state["inside"]["parts"]
        if name not in checkpoint.load(older).state["inside"]["parts"]
    }
    part = folder.path / "checkpoints" / "task-0.parts" / f"{min(parts)}.safetensors"
    file = {
        "policy": newest / "policy.safetensors",
        "manifest": newest / "MANIFEST.json",
        "part": part,
        "shape": newest / "state.json",
        "missing part": part,
    }[damage]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    if damage == "missing part":
        file.unlink()
    if damage == "shape":  # a right hash of what is no checkpoint inside a task
        file.write_text(json.dumps({"schema": 1, "stage": 0, "inside": {"parts": [["../x", 1]]}}))
        manifest = json.loads((newest / "MANIFEST.json").read_bytes())
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        manifest["state.json"]["sha256"] = digest
        (newest / "MANIFEST.json").write_text(json.dumps(manifest))
    notes: list[str] = []
    run_cell(folder, lambda progress: notes.append(progress.note))
    (told,) = [note for note in notes if note]
    assert "fell back" in told
    assert newest.name in told or part.name in told
    assert_same(folder, whole)


@pytest.mark.slow
def test_damage_to_the_older_one_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = straight(tmp_path, of_sac())
    folder = killed_at(tmp_path, monkeypatch, of_sac(), 158)
    (saved(folder)[0] / "state.json").write_bytes(b"[")
    run_cell(folder, silent)
    assert_same(folder, whole)


@pytest.mark.thorough
def test_two_are_kept_and_only_new_rows_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = SAC | {"train_freq": 4}  # episodes of 8 steps end where a round does
    given = data(agent, "Pendulum-v1", task={"steps": 400}, checkpoint={"every": 16})
    given["tasks"] = [task | {"changes": {"time_limit": 8}} for task in given["tasks"]]
    written: list[str] = []
    publish = inside_task.write_whole

    def noting(path: Path, content: bytes) -> None:
        written.append(path.stem)
        publish(path, content)

    monkeypatch.setattr(inside_task, "write_whole", noting)
    folder = killed_at(tmp_path, monkeypatch, given, 390)
    older, newest = saved(folder)
    assert (older.name, newest.name) == ("task-0.at-368", "task-0.at-384")
    assert len(set(written)) == len(written)
    state = checkpoint.load(newest).state["inside"]
    spans = state["agent"]["rows"]["spans"]
    assert sum(stop - start for _, start, stop in spans) <= 60 + 16  # the ring, and what overlaps
    needed = {name for path in (older, newest) for name in inside_of(path)["parts"]}
    there = {path.stem for path in folder.path.glob("checkpoints/task-0.parts/*")}
    assert there == needed < set(written)


def inside_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = checkpoint.load(path).state["inside"]
    return found


@pytest.mark.slow
def test_a_full_disk_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the second checkpoint nor a part of the third can be written."""
    whole = straight(tmp_path, of_sac())
    full = OSError(28, "No space left on device")
    puts, parts = [0], [0]
    published = checkpoint.put, inside_task.write_whole

    def put(*given: Any) -> int:
        puts[0] += ".at-" in given[0].name
        if puts[0] == 2 and ".at-" in given[0].name:
            (given[0].parent / f"{given[0].name}.tmp-1").mkdir()
            raise full
        return published[0](*given)

    def write_whole(path: Path, content: bytes) -> None:
        parts[0] += 1
        if parts[0] == 3:
            raise full
        published[1](path, content)

    monkeypatch.setattr(checkpoint, "put", put)
    monkeypatch.setattr(inside_task, "write_whole", write_whole)
    folder, notes = cell(tmp_path / "full", of_sac()), []
    with monkeypatch.context() as patch:
        Kills(patch, [158])
        with pytest.raises(Interrupted):
            run_cell(folder, lambda progress: notes.append(progress.note))
    told = [note for note in notes if note.startswith("no checkpoint was saved inside the task")]
    assert len(told) == 2
    assert not [*folder.path.glob("checkpoints/*.tmp-*")]
    run_cell(folder, silent)
    assert_same(folder, whole)


@pytest.mark.thorough
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = killed_at(tmp_path, monkeypatch, of_sac(), 158)
    monkeypatch.setattr(inside_task.InsideTask, "newest", without(inside_task.InsideTask.newest))
    with pytest.raises(CheckpointUnusable, match=r"KeyError\('works'\)"):
        run_cell(folder, silent)


def without(published: Any) -> Any:
    def newest(store: Any) -> Any:
        found, damage = published(store)
        del found.values["works"]
        return found, damage

    return newest


class Endless(gym.Env[Any, Any]):
    """Counts its steps for ever."""

    observation_space = gym.spaces.Box(-1, 1e9, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        return np.full(1, self.count, np.float32), float(action), False, False, {}


@pytest.mark.parametrize("resets", [False, True])
def test_an_endless_world_is_reset_only_where_that_is_asked_for(
    resets: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = data(checkpoint={"every": 48, "resets": resets}, stream={"steps": 160})
    given["tasks"] = [{"name": "a", "env": f"{__name__}:Endless", "steps": 160}]
    given["evaluation"] = {"episodes": 1}
    monkeypatch.setattr(journals.CellJournal, "_evaluate", lambda *_: [])
    folder, notes = cell(tmp_path / "runs", given), []
    with monkeypatch.context() as patch:
        Kills(patch, [155])
        with pytest.raises(Interrupted):
            run_cell(folder, lambda progress: notes.append(progress.note))
    assert [path.name for path in saved(folder)] == (
        ["task-0.at-96", "task-0.at-144"] if resets else []
    )
    assert bool([note for note in notes if "resets: true" in note]) is not resets


# -- real processes --------------------------------------------------------------------------------


def _started(folder: RunFolder) -> subprocess.Popen[bytes]:
    code = (
        "import sys; from pathlib import Path\n"
        "from holdfast.continual.run_folder.record import RunFolder\n"
        "from holdfast.continual.training.cell import run_cell\n"
        "run_cell(RunFolder(Path(sys.argv[1])), lambda progress: None, patience_s=20)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(folder.path)])


@pytest.mark.slow
@pytest.mark.parametrize("agent", [PPO, SAC], ids=lambda agent: agent["algorithm"])
def test_sigkill(agent: dict[str, Any], tmp_path: Path) -> None:
    """Killed soon after each of its first checkpoints is there, while it learns on."""
    env = "CartPole-v1" if agent is PPO else "Pendulum-v1"
    given = data(agent, env, checkpoint={"every": 300}, evaluation={"episodes": 1})
    given["tasks"] = [{"name": n, "env": env, "steps": 1500} for n in "ab"]
    whole = straight(tmp_path, given)
    folder = cell(tmp_path / "killed", given)
    seen: set[str] = set()
    for pause_s in (0.0, 0.01, 0.1):
        process = _started(folder)
        while process.poll() is None:
            new = {path.name for path in saved(folder)} - seen
            if new:
                seen |= new
                time.sleep(pause_s)
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.002)
        assert process.wait() == -signal.SIGKILL
    assert _started(folder).wait() == 0
    assert_same(folder, whole)


STOPPED_WHILE_IT_WRITES = """
import os, runpy, signal, sys
from holdfast.continual.run_folder import checkpoint

published, calls, at = checkpoint.write_synced, [0], int(sys.argv.pop())

def write_synced(path, content):
    calls[0] += WHICH in str(path)
    if calls[0] == at:
        os.kill(os.getpid(), signal.SIGTERM)
    published(path, content)

checkpoint.write_synced = write_synced
runpy.run_module("holdfast", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "places"),
    [
        (".at-", (3, 14)),  # in the middle of the first one, and of the second after that
        ("task-0.tmp-", (2,)),  # in the middle of the one at the end of the first task
    ],
)
def test_sigterm_while_a_checkpoint_is_written(
    which: str, places: tuple[int, ...], tmp_path: Path
) -> None:
    """It stops with exit code 75, the checkpoint before is valid, and the same command goes on."""
    given = data(name="stopped")
    if which != ".at-":
        del given["checkpoint"]
    whole = straight(tmp_path, given)
    path = tmp_path / "stopped.yaml"
    path.write_text(whole.scenario.to_yaml())
    code = STOPPED_WHILE_IT_WRITES.replace("WHICH", repr(which))
    runs = tmp_path / "runs"
    command = [sys.executable, "-c", code, "run", str(path), "--runs", str(runs)]
    for at in places:
        done = subprocess.run([*command, str(at)], capture_output=True, text=True, check=False)
        assert done.returncode == 75, done.stderr
    assert subprocess.run([*command, "0"], capture_output=True, check=False).returncode == 0
    (folder,) = find_cells(runs / "stopped")
    assert_same(folder, whole)
