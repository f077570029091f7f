"""Faults: NaN from an environment, and from training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.training.cell import run_cell
from holdfast.errors import Diverged, EnvironmentFailed
from holdfast.scenarios.load import load

BROKEN = '''
import gymnasium as gym
import numpy as np


class Broken(gym.Env):
    """Gives NaN in its 40th step after construction."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.inside = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        self.inside += 1
        bad = self.steps == 40
        observation = np.full(2, np.nan if bad else 0.5, np.float32)
        return observation, 1.0, False, self.inside == 10, {}
'''

SCENARIO = """
tasks:
  - {name: a, env: "nan_world:Broken", steps: 64}
  - {name: b, env: "nan_world:Broken", steps: 64}
agent: {algorithm: sac, learning_starts: 16, buffer_size: 200, batch_size: 8}
evaluation: {episodes: 1}
"""


def _prepare(tmp_path: Path, more: str = "") -> RunFolder:
    (tmp_path / "nan_world.py").write_text(BROKEN)
    (tmp_path / "s.yaml").write_text(SCENARIO + more)
    (folder,) = prepare(tmp_path / "runs", load(tmp_path / "s.yaml"))
    return folder


@pytest.mark.thorough
def test_nan_observation_names_task_step_and_key(tmp_path: Path) -> None:
    folder = _prepare(tmp_path)
    with pytest.raises(EnvironmentFailed, match=r"'a'.*observation.0. is nan, at step 10") as error:
        run_cell(folder, lambda progress: None)
    assert error.value.exit_code == 3
    assert folder.info()["status"] == "failed"
    assert "NaN" in folder.info()["reason"] or "nan" in folder.info()["reason"]


@pytest.mark.thorough
def test_nan_truncated_keeps_the_buffer_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.agents.sb3.learner import StableBaselinesAgent

    kept: list[Any] = []
    close = StableBaselinesAgent.close

    def keep(self: StableBaselinesAgent) -> None:
        kept.append(self.model.replay_buffer)
        close(self)

    monkeypatch.setattr(StableBaselinesAgent, "close", keep)
    folder = _prepare(tmp_path, "on_nan: truncate\n")
    run_cell(folder, lambda progress: None)
    assert folder.info()["status"] == "finished"
    buffer = kept[0]
    assert buffer.size() == 64
    assert np.isfinite(buffer.observations[:64]).all()
    assert np.isfinite(buffer.next_observations[:64]).all()
    assert buffer.timeouts[39, 0] == 1  # cut short, not terminated


def test_diverging_training_keeps_the_last_good_checkpoint(run: Any) -> None:
    agent = {"learning_rate": 1e30, "normalize_advantage": False}
    with pytest.raises(Diverged) as error:
        run("ppo", agent=agent, evaluation={"episodes": 1})
    assert error.value.exit_code == 4
    assert "not finite" in str(error.value)


@pytest.mark.thorough
def test_diverging_in_the_second_task_leaves_the_first_ones_checkpoint(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.continual.methods.regularization import quadratic

    def explode(parameters: dict[str, Any], *_: Any) -> dict[str, Any]:
        return {name: p * float("nan") for name, p in parameters.items()}

    monkeypatch.setattr(quadratic, "pull", explode)
    with pytest.raises(Diverged, match="not finite"):
        run("ppo", "ewc", evaluation={"episodes": 1})
    (folder,) = (tmp_path / "runs" / "small" / "ewc").iterdir()
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["task-0"]
    assert RunFolder(folder).info()["status"] == "failed"
    assert {s["stage"] for s in RunFolder(folder).scores()} == {0, 1}


class Backwards:
    """A clock that is set back an hour every time that somebody looks."""

    def __init__(self) -> None:
        self.now = 1.8e9

    def __call__(self) -> float:
        self.now -= 3600.0
        return self.now


@pytest.mark.thorough
def test_a_clock_that_is_set_back_changes_nothing(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(runs="plain", evaluation={"episodes": 1})
    monkeypatch.setattr("time.time", Backwards())
    folder = run(evaluation={"episodes": 1})
    assert folder.scores() == plain.scores()
    assert 0 < folder.info()["wall_s"] < 60
    assert folder.info()["steps_per_s"] > 0
