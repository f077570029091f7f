"""What a critic says about an observation: its values of the policy's likeliest action."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from holdfast.agents.doors.gradients import is_actor_critic
from holdfast.agents.doors.outputs import Output, OutputSpec


class ValueOutput(nn.Module):
    """The critic as a module whose forward gives its values, for ``torch.func.functional_call``.

    The values count as the mean of a unit Gaussian, as Continual World takes them for the Fisher
    information of a critic. Parameters keep the names of the policy, with ``policy.`` before them.
    """

    spec = OutputSpec("unit_gaussian")

    def __init__(self, policy: BasePolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observations: Any) -> Output:
        """Return the values as ``mean``, one column per critic.

        Args:
            observations: As the policy takes them, shape (batch, ...).
        """
        policy: Any = self.policy
        if is_actor_critic(policy):
            return {"mean": policy.predict_values(observations)}  # (batch, 1)
        actions = policy._predict(observations, deterministic=True)
        values = policy.critic(observations, actions)
        if isinstance(values, tuple):
            return {"mean": torch.cat(values, dim=1)}  # (batch, critics)
        return {"mean": values.mean(dim=2)}  # TQC: over quantiles, (batch, critics)
