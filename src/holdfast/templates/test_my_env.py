"""Does the environment do what its description says?"""

from pathlib import Path

import numpy as np
from my_env import MyEnv

import holdfast
from holdfast.envs.checks.environment import check_env

HERE = Path(__file__).parent


def test_one_step_by_hand() -> None:
    """From rest at 0 with full acceleration: 0.1 m/s after 0.1 s, and 0.01 m further."""
    env = MyEnv(goal=0.5)
    env.reset(seed=0)
    env.position = 0.0
    observation, reward, *_ = env.step(np.array([1.0], np.float32))
    np.testing.assert_allclose(observation, [0.01, 0.1, 0.49], rtol=1e-6)
    np.testing.assert_allclose(reward, -0.49, rtol=1e-6)


def test_the_same_seed_gives_the_same_start() -> None:
    first, _ = MyEnv().reset(seed=3)
    second, _ = MyEnv().reset(seed=3)
    assert np.array_equal(first, second)


def test_holdfast_finds_nothing_wrong_with_it() -> None:
    result = check_env("my_env:MyEnv", folder=HERE)
    assert result.ok, result.findings


def test_the_scenario_is_good() -> None:
    assert len(holdfast.load(HERE / "my_env.yaml").tasks) == 2
