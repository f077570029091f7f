from __future__ import annotations

import time

import gymnasium as gym
import numpy as np
import pytest

from holdfast.envs.wrappers.robot import LATE_KEY, ExclusiveEnv, Paced, Slot
from holdfast.errors import EnvironmentFailed


class Robot(gym.Env):
    """Counts how many of it are open."""

    observation_space = gym.spaces.Box(0, 1, (1,), np.float64)
    action_space = gym.spaces.Discrete(2)
    open = built = most = 0

    def __init__(self):
        type(self).built += 1
        type(self).open += 1
        type(self).most = max(self.most, self.open)
        self.closed = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.random(1), {}

    def step(self, action):
        return self.np_random.random(1), 0.0, False, False, {}

    def close(self):
        if not self.closed:
            type(self).open -= 1
            self.closed = True

    def action_masks(self):
        return [True, False]


@pytest.fixture(autouse=True)
def _count_from_zero():
    Robot.open = Robot.built = Robot.most = 0


def test_at_most_one_is_open():
    slot = Slot()
    train, evaluate = ExclusiveEnv(Robot, slot), ExclusiveEnv(Robot, slot)
    train.reset(seed=0)
    evaluate.reset(seed=1)
    train.reset()
    assert Robot.most == 1
    train.close()
    assert Robot.open == 0
    assert slot.holder is None


def test_who_holds_the_slot_is_not_built_again():
    env = ExclusiveEnv(Robot, Slot())
    env.reset(seed=0)
    env.reset()
    assert Robot.built == 1


def test_stepping_without_the_slot_is_refused():
    slot = Slot()
    train = ExclusiveEnv(Robot, slot)
    train.reset(seed=0)
    train.step(0)
    ExclusiveEnv(Robot, slot)
    with pytest.raises(EnvironmentFailed, match="closed for another one"):
        train.step(0)


def test_closing_one_that_lost_the_slot_leaves_the_other_open():
    slot = Slot()
    train, evaluate = ExclusiveEnv(Robot, slot), ExclusiveEnv(Robot, slot)
    train.close()
    assert Robot.open == 1
    assert slot.holder is evaluate


def test_two_slots_do_not_exclude_each_other():
    one, two = ExclusiveEnv(Robot, Slot()), ExclusiveEnv(Robot, Slot())
    assert Robot.open == 2
    one.close(), two.close()


def test_runs_stay_repeatable_when_it_is_rebuilt():
    def observations():
        slot = Slot()
        train, evaluate = ExclusiveEnv(Robot, slot), ExclusiveEnv(Robot, slot)
        first = train.reset(seed=3)[0]
        evaluate.reset(seed=4)
        second = train.reset()[0]
        evaluate.reset()
        return first, second, train.reset()[0]

    one, two = observations(), observations()
    assert one == two
    assert len({float(value[0]) for value in one}) == 3


def test_what_the_environment_offers_is_reached_through_it():
    env = ExclusiveEnv(Robot, Slot())
    assert env.get_wrapper_attr("action_masks")() == [True, False]
    assert isinstance(env.unwrapped, Robot)


class Arm(Robot):
    """Notes what was asked of it, in order."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def step(self, action):
        self.asked.append("step")
        if action == 1:
            raise KeyboardInterrupt
        return super().step(action)

    def stop(self):
        self.asked.append("stop")

    def close(self):
        self.asked.append("close")
        super().close()


def test_a_robot_is_stopped_before_it_is_closed_and_when_a_step_is_interrupted():
    env = ExclusiveEnv(Arm, Slot())
    arm = env.unwrapped
    env.reset(seed=0)
    env.step(0)
    with pytest.raises(KeyboardInterrupt):
        env.step(1)
    env.close()
    assert arm.asked == ["step", "step", "stop", "stop", "close"]


def test_steps_begin_at_their_rate_and_late_ones_say_so() -> None:
    """50 Hz: eleven steps take ten periods; one that comes 60 ms late is not caught up."""
    env = Paced(gym.make("Pendulum-v1"), 50.0)
    env.reset(seed=0)
    began, action = time.monotonic(), np.zeros(1, np.float32)
    for _ in range(11):
        info = env.step(action)[-1]
    assert 0.2 <= time.monotonic() - began < 0.4
    time.sleep(0.08)
    info = env.step(action)[-1]
    assert 0.055 < info[LATE_KEY] < 0.2
    after = time.monotonic()
    env.step(action)
    assert time.monotonic() - after > 0.015
