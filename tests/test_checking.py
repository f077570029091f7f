"""`holdfast check-env` on files, modules and whole scenarios: verdicts and exit codes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.cli import app
from holdfast.envs.checks import probes

ARMS = """\
import gymnasium as gym
import numpy as np

class Arm(gym.Env):
    size = 2
    step_size = 0.1

    def __init__(self, values=5):
        self.values = values
        self.observation_space = gym.spaces.Box(-1, 1, (self.size,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-1, 1, self.size).astype(np.float32)
        return self.position.copy(), {}

    def step(self, action):
        moved = self.position + self.step_size * action
        self.position = np.clip(moved, -1, 1).astype(np.float32)
        return (self.position.copy(), 1.0, False, False, {})[: self.values]

class Long(Arm):
    size = 3

class Needs(Arm):
    def __init__(self, side):
        super().__init__()
"""

SCENARIO = """\
tasks:
  - {name: near, env: "arms:Arm", steps: 64, changes: {time_limit: 20}}
  - {name: far, env: "arms:Arm", steps: 64, changes: {time_limit: 20, action_gain: 0.5}}
  - {name: again, env: "arms:Arm", steps: 128, score: {random: 0, reference: 1},
     changes: {time_limit: 20}}
  - {name: drawn, env: "arms:Arm", steps: 64, changes: {time_limit: 20},
     sample: {step_size: "uniform(0.1, 0.3)"}}
agent: {algorithm: sac}
stream: {task_id: hidden}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(probes, "_SPEED_S", 0.02)
    monkeypatch.setattr(probes, "_PROBE_STEPS", 30)
    monkeypatch.setattr(probes, "_LIMIT_STEPS", 60)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "arms.py").write_text(ARMS, "utf-8")
    (tmp_path / "arms.yaml").write_text(SCENARIO, "utf-8")
    return tmp_path


def check(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["check-env", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_a_file_gets_a_verdict_for_each_class(folder: Path) -> None:
    code, out, err = check("./arms.py")
    assert (code, err) == (2, "")  # of the first failure: an argument is missing
    assert out.startswith(f"A scenario in {folder} names it so:  arms:Arm  arms:Long  arms:Needs\n")
    assert "\narms:Arm will work here\n\narms:Long\nok " in out
    assert "error   environment 'arms:Needs', kwargs: " in out
    assert "missing 1 required positional argument: 'side'" in out
    assert out.endswith("arms:Needs does not work here yet\n\n2 of 3 environments will work here\n")


def test_one_class_of_a_file_is_checked_with_its_arguments(folder: Path) -> None:
    code, out, _ = check("arms.py:Needs", "side=1")
    assert (code, out.splitlines()[-1]) == (0, "arms:Needs will work here")
    code, out, _ = check("arms.py:Arm", "values=4")
    assert (code, out.splitlines()[-1]) == (3, "arms:Arm does not work here yet")


def test_a_scenario_gets_a_verdict_for_each_task_and_checks_each_environment_once(
    folder: Path,
) -> None:
    code, out, err = check("arms.yaml")
    assert (code, err) == (0, "")
    verdicts = [line for line in out.splitlines() if line.startswith("task ") and " will" in line]
    assert verdicts == [
        "task near will work here",
        "task far will work here",
        "task again will work here: its environment is that of task near",
        "task drawn-1 will work here",
    ]
    assert out.count("Gymnasium's checker found no error") == 3
    assert out.endswith("\n4 of 4 tasks will work here\n")
    # With the task's own time limit: the class alone has none.
    assert out.count("episodes end (longest with random actions: 20 steps)") == 3


@pytest.mark.thorough
def test_what_a_task_does_to_its_environment_is_checked_too(folder: Path) -> None:
    (folder / "wrapping.py").write_text(
        "import gymnasium as gym\n"
        "class Doubled(gym.ObservationWrapper):\n"
        "    def observation(self, observation):\n"
        "        return 99 * observation\n",
        "utf-8",
    )
    code, out, _ = check("arms.yaml", 'tasks[1].wrappers=["wrapping:Doubled"]')
    assert code == 3
    assert "the observation of reset() is outside its space: [" in out
    assert "task far does not work here yet\n" in out
    assert out.endswith("3 of 4 tasks will work here\n")
    code, out, _ = check("arms.yaml", "tasks[1].kwargs={values: 4}")
    assert code == 3
    assert "error   step() returns 4 values; it must return" in out  # seen through the changes
    code, out, _ = check("arms.yaml", "tasks[1].changes.set={nonsense: 1}")
    assert code == 2
    assert "changes.set.nonsense: Arm has no attribute 'nonsense' to set" in out


@pytest.mark.thorough
def test_environments_that_do_not_fit_together_are_told(folder: Path) -> None:
    code, out, err = check("arms.yaml", "tasks[1].env=arms:Long")
    assert code == 2
    assert "task far will work here" in out
    assert "`spaces: {observation: pad}` brings them together" in err
    assert (check("arms.yaml", "tasks[1].env=arms:Long", "spaces={observation: pad}")[0]) == 0
    code, _, err = check("arms.yaml", "agent.algorithm=dqn")
    assert code == 2
    assert "dqn cannot take the action space Box(-1.0, 1.0, (1,), float32); ppo" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.yaml"], "none.yaml: no such file"),
        (["arms.yml"], "did you mean 'arms.yaml'"),
        (["arms.yaml", "tasks[0].env=arms:Amr"], "did you mean 'arms:Arm'"),
        (["arms.yaml", "--python", sys.executable], "a scenario's tasks name it"),
        (["arms.py", "--python", sys.executable], "with --python, name one: arms.py:Class"),
        (["data.yaml"], "learns data sets, and there is no environment to check"),
    ],
)
def test_wrong_words_are_usage_errors(folder: Path, arguments: list[str], message: str) -> None:
    (folder / "data.yaml").write_text(
        "tasks:\n  - {name: a, benchmark: split-digits, experience: 0, steps: 8}\n"
        "agent: {algorithm: supervised}\nstream: {task_id: hidden}\n"
    )
    code, out, err = check(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("error:") == 1


@pytest.mark.thorough
def test_a_robot_is_stopped_and_need_not_repeat_itself(folder: Path) -> None:
    (folder / "robots.py").write_text(
        ARMS + "class Robot(Arm):\n"
        "    def step(self, action):\n"
        "        self.position = np.random.uniform(-1, 1, 2).astype(np.float32)\n"
        "        return self.position.copy(), 1.0, False, False, {}\n"
        "    def stop(self):\n"
        "        open('stopped', 'w').close()\n",
        "utf-8",
    )
    code, out, _ = check("robots.py:Robot")
    assert code == 0
    assert "advice  not repeatable: at step 1" in out
    assert "ok      stop() brings it to rest; it was called before close()" in out
    assert (folder / "stopped").exists()
    code, out, _ = check("arms.yaml", "tasks[0].exclusive=true")
    assert code == 0
    assert "its class has no method stop(): nothing brings a robot to rest" in out
    (folder / "stopped").unlink()
    code, out, _ = check("arms.yaml", "tasks[0].env=robots:Robot", "tasks[0].kwargs={values: 4}")
    assert (folder / "stopped").exists()
