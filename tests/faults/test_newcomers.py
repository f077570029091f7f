"""Mistakes of somebody's first days: each told with what, where and what to do, no traceback.

All go through the command line, in the form in which they are made. What is told of environments
through every backend is in ``test_bad_input.py``, what single keys say in ``tests/scenarios/``.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from holdfast.cli import app

ROVER = """
import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict


class Rover(gym.Env):
    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)

    def __init__(self, slope=0.0):
        self.slope = slope

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.count += 1
        return np.full(2, 0.5, np.float32), 1.0, False, self.count == 8, {}


class NeedsAPort(Rover):
    def __init__(self, port):
        super().__init__()


class NoSpaces(gym.Env):
    pass


class Degrees(Rover):
    def step(self, action):
        observation, *rest = super().step(action)
        return observation * 360, *rest


class OldApi(Rover):
    def step(self, action):
        observation, reward, _, done, info = super().step(action)
        return observation, reward, done, info


class Lists(Rover):
    def step(self, action):
        return [0.5, 0.5], *super().step(action)[1:]


class HalfADict(Rover):
    observation_space = Dict({"joints": Rover.observation_space, "goal": Box(-1, 1, (1,))})

    def reset(self, **given):
        return {"joints": super().reset(**given)[0]}, {}


class Nested(Rover):
    observation_space = Dict({"arm": Dict({"joints": Rover.observation_space})})

    def reset(self, **given):
        return {"arm": {"joints": super().reset(**given)[0]}}, {}

    def step(self, action):
        observation, *rest = super().step(action)
        return {"arm": {"joints": observation}}, *rest


class Misspelt(Rover):
    def step(self, action):
        return np.full(2, self.hieght, np.float32), *super().step(action)[1:]
"""
SCENARIO = """\
tasks:
  - {name: flat, env: rover:Rover, steps: 64}
  - {name: steep, env: rover:Rover, kwargs: {slope: 0.2}, steps: 64}
agent: {algorithm: ppo, n_steps: 32, batch_size: 32, n_epochs: 1}
evaluation: {episodes: 1}
"""
FLAT = "env: rover:Rover, steps: 64"


class Row(NamedTuple):
    """A mistake.

    Attributes:
        told: Parts of what is told: where, what, and what to do.
        old: What is replaced in the scenario.
        new: By what.
        command: What is typed; ``FILE`` is the scenario.
        code: The exit code.
    """

    told: tuple[str, ...]
    old: str = ""
    new: str = ""
    command: str = "validate FILE"
    code: int = 2


def adds(line: str, *told: str, command: str = "validate FILE", code: int = 2) -> Row:
    """Return the row of a mistake in a line of its own."""
    return Row(told, "evaluation:", f"{line}\nevaluation:", command, code)


def typed(command: str, *told: str, code: int = 2) -> Row:
    """Return the row of a mistake on the command line."""
    return Row(told, command=command, code=code)


YAML = {
    "a tab": Row(
        ("first.yaml:3:1: ", "a tab indents", "with spaces"), "  - {name: st", "\t- {name: st"
    ),
    "one space too few": Row(("first.yaml:3:2: ", "indentation"), "  - {name: st", " - {name: st"),
    "no space after the colon": Row(
        ("first.yaml:4:9: agent: 'algorithm:ppo' is one word", "write 'algorithm: ppo'"),
        "algorithm: ppo",
        "algorithm:ppo",
    ),
    "a brace left open": Row(
        ("first.yaml:3:5: ", "which starts in line 2"), "64}\n  - {name: st", "64\n  - {name: st"
    ),
    "a quote left open": Row(("first.yaml:2:12: ", "this quote is never closed"), "flat", "'flat"),
    "a thousands comma": Row(
        ("first.yaml:2:45: tasks[0]: ", "write 1000 without it"),
        FLAT,
        "env: rover:Rover, steps: 1,000",
    ),
    "a misspelt section": Row(
        ("first.yaml:5:1: evalution: ", "mean 'evaluation'?"), "evaluation", "evalution"
    ),
    "a method called as in Python": adds(
        "methods: [naive, ewc(strength=10)]",
        *("first.yaml:5:18: methods[1]: ", "write ewc: {strength: 10}"),
    ),
    "a range of seeds": adds("seeds: 0-4", "first.yaml:5:8: seeds: ", "write [0, 1, 2, 3, 4]"),
    "a list for the order by numbers": adds(
        "stream: {order: [0, 1]}",
        *("first.yaml:5:18: stream.order[0]: ", "names of tasks: [first, second]"),
    ),
    "a unit": Row(
        ("first.yaml:2:69: tasks[0].changes.time_limit: ", "got the text '10s'", "without 's'"),
        FLAT,
        f"{FLAT}, changes: {{time_limit: 10s}}",
    ),
    "percent": Row(
        ("first.yaml:4:61: agent.gamma: ", "from 0 to 1, got 99"), "n_epochs: 1", "gamma: 99"
    ),
    "an argument of the environment beside kwargs": Row(
        ("first.yaml:3:37: tasks[1].slope: ", "kwargs: {slope: value}"),
        "kwargs: {slope: 0.2}",
        "slope: 0.2",
    ),
    "a misspelt argument of the environment": Row(
        ("first.yaml:3:46: tasks[1].kwargs.slop: ", "no argument 'slop'; did you mean 'slope'?"),
        "slope: 0.2",
        "slop: 0.2",
    ),
    "a class with a dot": Row(
        ("first.yaml:2:23: tasks[0].env: ", "is written 'rover:Rover'"),
        "rover:Rover, s",
        "rover.Rover, s",
    ),
    "an old Atari id": Row(
        ("first.yaml:2:23: tasks[0].env: ", "write 'ale_py:ALE/Pong-v5'", "wrappers: [atari]"),
        "rover:Rover, s",
        "PongNoFrameskip-v4, s",
    ),
    "an id of another package": Row(
        (
            "first.yaml:2:23: ",
            "'gymnasium_robotics:FetchReach-v3'",
            "pip install gymnasium-robotics",
        ),
        "rover:Rover, s",
        "FetchReach-v3, s",
    ),
    "a PettingZoo module as a class": Row(
        ("first.yaml:2:23: ", "for many agents", "write mpe2.simple_spread_v3", "policies: shared"),
        "rover:Rover, s",
        "pettingzoo.mpe:simple_spread_v3, s",
    ),
    "an argument of the network beside policy_kwargs": Row(
        ("first.yaml:4:54: agent.net_arch: ", "write policy_kwargs: {net_arch: ...}"),
        "n_epochs: 1",
        "net_arch: [64, 64]",
    ),
    "Gym's word for the time limit": Row(
        (
            "first.yaml:2:47: tasks[0].max_episode_steps: ",
            "'time_limit' belongs under tasks[...].changes:",
        ),
        FLAT,
        f"{FLAT}, max_episode_steps: 10",
    ),
    "steps that environments side by side cannot share": adds(
        "n_envs: 3", "first.yaml:2:43: tasks[0].steps: ", "not a multiple of n_envs (3)", "write 63"
    ),
}
COMMAND_LINE = {
    "a command of another library": typed("train FILE", "no command 'train'", "'holdfast run'"),
    "a misspelt option": typed("run FILE --job 2", "No such option: --job", "--jobs"),
    "a key as an option": typed(
        "run FILE --seed 3", "no option '--seed'", "without dashes", "'seeds=[0, 1]'"
    ),
    "an override without a sign": typed(
        "run FILE agent.gamma 0.9", "override agent.gamma: ", "written key=value"
    ),
    "an unquoted list": typed(
        "run FILE seeds=[0, 1]", "override seeds=[0,: ", "quote", "'seeds=[0, 1]'"
    ),
    "seeds without brackets": typed("run FILE seeds=0,1", "override seeds=0,1: ", "write [0, 1]"),
    "a task by another name": typed(
        "run FILE tasks.step.steps=96", "tasks has no 'step'; did you mean 'steep'?"
    ),
    "Python instead of a scenario": typed(
        "run rover.py", "rover.py: is Python", "holdfast check-env rover.py"
    ),
    "a report of a scenario file": typed("report FILE", "first.yaml is a file", "runs/first"),
    "a report of nothing": typed(
        "report runs/none", ": there is no such folder;", "run a scenario first"
    ),
    "a name with a dash": typed("new env my-arm", "'my-arm' cannot name a module", ": my_arm"),
    "a file in the place of a folder": typed(
        "run FILE --runs rover.py", "rover.py/first", "--runs", code=5
    ),
    "a file that is there": typed("new env rover", "rover.py is in", "choose another name"),
}
ENVIRONMENTS = {
    "no spaces": typed("check-env rover:NoSpaces", "observation_space is missing", code=3),
    "another unit": typed(
        "check-env rover:Degrees", "step 1,", "[0] is 180, allowed -1 to 1", code=3
    ),
    "four values": typed(
        "check-env rover:OldApi", "step() returns 4 values", "`terminated`", code=3
    ),
    "half a Dict": typed("check-env rover:HalfADict", "reset(): key 'goal' is missing", code=3),
    "a Dict in a Dict": typed(
        "check-env rover:Nested", "Dict('arm': Dict(", "FlattenObservation", code=3
    ),
    "a misspelt attribute": typed("check-env rover:Misspelt", "'hieght' (rover.py, line ", code=3),
    "a misspelt class": typed(
        "check-env rover.py:Rovr", "no environment or class 'Rovr'", "'rover:Rover'"
    ),
    "an argument that is not there": typed(
        "check-env rover:Rover slop=1", "unexpected keyword argument 'slop'", "it takes slope"
    ),
    "an argument that is missing": typed(
        "check-env rover:NeedsAPort", "argument: 'port'", "it takes port"
    ),
    "spaces that are missing, in a scenario": Row(
        ("first.yaml:2:5: tasks[0]: task 'flat': ", "has no observation_space", "set self.obs"),
        "rover:Rover, s",
        "rover:NoSpaces, s",
        "validate --build FILE",
    ),
    "a convolution over numbers": Row(
        ("first.yaml:4:62: agent.policy: CnnPolicy is for pictures", "write MlpPolicy"),
        "n_epochs: 1",
        "policy: CnnPolicy",
        "validate --build FILE",
    ),
    "two kinds of observation": Row(
        ("first.yaml:1:1: spaces.observation: ", "    flat: Dict(", "`wrappers:`"),
        "rover:Rover, s",
        "rover:HalfADict, s",
        "validate --build FILE",
    ),
    "a score that nobody tells": adds(
        "score: success",
        *("failed: naive/seed-0: task 'flat': score: success", 'info["is_success"]'),
        command="run FILE --retries 0",
        code=3,
    ),
    "lists for arrays": Row(
        (
            "task 'flat', step 1, action ",
            "it is a list, not an array; return np.array(..., np.float32)",
        ),
        "rover:Rover, s",
        "rover:Lists, s",
        "run FILE --retries 0",
        3,
    ),
}


class Told(NamedTuple):
    code: int
    text: str


@pytest.fixture
def tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "rover.py").write_text(ROVER)

    def tell(command: str, scenario: str = SCENARIO) -> Told:
        (tmp_path / "first.yaml").write_text(scenario)
        result = CliRunner().invoke(app, command.replace("FILE", "first.yaml").split())
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception  # which the command line would end with, and its traceback
        return Told(result.exit_code, result.stderr or result.stdout)

    return tell


ROWS = YAML | COMMAND_LINE | ENVIRONMENTS


@pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in ROWS.items()])
def test_a_mistake_is_told_with_its_place_and_its_remedy(tell, tmp_path: Path, row: Row) -> None:
    assert row.old in SCENARIO
    before = {path.name for path in tmp_path.iterdir()} | {"first.yaml"}
    code, text = tell(row.command, SCENARIO.replace(row.old, row.new, 1) if row.old else SCENARIO)
    assert [part for part in row.told if part not in text] == [], text
    assert code == row.code
    assert "Traceback" not in text
    assert text.count(row.told[0]) == 1, text
    if not row.command.endswith("--retries 0"):  # nothing is written before it is refused
        assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} <= before


@pytest.mark.thorough
def test_mistakes_with_a_run_that_is_there(tell, tmp_path: Path) -> None:
    assert tell("run FILE").code == 0
    third = SCENARIO.replace("agent:", "  - {name: rocks, env: rover:Rover, steps: 64}\nagent:")
    mistakes = {
        "run FILE": (third, "its task id is 2 wide, and would have to be 3", "{max_tasks: 3}"),
        "run FILE tasks.flat.steps=96": (SCENARIO, "-  steps: 64\n+  steps: 96", "another name:"),
        "video runs/first/naive/seed-0 --task flt": (SCENARIO, "no task 'flt'", "mean 'flat'?"),
        "video runs/first": (SCENARIO, "several runs", "runs/first/naive/seed-0"),
        "video runs/first/naive/seed-0": (SCENARIO, "takes no render_mode", "(height, width, 3)"),
        "clean runs/first video": (SCENARIO, "no 'video' is cleaned", "mean 'videos'?"),
    }
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "runs", kept)
    for command, (scenario, *told) in mistakes.items():
        code, text = tell(command, scenario)
        assert code in (2, 3), command
        assert [part for part in told if part not in text] == [], text
        assert "Traceback" not in text
    for path in kept.rglob("*.*"):
        there = tmp_path / "runs" / path.relative_to(kept)
        assert path.is_dir() or there.read_bytes() == path.read_bytes()
