"""The table of reach-and-push: by hand, what its controllers do, and the conformance check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast.envs.checks import probes
from holdfast.envs.checks.environment import check_env
from holdfast.scenarios import custom_env
from holdfast.scenarios.custom_env import push
from holdfast.scenarios.custom_env.push import PUSH, REACH, Table
from holdfast.scenarios.load import load

FOLDER = Path(custom_env.__file__).parent


def placed(hand: Any, puck: Any, **arguments: Any) -> Table:
    env = Table(**arguments)
    env.reset(seed=0)
    env.hand, env.puck = np.array(hand, float), np.array(puck, float)
    return env


def test_the_hand_moves_and_stays_on_the_table() -> None:
    env = placed((0.0, 0.0), (0.9, 0.9), moves="hand", goal=(0.0, 0.5))
    seen, reward, ended, cut, info = env.step(np.array([0.0, 0.5], np.float32))
    assert seen == pytest.approx([0.0, 0.075, 0.9, 0.9, 0.9, 0.825])  # half of .15 m
    assert (reward, ended, cut) == (pytest.approx(-0.425), False, False)
    assert info == {"is_success": False}
    env = placed((0.95, 0.0), (0.0, 0.9), moves="hand")
    assert env.step(np.array([1.0, 0.0], np.float32))[0][0] == 1.0


def test_a_touched_puck_slides_away_from_the_hand() -> None:
    env = placed((0.0, 0.0), (0.3, 0.0), moves="puck", goal=(0.5, 0.0))
    seen, reward, *_ = env.step(np.array([1.0, 0.0], np.float32))
    assert seen[:4] == pytest.approx([0.15, 0.0, 0.35, 0.0])  # .15 m away, pushed to .2
    assert reward == pytest.approx(-0.15)
    seen, _, ended, _, info = env.step(np.array([1.0, 0.0], np.float32))
    assert seen[2] == pytest.approx(0.5)
    assert ended
    assert info == {"is_success": True}


@pytest.mark.parametrize(
    ("controller", "moves", "goal"), [(push.reach, "hand", REACH), (push.push, "puck", PUSH)]
)
def test_controllers_always_succeed(controller: Any, moves: Any, goal: Any) -> None:
    env = Table(moves, goal)
    for seed in range(30):
        seen, _ = env.reset(seed=seed)
        for _ in range(30):
            seen, _, ended, _, _ = env.step(controller(seen))
            if ended:
                break
        assert ended, seed


def test_goals_of_the_scenario_are_those_of_the_controllers() -> None:
    scenario = load(FOLDER / "reach-and-push.yaml")
    assert [tuple(task.kwargs["goal"]) for task in scenario.tasks] == [REACH, PUSH]


@pytest.mark.thorough
def test_it_passes_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_SPEED_S", 0.05)
    assert check_env("push:Table", folder=FOLDER).ok


def test_other_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="moves is 'foot'"):
        Table(moves="foot")  # type: ignore[arg-type]  # what a user might write
