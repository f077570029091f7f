"""What cannot work is refused before anything runs, in words that say what to change."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch

from holdfast.continual.training import memory_budget
from holdfast.continual.training.memory_budget import Buffer
from holdfast.continual.training.preflight import build
from holdfast.errors import EnvironmentFailed, ScenarioError, UsageError
from holdfast.scenarios.schema.scenario import Scenario

PPO = {"algorithm": "ppo", "n_steps": 32, "batch_size": 32}

OWN = """\
import gymnasium as gym
import numpy as np
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

class Camera(gym.Env):
    observation_space = gym.spaces.Box(0, 255, (36, 36, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

class Broken(gym.Env):
    def __init__(self):
        raise ValueError("no such port")

class OwnExtractor(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, observation_space.shape[0])

    def forward(self, observations):
        return observations
"""


@pytest.fixture
def refused(make_scenario: Callable[..., Scenario], tmp_path: Path) -> Callable[..., str]:
    """Return the text with which a scenario is refused."""
    (tmp_path / "own_build.py").write_text(OWN, "utf-8")

    def refused(env: str = "CartPole-v1", **keys: Any) -> str:
        tasks = [{"name": name, "env": env, "steps": 64} for name in ("left", "right")]
        scenario = make_scenario(**{"tasks": tasks, "agent": PPO} | keys)
        scenario._folder = tmp_path
        with pytest.raises(UsageError) as caught:
            build(scenario)
        assert caught.value.exit_code == 2
        return str(caught.value)

    return refused


@pytest.mark.parametrize("method", ["naive", "ewc", "cloning", "progressive", "isolated"])
def test_what_fits_is_built(make_scenario: Callable[..., Scenario], method: str) -> None:
    assert build(make_scenario(agent=PPO, methods=[method])) is None


def test_an_algorithm_that_cannot_take_the_actions_lists_those_that_can(refused) -> None:
    text = refused(agent={"algorithm": "sac"})
    assert text.startswith("agent.algorithm: sac cannot take the action space Discrete(2); ppo,")
    assert "dqn" in text
    assert "td3" not in text


def test_tasks_of_different_spaces_are_refused_with_the_key_to_set(refused) -> None:
    tasks = [
        {"name": "cart", "env": "CartPole-v1", "steps": 64},
        {"name": "car", "env": "MountainCar-v0", "steps": 64},
    ]
    assert "`spaces: {observation: pad}` brings them together" in refused(tasks=tasks)


@pytest.mark.parametrize(
    ("agent", "key"),
    [
        ({"n_steps": 1}, "agent.n_steps"),
        ({"policy_kwargs": {"share_features": True}}, "agent.policy_kwargs.share_features"),
    ],
)
def test_what_stable_baselines3_refuses_names_the_key(
    refused, agent: dict[str, Any], key: str
) -> None:
    text = refused(agent=PPO | agent)
    assert text.startswith(f"{key}: ")
    assert "(refused by stable_baselines3" in text


def test_convolutions_over_numbers_are_refused_in_short(refused) -> None:
    text = refused(agent=PPO | {"policy": "CnnPolicy"})
    assert text.startswith("agent.policy: CnnPolicy is for pictures, and observations are Box(")
    assert text.endswith("; write MlpPolicy, or leave policy out")


def test_state_dependent_noise_has_no_output_for_ewc(refused) -> None:
    agent = PPO | {"use_sde": True}
    text = refused("Pendulum-v1", agent=agent, methods=["naive", "ewc"])
    assert text == "agent.use_sde: this method needs a policy without state-dependent noise"


def test_progressive_columns_cannot_share_a_learned_image_extractor(refused) -> None:
    text = refused("own_build:Camera", methods=["progressive"], stream={"task_id": "observed"})
    assert "method progressive: the features extractor learns" in text


def test_heads_cannot_find_the_task_id_behind_an_extractor_of_the_users_own(refused) -> None:
    policy = {"features_extractor": "own_build:OwnExtractor"}
    text = refused(agent=PPO | {"policy_kwargs": policy}, stream={"task_id": "heads"})
    assert "stream.task_id: heads cannot find the task id behind OwnExtractor" in text


def test_weights_that_do_not_fit_are_refused(refused, tmp_path: Path) -> None:
    sb3.PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]}).save(tmp_path / "s.zip")
    text = refused(agent=PPO | {"init": "s.zip"}, stream={"task_id": "hidden"})
    assert "agent.init: s.zip: the weights do not fit this agent's networks: mlp_ext" in text


def test_a_constructor_that_raises_is_the_environments_failure(
    make_scenario: Callable[..., Scenario], tmp_path: Path
) -> None:
    (tmp_path / "own_build.py").write_text(OWN, "utf-8")
    scenario = make_scenario(tasks=[{"name": "a", "env": "own_build:Broken", "steps": 64}])
    scenario._folder = tmp_path
    with pytest.raises(EnvironmentFailed, match=r"task 'a': .*ValueError: no such port"):
        build(scenario)


def test_a_replay_buffer_larger_than_the_memory_is_refused(
    make_scenario: Callable[..., Scenario], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two float32 observations of 3 + 2 entries, one float32 action, reward, done, timeout.
    row = 4 * (2 * 5 + 1 + 3)
    tasks = [{"name": name, "env": "Pendulum-v1", "steps": 600} for name in ("left", "right")]
    scenario = make_scenario(tasks=tasks, agent={"algorithm": "sac", "buffer_size": 1000})
    monkeypatch.setattr(memory_budget, "memory_bytes", lambda: 1000 * row)
    assert build(scenario) == Buffer(row, 1000, 600)
    with pytest.raises(ScenarioError, match=r"agent\.buffer_size: .* in 2 cells side by side"):
        build(scenario, jobs=2)
    monkeypatch.setattr(memory_budget, "memory_bytes", lambda: 999 * row)
    with pytest.raises(
        ScenarioError, match=r"1,000 transitions of 56 B each take 56\.0 kB, and this"
    ):
        build(scenario)


def test_seeds_at_once_that_do_not_fit_are_refused(
    make_scenario: Callable[..., Scenario], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = {**PPO, "engine": "compiled", "seeds_at_once": 8}
    tasks = [{"name": name, "env": "CartPole-v1", "steps": 64} for name in ("left", "right")]
    scenario = make_scenario(tasks=tasks, agent=agent, seeds=list(range(9)))
    monkeypatch.setattr(memory_budget, "memory_bytes", lambda: 2 * (1_030 + 8 * 80) * 10**6)
    build(scenario, jobs=2)
    with pytest.raises(ScenarioError, match=r"agent\.seeds_at_once: 8 seeds at once in each of 3"):
        build(scenario, jobs=3)
    monkeypatch.setattr(memory_budget, "memory_bytes", lambda: (1_030 + 7 * 80) * 10**6)
    with pytest.raises(ScenarioError, match=r"8 seeds at once take about 1\.7 GB.*take 7 at most"):
        build(scenario)
    build(make_scenario(tasks=tasks, agent=agent, seeds=[0, 1]))


def test_an_environment_that_exists_once_is_not_opened_by_two_cells(
    make_scenario: Callable[..., Scenario],
) -> None:
    tasks = [{"name": "arm", "env": "CartPole-v1", "steps": 64, "exclusive": True}]
    scenario = make_scenario(tasks=tasks, agent=PPO)
    with pytest.raises(UsageError, match="--jobs 2: task 'arm' is exclusive; run one cell at a"):
        build(scenario, jobs=2)
    assert build(scenario, jobs=1) is None


def test_building_leaves_random_state_as_it_was(make_scenario: Callable[..., Scenario]) -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = (random.random(), float(np.random.rand()), float(torch.rand(())))
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    build(make_scenario(agent=PPO))
    assert (random.random(), float(np.random.rand()), float(torch.rand(()))) == before
