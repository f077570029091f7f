"""One model for a stream: bit for bit what plain Stable-Baselines3 gives in a world that changes.

So it is where boundaries are hidden, and where all tasks are learned at once.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from holdfast.agents.sb3 import learner
from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.training.cell import run_cell
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.seeding import derive, task_seed

SEED, STEPS = 3, 160
NETS = {"policy_kwargs": {"net_arch": [16]}}
OFF = {"learning_starts": 40, "batch_size": 16, "buffer_size": 1000, **NETS}
LINEAR = {"linear": [1e-3, 0.0]}
DQN = {"train_freq": 4, "target_update_interval": 30, "exploration_fraction": 0.7}
CASES: dict[str, Any] = {
    # 160 steps of two environments end inside the fourth rollout of 2 x 24
    "ppo": (sb3.PPO, "CartPole-v1", {"n_steps": 24, "batch_size": 16, "n_epochs": 2, **NETS}, 2),
    "dqn": (sb3.DQN, "CartPole-v1", {**DQN, **OFF}, 1),
    "dqn-inside-a-round": (sb3.DQN, "CartPole-v1", {**DQN, **OFF, "train_freq": 6}, 1),
    "sac": (sb3.SAC, "Pendulum-v1", {"gradient_steps": -1, "train_freq": 3, **OFF}, 2),
}
NORMALIZED = {"observations": "running", "rewards": "running"}
TASKS = {
    "CartPole-v1": [{}, {"gravity": 20.0}, {"length": 1.5}],
    "Pendulum-v1": [{}, {"g": 3.0}, {"m": 2.0}],
}


class Changing(gym.Env[Any, Any]):
    """An environment that replaces itself after its steps; seeded as a run seeds its stages."""

    def __init__(self, env: str, steps: int) -> None:
        self.env, self.steps, self.taken, self.stage, self.seed = env, steps, 0, 0, 0
        self.world = self.made()
        self.action_space = self.world.action_space
        self.observation_space = self.world.observation_space

    def made(self) -> gym.Env[Any, Any]:
        world = gym.make(self.env)
        for name, value in TASKS[self.env][self.stage].items():
            setattr(world.unwrapped, name, value)
        return world

    def step(self, action: Any) -> Any:
        seen, reward, terminated, truncated, info = self.world.step(action)
        self.taken += 1
        changes = self.taken == self.steps and self.stage < 2
        return seen, reward, terminated, truncated or changes, info

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.seed = self.seed if seed is None else seed
        if self.taken == self.steps and self.stage < 2:
            self.stage, self.taken = self.stage + 1, 0
            self.world = self.made()
            seed = task_seed(SEED, self.stage) + self.seed - SEED
        return self.world.reset(seed=seed)


class TakingTurns(Changing):
    """All three tasks at once: an episode of the one that has had the fewest steps.

    Where a stage ends, episodes are cut and every task is built and seeded again.
    """

    def __init__(self, env: str, steps: int, first: int) -> None:
        self.had, self.turn, self.worlds = [0, 0, 0], first, dict[int, gym.Env[Any, Any]]()
        self.stages, self.of_stage = 0, 0
        self.stage = first  # the task that ``made`` builds
        self.env, self.steps, self.seed = env, steps, 0
        self.world = self.made()
        self.action_space = self.world.action_space
        self.observation_space = self.world.observation_space

    def step(self, action: Any) -> Any:
        seen, reward, terminated, truncated, info = self.world.step(action)
        self.had[self.turn] += 1
        self.of_stage += 1
        truncated = truncated or (self.of_stage == self.steps and self.stages < 2)
        if terminated or truncated:
            self.turn = self.had.index(min(self.had))
        return seen, reward, terminated, truncated, info

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.seed = self.seed if seed is None else seed
        if self.of_stage == self.steps and self.stages < 2:
            self.stages, self.of_stage = self.stages + 1, 0
            self.worlds.clear()
        of_stage = task_seed(SEED, self.stages) + self.seed - SEED
        own = None
        if self.turn not in self.worlds:
            self.stage = self.turn
            self.worlds[self.turn], own = self.made(), derive(of_stage, "interleaved", self.turn)
        self.world = self.worlds[self.turn]
        return self.world.reset(seed=own)


def scenario(case: str, **more: Any) -> Scenario:
    _, env, arguments, n_envs = CASES[case]
    return Scenario.model_validate(
        {
            "name": "hidden",
            "tasks": [
                {"name": f"task-{n}", "env": env, "steps": STEPS, "changes": {"set": changes}}
                for n, changes in enumerate(TASKS[env])
            ],
            "stream": {"task_id": "hidden", "boundaries": "hidden"},
            "n_envs": n_envs,
            "agent": {
                "algorithm": case.partition("-")[0],
                "learning_rate": LINEAR,
                "normalize": NORMALIZED,
                **arguments,
            },
            "seeds": [SEED],
            "evaluation": {"every": 50, "episodes": 2, "deterministic": False},
            "checkpoint": {"every": "off"},
            **more,
        }
    )


def oracle(case: str, *, turns: bool = False) -> BaseAlgorithm:
    """Return a model that was trained by Stable-Baselines3 alone."""
    made, env, arguments, n_envs = CASES[case]
    index = iter(range(n_envs))

    def changing() -> Changing:
        steps = STEPS // n_envs
        return TakingTurns(env, steps, next(index)) if turns else Changing(env, steps)

    world = make_vec_env(changing, n_envs=n_envs, seed=SEED)
    given = {"learning_rate": lambda left: 1e-3 * left, **deepcopy(arguments)}  # written into
    model: BaseAlgorithm = made("MlpPolicy", VecNormalize(world), seed=SEED, **given)
    model.set_logger(sb3.common.logger.Logger(None, []))
    model.learn(3 * STEPS)  # a multiple of what is collected at once
    return model


def state(model: Any) -> dict[str, Any]:
    """Return everything that learning has changed, by name."""
    found: dict[str, Any] = {f"policy/{n}": t for n, t in model.policy.state_dict().items()}
    owners = [
        model.policy,
        getattr(model.policy, "actor", None),
        getattr(model.policy, "critic", None),
    ]
    optimizers = [owner.optimizer for owner in owners if hasattr(owner, "optimizer")]
    if getattr(model, "ent_coef_optimizer", None) is not None:
        optimizers.append(model.ent_coef_optimizer)
        found["log_ent_coef"] = model.log_ent_coef.detach()
    for number, optimizer in enumerate(optimizers):
        found[f"rate/{number}"] = torch.tensor(optimizer.param_groups[0]["lr"])
        for at, moments in optimizer.state_dict()["state"].items():
            found |= {
                f"optimizer/{number}/{at}/{n}": torch.as_tensor(t) for n, t in moments.items()
            }
    buffer = getattr(model, "replay_buffer", None)
    buffer = model.rollout_buffer if buffer is None else buffer
    for name, rows in vars(buffer).items():
        if isinstance(rows, np.ndarray):
            found[f"buffer/{name}"] = torch.as_tensor(rows)
    found["buffer/pos"] = torch.tensor([buffer.pos, int(buffer.full)])
    statistics = model.get_vec_normalize_env()
    for name, moments in (("seen", statistics.obs_rms), ("paid", statistics.ret_rms)):
        for part in ("mean", "var", "count"):
            found[f"{name}/{part}"] = torch.as_tensor(np.array(getattr(moments, part)))
    found["returns"] = torch.as_tensor(statistics.returns)
    found["space"] = str(model.action_space.np_random.bit_generator.state)
    found["counters"] = [
        model.num_timesteps,
        model._n_updates,
        model._episode_num,
        model._current_progress_remaining,
        getattr(model, "exploration_rate", None),
    ]
    found["episodes"] = [(info["r"], info["l"]) for info in model.ep_info_buffer]
    found["torch"] = torch.get_rng_state()
    found["numpy"] = torch.as_tensor(np.random.get_state()[1].astype(np.int64))  # type: ignore[union-attr]
    found["last"] = torch.as_tensor(model._last_obs)
    return found


def assert_equal(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        same = torch.equal(ours[name], value) if torch.is_tensor(value) else ours[name] == value
        assert same, f"{name}: {ours[name]} is not {value}"


class Ended(dict[str, Any]):
    """What the model of a run was when its stream ended; before its random state is touched."""


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Ended:
    found = Ended()
    learn = learner.StableBaselinesAgent.learn

    def learn_and_look(self: Any, experience: Any, *rest: Any) -> None:
        learn(self, experience, *rest)
        if experience.stage == 2:
            found.update(state(self.model))

    monkeypatch.setattr(learner.StableBaselinesAgent, "learn", learn_and_look)
    return found


@pytest.mark.thorough
@pytest.mark.parametrize(
    "case", [pytest.param(n, marks=[] if n == "ppo" else pytest.mark.slow) for n in CASES]
)
def test_a_hidden_boundary_equals_plain_stable_baselines3_in_a_world_that_changes(
    case: str, tmp_path: Path, ended: Ended
) -> None:
    (folder,) = prepare(tmp_path, scenario(case))
    run_cell(folder, lambda _: None)
    ours = dict(ended)
    assert_equal(ours, state(oracle(case)))
    assert len([score for score in folder.scores() if score["step"] == STEPS]) == 3 * 2


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("case", "boundaries"),
    [
        *((case, "known") for case in ("ppo", "dqn")),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("dqn-inside-a-round", "known"), ("sac", "known"), ("dqn", "hidden"))
        ),
    ],
)
def test_joint_equals_plain_stable_baselines3_in_all_tasks_by_turns(
    case: str, boundaries: str, tmp_path: Path, ended: Ended
) -> None:
    stream = {"task_id": "hidden", "boundaries": boundaries}
    (folder,) = prepare(tmp_path, scenario(case, stream=stream, methods=["joint"]))
    run_cell(folder, lambda _: None)
    assert_equal(dict(ended), state(oracle(case, turns=True)))
    assert len([score for score in folder.scores() if score["step"] == STEPS]) == 3 * 2
