"""Two balls that fall in a picture, and the scenario beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import holdfast.scenarios
from holdfast.envs.base.compatibility import check_policy
from holdfast.envs.checks import probes
from holdfast.envs.checks.environment import check_env
from holdfast.envs.make import stream_spaces
from holdfast.envs.vector import task_env
from holdfast.scenarios.load import load
from holdfast.scenarios.pictures.catch import Catch

FOLDER = Path(holdfast.scenarios.__file__).parent / "pictures"


def test_the_shipped_scenario_finds_the_class_beside_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    scenario = load(FOLDER / "catch.yaml")
    spaces = stream_spaces(scenario)
    check_policy(scenario, spaces.observation)
    wanted = [task_env(scenario, index, spaces).unwrapped.wanted for index in range(2)]
    assert wanted == ["red", "blue"]


@pytest.mark.thorough
def test_it_passes_the_check(monkeypatch):
    monkeypatch.setattr(probes, "_SPEED_S", 0.05)
    result = check_env("catch:Catch", folder=FOLDER)
    assert [finding.text for finding in result.findings if finding.level == "error"] == []


@pytest.mark.parametrize("wanted", ["red", "blue"])
def test_who_goes_below_the_ball_catches_it(wanted):
    world = Catch(wanted)
    for seed in range(20):
        world.reset(seed=seed)
        for step in range(8):
            action = 1 + np.sign(world.columns[wanted] - world.basket)
            _, reward, is_over, is_cut, info = world.step(action)
            assert (is_over, is_cut) == (step == 7, False)
        assert (reward, info["is_success"]) == (1.0, True)


def test_what_is_seen():
    world = Catch()
    world.reset(seed=0)
    world.columns = {"red": 0, "blue": 8}
    picture, reward, *_ = world.step(0)
    assert picture.shape == (36, 36, 3)
    cells = picture[2::4, 2::4]  # the middle of each
    assert cells[1, 0].argmax() == 0
    assert cells[1, 8].argmax() == 2
    assert (cells[8, 3] == 220).all()  # one to the left of the middle
    assert (cells.reshape(81, 3) == 24).all(axis=1).sum() == 78
    assert reward == 0.0
    assert np.array_equal(world.render()[::8, ::8], picture)
    with pytest.raises(ValueError, match="'green'; it must be red or blue"):
        Catch("green")
