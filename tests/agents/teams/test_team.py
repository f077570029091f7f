"""Teams of published algorithms: parity with single agents, turns, absence, restarts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from cells import Interrupted, run_all
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.vec_env import DummyVecEnv

from holdfast.agents.base.observations import TaskNormalize
from holdfast.agents.teams.inactive_agents import (
    PresentRollouts,
    PresentTransitions,
    learn_from_present,
)
from holdfast.agents.teams.team import TeamAgent
from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.run_folder.checkpoint import load
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.streams.team_stream import make_team_stream
from holdfast.continual.training.cell import run_cell
from holdfast.scenarios.schema.agent import Normalize
from holdfast.scenarios.schema.scenario import Scenario

WORLDS = '''
import gymnasium as gym
from pettingzoo import ParallelEnv


class Alone(ParallelEnv):
    """A Gymnasium environment for each agent; they have nothing to do with each other."""

    metadata = {"name": "alone"}

    def __init__(self, env, agents=1):
        self.possible_agents = [f"agent_{i}" for i in range(agents)]
        self.envs = {agent: gym.make(env) for agent in self.possible_agents}
        self.render_mode = None

    def observation_space(self, agent):
        return self.envs[agent].observation_space

    def action_space(self, agent):
        return self.envs[agent].action_space

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        found = {}
        for index, agent in enumerate(self.agents):
            own = None if seed is None else seed * len(self.agents) + index
            found[agent] = self.envs[agent].reset(seed=own)
        return {a: f[0] for a, f in found.items()}, {a: f[1] for a, f in found.items()}

    def step(self, actions):
        found = {agent: self.envs[agent].step(action) for agent, action in actions.items()}
        self.agents = [a for a in self.agents if not (found[a][2] or found[a][3])]
        return tuple({agent: f[part] for agent, f in found.items()} for part in range(5))

    def close(self):
        for env in self.envs.values():
            env.close()
'''
AGENTS: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 32, "batch_size": 32, "n_epochs": 2},
    "a2c": {},
    "dqn": {"learning_starts": 50, "buffer_size": 300, "train_freq": 4},
    "sac": {"learning_starts": 50, "buffer_size": 300},
}
ENVS = {"ppo": "CartPole-v1", "a2c": "CartPole-v1", "dqn": "CartPole-v1", "sac": "Pendulum-v1"}


@pytest.fixture
def make(tmp_path: Path) -> Any:
    (tmp_path / "worlds.py").write_text(WORLDS)

    def make(name: str, task: dict[str, Any], agent: dict[str, Any], **keys: Any) -> Scenario:
        tasks = [{"name": n, "steps": 256, **task} for n in keys.pop("names", ("one", "two"))]
        plan = {"episodes": 2, "every": 128, "deterministic": False}
        scenario = Scenario.model_validate(
            {"name": name, "tasks": tasks, "agent": agent, "evaluation": plan, **keys}
        )
        scenario._folder = tmp_path
        return scenario

    return make


def policies(folder: RunFolder) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found = {}
    for file in sorted(folder.path.glob("checkpoints/*/*policy.safetensors")):
        group = file.name.removesuffix("policy.safetensors")
        tensors = load_file(file)
        found |= {f"{file.parent.name}/{group}/{name}": t for name, t in tensors.items()}
    return found


# Each alters what the agent sees, does or is paid.
CHANGES: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        "action_map": [1, 0],
        "observation_permutation": [2, 3, 0, 1],
        "observation_mask": [3],
        "reward_scale": 0.5,
    },
    "Pendulum-v1": {"action_gain": -0.5, "observation_mask": [0], "reward_scale": 0.1},
}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("algorithm", "normalize", "changed"),
    [
        ("ppo", None, True),
        pytest.param("dqn", "first_task", True, marks=pytest.mark.slow),
        pytest.param("ppo", "running", False, marks=pytest.mark.slow),
        *(
            pytest.param(name, None, False, marks=pytest.mark.slow)
            for name in ("ppo", "dqn", "a2c")
        ),
        pytest.param("sac", None, True, marks=pytest.mark.slow),
    ],
)
def test_a_team_of_one_equals_a_single_agent(
    make: Any, tmp_path: Path, algorithm: str, normalize: str | None, *, changed: bool
) -> None:
    env, agent = ENVS[algorithm], {"algorithm": algorithm, **AGENTS[algorithm]}
    if normalize:
        agent["normalize"] = {"observations": normalize, "rewards": normalize}
    keys = {"n_envs": 2, "methods": ["naive", {"ewc": {"samples": 64}}]}
    changes = {"changes": CHANGES[env]} if changed else {}
    single = run_all(make("single", {"env": env, **changes}, agent, **keys), tmp_path)
    task = {"env": "worlds:Alone", "kwargs": {"env": env}, **changes}
    team = run_all(make("team", task, {**agent, "policies": "shared"}, **keys), tmp_path)
    for one, other in zip(single, team, strict=True):
        ours = [{k: v for k, v in row.items() if k != "agents"} for row in other.scores()]
        assert ours == one.scores()
        expected, found = policies(one), policies(other)
        assert len(expected) == len(found) > 0
        for (_, a), (_, b) in zip(expected.items(), found.items(), strict=True):
            assert torch.equal(a, b)
        statistics = [
            load(folder.path / "checkpoints" / "task-1").files.get(name, {})
            for folder, name in ((one, "normalization"), (other, "shared.normalization"))
        ]
        assert bool(statistics[0]) == bool(normalize)
        assert statistics[0].keys() == statistics[1].keys()
        assert all(torch.equal(t, statistics[1][name]) for name, t in statistics[0].items())


@pytest.mark.parametrize(("algorithm", "entry"), [("ppo", ""), ("vdn", "observation")])
def test_statistics_are_of_agents_that_act(make: Any, algorithm: str, entry: str) -> None:
    """By hand: in an episode 0 acts at times 0 to 4, 1 at 0 and 1, 2 at 2 to 4; each earns 1."""
    agent = {"algorithm": algorithm, "policies": "shared"}
    keys = {"names": ("one",), "stream": {"task_id": "hidden"}}
    scenario = make("statistics", {"env": "relays:Relay"}, agent, **keys)
    (experience,) = make_team_stream(scenario, 0).train_stream
    options = Normalize.model_validate({"observations": "running", "rewards": "running"})
    env = TaskNormalize(experience.make_seats()["shared"], options, gamma=0.0, id_width=0, stage=0)
    env.reset()
    for _ in range(10):  # two episodes, and the start of a third
        env.step(np.ones((env.num_envs, *env.action_space.shape), np.int64))
    found = env.tensors()
    mean, count = found[f"observations.{entry}/mean"], found[f"observations.{entry}/count"]
    assert float(count) == pytest.approx(22, abs=1e-3)  # 10 acts an episode, and two agents now
    number, time = mean[:2].tolist()
    assert number == pytest.approx((2 * (1 * 2 + 2 * 3) + 1) / 22, abs=1e-3)
    assert time == pytest.approx(2 * (10 + 1 + 9) / 22, abs=1e-3)
    assert float(found["rewards/count"]) == pytest.approx(20 if entry == "" else 10, abs=1e-3)
    # Steps of joint rewards 2, 2, 2, 2, 2: somebody always takes the place of who has died.
    assert float(found["rewards/mean"]) == pytest.approx(1 if entry == "" else 2, abs=1e-3)
    assert float(found["rewards/var"]) == pytest.approx(0, abs=1e-3)
    env.close()


@pytest.mark.thorough
def test_a_shared_policy_learns_from_all_agents_as_from_so_many_environments(
    make: Any, tmp_path: Path
) -> None:
    """Three agents in two copies that have nothing to do with each other are six environments."""
    task = {"env": "worlds:Alone", "kwargs": {"env": "Pendulum-v1", "agents": 3}, "steps": 512}
    agent = {"algorithm": "ppo", "n_steps": 64, "batch_size": 96, "policies": "shared"}
    scenario = make("three", task, agent, names=("one",), n_envs=2, stream={"task_id": "hidden"})
    (folder,) = run_all(scenario, tmp_path)
    envs = DummyVecEnv([lambda: gym.make("Pendulum-v1")] * 6)
    plain = sb3.PPO("MlpPolicy", envs, n_steps=64, batch_size=96, seed=0, device="cpu")
    envs.seed(0)  # rows 0 to 2 are the first copy, seeded 0 * 3 + 0, 1, 2
    plain.learn(512 * 3)
    for name, tensor in policies(folder).items():
        assert torch.equal(tensor, plain.policy.state_dict()[name.rpartition("/")[2]])


def test_independent_agents_begin_and_explore_each_in_its_own_way(make: Any) -> None:
    task = {"env": "worlds:Alone", "kwargs": {"env": "CartPole-v1", "agents": 2}}
    scenario = make("two", task, {"algorithm": "dqn", "policies": "independent", **AGENTS["dqn"]})
    agent = TeamAgent(scenario)
    agent.start(next(iter(make_team_stream(scenario, 0).train_stream)))
    agent.close()
    one, other = (member.model for member in agent.members.values())
    drawn = [[int(model.action_space.sample()) for _ in range(40)] for model in (one, other)]
    assert drawn[0] != drawn[1]
    for first, second in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        assert not torch.equal(first, second)


GROUPS = {"front": ["first"], "rest": ["second", "third"]}


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", ["ppo", pytest.param("dqn", marks=pytest.mark.slow)])
def test_groups_learn_side_by_side_and_go_on_after_a_stop(
    make: Any, tmp_path: Path, algorithm: str
) -> None:
    def stop(progress: Any) -> None:
        if progress.step >= 384:
            raise Interrupted

    task = {"env": "relays:Relay"}
    agent = {"algorithm": algorithm, **AGENTS[algorithm], "policies": GROUPS}
    agent["normalize"] = {"observations": "running", "rewards": "running"}
    keys = {"n_envs": 2, "methods": [["ewc", "cloning"]], "stream": {"task_id": "heads"}}
    scenario = make("groups", task, agent, **keys)
    (whole,) = run_all(scenario, tmp_path / "whole")
    (cut,) = prepare(tmp_path / "cut", scenario)
    with pytest.raises(Interrupted):
        run_cell(cut, stop)
    run_cell(cut, lambda progress: None)
    assert cut.scores() == whole.scores()
    expected, found = policies(whole), policies(cut)
    assert expected.keys() == found.keys()
    assert {name.split("/")[1] for name in found} == {"front.", "rest."}
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    first = {n: t for n, t in expected.items() if n.startswith("task-0/front./")}
    assert any(
        not torch.equal(t, expected[n.replace("task-0", "task-1")]) for n, t in first.items()
    )


def test_rows_of_absent_agents_reach_no_loss(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever PPO is shown was seen by an agent that acted, and each such step once an epoch."""
    shown: list[np.ndarray] = []
    evaluated = sb3.common.policies.ActorCriticPolicy.evaluate_actions

    def watch(self: Any, obs: Any, actions: Any) -> Any:
        shown.append(obs.numpy().copy())
        return evaluated(self, obs, actions)

    monkeypatch.setattr(sb3.common.policies.ActorCriticPolicy, "evaluate_actions", watch)
    agent = {"algorithm": "ppo", "n_steps": 50, "batch_size": 10, "n_epochs": 1}
    task = {"env": "relays:Relay", "steps": 50}
    keys = {"names": ("one",), "stream": {"task_id": "hidden"}}
    scenario = make("absent", task, {**agent, "policies": "shared"}, **keys)
    team = TeamAgent(scenario)
    (experience,) = make_team_stream(scenario, 0).train_stream
    team.start(experience)
    team.learn(experience, lambda step: None, lambda scalars, step: None)
    seen = np.concatenate(shown)
    # Ten episodes of ten acts: first in five steps, second in two, third in three.
    assert len(seen) == 100
    acts = {(0, t) for t in range(5)} | {(1, t) for t in range(2)} | {(2, t) for t in (2, 3, 4)}
    assert {(int(row[0]), int(row[1])) for row in seen} == acts
    assert len({tuple(row[:3]) for row in seen}) == 100


def test_advantages_end_where_an_agent_dies() -> None:
    """By hand: gamma 0.5, lambda 1, values 0; seat 1 dies after its first step, comes back."""
    space = gym.spaces.Box(-1, 1, (1,), np.float32), gym.spaces.Discrete(2)
    absent = np.zeros(2, np.bool_)
    model = type("Model", (sb3.common.on_policy_algorithm.OnPolicyAlgorithm,), {})
    model = model.__new__(model)
    model.rollout_buffer = RolloutBuffer(4, *space, "cpu", gae_lambda=1.0, gamma=0.5, n_envs=2)
    learn_from_present(model, lambda: absent, lambda info: False)
    buffer = model.rollout_buffer
    assert isinstance(buffer, PresentRollouts)
    starts = [[1, 1], [0, 1], [0, 1], [0, 1]]  # whoever is done or absent starts again
    gone = [[0, 0], [0, 1], [0, 1], [0, 0]]
    for step in range(4):
        absent[:] = gone[step]
        reward = np.array([1.0, 8.0]) * ~absent
        zero = torch.zeros(2)
        shown = np.full((2, 1), step, np.float32)
        buffer.add(shown, np.zeros((2, 1)), reward, np.array(starts[step], bool), zero, zero)
    buffer.compute_returns_and_advantage(torch.zeros(2), np.array([False, False]))
    assert (buffer.buffer_size, buffer.n_envs) == (6, 1)
    rows = sorted(zip(buffer.observations[:, 0, 0], buffer.advantages[:, 0], strict=True))
    assert rows == [(0, 1.875), (0, 8.0), (1, 1.75), (2, 1.5), (3, 1.0), (3, 8.0)]
    buffer.buffer_size = 4
    buffer.reset()
    assert buffer.observations.shape == (4, 2, 1)


def test_a_replay_buffer_packs_what_present_agents_did_each_step_once() -> None:
    space = gym.spaces.Box(-1000, 1000, (1,), np.float32), gym.spaces.Discrete(100)
    model = type("Model", (), {})()
    model.replay_buffer = ReplayBuffer(60, *space, "cpu", n_envs=3, handle_timeout_termination=True)
    learn_from_present(model, lambda: None, lambda info: "gone" in info)
    buffer = model.replay_buffer
    assert isinstance(buffer, PresentTransitions)
    rng, done = np.random.default_rng(0), []
    for step in range(15):
        gone = rng.random(3) < 0.4
        numbers = np.arange(3) + 3 * step
        done += numbers[~gone].tolist()
        shown = numbers[:, None].astype(np.float32)
        infos = [{"gone": True} if one else {} for one in gone]
        buffer.add(shown, shown + 0.5, numbers[:, None], numbers / 2, gone, infos)
    stored = buffer.observations[: buffer.pos].reshape(-1)
    assert stored.tolist() == done[: len(stored)]
    assert len(done) - len(stored) == len(buffer.pending) < 3
    assert buffer.next_observations[: buffer.pos].reshape(-1).tolist() == (stored + 0.5).tolist()
    assert buffer.actions[: buffer.pos].reshape(-1).tolist() == stored.tolist()
    assert buffer.rewards[: buffer.pos].reshape(-1).tolist() == (stored / 2).tolist()
    assert not buffer.dones[: buffer.pos].any()
