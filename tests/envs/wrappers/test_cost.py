"""What each step costs, by terms or as the environment tells it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import holdfast
from holdfast.envs.make import make_env
from holdfast.envs.wrappers.cost import Costs
from holdfast.errors import EnvironmentFailed, UsageError
from holdfast.scenarios.schema.cost import Cost
from holdfast.scenarios.schema.scenario import Scenario


class Told(gym.Env[Any, Any]):
    """Shows what it is told to show: an observation of two entries and an info."""

    observation_space = spaces.Box(-9, 9, (2,))
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, seen: list[float], info: dict[str, Any]) -> None:
        self.seen, self.info, self.speeds = seen, info, np.array([0.5, 3.0])

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(2), {}

    def step(self, action: Any) -> Any:
        return np.array(self.seen), 1.0, False, False, self.info


def cost_of(terms: list[dict[str, Any]], seen: tuple[float, float] = (0, 0), **info: Any) -> float:
    cost = Cost.model_validate({"limit": 1, "terms": terms})
    env = Told([*seen], info)
    told: float = Costs(env, cost, "a").step(np.array([0.7]))[4]["cost"]
    assert "cost" not in env.info or not terms  # the environment's own is left alone
    return told


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ({"observation": 1, "above": 2.0}, 1.0),
        ({"observation": 1, "above": 3.0}, 0.0),  # the limit itself costs nothing
        ({"observation": 1, "below": 3.5, "weight": 2.5}, 2.5),
        ({"observation": 0, "below": -1.0, "above": 1.0}, 0.0),
        ({"action": 0, "above": 0.5}, 1.0),
        ({"info": "speed", "below": 0.0}, 1.0),
        ({"attribute": "speeds[1]", "above": 2.0}, 1.0),
        ({"attribute": "speeds[0]", "above": 2.0}, 0.0),
    ],
)
def test_a_step_out_of_bounds_costs_the_weight(term: dict[str, Any], expected: float) -> None:
    assert cost_of([term], (0.0, 3.0), speed=-1.0) == expected


def test_terms_add_up() -> None:
    terms = [{"observation": i, "above": 1.0, "weight": w} for i, w in ((0, 1.0), (1, 0.25))]
    assert cost_of(terms, (2.0, 2.0)) == 1.25


def test_without_terms_the_environment_tells() -> None:
    assert cost_of([], cost=0.5) == 0.5
    with pytest.raises(EnvironmentFailed, match="task 'a': cost: has no terms:"):
        cost_of([])
    for wrong in (-1.0, float("nan"), "much"):
        with pytest.raises(EnvironmentFailed, match="a cost is a finite number of at least 0"):
            cost_of([], cost=wrong)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"observation": 2}, r"cost.terms\[0\].observation: 2 is not one of the entries, 0 to 1"),
        ({"action": 1}, r"cost.terms\[0\].action: 1 is not one of the entries, 0 to 0"),
        ({"attribute": "speed"}, r"Told has no 'speed'"),
        ({"attribute": "speeds[2]"}, r"Told has no 'speeds\[2\]'"),
        ({"attribute": "speeds"}, r"has the shape \(2,\); add an index, like speeds\[0\]"),
        ({"attribute": "os.system('x')"}, "is no attribute; write one like"),
    ],
)
def test_a_term_that_looks_at_nothing_is_refused(term: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cost_of([{**term, "above": 0.0}])
    with pytest.raises(EnvironmentFailed, match="tells no 'speed' with a step; it tells x, y"):
        cost_of([{"info": "speed", "above": 0.0}], x=1, y=2)


def test_it_looks_at_the_world_as_it_is_before_changes() -> None:
    """CartPole's observation is shown without its first entry; its cost still sees it."""
    task = {
        "name": "a",
        "env": "CartPole-v1",
        "steps": 10,
        "changes": {"observation_mask": [0, 1, 2, 3], "reward_scale": 5.0},
        "cost": {"limit": 0, "terms": [{"observation": 0, "above": -9.0}]},
    }
    scenario = Scenario.model_validate(
        {"tasks": [task], "agent": {"algorithm": "ppo"}, "name": "a"}
    )
    env = make_env(scenario, scenario.tasks[0])
    env.reset(seed=0)
    seen, reward, *_, info = env.step(0)
    assert (info["cost"], reward) == (1.0, 5.0)
    assert not seen.any()


def test_what_is_not_told_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    task = {"name": "a", "env": "CartPole-v1", "steps": 10}
    task["cost"] = {"limit": 0, "terms": [{"info": "speed", "above": 1.0}]}
    data = {"name": "a", "tasks": [task], "agent": {"algorithm": "ppo"}}
    with pytest.raises(EnvironmentFailed, match=r"task 'a': .* tells no 'speed' with a step"):
        holdfast.run(Scenario.model_validate(data), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
