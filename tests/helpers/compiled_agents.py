"""Agents for the compiled engine: short cells; models that have collected and not learned."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from kills import two_tasks
from sb3_contrib import QRDQN
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from torch.optim import Adam

NETS = {"policy_kwargs": {"net_arch": [16]}}
OFF = {"learning_starts": 16, "batch_size": 16, "buffer_size": 100, **NETS}
AGENTS: dict[str, dict[str, Any]] = {
    "ppo": {"algorithm": "ppo", "n_steps": 16, "batch_size": 16, "n_epochs": 2, **NETS},
    "a2c": {"algorithm": "a2c", "n_steps": 16, **NETS},
    "dqn": {"algorithm": "dqn", "train_freq": 3, "target_update_interval": 20, **OFF},
    "sac": {"algorithm": "sac", "train_freq": 2, **OFF},
    "td3": {"algorithm": "td3", "train_freq": 3, "gradient_steps": 3, **OFF},
}


def scenario(name: str, method: Any = "naive", **more: Any) -> dict[str, Any]:
    """Return two short tasks for an algorithm; what is to learn twice has opposite ones."""
    agent = {**AGENTS[name], "engine": "compiled", **more.pop("agent", {})}
    opposite = {"changes": [{}, {"action_map": [1, 0]}]} if name in ("ppo", "a2c", "dqn") else {}
    return two_tasks(agent, method, **opposite, **more)


def on_policy(
    algorithm: Any, env: Any, *, n_envs: int = 1, double: bool = True, **keys: Any
) -> Any:
    """Return a model that has collected a rollout and not learned from it."""
    model = built(algorithm, env, n_envs, double, **keys)
    model.train = lambda: None
    model.learn(model.n_steps * n_envs)
    del model.train  # the class's shows again
    if double:
        for name, values in vars(model.rollout_buffer).items():
            if isinstance(values, np.ndarray):
                setattr(model.rollout_buffer, name, values.astype(np.float64))
    return model


def off_policy(algorithm: Any, env: Any, *, double: bool = True, **keys: Any) -> Any:
    """Return a model that has acted randomly and not learned."""
    given = {"buffer_size": 2000, "learning_starts": 10**6, **keys}
    model = built(algorithm, env, 1, double, **given)
    model.learn(2000)  # few rows would come again, and errors with them
    if double:
        model.replay_buffer.rewards = model.replay_buffer.rewards.astype(np.float64)
        if getattr(model, "ent_coef_optimizer", None) is not None:
            model.log_ent_coef = model.log_ent_coef.detach().double().requires_grad_()
            model.ent_coef_optimizer = Adam([model.log_ent_coef], lr=model.lr_schedule(1))
    return model


def built(algorithm: Any, env: Any, n_envs: int, double: bool, **keys: Any) -> Any:
    seed, keys = keys.pop("seed", 3), deepcopy(keys)  # SAC writes into its own
    worlds = make_vec_env(env, n_envs, seed=seed)
    policy = keys.pop("policy", "MlpPolicy")
    model = algorithm(policy, worlds, seed=seed, device="cpu", **keys)
    model.set_logger(Logger(None, []))
    if double:
        model.policy.double()
    return model


def trained(model: Any, calls: int, **given: int) -> dict[str, Any]:
    """Return what so many calls of ``train`` make of a model; progress runs from 1 towards 0."""
    np.random.seed(1)
    torch.manual_seed(1)
    logged = []
    for number in range(calls):
        model._current_progress_remaining = 1 - number / calls
        model.logger.name_to_value.clear()
        model.train(**given)
        logged.append(dict(model.logger.name_to_value))
        if isinstance(model, DQN | QRDQN):
            model._on_step()
    return {"logged": logged}


def numbers(model: Any) -> dict[str, Any]:
    """Return weights, and all that optimizers remember, as nested arrays."""
    policy = model.policy
    optimizers = {
        "policy": getattr(policy, "optimizer", None),
        "actor": getattr(getattr(policy, "actor", None), "optimizer", None),
        "critic": getattr(getattr(policy, "critic", None), "optimizer", None),
        "entropy": getattr(model, "ent_coef_optimizer", None),
    }
    found: dict[str, Any] = {name: value.numpy() for name, value in policy.state_dict().items()}
    if getattr(model, "log_ent_coef", None) is not None:
        found["log_ent_coef"] = model.log_ent_coef.detach().numpy()
    for name, optimizer in optimizers.items():
        if optimizer is not None:
            for number, own in optimizer.state_dict()["state"].items():
                for quantity, value in own.items():
                    found[f"{name} {number} {quantity}"] = np.asarray(value)
    return {name: value.copy() for name, value in found.items()}
