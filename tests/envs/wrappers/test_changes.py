from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from holdfast.envs.wrappers.changes import RewardScale, SetAttributes, apply_changes
from holdfast.errors import UsageError
from holdfast.scenarios.schema.changes import Changes


def cartpole():
    return gym.make("CartPole-v1", disable_env_checker=True)


class Options:
    scale = 1.0


class Tool(gym.Env):
    observation_space = action_space = gym.spaces.Discrete(2)
    options = Options()  # shared by all instances

    def __init__(self):
        self.goal = np.array([1.0, 2.0])
        self.limits = (0, 1)
        self.label = None
        self.count = 3
        self.fast = False
        self.own = Options()

    def reset(self, *, seed=None, options=None):
        self.count = 3
        self.goal += 1
        return 0, {}


def test_attributes_are_set_in_their_own_type():
    env = SetAttributes(cartpole(), {"gravity": 12, "force_mag": 5.5})
    assert env.unwrapped.gravity == 12.0
    assert type(env.unwrapped.gravity) is float
    tool = SetAttributes(
        Tool(), {"goal": [5, 6], "limits": [2, 3], "label": "x", "fast": True, "count": 4.0}
    ).unwrapped
    assert tool.goal.dtype == np.float64
    assert tool.goal.tolist() == [5.0, 6.0]
    assert (tool.limits, tool.label, tool.fast, tool.count) == ((2, 3), "x", True, 4)
    assert type(tool.count) is int


def test_attributes_hold_across_resets():
    env = SetAttributes(Tool(), {"count": 8, "goal": [5.0, 6.0]})
    for _ in range(2):
        env.reset(seed=0)
        assert env.unwrapped.count == 8
        assert env.unwrapped.goal.tolist() == [5.0, 6.0]


def test_dotted_paths_reach_into_attributes_of_one_instance():
    env = SetAttributes(Tool(), {"options.scale": 3, "own.scale": 4})
    assert env.unwrapped.options.scale == 3.0
    assert env.unwrapped.own.scale == 4.0
    assert Tool().options.scale == 1.0
    assert Options.scale == 1.0


def test_a_dotted_path_reaches_the_simulator():
    pytest.importorskip("mujoco")
    cheetah = gym.make("HalfCheetah-v5", disable_env_checker=True)
    env = SetAttributes(cheetah, {"model.opt.timestep": 0.005, "model.opt.gravity": [0, 0, -1]})
    env.reset(seed=0)
    assert env.unwrapped.model.opt.timestep == 0.005
    assert env.unwrapped.model.opt.gravity.tolist() == [0, 0, -1]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"gravty": 1.0}, "set.gravty: CartPoleEnv has no attribute 'gravty' .* 'gravity'?"),
        ({"unwrapped.gravty": 1.0}, "did you mean 'unwrapped.gravity'?"),
        ({"gravity": "low"}, "'low' does not fit; the attribute is a float: 9.8"),
        ({"gravity": True}, "does not fit"),
        ({"gravity": [1.0]}, "does not fit"),
        ({"screen_width": 1.5}, "1.5 does not fit; the attribute is a int"),
        ({"isopen": 1}, "does not fit; the attribute is a bool"),
        ({"_np_random": 1}, "begin with an underscore"),
        ({"reset": 1}, "'reset' is a method"),
    ],
)
def test_attributes_that_do_not_exist_or_do_not_fit_are_refused(values, text):
    with pytest.raises(UsageError, match=text):
        SetAttributes(cartpole(), values)


def test_an_array_keeps_its_shape():
    with pytest.raises(UsageError, match=r"does not fit; .* of shape \(2,\)"):
        SetAttributes(Tool(), {"goal": [1.0, 2.0, 3.0]})


def test_rewards_are_scaled():
    env = RewardScale(cartpole(), -0.5)
    env.reset(seed=0)
    assert env.step(0)[1] == -0.5


def test_changes_compose_in_the_stated_order():
    changes = Changes.model_validate(
        {
            "action_map": [1, 0],
            "observation_offset": [4.0, 0.0, 0.0, 8.0],
            "observation_permutation": [3, 2, 1, 0],
            "observation_mask": [0],
            "reward_scale": 2.0,
        }
    )
    env, plain = apply_changes(cartpole(), changes), cartpole()
    env.reset(seed=5), plain.reset(seed=5)
    ours, theirs = env.step(0), plain.step(1)
    x, speed, angle, _ = theirs[0]
    # Moved first, then reversed; masked after the permutation.
    assert ours[0].tolist() == [0.0, angle, speed, x + np.float32(4.0)]
    assert ours[1] == 2.0


def test_a_dead_actuator_gets_neither_gain_nor_late_actions():
    changes = Changes.model_validate({"action_gain": 3.0, "action_delay": 1, "dead_actuators": [0]})
    env = apply_changes(gym.make("Pendulum-v1", disable_env_checker=True), changes)
    plain = gym.make("Pendulum-v1", disable_env_checker=True)
    env.reset(seed=0), plain.reset(seed=0)
    for _ in range(5):
        one = env.step(np.full(1, 2.0, np.float32))
        two = plain.step(np.zeros(1, np.float32))
    assert np.array_equal(one[0], two[0])


BOX_CHANGES = [
    {"set": {"g": 5.0}},
    {"action_map": [0]},
    {"action_gain": -0.5},
    {"action_delay": 3},
    {"dead_actuators": [0]},
    {"observation_noise": 0.1},
    {"observation_offset": [0.5, -2.0, 0.0]},
    {"observation_permutation": [2, 0, 1]},
    {"observation_mask": [1]},
    {"reward_scale": -1.0},
]


@pytest.mark.parametrize("changes", BOX_CHANGES, ids=lambda changes: next(iter(changes)))
def test_each_change_passes_gymnasiums_checks(changes):
    env = apply_changes(
        gym.make("Pendulum-v1", disable_env_checker=True), Changes.model_validate(changes)
    )
    passes_gymnasiums_checks(env)


@pytest.mark.parametrize("changes", [{"action_map": [1, 0]}, {"action_delay": 1}])
def test_each_discrete_change_passes_gymnasiums_checks(changes):
    passes_gymnasiums_checks(apply_changes(cartpole(), Changes.model_validate(changes)))


def test_mujoco_changes_pass_gymnasiums_checks():
    pytest.importorskip("mujoco")
    changes = Changes.model_validate({"mujoco": {"gravity": 1.5, "mass": {"torso": 2.0}}})
    env = apply_changes(gym.make("HalfCheetah-v5", disable_env_checker=True), changes)
    passes_gymnasiums_checks(env)


def passes_gymnasiums_checks(env):
    with warnings.catch_warnings():
        # About wrappers and about bounds that are Pendulum's and HalfCheetah's own.
        for text in ("different from the unwrapped", "space m..imum value is", "For Box action"):
            warnings.filterwarnings("ignore", message=f".*{text}")
        check_env(env, skip_render_check=True)
    assert env.spec.make().observation_space == env.observation_space
    env.close()
