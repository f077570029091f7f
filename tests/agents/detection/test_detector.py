"""A detector: its slots, cool-down, limit, and when a detection takes effect."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from holdfast.agents.detection.detector import LONGEST_WAIT, Detector
from holdfast.agents.detection.signals import Lived, check_spaces
from holdfast.errors import UsageError
from holdfast.scenarios.schema.detector import Detector as Options

VECTOR, BOX = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Box(-1, 1, (2,))


def detector(**options: Any) -> Detector:
    always = {"signal": "reward", "page_hinkley": {"tolerance": 0.0, "threshold": 5.0}}
    return Detector(Options.model_validate({**always, **options}), VECTOR, BOX, 2, seed=0)


def lived(reward: float, *, ends: bool = False, returns: tuple[float, ...] = ()) -> Lived:
    rows = np.zeros((2, 3))
    return Lived(
        rows, np.zeros((2, 2)), np.full(2, reward), rows, np.array([ends, False]), [*returns]
    )


def fall(found: Detector, steps: int = 40) -> int:
    """Return after how many steps a fall of the rewards is detected; they stood at 1 before."""
    for _ in range(30):
        found.look(lived(1.0))
    before = len(found.detections)
    for step in range(1, steps + 1):
        found.look(lived(0.0))
        if len(found.detections) > before:
            return step
    raise AssertionError("nothing was detected")


def test_a_fall_is_detected_and_takes_effect_when_an_episode_has_ended() -> None:
    found = detector(cooldown=0)
    assert 3 <= fall(found) <= 6
    assert found.is_waiting
    assert found.is_due(on_policy=True)
    assert not found.is_due(on_policy=False)
    found.look(lived(0.0, ends=True))
    found.look(lived(0.0))
    assert found.is_due(on_policy=False)
    assert found.slot == 0
    found.begin_slot()
    (one,) = found.detections
    assert (found.slot, found.slot_step, one.begun) == (1, one.step + 4, one.step + 4)
    assert not found.is_due(on_policy=True)


def test_a_detection_takes_effect_though_no_episode_ends() -> None:
    found = detector(cooldown=0)
    fall(found)
    for _ in range(LONGEST_WAIT - 1):
        found.look(lived(0.0))
    assert not found.is_due(on_policy=False)
    found.look(lived(0.0))
    assert found.is_due(on_policy=False)


def test_nothing_is_tested_in_the_cool_down_of_a_slot() -> None:
    found = detector(cooldown=200)
    with pytest.raises(AssertionError, match="nothing was detected"):
        fall(found, steps=70)  # 200 steps of two environments
    assert np.isnan(found.statistic)
    fall(found)
    begun = found.slot_step = found._step
    found.begin_slot()
    for _ in range(100):
        found.look(lived(float(found._step % 4)))
    assert len(found.detections) == 1
    assert found._step - begun == 200


def test_one_that_always_fires_stops_at_its_limit() -> None:
    found = detector(cooldown=4, most=3, page_hinkley={"tolerance": 0.0, "threshold": 1e-9})
    rng = np.random.default_rng(0)
    for _ in range(200):
        found.look(lived(float(rng.normal())))
        if found.is_waiting:
            found.begin_slot()
    assert len(found.detections) == found.slot == 3
    assert found.is_exhausted
    gaps = np.diff([one.step for one in found.detections])
    assert (gaps > 4).all()


def test_one_that_never_fires_has_one_slot() -> None:
    found = detector(cooldown=0, page_hinkley={"tolerance": 0.0, "threshold": 1e9})
    with pytest.raises(AssertionError, match="nothing was detected"):
        fall(found)
    assert (found.slot, found.detections) == (0, [])
    assert found.statistic > 0


def test_returns_are_tested_at_the_ends_of_episodes_alone() -> None:
    found = detector(signal="return", cooldown=0)
    for _ in range(10):
        found.look(lived(0.0))
    assert np.isnan(found.statistic)
    for _ in range(20):
        found.look(lived(0.0, ends=True, returns=(10.0, 12.0)))
    found.look(lived(0.0, ends=True, returns=(0.0,)))
    assert len(found.detections) == 1


def test_it_goes_on_from_its_state_bit_for_bit() -> None:
    rng = np.random.default_rng(1)
    rewards = np.concatenate([rng.normal(1, 0.1, 100), rng.normal(0, 0.1, 100)] * 3)

    def one() -> Detector:
        return detector(cooldown=30)

    straight, broken = one(), one()
    for place, reward in enumerate(rewards):
        if place % 23 == 0:
            fresh = one()
            fresh.load_state({name: t.clone() for name, t in broken.state().items()})
            broken = fresh
        for each in (straight, broken):
            each.look(lived(float(reward), ends=place % 10 == 9))
            if each.is_due(on_policy=False):
                each.begin_slot()
        assert straight.detections == broken.detections
        assert np.array_equal(straight.statistic, broken.statistic, equal_nan=True)
    assert len(straight.detections) == 3


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (gym.spaces.Dict({"a": VECTOR}), BOX, "vectors as observations"),
        (gym.spaces.Box(0, 255, (84, 84, 3), np.uint8), BOX, "vectors as observations"),
        (VECTOR, gym.spaces.MultiDiscrete([2, 2]), "boxes or one number as actions"),
        (gym.spaces.Box(-1, 1, (399,)), BOX, "at most 400 numbers"),
    ],
)
def test_what_has_no_small_model_is_refused(
    observations: gym.Space[Any], actions: gym.Space[Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check_spaces(observations, actions)


def test_discrete_actions_are_one_hot() -> None:
    assert check_spaces(VECTOR, gym.spaces.Discrete(4)) == (3, 4)
