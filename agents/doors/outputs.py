"""What a policy says about an observation: as named tensors, with its distance and its likelihood.

Per algorithm (DESIGN, section 4): categorical for discrete actions and Gaussian before squashing
for boxes (PPO, A2C, SAC, TQC, CrossQ); the deterministic action as the mean of a unit Gaussian
(TD3, DDPG); action values as the mean of a unit Gaussian (DQN, QR-DQN), or softmax(values /
temperature).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import gymnasium as gym
import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

from holdfast.agents.doors.gradients import is_actor_critic
from holdfast.errors import UsageError

Output = dict[str, Tensor]
"""``logits`` (batch, n), or ``mean`` (batch, n) and, for a Gaussian, ``log_std`` (batch, n)."""

Kind = Literal["categorical", "bernoulli", "gaussian", "unit_gaussian"]


@dataclass(frozen=True)
class OutputSpec:
    """How to read an output.

    Attributes:
        kind: The family of the distribution.
        splits: Sizes of the independent categorical parts; one entry for Discrete actions. Of
            action values, how many there are of each agent; empty for a single one.
    """

    kind: Kind
    splits: list[int] = field(default_factory=list)


class PolicyOutput(nn.Module):
    """The policy as a module whose forward gives its output, for ``torch.func.functional_call``.

    Parameters keep the names of the policy, with ``policy.`` before them.
    """

    def __init__(self, policy: BasePolicy) -> None:
        super().__init__()
        self.policy = policy
        self.spec = output_spec(policy)

    def forward(self, observations: Any) -> Output:
        """Return the output for observations as the policy receives them, shape (batch, ...)."""
        policy: Any = self.policy
        if is_actor_critic(policy):
            features = BasePolicy.extract_features(
                policy, observations, policy.pi_features_extractor
            )
            head = policy.action_net(policy.mlp_extractor.forward_actor(features))  # (batch, n)
            if self.spec.kind != "gaussian":
                return {"logits": head}
            # The published forward, so that a distribution with one log_std per task head also
            # works.
            gaussian: Any = policy.action_dist.proba_distribution(head, policy.log_std).distribution
            return {"mean": gaussian.loc, "log_std": gaussian.scale.log()}
        if hasattr(policy, "q_net"):
            return {"mean": policy.q_net(observations)}
        if hasattr(policy, "quantile_net"):
            return {"mean": policy.quantile_net(observations).mean(dim=1)}  # over quantiles
        if self.spec.kind == "unit_gaussian":
            return {"mean": policy.actor(observations)}
        mean, log_std, _ = policy.actor.get_action_dist_params(observations)
        return {"mean": mean, "log_std": log_std}


def output_spec(policy: Any) -> OutputSpec:
    """Return how to read a policy's output.

    Raises:
        UsageError: If exploration is state dependent (gSDE), whose noise is not a function of one
            output.
    """
    if getattr(policy, "use_sde", False) or getattr(
        getattr(policy, "actor", None), "use_sde", False
    ):
        raise UsageError("agent.use_sde: this method needs a policy without state-dependent noise")
    if hasattr(policy, "mixer"):
        return OutputSpec("unit_gaussian", [policy.choices] * policy.agents)
    if hasattr(policy, "q_net") or hasattr(policy, "quantile_net"):
        return OutputSpec("unit_gaussian")
    if hasattr(policy, "actor"):
        stochastic = hasattr(policy.actor, "get_action_dist_params")
        return OutputSpec("gaussian" if stochastic else "unit_gaussian")
    match policy.action_space:
        case gym.spaces.Discrete(n=n):
            return OutputSpec("categorical", [int(n)])
        case gym.spaces.MultiDiscrete(nvec=nvec):
            return OutputSpec("categorical", [int(n) for n in nvec])
        case gym.spaces.MultiBinary():
            return OutputSpec("bernoulli")
    return OutputSpec("gaussian")


def divergence(spec: OutputSpec, old: Output, new: Output) -> Tensor:
    """Return KL(old || new) per observation, shape (batch,), analytically."""
    if spec.kind == "categorical":
        olds, news = (torch.split(o["logits"], spec.splits, -1) for o in (old, new))
        parts = zip(olds, news, strict=True)
        return torch.stack([_categorical_divergence(p, q) for p, q in parts]).sum(0)
    if spec.kind == "bernoulli":
        p = torch.sigmoid(old["logits"])
        gap_on = nn.functional.logsigmoid(old["logits"]) - nn.functional.logsigmoid(new["logits"])
        gap_off = nn.functional.logsigmoid(-old["logits"]) - nn.functional.logsigmoid(
            -new["logits"]
        )
        return (p * gap_on + (1 - p) * gap_off).sum(-1)
    if spec.kind == "unit_gaussian":
        return 0.5 * (old["mean"] - new["mean"]).square().sum(-1)
    variance_ratio = torch.exp(2 * (old["log_std"] - new["log_std"]))
    distance = (old["mean"] - new["mean"]).square() * torch.exp(-2 * new["log_std"])
    gap = new["log_std"] - old["log_std"]
    return (gap + 0.5 * (variance_ratio + distance - 1)).sum(-1)


def softmax_divergence(
    old: Output, new: Output, temperature: float, splits: Sequence[int] = ()
) -> Tensor:
    """Return KL(softmax(old / T) || softmax(new / T)) of action values, shape (batch,).

    With ``splits``, the values of several agents stand side by side and their divergences are
    added.

    Source: Rusu et al. 2015, Policy Distillation (arXiv:1511.06295), section 3.2; there T divides
        the teacher only.
    """
    sizes = list(splits) or old["mean"].shape[-1]
    olds, news = (torch.split(output["mean"] / temperature, sizes, -1) for output in (old, new))
    parts = zip(olds, news, strict=True)
    return torch.stack([_categorical_divergence(p, q) for p, q in parts]).sum(0)


def draw(spec: OutputSpec, output: Output, generator: torch.Generator) -> Tensor:
    """Return one action per observation, drawn from the output, as log_likelihood takes it."""
    if spec.kind == "categorical":
        parts = torch.split(output["logits"], spec.splits, -1)
        drawn = [torch.multinomial(p.softmax(-1), 1, generator=generator) for p in parts]
        return torch.cat(drawn, -1)  # (batch, parts)
    if spec.kind == "bernoulli":
        return torch.bernoulli(torch.sigmoid(output["logits"]), generator=generator)
    mean = output["mean"]
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    return mean + noise * (output["log_std"].exp() if spec.kind == "gaussian" else 1.0)


def log_likelihood(spec: OutputSpec, output: Output, actions: Tensor) -> Tensor:
    """Return log p(action) up to a constant, shape (batch,)."""
    if spec.kind == "categorical":
        parts = torch.split(output["logits"], spec.splits, -1)
        chosen = [
            # A sum over a one-hot instead of a gather: vmap turns it into one batched product.
            (p.log_softmax(-1) * _one_hot(actions[..., i], p)).sum(-1)
            for i, p in enumerate(parts)
        ]
        return torch.stack(chosen).sum(0)
    if spec.kind == "bernoulli":
        logits = output["logits"]
        return (
            actions * nn.functional.logsigmoid(logits)
            + (1 - actions) * nn.functional.logsigmoid(-logits)
        ).sum(-1)
    if spec.kind == "unit_gaussian":
        return -0.5 * (actions - output["mean"]).square().sum(-1)
    scaled = (actions - output["mean"]) * torch.exp(-output["log_std"])
    return -(0.5 * scaled.square() + output["log_std"]).sum(-1)


def entropy(spec: OutputSpec, output: Output) -> Tensor:
    """Return the entropy of the output, shape (batch,), up to a constant for unit Gaussians."""
    if spec.kind == "categorical":
        logs = [part.log_softmax(-1) for part in torch.split(output["logits"], spec.splits, -1)]
        return torch.stack([-(log.exp() * log).sum(-1) for log in logs]).sum(0)
    if spec.kind == "bernoulli":
        logits = output["logits"]
        return (nn.functional.softplus(logits) - torch.sigmoid(logits) * logits).sum(-1)
    if spec.kind == "unit_gaussian":
        return torch.zeros_like(output["mean"][..., 0])
    return (output["log_std"] + 0.5 * (1 + math.log(2 * math.pi))).sum(-1)


def _one_hot(indices: Tensor, like: Tensor) -> Tensor:
    """Return (..., n); torch's own one_hot reads the values, which vmap cannot batch."""
    return (indices.unsqueeze(-1) == torch.arange(like.shape[-1], device=like.device)).to(like)


def _categorical_divergence(old: Tensor, new: Tensor) -> Tensor:
    old_log, new_log = old.log_softmax(-1), new.log_softmax(-1)
    return (old_log.exp() * (old_log - new_log)).sum(-1)
