"""Bad environments through every backend: one clear error each, before anything is written.

Rows 6 to 10 and 14 to 16 of what can go wrong: names, interfaces, spaces, constructors, side
effects, NaN. What only stepping can show is told by the run, whose folder then says ``failed``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from typer.testing import CliRunner

from holdfast.cli import app
from holdfast.continual.run_folder.record import RunFolder

WORLDS = """
import os
import sys
import threading
import time

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

# Evaluation, in the process of the run itself, comes first: where that is spared, workers get it.
BAD = os.environ.get("SPARED") != str(os.getpid())


class Good(gym.Env):
    observation_space = Box(-1, 1, (2,))
    action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.count += 1
        result = np.full(2, 0.5, np.float32), 1.0, False, self.count == 5, {}
        return self.bad(*result) if BAD else result

    def bad(self, *result):
        return result


class Wide(Good):
    observation_space = Box(-1, 1, (3,))


class Continuous(Good):
    action_space = Box(-1, 1, (1,))


class NoEnv:
    pass


class Broken(Good):
    def __init__(self):
        raise RuntimeError("no arm")


class FourValues(Good):
    def bad(self, observation, reward, *_):
        return observation, reward, False, {}


class OldReset(Good):
    def reset(self, **given):
        result = super().reset(**given)
        return result[0] if BAD else result


class OldSeed(Good):
    if BAD:

        def reset(self):
            return super().reset()


class Shape(Good):
    def bad(self, observation, *rest):
        return observation[None], *rest


class Words(Good):
    def bad(self, observation, *rest):
        return "left", *rest


class Raises(Good):
    def bad(self, *result):
        raise ValueError("the arm is stuck")


class Exits(Good):
    def bad(self, *result):
        sys.exit(4)


class Loud(Good):
    def bad(self, *result):
        print("from the environment")
        os.write(1, b"past Python\\n")
        os.chdir("/")
        threading.Thread(target=time.sleep, args=(0.1,)).start()
        return result


class NanLater(Good):
    def bad(self, observation, *rest):
        observation[1] = np.nan
        return observation, *rest


class NanFirst(Good):
    def reset(self, **given):
        observation, info = super().reset(**given)
        return (observation + np.inf if BAD else observation), info


class NanReward(Good):
    def bad(self, observation, reward, *rest):
        return observation, float("nan"), *rest
"""


class Row(NamedTuple):
    """A mistake and what is told of it.

    Attributes:
        fault: Its row in the list of faults.
        tasks: The environment of each task.
        code: The exit code.
        text: Part of what is told, on every backend.
        algorithm: Of the agent.
    """

    fault: int
    tasks: list[str]
    code: int
    text: str
    algorithm: str = "ppo"


BEFORE = {
    "typing mistake in an id": Row(6, ["CartPol-v1"], 2, "CartPole"),
    "typing mistake in a class": Row(6, ["bad_worlds:Goood"], 2, "did you mean 'bad_worlds:Good'?"),
    "no such module": Row(6, ["bad_wordls:Good"], 2, "bad_wordls"),
    "missing package": Row(6, ["needy:Arm"], 2, "pip install no_such_sim"),
    "module that fails": Row(6, ["torn:Arm"], 2, "ZeroDivisionError"),
    "no environment": Row(7, ["bad_worlds:NoEnv"], 2, "gymnasium.Env"),
    "other observations": Row(
        9, ["bad_worlds:Good", "bad_worlds:Wide"], 2, "observation spaces differ"
    ),
    "discrete after continuous": Row(10, ["bad_worlds:Continuous", "bad_worlds:Good"], 2, "action"),
    "an algorithm that cannot": Row(10, ["bad_worlds:Good"], 2, "ppo", algorithm="sac"),
    "a constructor": Row(14, ["bad_worlds:Broken"], 3, "RuntimeError: no arm"),
}
AT_RUN = {
    "four values": Row(7, ["bad_worlds:FourValues"], 3, "old gym"),
    "the observation alone": Row(7, ["bad_worlds:OldReset"], 3, "old gym"),
    "no seed": Row(7, ["bad_worlds:OldSeed"], 3, "unexpected keyword argument 'seed'"),
    "another shape": Row(8, ["bad_worlds:Shape"], 3, "observation [[0.5, 0.5]]"),
    "words": Row(8, ["bad_worlds:Words"], 3, "observation 'left'"),
    "an exception": Row(11, ["bad_worlds:Raises"], 3, "ValueError: the arm is stuck"),
    "sys.exit": Row(15, ["bad_worlds:Exits"], 3, "SystemExit: 4"),
    "NaN in an observation": Row(16, ["bad_worlds:NanLater"], 3, "observation[1] is nan, at step"),
    "infinity after a reset": Row(16, ["bad_worlds:NanFirst"], 3, "observation[0] is inf, ret"),
    "NaN as a reward": Row(16, ["bad_worlds:NanReward"], 3, "reward is nan, at step"),
}
ENVPOOL = {
    "typing mistake in an id": Row(6, ["CartPol-v1"], 2, "did you mean 'CartPole-v1'?"),
    "a class": Row(6, ["bad_worlds:Good"], 2, "write `backend: gymnasium`"),
    "other observations": Row(9, ["CartPole-v1", "Acrobot-v1"], 2, "observation spaces differ"),
    "discrete after continuous": Row(10, ["Pendulum-v1", "CartPole-v1"], 2, "action spaces differ"),
    "an algorithm that cannot": Row(10, ["CartPole-v1"], 2, "ppo", algorithm="sac"),
}
# One of each kind; the others are for the slow run.
FAST = (
    *("typing mistake in a class", "module that fails", "other observations"),
    *("four values", "another shape", "sys.exit", "NaN in an observation"),
)
BACKENDS = ["gymnasium", "pool", "python"]


class Told:
    def __init__(self, path: Path, runs: Path) -> None:
        result = CliRunner().invoke(app, ["run", str(path), "--runs", str(runs)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.code, self.err, self.out = result.exit_code, result.stderr, result.stdout


@pytest.fixture
def run(tmp_path, request, monkeypatch):
    (tmp_path / "bad_worlds.py").write_text(WORLDS)
    (tmp_path / "needy.py").write_text("import no_such_sim\n\nclass Arm: ...\n")
    (tmp_path / "torn.py").write_text("1 / 0\n\nclass Arm: ...\n")
    monkeypatch.chdir(tmp_path)  # and back, where an environment goes elsewhere

    def run(envs, backend, algorithm="ppo", **keys):
        given: dict[str, Any] = {
            "tasks": [{"name": f"t{i}", "env": env, "steps": 32} for i, env in enumerate(envs)],
            "agent": {"algorithm": algorithm},
            "evaluation": {"episodes": 1},
            **keys,
        }
        if algorithm == "ppo":
            given["agent"] |= {"n_steps": 8, "batch_size": 8, "n_epochs": 1}
        if backend == "pool":
            monkeypatch.setenv("SPARED", str(os.getpid()))
            given |= {"n_envs": 2, "pool": {"workers": 2, "restarts": 0}}
        if backend == "python":
            monkeypatch.delenv("PYTHONPATH", raising=False)
            python = str(request.getfixturevalue("other_python"))
            for task in given["tasks"]:
                task["python"] = python
        if backend == "envpool":
            given["backend"] = "envpool"
        path = tmp_path / "bad.yaml"
        path.write_text(yaml.safe_dump(given))
        return Told(path, tmp_path / "runs")

    return run


def tables(*names):
    """Return the names of rows with every backend; all but a few are for the slow run."""
    return [
        pytest.param(backend, name, marks=[] if _is_fast(backend, name) else pytest.mark.slow)
        for name in names
        for backend in BACKENDS
    ]


def _is_fast(backend, name):
    return name in FAST and (backend == "gymnasium" or (backend, name) == ("pool", FAST[-1]))


def check(told, row):
    """One error, with its text and code, and no traceback but through the user's own files."""
    assert row.text in told.err
    assert told.code == row.code
    heads = [line for line in told.err.splitlines() if line.startswith(("error:", "failed:"))]
    assert len(heads) == 1
    assert told.err.count("Traceback") == told.err.count("Traceback (from your own code on)") <= 1
    assert "worker.py" not in told.err


def check_refused(run, tmp_path, backend, row):
    """One error, and nothing written."""
    check(run(row.tasks, backend, row.algorithm), row)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("backend", "name"), tables(*BEFORE))
def test_what_is_known_before_leaves_nothing_behind(run, tmp_path, backend, name):
    check_refused(run, tmp_path, backend, BEFORE[name])


@pytest.mark.thorough
@pytest.mark.parametrize(("backend", "name"), tables(*AT_RUN))
def test_what_stepping_shows_fails_the_run_with_its_reason(run, tmp_path, backend, name):
    row = AT_RUN[name]
    check(run(row.tasks, backend, row.algorithm), row)
    folder = RunFolder(tmp_path / "runs" / "bad" / "naive" / "seed-0")
    assert folder.info()["status"] == "failed"
    assert row.text in folder.info()["reason"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "backend", ["gymnasium", "pool", pytest.param("python", marks=pytest.mark.slow)]
)
def test_what_an_environment_does_beside_is_nobodys_business(run, tmp_path, backend, capfd):
    told = run(["bad_worlds:Loud"], backend)
    assert told.code == 0, told.err
    folder = RunFolder(tmp_path / "runs" / "bad" / "naive" / "seed-0")
    assert folder.info()["status"] == "finished"
    out = capfd.readouterr()
    assert ("past Python" in out.out) == (backend == "gymnasium")  # which is this process
    assert ("past Python" in out.err) == (backend != "gymnasium")


@pytest.mark.parametrize("name", ENVPOOL)
def test_envpool_refuses_before_anything_is_written(run, tmp_path, name):
    pytest.importorskip("envpool")
    check_refused(run, tmp_path, "envpool", ENVPOOL[name])
