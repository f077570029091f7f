"""The most likely action of a policy, as one function of tensors that other programs can run.

Stable-Baselines3 makes distributions and may draw from them before it asks for their mode; what is
exported must hold no draw. Actions are those of its ``predict(deterministic=True)``.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from holdfast.agents.base.parameters import is_actor_critic

FORBIDDEN = -1e8
"""Logit of an action that is not allowed, as in sb3-contrib."""


def most_likely(policy: Any, observations: Any, masks: Tensor | None = None) -> Tensor:
    """Return the most likely actions, in the units of the policy's action space.

    Args:
        policy: A Stable-Baselines3 policy without a recurrent state.
        observations: As the policy takes them: tensors of shape (batch, ...), or such by key.
        masks: Which actions are allowed, shape (batch, actions); for ``maskable_ppo``.

    Returns:
        Shape (batch, ...).
    """
    space = policy.action_space
    if is_actor_critic(policy):
        features = BasePolicy.extract_features(policy, observations, policy.pi_features_extractor)
        head = policy.action_net(policy.mlp_extractor.forward_actor(features))  # (batch, n)
        if isinstance(space, gym.spaces.Box):
            # With a head per task, the task id stands behind the mean.
            return _in_units(policy, head[:, : policy.action_dist.action_dim])
        return _choice(space, head if masks is None else head.masked_fill(~masks, FORBIDDEN))
    actor: Any = getattr(policy, "actor", None)
    if hasattr(actor, "get_action_dist_params"):
        return _in_units(policy, torch.tanh(actor.get_action_dist_params(observations)[0]))
    actions: Tensor = policy._predict(observations, deterministic=True)
    return _in_units(policy, actions) if isinstance(space, gym.spaces.Box) else actions


def _choice(space: gym.Space[Any], logits: Tensor) -> Tensor:
    if isinstance(space, gym.spaces.MultiDiscrete):
        parts = torch.split(logits, [int(n) for n in space.nvec], -1)
        return torch.stack([part.argmax(-1) for part in parts], -1)  # (batch, parts)
    if isinstance(space, gym.spaces.MultiBinary):
        return logits > 0
    return logits.argmax(-1)


def _in_units(policy: Any, actions: Tensor) -> Tensor:
    """Return actions between the bounds of the action space, shape (batch, ...)."""
    space = policy.action_space
    low, high = (torch.as_tensor(end, device=actions.device) for end in (space.low, space.high))
    actions = actions.reshape(-1, *space.shape)
    if policy.squash_output:
        if is_actor_critic(policy):
            actions = torch.tanh(actions)
        return low + 0.5 * (actions + 1.0) * (high - low)
    return torch.clamp(actions, low, high)
