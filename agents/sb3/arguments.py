"""Plain forms in YAML to the objects that Stable-Baselines3 takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.preprocessing import is_image_space
from torch import nn

from holdfast import registry
from holdfast.agents.modules.options import OPTIONS, CReLU
from holdfast.errors import UsageError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
    "crelu": CReLU,
}
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}
SCHEDULED = ("learning_rate", "clip_range", "clip_range_vf")


def linear_schedule(start: float, end: float) -> Callable[[float], float]:
    """Return a schedule of the remaining progress, 1 at the start of a task and 0 at its end.

    >>> linear_schedule(3.0, 1.0)(0.5)
    2.0
    """
    return lambda remaining: end + (start - end) * remaining


def build_arguments(
    plain: dict[str, Any], action_space: gym.Space[Any], folder: Path | None
) -> dict[str, Any]:
    """Return keyword arguments for a Stable-Baselines3 algorithm.

    Args:
        plain: As written in the scenario, for example ``{"learning_rate": {"linear": [3e-4, 0]}}``.
        action_space: Gives action noise its size.
        folder: The scenario's folder, where ``module:Class`` is looked for.

    Raises:
        UsageError: If a plain form is not known.
    """
    arguments = dict(plain)
    for name in SCHEDULED:
        if isinstance(arguments.get(name), dict):
            arguments[name] = _schedule(name, arguments[name])
    if "action_noise" in arguments:
        arguments["action_noise"] = _action_noise(arguments["action_noise"], action_space)
    if isinstance(arguments.get("replay_buffer_class"), str):
        arguments["replay_buffer_class"] = _buffer_class(arguments["replay_buffer_class"], folder)
    if isinstance(arguments.get("train_freq"), list):
        arguments["train_freq"] = tuple(arguments["train_freq"])
    if "policy_kwargs" in arguments:
        arguments["policy_kwargs"] = _policy_arguments(arguments["policy_kwargs"] or {}, folder)
    return arguments


def _buffer_class(target: str, folder: Path | None) -> type[ReplayBuffer]:
    made = registry.load(target, folder)
    if not (isinstance(made, type) and issubclass(made, ReplayBuffer)):
        raise UsageError(f"agent.replay_buffer_class: '{target}' is no class of replay buffers")
    return made


def policy_name(policy: str, algorithm: str, observations: gym.Space[Any]) -> str:
    """Return the name of the policy; ``auto`` chooses it by the observation space."""
    if policy != "auto":
        return policy
    middle = "Lstm" if algorithm == "recurrent_ppo" else ""
    if isinstance(observations, gym.spaces.Dict):
        return f"MultiInput{middle}Policy"
    flattens = registry.algorithm(algorithm).is_streaming
    kind = "Cnn" if is_image_space(observations) and not flattens else "Mlp"
    return f"{kind}{middle}Policy"


def _only_entry(name: str, form: dict[str, Any], known: dict[str, Any]) -> tuple[str, Any]:
    if len(form) == 1:
        kind, value = next(iter(form.items()))
        if kind in known:
            return kind, value
    options = ", ".join(known)
    raise UsageError(f"agent.{name}: {form!r} is not understood; write one of {options}: value")


def _schedule(name: str, form: dict[str, Any]) -> Callable[[float], float]:
    _, value = _only_entry(name, form, {"linear": None})
    match value:
        case [int() | float() as start, int() | float() as end]:
            return linear_schedule(float(start), float(end))
    raise UsageError(f"agent.{name}: write {{linear: [start, end]}} with two numbers")


def _action_noise(form: Any, action_space: gym.Space[Any]) -> Any:
    if form is None:
        return None
    kinds = {"normal": NormalActionNoise, "ornstein_uhlenbeck": OrnsteinUhlenbeckActionNoise}
    if not isinstance(form, dict) or not isinstance(action_space, gym.spaces.Box):
        raise UsageError("agent.action_noise: write {normal: sigma} and use it with Box actions")
    kind, sigma = _only_entry("action_noise", form, kinds)
    zeros = np.zeros(action_space.shape)
    return kinds[kind](mean=zeros, sigma=zeros + float(sigma))


def _policy_arguments(plain: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    arguments = {key: value for key, value in plain.items() if key not in OPTIONS}
    for short, full, known in (
        ("activation", "activation_fn", ACTIVATIONS),
        ("optimizer", "optimizer_class", OPTIMIZERS),
    ):
        if short in arguments:
            arguments[full] = _named(short, arguments.pop(short), known)
    if "features_extractor" in arguments:
        target = arguments.pop("features_extractor")
        arguments["features_extractor_class"] = registry.load(target, folder)
    return arguments


def _named(key: str, name: str, known: dict[str, Any]) -> Any:
    if name not in known:
        hint = registry.suggestion(str(name), known, otherwise=f"known: {', '.join(known)}")
        raise UsageError(f"agent.policy_kwargs.{key}: no {key} '{name}'; {hint}")
    return known[name]
