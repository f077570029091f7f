"""A researcher's repository with folders and modules that are called as ours are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ARM = """\
import agents
import utils
from gymnasium.envs.classic_control import CartPoleEnv

class Arm(CartPoleEnv):
    def __init__(self, length=utils.LENGTH):
        super().__init__()
        self.length = length * agents.FACTOR
"""

SCENARIO = """\
tasks:
  - {name: short, env: "envs.arm:Arm", steps: 64, changes: {time_limit: 20}}
  - {name: long, env: "envs.arm:Arm", kwargs: {length: 0.9}, steps: 64, changes: {time_limit: 20}}
agent: {algorithm: ppo, n_steps: 32, batch_size: 32, n_epochs: 1}
methods: [naive, isolated]
evaluation: {episodes: 1}
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "my lab"
    (folder / "envs").mkdir(parents=True)
    (folder / "envs" / "__init__.py").touch()
    (folder / "envs" / "arm.py").write_text(ARM, "utf-8")
    (folder / "agents").mkdir()
    (folder / "agents" / "__init__.py").write_text("FACTOR = 2\n", "utf-8")
    (folder / "utils.py").write_text("LENGTH = 0.25\n", "utf-8")
    (folder / "arm.yaml").write_text(SCENARIO, "utf-8")
    return folder


def holdfast(cwd: Path, *arguments: object) -> str:
    """Run the command as it is installed: the current folder is not on the import path."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "holdfast", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_environments_in_a_folder_called_envs_are_checked_from_anywhere(
    repository: Path, tmp_path: Path
) -> None:
    named = holdfast(repository, "check-env", "envs.arm:Arm")
    assert named.endswith("envs.arm:Arm will work here\n")
    in_file = holdfast(repository, "check-env", "envs/arm.py", "length=0.5")
    assert f"A scenario in {repository} names it so:  envs.arm:Arm\n" in in_file
    elsewhere = holdfast(tmp_path, "check-env", repository / "arm.yaml")
    assert elsewhere.endswith("2 of 2 tasks will work here\n")


@pytest.mark.slow
def test_they_run_from_anywhere_and_in_workers(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "utils.py").write_text("raise RuntimeError('the wrong one')\n", "utf-8")
    out = holdfast(tmp_path, "run", repository / "arm.yaml", "--jobs", 2, "--runs", "results")
    assert "| isolated | 1 |" in out
    infos = [json.loads(path.read_text()) for path in (tmp_path / "results").rglob("run.json")]
    assert [info["status"] for info in infos] == ["finished", "finished"]
    again = holdfast(repository, "run", "arm.yaml", "--runs", "../results")
    assert again.count("finished before") == 2
