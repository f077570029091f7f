"""A head per task: ``task_id: heads``.

The one-hot task id at the end of the features picks the head and is hidden from the trunk, so that
a batch may mix tasks (replay, cloning) and each row trains its own head.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from torch import Tensor, nn

from holdfast.agents.base.parameters import is_deviation
from holdfast.agents.doors.networks import Slot, map_slots
from holdfast.errors import UsageError
from holdfast.scenarios.schema.observation_keys import TASK_ID


class TaskTrunk(nn.Module):
    """A trunk that does not see the task id but passes it on: (batch, in) to (batch, out + tasks).

    Args:
        trunk: Takes the input without the task id.
        start: First column of the task id in the input.
        tasks: Width of the task id.
    """

    def __init__(self, trunk: nn.Module, start: int, tasks: int) -> None:
        super().__init__()
        self.trunk, self.start, self.tasks = trunk, start, tasks

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the trunk's output with the task id after it."""
        end = self.start + self.tasks
        task_id = inputs[..., self.start : end]  # (batch, tasks)
        rest = torch.cat([inputs[..., : self.start], inputs[..., end:]], -1)
        return torch.cat([self.trunk(rest), task_id], -1)


class TaskHead(nn.Module):
    """One linear head per task, picked by the task id at the end of the input.

    Every head starts as a copy of ``head``.
    """

    def __init__(self, head: nn.Linear, tasks: int) -> None:
        super().__init__()
        self.tasks, self.out = tasks, head.out_features
        self.heads = nn.Linear(head.in_features, tasks * head.out_features)
        with torch.no_grad():
            self.heads.weight.copy_(head.weight.repeat(tasks, 1))
            self.heads.bias.copy_(head.bias.repeat(tasks))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the chosen head's output, shape (batch, out)."""
        latent, task_id = inputs[..., : -self.tasks], inputs[..., -self.tasks :]
        outputs = self.heads(latent).unflatten(-1, (self.tasks, self.out))  # (batch, tasks, out)
        # A product with the one-hot, not an index: gradients of the other heads are exact zeros.
        chosen: Tensor = (outputs * task_id.unsqueeze(-1)).sum(-2)
        return chosen


class TaskMeanHead(TaskHead):
    """A head per task that passes the task id on, for ``TaskGaussian`` to pick the deviation."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the chosen mean with the task id after it, shape (batch, out + tasks)."""
        return torch.cat([super().forward(inputs), inputs[..., -self.tasks :]], -1)


class TaskGaussian(DiagGaussianDistribution):
    """A Gaussian with one ``log_std`` row per task: PPO's deviation is a bare parameter."""

    def proba_distribution(self, mean_actions: Tensor, log_std: Tensor) -> TaskGaussian:
        """Take the mean with the task id after it, and ``log_std`` of shape (tasks, actions)."""
        tasks = log_std.shape[0]
        mean, task_id = mean_actions[..., :-tasks], mean_actions[..., -tasks:]
        super().proba_distribution(mean, task_id @ log_std)
        return self


def install_heads(policy: Any, tasks: int) -> None:
    """Give a newly built policy a head per task in every slot.

    Raises:
        UsageError: If the task id cannot be found among the features of a custom extractor.
    """
    start = _task_id_start(policy, tasks)
    gaussian = isinstance(getattr(policy, "action_dist", None), DiagGaussianDistribution)

    def to_heads(slot: Slot) -> tuple[nn.Module, dict[str, nn.Module]]:
        layers = list(slot.trunk)
        first = next((i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)), None)
        heads = dict(slot.heads)
        if first is None:
            heads = {name: _without(head, start, tasks) for name, head in heads.items()}
        else:
            layers[first] = _without(layers[first], start, tasks)
        trunk = TaskTrunk(nn.Sequential(*layers), start, tasks)
        kind = TaskMeanHead if gaussian and slot.role == "actor" else TaskHead
        return trunk, {name: kind(head, tasks) for name, head in heads.items()}

    map_slots(policy, to_heads)
    if gaussian:
        policy.log_std = nn.Parameter(policy.log_std.detach().repeat(tasks, 1))
        policy.action_dist = TaskGaussian(policy.action_dist.action_dim)


def _without(layer: Any, start: int, tasks: int) -> nn.Linear:
    """Return the linear layer without the inputs that were the task id."""
    keep = [i for i in range(layer.in_features) if not start <= i < start + tasks]
    smaller = nn.Linear(len(keep), layer.out_features)
    with torch.no_grad():
        smaller.weight.copy_(layer.weight[:, keep])
        smaller.bias.copy_(layer.bias)
    return smaller


def _task_id_start(policy: Any, tasks: int) -> int:
    owner = getattr(policy, "actor", None) or getattr(policy, "q_net", None)
    extractor = getattr(
        owner or getattr(policy, "quantile_net", policy), "features_extractor", None
    )
    if isinstance(extractor, FlattenExtractor):
        return extractor.features_dim - tasks
    if isinstance(extractor, CombinedExtractor):
        start = 0
        for key, part in extractor.extractors.items():
            if key == TASK_ID:
                return start
            space = policy.observation_space[key]
            start += getattr(part, "features_dim", 0) or gym.spaces.flatdim(space)
    told = getattr(extractor, "task_id_start", None)  # of a team's joint observation
    if told is not None:
        return int(told)
    raise UsageError(
        f"stream.task_id: heads cannot find the task id behind {type(extractor).__name__}; "
        "use task_id: observed, or drop policy_kwargs.features_extractor"
    )


def head_tasks(policy: Any, name: str) -> int:
    """Return how many tasks have rows of their own in this parameter; 0 where it is shared."""
    if is_deviation(name):
        is_rowed = isinstance(getattr(policy, "action_dist", None), TaskGaussian)
        return len(policy.log_std) if is_rowed else 0
    owner = policy.get_submodule(".".join(name.split(".")[:-2]))
    return owner.tasks if isinstance(owner, TaskHead) else 0


def rows_of(parameter: Tensor, task: int, tasks: int) -> Tensor:
    """Return a mask of one task's rows; every task has as many, in order."""
    mask = torch.zeros_like(parameter, dtype=torch.bool)
    mask.view(tasks, -1, *mask.shape[1:])[task] = True  # (tasks, rows of each, ...)
    return mask
