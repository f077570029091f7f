"""The worlds of our own: what they pay, how they change, and that they go on from a state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from holdfast.envs.endless import plain, unplain
from holdfast.envs.worlds.arm import WearingArm
from holdfast.envs.worlds.foraging import ForagingField


@pytest.mark.parametrize("world", [ForagingField, WearingArm])
def test_a_world_goes_on_from_its_state_bit_for_bit(world: Any) -> None:
    one, other = world(), world()
    one.reset(seed=3)
    one.action_space.seed(0)
    actions = [one.action_space.sample() for _ in range(300)]
    for action in actions[:150]:
        one.step(action)
    state = unplain(plain(one.get_state()))
    other.reset(seed=99)
    other.set_state(state)
    for action in actions[150:]:
        mine, his = one.step(action), other.step(action)
        assert mine[0].tobytes() == his[0].tobytes()
        assert mine[1:] == his[1:]
        assert one.observation_space.contains(mine[0])


def test_the_seasons_swap_food_and_poison() -> None:
    field = ForagingField(size=5, sight=3, plants=1, year=100)
    for step, worth in ((0, 1.0), (25, 0.0), (50, -1.0)):
        field.show_step(step)
        field.reset(seed=0)
        assert field.worth == pytest.approx(worth, abs=1e-12)
        field.field[:] = 0
        field.field[1, 2] = 1  # above the forager in the middle
        seen, reward, *_ = field.step(np.int64(0))
        assert reward == pytest.approx(worth, abs=1e-12)
        assert field.place.tolist() == [1, 2]
        assert (field.field == 1).sum() == 1  # it has grown again elsewhere
        assert seen.shape == (18,)


def test_the_arm_wears() -> None:
    arm = WearingArm(period=100, half_life=50, most_wear=0.5)
    arm.reset(seed=0)
    assert (arm.payload, arm.friction, arm.wear) == (1.0, 1.0, 0.0)
    arm.time = 25
    assert arm.payload == pytest.approx(1.5 + 0.5 * np.sin(np.pi / 2 / np.sqrt(2)))
    arm.time = 50
    assert arm.wear == pytest.approx(0.25)  # half of what is lost in the end
    arm.angles, arm.target = np.array([0.0, 0.0]), np.array([0.5, 0.0])
    arm.goal = arm.target
    _, reward, *_ = arm.step(np.zeros(2, np.float32))
    assert reward == pytest.approx(-0.5)  # at rest and straight, the fingertip is at 1 m


@pytest.mark.parametrize("wrong", [{"sight": 4}, {"plants": 113}, {"year": 0}])
def test_wrong_arguments_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="must"):
        ForagingField(**wrong)
