"""Dict and image observations, MultiDiscrete and MultiBinary actions: two tasks, to the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import Interrupted, run_all
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.jobs.run_handle import open_run
from holdfast.continual.training.cell import run_cell
from holdfast.continual.training.preflight import build
from holdfast.errors import ScenarioError
from holdfast.scenarios.load import load
from holdfast.scenarios.schema.scenario import Scenario

ENVIRONMENT = '''
import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

SIZE = 36

class Dot(gym.Env):
    """A dot on a line, to be pushed to one side; shown and moved in the form that is asked for."""

    def __init__(self, shown, moved="discrete", side=1, size=SIZE):
        self.shown, self.moved, self.side, self.size = shown, moved, side, size
        picture, vector = Box(0, 255, (size, size, 3), np.uint8), Box(-1, 1, (2,), np.float32)
        self.observation_space = {
            "dict": Dict(zone=Discrete(3), arm=vector),
            "picture": picture,
            "both": Dict(camera=picture, arm=vector),
            "zone": Discrete(3),
        }[shown]
        self.action_space = {
            "discrete": Discrete(3),
            "box": Box(-1, 1, (1,), np.float32),
            "multidiscrete": MultiDiscrete([3, 2]),
            "multibinary": MultiBinary(2),
        }[moved]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.time = float(self.np_random.uniform(-0.5, 0.5)), 0
        return self.see(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        if self.moved == "discrete":
            push = int(action) - 1.0
        elif self.moved == "box":
            push = float(action[0])
        elif self.moved == "multidiscrete":
            push = (int(action[0]) - 1.0) * (1 + int(action[1])) / 2
        else:
            push = float(action[0]) - float(action[1])
        self.place = float(np.clip(self.place + 0.2 * push, -1, 1))
        self.time += 1
        return self.see(), self.side * self.place, False, self.time == 10, {}

    def see(self):
        vector = np.array([self.place, 0], np.float32)
        picture = np.zeros((self.size, self.size, 3), np.uint8)
        column = int((self.place + 1) / 2 * (self.size - 4))
        picture[self.size // 2 - 2 :][:4, column : column + 4] = 255
        zone = np.int64(int(self.place > -0.3) + int(self.place > 0.3))
        return {
            "dict": {"zone": zone, "arm": vector},
            "picture": picture,
            "both": {"camera": picture, "arm": vector},
            "zone": zone,
        }[self.shown]
'''

ON = {"n_steps": 32, "batch_size": 32, "n_epochs": 1}
OFF = {"learning_starts": 8, "batch_size": 8, "buffer_size": 100, "train_freq": 8}


@pytest.fixture
def make(tmp_path: Path) -> Any:
    (tmp_path / "dots.py").write_text(ENVIRONMENT, "utf-8")

    def make(agent: str, methods: str, task_id: str = "observed", **kwargs: Any) -> Scenario:
        arguments = ON if agent == "ppo" else {"n_steps": 32} if agent == "a2c" else OFF
        if agent in ("maskable_ppo", "recurrent_ppo"):
            arguments = ON
        (tmp_path / "dots.yaml").write_text(
            "tasks:\n"
            f"  - {{name: right, env: 'dots:Dot', kwargs: {kwargs}, steps: 64}}\n"
            f"  - {{name: left, env: 'dots:Dot', kwargs: {kwargs | {'side': -1}}, steps: 64}}\n"
            f"agent: {{algorithm: {agent}}}\n"
            f"methods: {methods}\nstream: {{task_id: {task_id}}}\nevaluation: {{episodes: 1}}\n",
            "utf-8",
        )
        overrides = [f"agent.{name}={value}" for name, value in arguments.items()]
        return load(tmp_path / "dots.yaml", overrides)

    return make


def check(scenario: Scenario, folder: Path) -> Any:
    """Run it; stop it between the tasks and go on; return the agent, which acts in both tasks."""

    def stop(progress: Any) -> None:
        if progress.step >= 96:
            raise Interrupted

    whole = run_all(scenario, folder / "whole")
    for one, cut in zip(whole, prepare(folder / "cut", scenario), strict=True):
        with pytest.raises(Interrupted):
            run_cell(cut, stop)
        run_cell(cut, lambda progress: None)
        assert one.info()["status"] == cut.info()["status"] == "finished"
        assert one.scores() == cut.scores()
        assert {score["task"] for score in one.scores()} == {"right", "left"}
        weights = [path / "checkpoints/task-1/policy.safetensors" for path in (one.path, cut.path)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    opened = open_run(whole[-1].path)
    for task in ("right", "left"):
        acting = opened.agent(task)
        env = acting.make_env()
        observation, _ = env.reset(seed=0)
        assert env.action_space.contains(acting.act(observation))
    return opened._restored.agent


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("agent", "methods", "shown", "moved"),
    [
        ("ppo", "[naive, ewc, cloning]", "dict", "discrete"),
        pytest.param("dqn", "[replay, ewc]", "dict", "discrete", marks=pytest.mark.slow),
        pytest.param("ppo", "[ewc, clear]", "zone", "discrete", marks=pytest.mark.slow),
        pytest.param(
            "ppo", "[naive, ewc, cloning]", "dict", "multidiscrete", marks=pytest.mark.slow
        ),
        pytest.param("ppo", "[naive, ewc]", "dict", "multibinary", marks=pytest.mark.slow),
        pytest.param("sac", "[ewc, cloning, replay]", "dict", "box", marks=pytest.mark.slow),
        pytest.param("sac", "[replay, ewc]", "both", "box", marks=pytest.mark.slow),
        pytest.param("a2c", "[naive, cloning]", "both", "multibinary", marks=pytest.mark.slow),
        pytest.param("ppo", "[ewc, cloning]", "both", "multidiscrete", marks=pytest.mark.slow),
    ],
)
def test_two_tasks_run_and_go_on(
    make: Any, tmp_path: Path, agent: str, methods: str, shown: str, moved: str
) -> None:
    learner = check(make(agent, methods, shown=shown, moved=moved), tmp_path)
    assert isinstance(learner.policy.observation_space["task_id"].shape, tuple)
    assert learner.policy.observation_space["task_id"].shape == (2,)


@pytest.mark.thorough
def test_pictures_without_a_task_id_are_seen_by_a_cnn(make: Any, tmp_path: Path) -> None:
    learner = check(make("ppo", "[ewc, cloning]", "hidden", shown="picture"), tmp_path)
    assert type(learner.policy).__name__ == "ActorCriticCnnPolicy"
    assert isinstance(learner.policy.features_extractor, NatureCNN)
    assert learner.policy.observation_space.shape == (3, 36, 36)


@pytest.mark.slow
def test_pictures_with_a_task_id_keep_their_cnn_and_the_id_is_seen(
    make: Any, tmp_path: Path
) -> None:
    learner = check(make("ppo", "[naive, ewc, cloning]", shown="picture"), tmp_path)
    extractor = learner.policy.features_extractor
    assert isinstance(extractor, CombinedExtractor)
    assert isinstance(extractor.extractors["observation"], NatureCNN)
    picture = np.zeros((1, 36, 36, 3), np.uint8)
    picture[:, 10:20, 5:15] = 255
    features = []
    for task in (0, 1):
        seen = {"observation": picture, "task_id": np.eye(2, dtype=np.float32)[[task]]}
        tensors, _ = learner.policy.obs_to_tensor(seen)
        assert tensors["observation"].shape == (1, 3, 36, 36)
        with torch.no_grad():
            features.append(learner.policy.extract_features(tensors, extractor))
    assert torch.equal(features[0][:, :256], features[1][:, :256])
    assert features[0][0, 256:].tolist() == [1, 0]
    assert features[1][0, 256:].tolist() == [0, 1]


@pytest.mark.thorough
def test_minigrid_pictures_run(tmp_path: Path) -> None:
    pytest.importorskip("minigrid")
    path = tmp_path / "grid.yaml"
    wrappers = "['minigrid.wrappers:RGBImgPartialObsWrapper', 'minigrid.wrappers:ImgObsWrapper']"
    path.write_text(
        "tasks:\n"
        + "".join(
            f"  - {{name: '{size}', env: 'minigrid:MiniGrid-Empty-{size}-v0', steps: 64,\n"
            f"     wrappers: {wrappers}, changes: {{time_limit: 10}}}}\n"
            for size in ("5x5", "6x6")
        )
        + "agent: {algorithm: ppo, n_steps: 32, batch_size: 32, n_epochs: 1}\n"
        "methods: [ewc]\nevaluation: {episodes: 1}\n"
    )
    (folder,) = run_all(load(path), tmp_path / "runs")
    policy = open_run(folder.path)._restored.agent.policy
    assert policy.observation_space["observation"].shape == (3, 56, 56)
    assert {score["task"] for score in folder.scores()} == {"5x5", "6x6"}
    small = load(path, [f"tasks[{i}].wrappers=['minigrid.wrappers:ImgObsWrapper']" for i in (0, 1)])
    with pytest.raises(ScenarioError, match=r"a picture of 7 x 7 pixels, .* need 36 x 36"):
        build(small)
    flat = "['minigrid.wrappers:ImgObsWrapper', 'gymnasium.wrappers:FlattenObservation']"
    build(load(path, [f"tasks[{i}].wrappers={flat}" for i in (0, 1)]))


@pytest.mark.parametrize(
    ("agent", "given", "overrides", "message"),
    [
        ("sac", {"moved": "multidiscrete"}, [], r"agent.algorithm: sac cannot take .*; ppo, a2c"),
        ("dqn", {"moved": "multibinary"}, [], r"agent.algorithm: dqn cannot take .*; ppo, a2c"),
        ("recurrent_ppo", {"moved": "multibinary"}, [], "recurrent_ppo cannot take .*; ppo, a2c"),
        ("maskable_ppo", {"moved": "discrete"}, [], r"needs an .* with a method action_masks\(\)"),
        ("ppo", {"shown": "picture", "size": 20}, [], "picture of 20 x 20 pixels, .* 36 x 36"),
        ("ppo", {"shown": "both", "size": 20}, [], "the entry 'camera' of the observation is a"),
        ("ppo", {"shown": "picture"}, ["agent.policy=CnnPolicy"], "the task id stands in a Dict"),
        ("ppo", {}, ["agent.policy=MlpPolicy"], "observations are a Dict; write MultiInputPolicy"),
        (
            "ppo",
            {"shown": "picture"},
            ["agent.policy=MultiInputPolicy", "stream.task_id=hidden"],
            "observations are one array each; write MlpPolicy or CnnPolicy",
        ),
    ],
)
def test_what_does_not_work_is_refused_in_one_sentence(
    make: Any, agent: str, given: dict[str, Any], overrides: list[str], message: str
) -> None:
    scenario = make(agent, "[naive]", **({"shown": "dict"} | given))
    path = scenario.source
    assert path is not None
    arguments = [f"agent.{name}={value}" for name, value in scenario.agent.arguments.items()]
    with pytest.raises(ScenarioError, match=message) as caught:
        build(load(path, [*arguments, *overrides]))
    expected = 2 if "maskable" in agent else 1
    assert len(caught.value.problems) == expected


MASKED = """
import gymnasium as gym
import numpy as np


class Doors(gym.Env):
    observation_space = gym.spaces.Box(0, 1, (3,), np.float32)

    def __init__(self, doors):
        self.action_space = gym.spaces.Discrete(doors)

    def action_masks(self):
        return np.arange(self.action_space.n) != self.locked

    def see(self):
        return np.eye(3, dtype=np.float32)[self.locked]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.locked = 0, 0
        return self.see(), {}

    def step(self, action):
        assert self.action_space.contains(int(action)), "no such door"
        assert action != self.locked, "a locked door was opened"
        self.time += 1
        self.locked = int(self.np_random.integers(self.action_space.n))
        return self.see(), float(action == 1), False, self.time == 10, {}
"""


def test_masks_are_padded_with_the_actions_they_belong_to(tmp_path: Path) -> None:
    (tmp_path / "doors.py").write_text(MASKED, "utf-8")
    (tmp_path / "doors.yaml").write_text(
        "tasks:\n"
        "  - {name: two, env: 'doors:Doors', kwargs: {doors: 2}, steps: 64}\n"
        "  - {name: three, env: 'doors:Doors', kwargs: {doors: 3}, steps: 64}\n"
        "agent: {algorithm: maskable_ppo, n_steps: 32, batch_size: 32, n_epochs: 1}\n"
        "spaces: {action: pad}\nevaluation: {episodes: 2}\n",
        "utf-8",
    )
    (folder,) = run_all(load(tmp_path / "doors.yaml"), tmp_path / "runs")
    acting = open_run(folder.path).agent("two")
    env = acting.make_env()
    observation, _ = env.reset(seed=0)
    for _ in range(10):
        masks = env.get_wrapper_attr("action_masks")()
        action = acting.act(observation, deterministic=False, action_masks=masks)
        observation, *_ = env.step(action)
