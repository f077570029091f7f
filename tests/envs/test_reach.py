from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import holdfast.scenarios
from holdfast.envs.base.compatibility import check_actions
from holdfast.envs.checks import probes
from holdfast.envs.checks.environment import check_env
from holdfast.envs.make import stream_spaces
from holdfast.envs.vector import task_env
from holdfast.scenarios.custom_env.reach import Reach
from holdfast.scenarios.load import load

FOLDER = Path(holdfast.scenarios.__file__).parent / "custom_env"


def test_the_shipped_scenario_finds_the_class_beside_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    scenario = load(FOLDER / "reach.yaml")
    spaces = stream_spaces(scenario)
    check_actions(scenario, spaces)
    assert spaces.observation.shape == (8,)
    targets = [task_env(scenario, index, spaces).unwrapped.target for index in range(3)]
    assert targets == [(0.6, 0.4), (-0.6, 0.4), (0.6, 0.4)]


@pytest.mark.thorough
def test_it_passes_the_check(monkeypatch):
    monkeypatch.setattr(probes, "_SPEED_S", 0.05)
    result = check_env("reach:Reach", folder=FOLDER)
    assert [finding.text for finding in result.findings if finding.level == "error"] == []
    (advice,) = [finding.text for finding in result.findings if finding.level == "advice"]
    assert "time_limit" in advice


def test_the_arm_points_ahead_and_its_tip_is_where_the_links_say():
    arm = Reach(link_lengths=(0.6, 0.3))
    arm.angles = [np.pi / 2, -np.pi / 2]
    assert arm._fingertip() == pytest.approx((0.3, 0.6))
    assert arm.target == pytest.approx((0.54, 0.36))


def test_at_the_target_the_reward_is_the_price_of_the_action():
    arm = Reach("left")
    arm.reset(seed=0)
    # Law of cosines for two links of 0.5 m and the target's distance of sqrt(0.52) m.
    elbow = np.arccos((0.52 - 0.5) / 0.5)
    arm.angles = [np.arctan2(0.4, -0.6) - elbow / 2, elbow]
    _, reward, terminated, truncated, info = arm.step(np.zeros(2, np.float32))
    assert reward == pytest.approx(0.0, abs=1e-9)
    assert info["is_success"]
    assert not terminated
    assert not truncated


def test_without_torque_energy_is_lost_and_a_payload_slows_the_arm():
    def speed(payload):
        arm = Reach(payload=payload)
        arm.reset(seed=0)
        for _ in range(2):
            arm.step(np.array([1.0, 0.0], np.float32))
        return abs(arm.velocities[0])

    assert speed(2.0) < speed(0.0)
    arm = Reach()
    arm.reset(seed=0)
    arm.velocities = [2.0, -1.0]
    for _ in range(100):
        arm.step(np.zeros(2, np.float32))
    assert np.abs(arm.velocities).max() < 1e-3


def test_a_side_that_is_neither_is_refused():
    with pytest.raises(ValueError, match="it must be left or right"):
        Reach("up")
