"""Costs while learning: multipliers by hand, what is learned from, kills, and what stays equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from kills import assert_unharmed, cell, silent
from safetensors.torch import load_file
from stable_baselines3 import A2C, DQN, ppo
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from holdfast.agents.sb3.budget import learn_on_policy
from holdfast.agents.sb3.constraint import Counted, Multiplier
from holdfast.continual.results.safety import safety_of
from holdfast.continual.results.study import gather
from holdfast.continual.run_folder.point_record import COSTS
from holdfast.continual.training.cell import run_cell
from holdfast.registry import ALGORITHMS, WITH_COST_CRITIC, load
from holdfast.scenarios.schema.cost import Constraint, Cost

NETS = {"policy_kwargs": {"net_arch": [8]}}
PPO = {"algorithm": "ppo", "n_steps": 24, "batch_size": 16, "n_epochs": 2, **NETS}
SAC = {"algorithm": "sac", "learning_starts": 40, "batch_size": 16, "buffer_size": 100, **NETS}
TERMS = [{"observation": 2, "above": 1.0}, {"observation": 2, "below": -1.0}]


def rule(**given: Any) -> Multiplier:
    return Multiplier(Constraint.model_validate(given))


def test_a_lagrangian_multiplier_climbs_the_violation() -> None:
    one = rule(lagrangian={"rate": 0.1, "initial": 0.5})
    found = []
    for cost in (14.0, 10.0, 2.0, 10.0):
        one.move(cost, 10.0)
        found.append(one.value)
    assert found == pytest.approx([0.9, 0.9, 0.1, 0.1])
    one.move(0.0, 10.0)
    assert one.value == 0.0  # never below


def test_a_controlled_multiplier_is_that_of_the_authors_code() -> None:
    """Their recursion: the integral holds its gain, means by alphas of 0, a delay of one update."""
    costs, limit, (kp, ki, kd) = np.random.default_rng(0).uniform(0, 30, 40), 12.0, (0.3, 0.02, 0.7)
    one = rule(pid={"proportional": kp, "integral": ki, "derivative": kd})
    integral, smooth_over, smooth_cost, before = 0.0, 0.0, 0.0, [0.0]
    found, told = [], []
    for cost in costs:
        over = float(cost - limit)
        integral = max(0.0, integral + over * ki)
        smooth_over = 0.0 * smooth_over + (1 - 0.0) * over
        smooth_cost = 0.0 * smooth_cost + (1 - 0.0) * float(cost)
        rise = max(0.0, smooth_cost - before[0])
        told.append(max(0.0, kp * smooth_over + integral + kd * rise))
        before = [smooth_cost]
        one.move(float(cost), limit)
        found.append(one.value)
    assert found == pytest.approx(told)
    assert 0 < np.count_nonzero(found) < len(found)


def test_a_controlled_multiplier_by_hand() -> None:
    """Four updates, d = 10."""
    one = rule(pid={"proportional": 0.1, "integral": 0.01, "derivative": 1.0})
    found = []
    # J = 14: over 4, I 4, rise 14 (from 0): .4 + .04 + 14.
    # J = 13: over 3, I 7, no rise: .3 + .07.    J = 2: over -8, I 0: 0.
    # J = 11: over 1, I 1, rise 9: .1 + .01 + 9.
    for cost in (14.0, 13.0, 2.0, 11.0):
        one.move(cost, 10.0)
        found.append(one.value)
    assert found == pytest.approx([14.44, 0.37, 0.0, 9.11])
    other = rule(pid={"proportional": 0.1, "integral": 0.01, "derivative": 1.0})
    other.load(one.state())
    for each in (one, other):
        each.move(12.0, 10.0)
    assert one.value == other.value == pytest.approx(0.2 + 0.03 + 1.0)


def test_a_fixed_multiplier_stays() -> None:
    one = rule(fixed={"multiplier": 3.0})
    one.move(100.0, 1.0)
    assert one.weighed(np.array([7.0]), np.array([1.0])) == pytest.approx([1.0])  # (7 - 3) / 4


class Costly(gym.Env[Any, Any]):
    """Pays 2 a step, costs 1, and ends after 3 steps."""

    observation_space, action_space = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.left = 3
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        return np.zeros(1, np.float32), 2.0, self.left == 0, False, {"cost": 1.0}


def test_rewards_in_a_replay_buffer_are_those_of_the_multiplier_as_it_is_now() -> None:
    """Rate 1, limit 1: an episode of cost 3 lifts the multiplier by 2."""
    given = Constraint.model_validate({"lagrangian": {"rate": 1.0}})
    env = Counted(DummyVecEnv([Costly]), Cost(limit=1.0), given)
    model = DQN("MlpPolicy", env, buffer_size=8, learning_starts=0, seed=0)
    env.follow(model)
    model.learn(4)
    assert model.replay_buffer.rewards[:5, 0].tolist() == [2, 2, 2, 2, 0]
    env.move()
    learned = (2 - 2 * 1) / (1 + 2)
    assert model.replay_buffer.rewards[:5, 0].tolist() == [learned] * 4 + [0]
    assert env.training.steps == env.training.cost == 4
    assert (env.training.episodes, env.training.violations) == (1, 1)
    env.move()  # no episode has ended since
    assert env.scalars() == {"constraint/multiplier": 2.0, "constraint/cost_rate": 1.0}


def scenario(
    agent: dict[str, Any], constraint: Any, *, cost: bool = True, **more: Any
) -> dict[str, Any]:
    """Pendulum whose speed is limited; two tasks of two copies."""
    task = {"env": "Pendulum-v1", "steps": 160, "changes": {"time_limit": 20}}
    limits = [{"cost": {"limit": limit, "terms": TERMS}} if cost else {} for limit in (2.0, 5.0)]
    return {
        "name": "demo",
        "tasks": [{"name": n, **task, **c} for n, c in zip("ab", limits, strict=True)],
        "stream": {"task_id": "hidden"},
        "n_envs": 2,
        "agent": {**agent, **({"constraint": constraint} if constraint else {})},
        "evaluation": {"every": 80, "episodes": 2},
        "checkpoint": {"every": 48},
        **more,
    }


def weights(place: Path, data: dict[str, Any]) -> dict[str, Any]:
    """Run a cell and return the weights at its end."""
    folder = cell(place, data)
    run_cell(folder, silent)
    return load_file(folder.path / "checkpoints" / "task-1" / "policy.safetensors")


class Paying(gym.Env[Any, Any]):
    """Shows how many steps were taken, pays twice that, costs its square; cut after 5 steps."""

    observation_space, action_space = spaces.Box(0, 9, (1,)), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.taken = 0
        return self._seen(), {}

    def _seen(self) -> Any:
        return np.array([self.taken], np.float32)

    def step(self, action: Any) -> Any:
        self.taken += 1
        cost = float(self.taken**2)
        return self._seen(), 2.0 * self.taken, False, self.taken == 5, {"cost": cost}


def test_with_a_critic_of_costs_advantages_are_weighed_and_values_are_of_rewards() -> None:
    """By hand: every sum over all later steps of the rollout, with both critics' own numbers."""
    multiplier, gamma, kept, steps = 3.0, 0.9, 0.8, 8
    given = Constraint.model_validate({"fixed": {"multiplier": multiplier}, "critic": True})
    env = Counted(DummyVecEnv([Paying]), Cost(limit=1.0), given)
    how = {"n_steps": steps, "gamma": gamma, "gae_lambda": kept}
    model = A2C("MlpPolicy", env, seed=0, policy_kwargs={"net_arch": [8]}, **how)
    env.follow(model)
    critic = env._critic
    assert critic is not None
    seen = np.array([0, 1, 2, 3, 4, 0, 1, 2, 3])  # cut after the fifth step, at a 5
    own = {
        "reward": (model.policy, 2.0 * np.array([1, 2, 3, 4, 5, 1, 2, 3])),
        "cost": (critic._policy, np.array([1.0, 4, 9, 16, 25, 1, 4, 9])),
    }
    found = {}
    for name, (policy, signal) in own.items():
        of = policy.predict_values(torch.arange(6.0)[:, None]).detach().double().flatten().numpy()
        follows = np.array([of[seen[n + 1]] if n != 4 else of[5] for n in range(steps)])
        deltas = signal + gamma * follows - of[seen[:steps]]
        ends = [5 if n < 5 else steps for n in range(steps)]
        found[name] = np.array(
            [
                sum((gamma * kept) ** (later - n) * deltas[later] for later in range(n, ends[n]))
                for n in range(steps)
            ]
        )
        found[f"return of {name}"] = found[name] + of[seen[:steps]]
    before = critic.tensors()
    _, callback = model._setup_learn(steps)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, steps)
    buffer = model.rollout_buffer
    wanted = (found["reward"] - multiplier * found["cost"]) / (1 + multiplier)
    assert buffer.advantages[:, 0] == pytest.approx(wanted, rel=1e-5)
    assert buffer.returns[:, 0] == pytest.approx(found["return of reward"], rel=1e-5)
    critic.load_tensors(before)
    values = critic._policy.predict_values(torch.as_tensor(seen[:steps])[:, None].float())
    error = np.mean((values.detach().numpy()[:, 0] - found["return of cost"]) ** 2)
    assert critic.loss == pytest.approx(error, rel=1e-5)  # one epoch of one batch: before its step
    assert env.scalars()["constraint/critic_loss"] == critic.loss


@pytest.mark.parametrize("is_compiled", [False, True], ids=["sb3", "compiled"])
def test_a_critic_learns_what_costs_come_to(is_compiled: bool) -> None:
    given = Constraint.model_validate({"fixed": {"multiplier": 0.0}, "critic": True})
    env = Counted(DummyVecEnv([Costly]), Cost(limit=1.0), given)
    how = {"n_steps": 96, "batch_size": 32, "gamma": 0.5, "gae_lambda": 1.0, "learning_rate": 1e-2}
    model = ppo.PPO("MlpPolicy", env, seed=0, **how, **NETS)
    env.follow(model, is_compiled=is_compiled)
    model.learn(96 * 5)
    assert env._critic is not None
    # All states look alike: the mean of 1, 1 + .5 and 1 + .5 + .25.
    assert env._critic._values(np.zeros((1, 1), np.float32))[0] == pytest.approx(17 / 12, abs=0.05)


def test_both_engines_fit_a_critic_alike() -> None:
    """Three rollouts, the last of them short: weights agree to the rounding of 32 bits."""
    given = Constraint.model_validate({"fixed": {"multiplier": 0.0}, "critic": True})
    found = []
    for is_compiled in (False, True):
        env = Counted(DummyVecEnv([Paying]), Cost(limit=1.0), given)
        model = ppo.PPO("MlpPolicy", env, seed=0, n_steps=24, batch_size=8, n_epochs=3, **NETS)
        env.follow(model, is_compiled=is_compiled)
        learn_on_policy(model, 58, _Silent(), lambda _: None)
        assert env._critic is not None
        found.append((model.policy.state_dict(), env._critic.tensors()))
    (policy, plain), (policy_of_compiled, compiled) = found
    assert all((policy[name] == policy_of_compiled[name]).all() for name in policy)
    assert plain.keys() == compiled.keys()
    for name, tensor in plain.items():
        assert torch.allclose(tensor, compiled[name], rtol=1e-4, atol=1e-6), name
    moved = [name for name in plain if name.startswith("weights") and "value_net" in name]
    assert moved


class _Silent(BaseCallback):
    def _on_step(self) -> bool:
        return True


class Mixed(gym.Env[Any, Any]):
    """A picture and numbers, masked actions, and a cost of 1 for the second action."""

    observation_space = spaces.Dict(
        {"picture": spaces.Box(0, 255, (36, 36, 1), np.uint8), "numbers": spaces.Box(-1, 1, (2,))}
    )
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(7)
        self.taken = 0
        return self.observation_space.sample(), {}

    def action_masks(self) -> Any:
        return np.array([True, True, False])

    def step(self, action: Any) -> Any:
        self.taken += 1
        info = {"cost": float(action == 1)}
        return self.observation_space.sample(), 1.0, False, self.taken == 6, info


@pytest.mark.parametrize("algorithm", WITH_COST_CRITIC)
def test_a_critic_stands_beside_each_algorithm_and_dict_observations(algorithm: str) -> None:
    """What is learned with a multiplier of 0 is what is learned without a critic."""
    made = load(ALGORITHMS[algorithm].target, None)
    size = {} if algorithm == "a2c" else {"batch_size": 8, "n_epochs": 1}
    found = []
    for critic, is_compiled in ((False, False), (True, False), (True, True)):
        rule = {"fixed": {"multiplier": 0.0}, "critic": critic}
        env = Counted(DummyVecEnv([Mixed]), Cost(limit=1.0), Constraint.model_validate(rule))
        model = made("MultiInputPolicy", env, seed=0, n_steps=8, **size)
        env.follow(model, is_compiled=is_compiled)
        before = env._critic.tensors() if env._critic else {}
        model.learn(16)
        after = env._critic.tensors() if env._critic else {}
        found.append((model.policy.state_dict(), before, after))
    plain, *with_critic = (policy for policy, _, _ in found)
    for policy in with_critic:
        assert all((policy[name] == plain[name]).all() for name in plain)
    (_, before, torchs), (_, _, compiled) = found[1:]
    cnn = next(name for name in before if name.startswith("weights/") and ".cnn.0.weight" in name)
    assert not torch.equal(before[cnn], torchs[cnn])
    for name, tensor in torchs.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=2e-3, atol=2e-5)


ENGINES = ["sb3", pytest.param("compiled", marks=pytest.mark.slow)]


@pytest.mark.thorough
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("agent", [PPO, pytest.param(SAC, marks=pytest.mark.slow)])
def test_what_is_only_counted_changes_nothing_and_a_multiplier_does(
    agent: dict[str, Any], engine: str, tmp_path: Path
) -> None:
    agent = {**agent, "engine": engine}
    plain = weights(tmp_path / "plain", scenario(agent, None, cost=False))
    none = {"fixed": {"multiplier": 0.0}}
    beside = [{**none, "critic": True}] if agent["algorithm"] == "ppo" else []
    for number, constraint in enumerate((None, none, *beside)):
        same = weights(tmp_path / str(number), scenario(agent, constraint))
        assert all((same[name] == plain[name]).all() for name in plain)
    other = weights(tmp_path / "other", scenario(agent, {"lagrangian": {}}))
    assert not all((other[name] == plain[name]).all() for name in plain)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("agent", "constraint"),
    [(PPO, {"pid": {}}), (SAC, {"pid": {}}), (PPO, {"pid": {}, "critic": True})],
    ids=["ppo", "sac", "critic"],
)
def test_killed_inside_tasks_and_run_again_equals_uninterrupted(
    agent: dict[str, Any],
    constraint: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = scenario(agent, constraint, carry={"replay_buffer": agent is SAC})
    assert_unharmed(monkeypatch, tmp_path, data, [70, 200, 260])


@pytest.mark.thorough
def test_costs_are_recorded_and_reported(tmp_path: Path) -> None:
    folder = cell(tmp_path, scenario(PPO, {"pid": {}}))
    run_cell(folder, silent)
    points = COSTS.read(folder.path)
    assert [(p["stage"], p["step"], p["steps"]) for p in points] == [
        *((0, 80, 80), (0, 160, 160)),
        *((1, 240, 80), (1, 320, 160)),
    ]
    assert all(p["episodes"] <= p["steps"] / 20 for p in points)
    episodes = folder.scores()
    assert all(0 <= episode["cost"] <= 20 for episode in episodes)
    (method,) = gather(folder.path).methods
    found, last = safety_of(method.cells[0]), [e for e in episodes if e["stage"] == 2]
    ends = {t: [e["cost"] for e in last if e["task"] == t] for t in "ab"}
    over = [np.mean(np.array(ends[t]) > limit) for t, limit in (("a", 2.0), ("b", 5.0))]
    assert found.cost == pytest.approx(np.mean([np.mean(ends[t]) for t in "ab"]))
    assert found.violations == pytest.approx(np.mean(over))
    assert found.cost_learning == points[1]["cost"] + points[3]["cost"]
