from __future__ import annotations

import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from holdfast.envs.wrappers.guard import Guard, misfit
from holdfast.errors import EnvironmentFailed

VECTOR = Box(-np.inf, np.inf, (2,), np.float32)


class Scripted(gym.Env):
    """Returns what it is told, or raises it."""

    action_space = Discrete(3)

    def __init__(self, *steps, reset=None, space=VECTOR):
        self.observation_space = space
        self.steps = list(steps)
        self.first = reset if reset is not None else (np.zeros(2, np.float32), {})

    def reset(self, *, seed=None, options=None):
        return tell(self.first)

    def step(self, action):
        return tell(self.steps.pop(0))

    def close(self):
        if self.steps:
            raise OSError("serial port is gone")


def tell(value):
    if isinstance(value, BaseException):
        raise value
    return value


def good(*values, reward=1.0, info=None):
    return np.array(values, np.float32), reward, False, False, info or {}


def guarded(*steps, on_nan="error", **keys):
    env = Guard(Scripted(*steps, **keys), "push", on_nan)
    env.reset(seed=0)
    return env


def test_what_is_right_passes_untouched():
    step = good(1, 2)
    env = guarded(step)
    assert env.step(0) == step
    assert env.observation_space is env.unwrapped.observation_space


@pytest.mark.parametrize("error", [ValueError("joint limit"), SystemExit(2), KeyError("x")])
def test_an_exception_names_task_step_and_action(error):
    env = guarded(good(0, 0), error)
    env.step(0)
    with pytest.raises(EnvironmentFailed, match=r"task 'push', step 2, action 1: ") as caught:
        env.step(1)
    assert type(error).__name__ in str(caught.value)
    assert caught.value.__cause__ is error
    assert caught.value.exit_code == 3


def test_ctrl_c_is_not_a_failure_of_the_environment():
    env = guarded(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        env.step(0)


def test_steps_are_counted_from_the_reset():
    env = guarded(good(0, 0), good(0, 0), ValueError("x"))
    env.step(0)
    env.reset()
    env.step(0)
    with pytest.raises(EnvironmentFailed, match="step 2"):
        env.step(0)


def test_reset_and_close_are_guarded():
    env = Guard(Scripted(reset=RuntimeError("no power")), "push")
    with pytest.raises(EnvironmentFailed, match=r"reset\(seed=4\): RuntimeError: no power"):
        env.reset(seed=4)
    with pytest.raises(EnvironmentFailed, match=r"close\(\): OSError: serial port is gone"):
        guarded(good(0, 0)).close()


@pytest.mark.parametrize(
    ("first", "text"),
    [
        (np.zeros(2, np.float32), "a ndarray, not"),
        ((np.zeros(2, np.float32), 0.5), "a tuple of 2, not"),
        ((np.zeros(2, np.float32), {}, {}), "a tuple of 3, not"),
    ],
)
def test_a_reset_of_the_old_gym_is_named(first, text):
    env = Guard(Scripted(reset=first), "push")
    with pytest.raises(EnvironmentFailed, match=rf"reset\(\) returned {text} .*old gym"):
        env.reset(seed=0)


def test_four_values_of_the_old_gym_are_named():
    env = guarded((np.zeros(2, np.float32), 1.0, False, {}))
    with pytest.raises(EnvironmentFailed, match=r"step\(\) returned a tuple of 4, .*old gym"):
        env.step(0)


def test_four_values_are_named_under_the_time_limit_of_gymnasium_too():
    inner = Scripted((np.zeros(2, np.float32), 1.0, False, {}))
    env = Guard(gym.wrappers.TimeLimit(inner, 10), "push")
    env.reset(seed=0)
    with pytest.raises(EnvironmentFailed, match=r"unpack .*check-env"):
        env.step(0)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (good(0, np.nan), r"observation\[1\] is nan, at step 1 of an episode, action 2"),
        (good(-np.inf, 0), r"observation\[0\] is -inf"),
        (good(0, 0, reward=float("nan")), "reward is nan"),
        (good(0, 0, reward=np.float64(np.inf)), "reward is inf"),
    ],
)
def test_nan_is_an_error_that_names_the_place(step, text):
    env = guarded(step)
    with pytest.raises(EnvironmentFailed, match=rf"task 'push' \(<Scripted.*{text}"):
        env.step(2)


def test_large_values_are_not_mistaken_for_infinite_ones():
    step = good(3e38, -3e38, reward=3e38)
    assert guarded(step).step(0) == step


def test_nan_under_a_key_names_the_key():
    space = Dict({"arm": VECTOR, "gripper": Discrete(2)})
    first = ({"arm": np.zeros(2, np.float32), "gripper": 0}, {})
    bad = {"arm": np.array([0, np.nan], np.float32), "gripper": 1}
    env = guarded((bad, 0.0, False, False, {}), space=space, reset=first)
    with pytest.raises(EnvironmentFailed, match=r"observation\['arm'\]\[1\] is nan"):
        env.step(0)


def test_nan_can_truncate_with_the_last_good_observation():
    shown = np.zeros(2, np.float32)  # one buffer for all steps, as careless environments have
    env = guarded(
        (shown, 1.0, False, False, {}),
        (shown, 7.0, True, False, {"a": 1}),
        on_nan="truncate",
    )
    shown[:] = [3, 4]
    env.step(0)
    shown[:] = [3, np.nan]
    observation, reward, terminated, truncated, info = env.step(0)
    assert observation.tolist() == [3, 4]
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info == {"a": 1, "holdfast.nan": True}


def test_nan_after_a_reset_is_always_an_error():
    env = Guard(Scripted(reset=(np.full(2, np.nan, np.float32), {})), "push", "truncate")
    with pytest.raises(EnvironmentFailed, match=r"returned by reset\(\)"):
        env.reset(seed=0)


@pytest.mark.parametrize(
    ("observation", "why"),
    [  # would be broadcast or refused far away, without a name
        (np.zeros(3, np.float32), r"its shape is \(3,\), not \(2,\)"),
        ([1.0, 2.0], r"it is a list, not an array; return np.array\(..., np.float32\)"),
    ],
)
def test_an_observation_that_cannot_be_read_is_told_with_its_space(observation, why):
    told = rf"cannot read the observation .*: {why}; the observation space is Box"
    with pytest.raises(EnvironmentFailed, match=f"step 1, action 0: {told}"):
        guarded((observation, 0.0, False, False, {})).step(0)
    with pytest.raises(EnvironmentFailed, match=rf"reset\(seed=3\): {told}"):
        Guard(Scripted(reset=(observation, {})), "push").reset(seed=3)


@pytest.mark.parametrize("reward", [None, "high"])
def test_a_reward_that_cannot_be_read_is_told_alone(reward):
    told = f"cannot read the reward {reward!r}; a reward is one number"
    with pytest.raises(EnvironmentFailed, match=told):
        guarded((np.zeros(2, np.float32), reward, False, False, {})).step(0)


def test_an_entry_of_a_dict_that_is_missing_is_named():
    space = gym.spaces.Dict({"joints": VECTOR, "goal": VECTOR})
    assert misfit({"joints": np.zeros(2)}, space) == "its key 'goal' is missing"
    wrong = {"joints": np.zeros(2), "goal": np.zeros(1)}
    assert misfit(wrong, space) == "of its key 'goal', its shape is (1,), not (2,)"
    assert misfit(np.zeros(2), space) == "it is a ndarray, not a dict"
    assert misfit({"joints": np.zeros(2), "goal": np.zeros(2)}, space) == ""


def test_a_step_costs_little():
    import timeit

    class Still(gym.Env):
        observation_space, action_space = VECTOR, Discrete(2)
        result = good(0, 0)

        def reset(self, *, seed=None, options=None):
            return np.zeros(2, np.float32), {}

        def step(self, action):
            return self.result

    bare, env = Still(), Guard(Still(), "push")
    env.reset(seed=0)

    def cost_s(stepped):
        return min(timeit.repeat(lambda: stepped.step(0), number=2000, repeat=7)) / 2000

    # 3 us is the budget on an idle machine; the test leaves room for a busy one.
    assert cost_s(env) - cost_s(bare) < 9e-6


@pytest.mark.parametrize("reward", [1e39, -1e300, float("inf"), float("nan")])
def test_a_reward_that_buffers_would_turn_into_infinity_is_refused(reward):
    step = good(0.0, 0.0, reward=reward)
    with pytest.raises(EnvironmentFailed, match=f"reward is {re.escape(str(reward))}"):
        guarded(step).step(0)
