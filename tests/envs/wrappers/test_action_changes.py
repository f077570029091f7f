from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from holdfast.envs.wrappers.action_changes import (
    ActionDelay,
    ActionGain,
    ActionMap,
    DeadActuators,
    neutral_action,
)
from holdfast.errors import UsageError


class Recorder(gym.Env):
    """Remembers the actions that reach it."""

    observation_space = Box(-1, 1, (1,), np.float32)

    def __init__(self, action_space):
        self.action_space = action_space
        self.taken = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.taken.append(np.array(action).tolist())
        return np.zeros(1, np.float32), 0.0, False, False, {}


def taken(wrapper, *actions):
    wrapper.reset(seed=0)
    for action in actions:
        wrapper.step(action)
    return wrapper.unwrapped.taken


BOX = Box(np.array([-1, -2, 0], np.float32), np.array([1, 2, 4], np.float32))


def test_discrete_actions_are_relabelled():
    env = ActionMap(Recorder(Discrete(3)), [2, 0, 1])
    assert env.action_space == Discrete(3)
    assert taken(env, 0, np.int64(1), 2) == [2, 0, 1]


def test_a_shorter_map_removes_actions_and_mends_the_start():
    env = ActionMap(Recorder(Discrete(3, start=5)), [5, 7])
    assert env.action_space == Discrete(2)
    assert taken(env, 0, 1) == [5, 7]


def test_box_dimensions_are_permuted_with_their_bounds():
    env = ActionMap(Recorder(BOX), [1, 2, 0])
    assert env.action_space.low.tolist() == [-2, 0, -1]
    # The agent's dimension 0 drives dimension 1, its 1 drives 2, its 2 drives 0.
    assert taken(env, np.array([0.1, 0.2, 0.3], np.float32)) == [
        pytest.approx([0.3, 0.1, 0.2], abs=1e-6)
    ]


def test_a_gain_is_cut_at_the_environments_bounds():
    env = ActionGain(Recorder(BOX), -2.0)
    action = np.array([0.25, -1.5, 1.0], np.float32)
    assert taken(env, action) == [[-0.5, 2.0, 0.0]]
    assert env.action_space == BOX
    assert action.tolist() == [0.25, -1.5, 1.0]


def test_a_gain_for_each_dimension():
    env = ActionGain(Recorder(BOX), [1.0, 0.5, 2.0])
    assert taken(env, np.array([0.5, 1.0, 1.0], np.float32)) == [[0.5, 0.5, 2.0]]


def test_actions_arrive_late_and_none_is_left_over_from_the_episode_before():
    env = ActionDelay(Recorder(Discrete(4)), 2)
    assert taken(env, 1, 2, 3) == [0, 0, 1]
    env.unwrapped.taken.clear()
    assert taken(env, 3) == [0]


def test_a_delayed_action_does_not_follow_the_callers_array():
    env = ActionDelay(Recorder(BOX), 1)
    action = np.array([1, 1, 1], np.float32)
    env.reset(seed=0)
    env.step(action)
    action[:] = 0
    env.step(action)
    assert env.unwrapped.taken == [[0, 0, 0], [1, 1, 1]]


def test_dead_actuators_rest_whatever_is_asked():
    env = DeadActuators(Recorder(BOX), [1, 2])
    assert taken(env, np.array([0.5, 1.0, 3.0], np.float32)) == [[0.5, 0.0, 0.0]]


def test_neutral_is_zero_or_the_bound_next_to_it():
    space = Box(np.array([1, -3], np.float32), np.array([2, -2], np.float32))
    assert neutral_action(space, "x").tolist() == [1, -2]
    assert neutral_action(Discrete(3, start=4), "x") == 4
    assert neutral_action(MultiDiscrete([2, 3]), "x").tolist() == [0, 0]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda: ActionMap(Recorder(Discrete(2)), [0, 2]), "2 is not one of .* actions, 0 to 1"),
        (lambda: ActionMap(Recorder(BOX), [0, 0, 1]), "every dimension from 0 to 2 once"),
        (lambda: ActionMap(Recorder(MultiDiscrete([2])), [0]), "action_map: needs a vector"),
        (lambda: ActionGain(Recorder(BOX), [1.0]), "1 factors for 3 dimensions"),
        (lambda: ActionGain(Recorder(Discrete(2)), 2.0), "action_gain: needs a vector"),
        (lambda: DeadActuators(Recorder(BOX), [3]), "3 is not one of .*, 0 to 2"),
        (lambda: DeadActuators(Recorder(Discrete(2)), [0]), "dead_actuators: needs a vector"),
    ],
)
def test_what_does_not_fit_is_refused(change, text):
    with pytest.raises(UsageError, match=text):
        change()


def test_masks_follow_the_map():
    env = Recorder(Discrete(3, start=1))
    env.action_masks = lambda: np.array([True, False, False])
    assert ActionMap(env, [3, 1]).action_masks().tolist() == [False, True]
    free = ActionMap(Recorder(Discrete(3)), [1, 0])
    assert not free.has_wrapper_attr("action_masks")
