from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from holdfast.envs.wrappers.observation_changes import (
    ObservationMask,
    ObservationNoise,
    ObservationOffset,
    ObservationPermutation,
)
from holdfast.errors import UsageError

SPACE = Box(np.array([1, -20, 0], np.float32), np.array([3, 20, 9], np.float32))


PICTURE, COUNTS = Box(0, 1, (2, 2)), Box(0, 9, (2,), np.int64)


class Still(gym.Env):
    """Shows the same observation for ever."""

    action_space = Discrete(2)

    def __init__(self, space=SPACE, shown=(2, 10, 5)):
        self.observation_space = space
        self.shown = np.array(shown, space.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.shown.copy(), {}

    def step(self, action):
        return self.shown.copy(), 0.0, False, False, {}


def test_noise_is_gaussian_of_the_asked_width():
    space = Box(-np.inf, np.inf, (2000,), np.float32)
    env = ObservationNoise(Still(space, np.full(2000, 5.0)), 0.5)
    observation, _ = env.reset(seed=0)
    assert observation.dtype == np.float32
    assert observation.mean() == pytest.approx(5.0, abs=0.05)
    assert observation.std() == pytest.approx(0.5, abs=0.05)


def test_noise_repeats_with_the_seed_and_goes_on_without_one():
    env = ObservationNoise(Still(), 0.1)
    one = [env.reset(seed=3)[0], env.step(0)[0], env.reset()[0]]
    two = [env.reset(seed=3)[0], env.step(0)[0], env.reset()[0]]
    assert np.array_equal(one, two)
    assert not np.array_equal(one[0], one[1])
    assert not np.array_equal(one[0], one[2])
    assert not np.array_equal(one[0], env.reset(seed=4)[0])


def test_noise_is_cut_at_the_bounds_so_that_the_space_stays():
    env = ObservationNoise(Still(), 50.0)
    assert env.observation_space == SPACE
    env.reset(seed=0)
    shown = np.stack([env.step(0)[0] for _ in range(50)])
    assert all(SPACE.contains(row) for row in shown)
    assert set(np.unique(shown[:, 0])) == {1, 3}


def test_noise_on_images_is_rounded():
    space = Box(0, 255, (4, 4, 1), np.uint8)
    env = ObservationNoise(Still(space, np.full((4, 4, 1), 128)), 3.0)
    observation, _ = env.reset(seed=0)
    assert observation.dtype == np.uint8
    assert 1 < observation.std() < 6


def test_entries_are_shown_in_the_asked_order_with_their_bounds():
    env = ObservationPermutation(Still(), [2, 0, 1])
    assert env.reset(seed=0)[0].tolist() == [5, 2, 10]
    assert env.step(0)[0].tolist() == [5, 2, 10]
    assert env.observation_space.high.tolist() == [9, 3, 20]


def test_an_offset_is_added_to_each_entry_and_to_its_bounds():
    env = ObservationOffset(Still(), [0.5, -2, 0])
    assert env.reset(seed=0)[0].tolist() == [2.5, 8, 5]
    assert env.step(0)[0].tolist() == [2.5, 8, 5]
    assert env.observation_space.low.tolist() == [1.5, -22, 0]
    assert env.observation_space.high.tolist() == [3.5, 18, 9]
    assert env.reset()[0].dtype == np.float32
    assert env.observation(np.zeros((2, 3), np.float32)).tolist() == [[0.5, -2, 0]] * 2
    assert env.unwrapped.shown.tolist() == [2, 10, 5]


def test_one_offset_is_for_all_entries():
    assert ObservationOffset(Still(), -1.5).reset(seed=0)[0].tolist() == [0.5, 8.5, 3.5]


def test_masked_entries_are_zero_and_the_space_holds_them():
    env = ObservationMask(Still(), [0, 2])
    observation, _ = env.reset(seed=0)
    assert observation.tolist() == [0, 10, 0]
    assert env.observation_space.low.tolist() == [0, -20, 0]
    assert env.observation_space.contains(observation)
    assert env.unwrapped.shown.tolist() == [2, 10, 5]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda: ObservationOffset(Still(), [1, 2]), "one for each of 3 entries, got 2"),
        (lambda: ObservationOffset(Still(PICTURE, 1), 1), "needs a vector of observations"),
        (lambda: ObservationOffset(Still(COUNTS, (1, 2)), 1), "needs observations of fractions"),
        (lambda: ObservationPermutation(Still(), [0, 1]), "every entry from 0 to 2 once"),
        (lambda: ObservationMask(Still(), [3]), "3 is not one of .* entries, 0 to 2"),
        (lambda: ObservationNoise(Still(Discrete(3), 1), 1.0), "needs observations in a Box"),
    ],
)
def test_what_does_not_fit_is_refused(change, text):
    with pytest.raises(UsageError, match=text):
        change()
