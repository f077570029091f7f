"""How an exception is told: with a line of the user's, not with one of ours."""

from __future__ import annotations

from functools import partial

import gymnasium as gym
import pytest

from holdfast.envs.base.fitting import TaskId
from holdfast.envs.base.loading import imported
from holdfast.envs.checks.check_result import CrashedError, crashes_at, told
from holdfast.envs.wrappers.drift import Drifting
from holdfast.envs.wrappers.observation_changes import ObservationNoise


@pytest.fixture
def called(tmp_path):
    """Return a function of the user's, which calls another one in its second line."""
    (tmp_path / "calls_of_the_users.py").write_text("def called(function):\n    function()\n")
    return imported("calls_of_the_users", tmp_path).called


@pytest.mark.parametrize(
    "ours",
    [
        partial(ObservationNoise(gym.make("Pendulum-v1"), 0.1).noisy, None, None),
        partial(Drifting, gym.make("Pendulum-v1"), {"g": None}, 8),
        partial(TaskId(gym.make("Pendulum-v1"), 0, 2).observation, "nothing"),
    ],
    ids=["wrappers", "wrappers, several frames", "base"],
)
def test_the_line_is_the_users_whichever_of_our_folders_raises(called, ours):
    with pytest.raises((TypeError, AttributeError, ValueError)) as caught:
        called(ours)
    assert told(caught.value).endswith(" (calls_of_the_users.py, line 2)")


def test_the_place_stands_before_what_was_raised(called):
    with pytest.raises(CrashedError) as caught, crashes_at("step 3"):
        called(partial(int, "three"))
    assert str(caught.value) == (
        "step 3 raised ValueError: invalid literal for int() with base 10: 'three' "
        "(calls_of_the_users.py, line 2)"
    )
