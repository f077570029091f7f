"""A policy as one torch module: from what a task's environment shows to what it takes.

All that lies between is inside: padding, the task id, normalisation, the head or column of the task
(the module is traced while the task's view is open), the choice of the most likely action, its
units. It does in tensors what the layers of ``envs/base/fitting.py``, ``TaskNormalize`` and
``predict`` do in arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from stable_baselines3.common.preprocessing import is_image_space
from torch import Tensor, nn

from holdfast.agents.base.greedy_action import most_likely
from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.envs.base.fitting import Beside, PadAction, PadObservation, TaskId
from holdfast.scenarios.schema.observation_keys import OBSERVATION, TASK_ID

Seen = Any
"""Tensors of shape (batch, ...), one or such by key."""


class Deployed(nn.Module):
    """One agent's policy in one task; deterministic.

    Args:
        agent: The learner, whose policy is in evaluation mode.
        layers: What fits the task's environment to the stream, the innermost first.
    """

    def __init__(
        self, agent: StableBaselinesAgent, layers: Sequence[gym.Wrapper[Any, Any, Any, Any]]
    ) -> None:
        super().__init__()
        self.policy = agent.policy
        normalizer: Any = agent.normalizer
        self._normalizer = normalizer if normalizer is not None and normalizer.norm_obs else None
        self._shown = [layer for layer in layers if isinstance(layer, gym.ObservationWrapper)]
        self._taken = [layer for layer in layers if isinstance(layer, PadAction)][::-1]

    def forward(self, observation: Seen, action_masks: Tensor | None = None) -> Tensor:
        """Return an action for each observation, shape (batch, ...).

        Args:
            observation: As the task's environment shows it.
            action_masks: Which of the task's own actions are allowed, bool, (batch, actions).
        """
        seen = observation
        for layer in self._shown:
            seen = _observed(layer, seen)
        if self._normalizer is not None:
            seen = normalized(self._normalizer, seen)
        seen = _channels_first(self.policy.observation_space, seen)
        if action_masks is not None:
            for pad in self._taken[::-1]:
                action_masks = _masks(pad, action_masks)
        action = most_likely(self.policy, seen, action_masks)
        for pad in self._taken:
            action = _acted(pad, action)
        return action.detach()


class Classifying(nn.Module):
    """The network of a supervised agent in one task: inputs to classes.

    Args:
        network: The network, in evaluation mode.
        label: Avalanche's task label, which picks the head where there is one per task.
    """

    def __init__(self, network: nn.Module, label: int) -> None:
        super().__init__()
        self.network, self.label = network, label

    def forward(self, observation: Tensor) -> Tensor:
        """Return the class of each input, shape (batch,)."""
        from avalanche.models import avalanche_forward  # here: Avalanche takes seconds to import

        logits: Tensor = avalanche_forward(self.network, observation, self.label)
        # Classes beyond a head count as zero where Avalanche is given a label for each row.
        width: Any = getattr(self.network, "max_class_label", logits.shape[1])
        return nn.functional.pad(logits, (0, max(0, width - logits.shape[1]))).argmax(dim=1)


def _observed(layer: gym.Wrapper[Any, Any, Any, Any], seen: Seen) -> Seen:
    """Return what an observation layer makes of a batch."""
    own, space = layer.env.observation_space, layer.observation_space
    if isinstance(layer, PadObservation):
        if own.shape == space.shape and own.dtype == space.dtype:
            return seen
        missing = gym.spaces.flatdim(space) - gym.spaces.flatdim(own)
        return nn.functional.pad(seen.to(_dtype(space)), (0, missing))
    assert isinstance(space, gym.spaces.Dict | Box)
    if isinstance(layer, Beside):
        assert isinstance(space, gym.spaces.Dict)
        # Only what trains is shown more than its observation; actors never read it.
        blank = {
            key: torch.zeros((len(seen), *(part.shape or ())), dtype=_dtype(part))
            for key, part in space.spaces.items()
            if key != OBSERVATION
        }
        return {OBSERVATION: seen, **blank}
    assert isinstance(layer, TaskId)
    width = gym.spaces.flatdim(space) - gym.spaces.flatdim(own)  # that of the id alone
    one_hot = torch.zeros(1, width)
    one_hot[0, layer.index] = 1.0
    entries = seen if isinstance(seen, dict) else {OBSERVATION: seen}
    shown = one_hot.expand(next(iter(entries.values())).shape[0], -1)
    if isinstance(space, Box):
        return torch.cat([seen.float(), shown], -1)
    return {**entries, TASK_ID: shown}


def normalized(normalizer: Any, seen: Seen) -> Seen:
    """Return what ``TaskNormalize`` makes of a batch, with its statistics as constants."""

    def scaled(values: Tensor, moments: Any) -> Tensor:
        # In float64, as numpy does it, before it becomes float32.
        mean = torch.as_tensor(moments.mean)
        deviation = torch.as_tensor(np.sqrt(moments.var + normalizer.epsilon))
        clip = float(normalizer.clip_obs)
        return ((values.double() - mean) / deviation).clamp(-clip, clip).float()

    if isinstance(seen, dict):
        keys = normalizer.norm_obs_keys or ()
        return {k: scaled(v, normalizer.obs_rms[k]) if k in keys else v for k, v in seen.items()}
    made = scaled(seen, normalizer.obs_rms)
    if normalizer.id_width:
        own = seen.shape[-1] - normalizer.id_width
        made = torch.cat([made[..., :own], seen[..., own:].float()], -1)
    return made


def _channels_first(space: gym.Space[Any], seen: Seen) -> Seen:
    """Return pictures as the policy takes them, channels first."""
    if isinstance(seen, dict):
        assert isinstance(space, gym.spaces.Dict)
        return {key: _channels_first(space[key], value) for key, value in seen.items()}
    if is_image_space(space) and tuple(seen.shape[1:]) != space.shape:
        return seen.permute(0, 3, 1, 2)
    return seen


def _masks(layer: PadAction, masks: Tensor) -> Tensor:
    if not isinstance(layer.action_space, Discrete):
        return masks
    count = int(layer.action_space.n)
    return masks.repeat(1, -(-count // masks.shape[1]))[:, :count]


def _acted(layer: PadAction, action: Tensor) -> Tensor:
    """Return the task's own action, as ``PadAction.action`` does."""
    own, space = layer.env.action_space, layer.action_space
    if isinstance(own, Discrete):
        return action % int(own.n)
    assert isinstance(own, Box)
    assert isinstance(space, Box)
    size = own.shape[0]
    action = action[..., :size]
    low, high = space.low[:size], space.high[:size]
    same = np.array_equal(low, own.low) and np.array_equal(high, own.high)
    if not same and own.is_bounded() and space.is_bounded():
        scale = torch.as_tensor((own.high - own.low) / (high - low))
        first, last = torch.as_tensor(own.low), torch.as_tensor(own.high)
        action = torch.clamp(first + (action - torch.as_tensor(low)) * scale, first, last)
    return action.to(_dtype(own))


def _dtype(space: gym.Space[Any]) -> torch.dtype:
    return torch.from_numpy(np.zeros(0, space.dtype)).dtype
