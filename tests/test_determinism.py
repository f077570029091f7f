"""Killed at any moment and run again, a cell ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.training.cell import run_cell
from holdfast.scenarios.load import load

SCENARIO = """
name: killed
tasks:
  - {name: a, env: CartPole-v1, steps: 1024}
  - {name: b, env: CartPole-v1, steps: 1024, changes: {action_map: [1, 0]}}
  - {name: c, env: CartPole-v1, steps: 1024, changes: {observation_noise: 0.1}}
n_envs: 4
agent: {algorithm: ppo, n_steps: 64, batch_size: 64, normalize: {observations: running}}
carry: {optimizer: true}
methods: [[{ewc: {samples: 256}}, {cloning: {samples: 256}}]]
evaluation: {every: 128, episodes: 3}
"""

# Kills itself without warning at the n-th environment step or the n-th write to disk: while it
# learns, evaluates, appends scores, or is half-way through a checkpoint.
CHILD = """
import os, signal, sys
from pathlib import Path
from gymnasium.wrappers import TimeLimit
from holdfast.continual.training.cell import run_cell
from holdfast.continual.run_folder.record import RunFolder

folder, moment, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
owner, name = {"step": (TimeLimit, "step"), "disk": (os, "fsync")}[moment]
published, left = getattr(owner, name), count

def counted(*args):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return published(*args)

setattr(owner, name, counted)
run_cell(RunFolder(folder), lambda progress: None)
"""


def _folder(tmp_path: Path, runs: str) -> RunFolder:
    (tmp_path / "killed.yaml").write_text(SCENARIO)
    (folder,) = prepare(tmp_path / runs, load(tmp_path / "killed.yaml"))
    return folder


@pytest.mark.kill
@pytest.mark.slow
def test_killed_at_20_moments_and_run_again_equals_uninterrupted(tmp_path: Path) -> None:
    straight, broken = _folder(tmp_path, "straight"), _folder(tmp_path, "broken")
    run_cell(straight, lambda progress: None)
    rng = np.random.default_rng(20)
    killed = 0
    while killed < 20:
        # Each task takes 1,024 steps of training, thousands of evaluation, and some 30 writes.
        moment = ("step", "disk")[killed % 2]
        count = int(rng.integers(1, {"step": 6000, "disk": 40}[moment]))
        command = [sys.executable, "-c", CHILD, str(broken.path), moment, str(count)]
        child = subprocess.run(
            command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
        )
        if child.returncode == 0:  # it reached the end first: begin the cell again, keep counting
            _compare(broken, straight)
            broken = _folder(tmp_path, f"broken-{killed}")
            continue
        assert child.returncode == -signal.SIGKILL, child.stderr
        killed += 1
    run_cell(broken, lambda progress: None)
    _compare(broken, straight)


def _compare(broken: RunFolder, straight: RunFolder) -> None:
    assert broken.info()["status"] == "finished"
    assert broken.scores() == straight.scores()
    points = [(s["step"], s["stage"], s["task"], s["episode"]) for s in broken.scores()]
    assert len(points) == len(set(points))
    names = [_checkpoints(folder) for folder in (broken, straight)]
    assert names[0] == names[1]
    last = {name for name in names[0] if name.parent.name == "task-2"}
    assert {name.name.split(".")[0] for name in last} == {
        *("policy", "normalization", "optimizer", "method-0", "method-1")
    }
    for name in names[0]:
        one, other = load_file(broken.path / name), load_file(straight.path / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), f"{name}"
    view = EventAccumulator(str(broken.path / "tb")).Reload()
    for tag in view.Tags()["scalars"]:
        steps = [event.step for event in view.Scalars(tag)]
        assert steps == sorted(set(steps)), f"{tag}: {steps}"


def _checkpoints(folder: RunFolder) -> set[Path]:
    """Return what the ends of tasks left; of all but the newest ones that is what acts."""
    found = folder.path.glob("checkpoints/task-[0-2]/*.safetensors")
    return {path.relative_to(folder.path) for path in found}
