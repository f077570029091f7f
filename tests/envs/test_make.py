from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit

from holdfast.envs.base.loading import (
    ImportFailed,
    MissingPackage,
    OldGym,
    UnknownEnvironment,
    build,
)
from holdfast.envs.wrappers.guard import Guard
from holdfast.errors import EnvironmentFailed, UsageError

ENVIRONMENT = """
    import gymnasium as gym
    import numpy as np

    class Walk(gym.Env):
        observation_space = gym.spaces.Box(-10, 10, (1,), np.float32)
        action_space = gym.spaces.Discrete(2)

        def __init__(self, size=3, *, render_mode=None):
            self.size = size
            self.render_mode = render_mode

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.position = 0
            return np.zeros(1, np.float32), {}

        def step(self, action):
            self.position += 2 * action - 1
            ended = abs(self.position) >= self.size
            return np.full(1, self.position, np.float32), 0.0, ended, False, {}

    class Double(gym.RewardWrapper):
        def __init__(self, env, plus=0.0):
            super().__init__(env)
            self.plus = plus

        def reward(self, reward):
            return 2 * reward + self.plus

    def make_walk():
        return Walk()

    gym.register("{name}/Walk-v0", entry_point=Walk, max_episode_steps=7)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give each test a module name of its own and the working directory of somebody else."""
    folder = tmp_path / "scénario folder"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def write(folder: Path, name: str, text: str = ENVIRONMENT) -> str:
    (folder / f"{name}.py").write_text(textwrap.dedent(text).replace("{name}", name))
    return name


def trajectory(env: gym.Env, seed: int, steps: int = 300) -> list[np.ndarray]:
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    rows = [np.append(observation, 0.0)]
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        rows.append(np.append(observation, reward))
        if terminated or truncated:
            observation, _ = env.reset()
            rows.append(np.append(observation, 0.0))
    env.close()
    return rows


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_without_changes_a_trajectory_equals_plain_gymnasium(make_env, make_task, name):
    ours = trajectory(make_env(make_task(name)), 3)
    plain = trajectory(gym.make(name), 3)
    assert len(ours) == len(plain)
    assert np.array_equal(np.stack(ours), np.stack(plain))


def test_half_cheetah_equals_plain_gymnasium(make_env, make_task):
    pytest.importorskip("mujoco")
    ours = trajectory(make_env(make_task("HalfCheetah-v5")), 3, steps=100)
    plain = trajectory(gym.make("HalfCheetah-v5"), 3, steps=100)
    assert np.array_equal(np.stack(ours), np.stack(plain))


def test_nothing_is_rendered_unless_asked_for(make_env, make_task):
    assert make_env(make_task()).render_mode is None
    env = make_env(make_task("Pendulum-v1"), render_mode="rgb_array")
    assert env.render_mode == "rgb_array"


def test_a_class_is_found_in_the_folder_of_the_scenario(make_env, make_task, folder):
    module = write(folder, "walk_class")
    env = make_env(make_task(f"{module}:Walk", kwargs={"size": 2}), folder=folder)
    assert env.unwrapped.size == 2
    env.reset(seed=0)
    assert env.step(1)[2] is False
    assert env.step(1)[2] is True
    assert isinstance(env, Guard)
    assert not isinstance(env.env, TimeLimit)


def test_a_class_gets_a_time_limit_only_where_the_task_asks(make_env, make_task, folder):
    module = write(folder, "walk_limit")
    task = make_task(f"{module}:Walk", kwargs={"size": 99}, changes={"time_limit": 2})
    env = make_env(task, folder=folder)
    env.reset(seed=0)
    assert [env.step(1)[3] for _ in range(2)] == [False, True]


def test_an_id_is_registered_by_importing_its_module(make_env, make_task, folder):
    module = write(folder, "walk_id")
    env = make_env(make_task(f"{module}:{module}/Walk-v0", kwargs={"size": 99}), folder=folder)
    assert env.spec.max_episode_steps == 7
    limited = make_task(f"{module}:{module}/Walk-v0", changes={"time_limit": 4})
    assert make_env(limited, folder=folder).spec.max_episode_steps == 4


def test_the_time_limit_of_an_id_is_replaced(make_env, make_task):
    env = make_env(make_task("Pendulum-v1", changes={"time_limit": 250}))
    env.reset(seed=0)
    cut = [env.step(env.action_space.sample())[3] for _ in range(250)]
    assert cut.index(True) == 249


def test_kwargs_of_the_task_are_not_handed_out_to_be_changed(make_env, make_task, folder):
    source = """
        import gymnasium as gym

        class Greedy(gym.Env):
            observation_space = action_space = gym.spaces.Discrete(2)

            def __init__(self, items):
                items.append(1)
    """
    task = make_task(f"{write(folder, 'greedy', source)}:Greedy", kwargs={"items": []})
    make_env(task, folder=folder)
    assert task.kwargs == {"items": []}


def test_wrappers_of_the_users_own_and_of_gymnasium(make_env, make_task, folder):
    module = write(folder, "walk_wrapped")
    wrappers = [
        {f"{module}:Double": {"plus": 1.0}},
        {"gymnasium.wrappers:ClipReward": {"max_reward": 0.5}},
    ]
    env = make_env(make_task(f"{module}:Walk", wrappers=wrappers), folder=folder)
    env.reset(seed=0)
    assert env.step(1)[1] == 0.5


def test_frames_are_stacked_and_vectors_laid_end_to_end(make_env, make_task):
    env = make_env(make_task("Pendulum-v1", wrappers=[{"frame_stack": 3}]))
    assert env.observation_space.shape == (9,)
    first, _ = env.reset(seed=0)
    second, *_ = env.step(np.zeros(1, np.float32))
    assert np.array_equal(first[:3], first[6:])
    assert np.array_equal(second[:6], first[3:])
    assert not np.array_equal(second[6:], first[6:])


def test_atari_frames_are_ready_for_a_convolutional_policy(make_env, make_task):
    pytest.importorskip("ale_py")
    wrappers = ["atari", {"frame_stack": 4}]
    task = make_task("ale_py:ALE/Pong-v5", kwargs={"frameskip": 1}, wrappers=wrappers)
    env = make_env(task)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.shape == observation.shape == (4, 84, 84)
    assert observation.dtype == np.uint8
    env.close()


def test_atari_without_frameskip_1_says_what_to_add(make_env, make_task):
    pytest.importorskip("ale_py")
    with pytest.raises(UsageError, match=r"wrappers.atari: .*kwargs: \{frameskip: 1\}"):
        make_env(make_task("ale_py:ALE/Pong-v5", wrappers=["atari"]))


@pytest.mark.parametrize(
    ("env", "keys", "error", "text"),
    [
        ("CartPol-v1", {}, UnknownEnvironment, "'CartPol-v1'; did you mean 'CartPole-v1'?"),
        ("CartPole-v7", {}, UnknownEnvironment, "no environment 'CartPole-v7'; did you mean"),
        ("Not An Id!", {}, UnknownEnvironment, "is no environment id"),
        ("no_such_module_x:Reach", {}, MissingPackage, "pip install no_such_module_x"),
        ("walk_typo:Wlak", {}, UnknownEnvironment, "did you mean 'walk_typo:Walk'?"),
        ("walk_typ:Walk", {}, MissingPackage, "did you mean 'walk_typo'?"),
        ("walk_typo:make_walk", {}, UsageError, "is a function, not a class"),
        ("os:system", {}, UsageError, "not a class derived from gymnasium.Env"),
        ("subprocess:Popen", {}, UsageError, "not a class derived from gymnasium.Env"),
        ("walk_typo:Walk", {"kwargs": {"sise": 1}}, UsageError, "kwargs: .*'sise'"),
        ("CartPole-v1", {"kwargs": {"sise": 1}}, UsageError, "kwargs: .*'sise'"),
        ("CartPole-v1", {"wrappers": ["frame_stak"]}, UsageError, "known: frame_stack, atari"),
        ("CartPole-v1", {"wrappers": ["walk_typo:Duble"]}, UsageError, "mean 'walk_typo:Double'"),
        ("CartPole-v1", {"wrappers": ["walk_typo:Walk"]}, UsageError, "derived from gymnasium.Wr"),
        (
            "CartPole-v1",
            {"kwargs": {"max_episode_steps": 5}, "changes": {"time_limit": 5}},
            UsageError,
            "give one of the two",
        ),
    ],
)
def test_what_is_wrong_is_named(make_env, make_task, folder, env, keys, error, text):
    write(folder, "walk_typo")
    with pytest.raises(error, match=text) as caught:
        make_env(make_task(env, **keys), folder=folder)
    assert str(caught.value).startswith("task 'task': ")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("package", "env"),
    [("minigrid", "MiniGrid-Empty-5x5-v0"), ("gymnasium_robotics", "FetchReach-v4")],
)
def test_an_id_that_a_package_registers_names_the_package(
    make_env, make_task, monkeypatch, package, env
):
    # Another test may have imported the package.
    monkeypatch.delitem(gym.registry, env, raising=False)
    with pytest.raises(UnknownEnvironment, match=f"'{package}:{env}'"):
        make_env(make_task(env))


def test_a_module_that_fails_to_import_keeps_its_traceback(make_env, make_task, folder):
    module = write(folder, "broken_module", "raise RuntimeError('no driver')")
    with pytest.raises(ImportFailed, match="RuntimeError: no driver") as caught:
        make_env(make_task(f"{module}:Walk"), folder=folder)
    assert caught.value.__cause__.__traceback__ is not None
    assert str(caught.value.__cause__) == "no driver"


def test_a_package_that_the_module_needs_is_told_from_the_module(make_env, make_task, folder):
    module = write(folder, "needy_module", "import pybullet_that_is_missing")
    with pytest.raises(MissingPackage, match="importing 'needy_module' needs the package 'pybu"):
        make_env(make_task(f"{module}:Walk"), folder=folder)


def test_a_class_of_the_old_gym_is_named(make_env, make_task, folder, monkeypatch):
    source = """
        import sys, types
        gym = types.ModuleType("gym")
        Env = type("Env", (), {"__module__": "gym.core"})

        class Old(Env):
            pass
    """
    module = write(folder, "old_module", source)
    with pytest.raises(OldGym, match="written for the old gym"):
        make_env(make_task(f"{module}:Old"), folder=folder)


def test_a_constructor_that_fails_or_exits_is_an_environment_that_failed(folder):
    source = """
        import sys
        import gymnasium as gym

        class Exits(gym.Env):
            def __init__(self):
                sys.exit(3)
    """
    module = write(folder, "exiting", source)
    with pytest.raises(EnvironmentFailed, match=r"constructor of environment .* SystemExit: 3"):
        build(f"{module}:Exits", {}, folder=folder)


def test_an_environment_whose_change_is_refused_is_closed(make_env, make_task, folder):
    source = """
        import gymnasium as gym

        class Closes(gym.Env):
            closed = 0
            observation_space = action_space = gym.spaces.Discrete(2)

            def close(self):
                Closes.closed += 1
    """
    module = write(folder, "closes", source)
    task = make_task(f"{module}:Closes", changes={"action_gain": 2.0})
    with pytest.raises(UsageError, match=r"changes.action_gain: needs a vector"):
        make_env(task, folder=folder)
    assert sys.modules[module].Closes.closed == 1
