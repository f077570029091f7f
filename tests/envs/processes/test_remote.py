from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from holdfast.envs.base.loading import build
from holdfast.envs.checks.environment import check_env
from holdfast.envs.make import stream_spaces
from holdfast.envs.processes.remote import RemoteEnv
from holdfast.envs.vector import task_env
from holdfast.errors import EnvironmentFailed, UsageError
from holdfast.scenarios.schema.sections import Pool

HERE = Path(__file__).parents[1]
FAST, SLOW = Pool(step_timeout_s=0.5, reset_timeout_s=0.5), Pool()


@pytest.fixture
def remote(other_python, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    opened = []

    def make(target, limits=SLOW, **keys):
        folder = keys.pop("folder", HERE)
        options = {name: keys.pop(name) for name in ("time_limit", "render_mode") if name in keys}
        env = RemoteEnv(target, keys, python=other_python, folder=folder, limits=limits, **options)
        opened.append(env)
        return env

    yield make
    for env in opened:
        env.close()


def steps(env, count):
    for _ in range(count):
        env.step(1)


def pid_of(env):
    return env._process.pid


def test_the_other_interpreter_lacks_holdfast(other_python, remote):
    code = "import gymnasium, importlib.util as u; print(u.find_spec('holdfast'))"
    done = subprocess.run([other_python, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "None\n", done.stderr
    command = Path(f"/proc/{pid_of(remote('CartPole-v1'))}/cmdline").read_bytes().split(b"\0")
    assert command[0] == str(other_python).encode()
    assert other_python != Path(sys.executable)


@pytest.mark.parametrize(
    "target",
    [
        "CartPole-v1",
        "Pendulum-v1",
        "odd_worlds:Pictures",
        "odd_worlds:OnlyCamera",
        "odd_worlds:Coded",
    ],
)
def test_it_equals_the_environment_here(remote, same, target):
    there, here = remote(target), build(target, {}, folder=HERE)
    assert there.observation_space == here.observation_space
    assert there.action_space == here.action_space
    assert there.metadata == here.metadata
    assert (there.spec and there.spec.max_episode_steps) == (
        here.spec and here.spec.max_episode_steps
    )
    here.action_space.seed(1)
    same(list(here.reset(seed=5)), list(there.reset(seed=5)))
    for _ in range(300):
        action = here.action_space.sample()
        one, two = here.step(action), there.step(action)
        same([one[0], float(one[1]), *map(bool, one[2:4]), one[4]], list(two))
        if one[2] or one[3]:
            same(list(here.reset()), list(there.reset()))


def test_the_first_actions_may_be_of_any_type(remote, same):
    """Also of 64 bits: what there is before the first step compares equal to those in NumPy."""
    for dtype in (np.float64, np.float32):
        there, here = remote("Pendulum-v1"), gym.make("Pendulum-v1")
        there.reset(seed=1)
        here.reset(seed=1)
        one, two = (env.step(np.ones(1, dtype)) for env in (here, there))
        same([one[0], float(one[1])], [two[0], float(two[1])])


@pytest.mark.thorough
def test_time_limit_options_attributes_and_pictures(remote):
    env = remote("CartPole-v1", time_limit=3, render_mode="rgb_array")
    env.reset(seed=0, options={"low": -0.01, "high": 0.01})
    assert env.spec.max_episode_steps == 3
    assert env.render().shape == (400, 600, 3)
    assert env.render_mode == "rgb_array"
    assert env.gravity == 9.8
    assert not hasattr(env, "nothing")
    assert [env.step(0)[3] for _ in range(3)] == [False, False, True]
    assert remote("odd_worlds:Masked").action_masks().tolist() == [False, True, True]
    assert remote("odd_worlds:Coded", index=4).reset()[0][0] == 4


FAILURES = {
    "raise": "raised ValueError: boom",
    "exit": "raised SystemExit: 3",
    "os_exit": "ended by itself (exit code 7)",
    "kill": "SIGKILL, exit code -9",
    "segfault": "died of SIGSEGV",
    "hang": "within 0.5 s (pool.",
    "nonsense": "answered nonsense",
}


@pytest.mark.parametrize("place", ["step", "reset"])
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_told_with_its_traceback(remote, all_dead, name, place):
    limits = FAST if name == "hang" else SLOW
    at = 2 if place == "step" else 0
    env = remote("odd_worlds:Coded", limits, fault=name, place=place, at=at)
    pid = pid_of(env)
    with pytest.raises(EnvironmentFailed) as caught:
        _, _ = env.reset(seed=0), steps(env, 5)
    assert FAILURES[name] in str(caught.value)
    assert "environment 'odd_worlds:Coded' under" in str(caught.value)
    if name in ("raise", "hang", "segfault"):
        assert "odd_worlds.py" in str(caught.value)
    assert all_dead([pid])
    with pytest.raises(EnvironmentFailed, match="is closed"):
        env.reset()


def test_prints_do_no_harm(remote, capfd):
    env = remote("odd_worlds:Coded", fault="print")
    env.reset(seed=0)
    steps(env, 3)
    env.reset()
    assert env.step(1)[0].tolist() == [0, 0, 1, 1]
    assert "from a child" in (told := capfd.readouterr()).err + str(env.step(1)) + told.err
    assert told.out == ""


def test_a_method_that_raises_leaves_the_environment_as_it_is(remote):
    env = remote("odd_worlds:Coded")
    env.reset(seed=0)
    with pytest.raises(EnvironmentFailed, match="RuntimeError: not now"):
        env.stumble()
    assert env.step(1)[0].tolist() == [0, 0, 0, 1]


def test_closing_ends_the_process_within_a_second(remote, all_dead):
    envs = [remote("CartPole-v1"), remote("odd_worlds:Coded", fault="hang", at=0)]
    pids = [pid_of(env) for env in envs]
    envs[1].reset()
    envs[1]._process.begin_step(np.zeros(1, int))
    time.sleep(0.1)
    for env in envs:
        began = time.monotonic()
        env.close()
        env.close()
        assert time.monotonic() - began < 1.0
    assert all_dead(pids, within_s=0)


@pytest.mark.parametrize(
    ("target", "kwargs", "kind", "message"),
    [
        ("CartPol-v1", {}, UsageError, "Did you mean: `CartPole`"),
        ("odd_worldz:Coded", {}, UsageError, "no module 'odd_worldz' is installed there, and none"),
        (
            "odd_worlds:Coded",
            {"arms": 3},
            UsageError,
            "kwargs: .*unexpected keyword argument 'arms'",
        ),
        ("odd_worlds:Path", {}, UsageError, "not a class derived from gymnasium.Env"),
        ("odd_worlds:Broken", {}, EnvironmentFailed, "constructor: raised ValueError: boom"),
        (
            "needy:Arm",
            {},
            UsageError,
            r"needs the package 'no_such_sim'.*python -m pip install no_s",
        ),
        ("tuples:Tuples", {}, UsageError, "Tuple.* cannot travel between processes; Box, Discrete"),
        ("odd_worlds:Coded", {"index": object()}, UsageError, "kwargs: a object cannot travel"),
    ],
)
def test_what_cannot_be_built_is_told(remote, tmp_path, target, kwargs, kind, message):
    (tmp_path / "odd_worlds.py").write_text((HERE / "odd_worlds.py").read_text())
    (tmp_path / "needy.py").write_text("import no_such_sim\n")
    (tmp_path / "tuples.py").write_text(TUPLES)
    with pytest.raises(kind, match=message):
        remote(target, folder=tmp_path, **kwargs)


TUPLES = """
import gymnasium as gym
from gymnasium.spaces import Discrete, Tuple

class Tuples(gym.Env):
    action_space = Discrete(2)
    observation_space = Tuple([Discrete(2), Discrete(2)])
"""

MALFORMED = """
import gymnasium as gym
import numpy as np

class Old(gym.Env):
    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, {}

class Older(Old):
    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32)

class Shape(Old):
    def step(self, action):
        return np.zeros((1, 2), np.float32), 0.0, False, False, {}

class Type(Old):
    def step(self, action):
        return np.full(2, 0.1, np.float64), 0.0, False, False, {}

class Outside(Old):
    def step(self, action):
        return np.full(2, 3, np.float32), 0.0, False, False, {}

class Nan(Old):
    def step(self, action):
        return np.full(2, np.nan, np.float32), 0.0, False, False, {}
"""


@pytest.mark.parametrize(
    "name",
    [
        "Old",
        "Nan",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("Older", "Shape", "Type", "Outside")),
    ],
)
def test_check_env_finds_there_what_it_finds_here(other_python, monkeypatch, tmp_path, name):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "malformed.py").write_text(MALFORMED)

    def problems(**keys):
        result = check_env(f"malformed:{name}", folder=tmp_path, **keys)
        return [finding.text for finding in result.findings if finding.level == "error"]

    here, there = problems(), problems(python=str(other_python))
    assert len(there) >= 1
    assert [text[:40] for text in there[:1]] == [text[:40] for text in here[:1]]


@pytest.mark.thorough
def test_check_env_finds_no_error_in_a_good_one(other_python, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    result = check_env("CartPole-v1", python=str(other_python))
    assert [f.text for f in result.findings if f.level == "error"] == []


# -- as a task of a scenario -----------------------------------------------------------------------


@pytest.fixture
def tasks(make_scenario, other_python, monkeypatch):
    """Two tasks on CartPole: here, and the same under another interpreter."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    changes = {"action_map": [1, 0], "observation_noise": 0.1, "time_limit": 7}
    task = {"env": "CartPole-v1", "changes": changes, "wrappers": [{"frame_stack": 2}]}
    return make_scenario(task, {**task, "python": str(other_python)})


@pytest.mark.thorough
def test_changes_wrappers_and_task_id_come_on_this_side(tasks):
    spaces = stream_spaces(tasks)
    rows = []
    for index in range(2):
        env = task_env(tasks, index, spaces)
        rows.append([env.reset(seed=3)[0]])
        rows[-1] += [env.step(step % 2)[0] for step in range(7)]
        env.close()
    shown = np.array(rows)
    assert np.array_equal(shown[0, :, :-2], shown[1, :, :-2])
    assert shown[:, 0, -2:].tolist() == [[1, 0], [0, 1]]


@pytest.mark.thorough
def test_the_guard_names_the_task(make_env, make_task, other_python, monkeypatch, tmp_path):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "malformed.py").write_text(MALFORMED)
    for name, text in {
        "Nan": "task 'task' .*observation.0. is nan, at step 1 of an episode, action 1",
        "Old": "task 'task', step 1, action 1: step.. returned a tuple of 4",
        "Shape": "task 'task', step 1.*cannot read the observation",
    }.items():
        task = make_task(f"malformed:{name}", python=str(other_python))
        env = make_env(task, folder=tmp_path)
        env.reset(seed=0)
        with pytest.raises(EnvironmentFailed, match=text):
            env.step(1)
        env.close()
    env = make_env(
        make_task("odd_worlds:Coded", python=str(other_python), kwargs={"fault": "raise", "at": 2}),
        folder=HERE,
    )
    env.reset(seed=0)
    with pytest.raises(EnvironmentFailed, match="task 'task', step 2, action 1: environment 'odd_"):
        steps(env, 2)
    env.close()


@pytest.mark.thorough
def test_an_exclusive_one_is_open_once(make_scenario, other_python, monkeypatch, is_alive):
    from holdfast.envs.wrappers.robot import Slot

    monkeypatch.delenv("PYTHONPATH", raising=False)
    scenario = make_scenario({"env": "Pendulum-v1", "python": str(other_python), "exclusive": True})
    spaces, slot = stream_spaces(scenario), Slot()
    one = task_env(scenario, 0, spaces, slot=slot)
    pid = pid_of(one.unwrapped)
    two = task_env(scenario, 0, spaces, slot=slot)
    assert not is_alive(pid)
    two.reset(seed=0)
    two.close()


@pytest.mark.thorough
def test_a_plain_gymnasium_check_passes(remote):
    from gymnasium.utils.env_checker import check_env as published

    published(remote("Acrobot-v1"), skip_render_check=True, skip_close_check=True)
    assert isinstance(remote("Acrobot-v1"), gym.Env)
