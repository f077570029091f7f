"""The output door: what networks say of observations, as a function of named tensors.

Per algorithm: categorical for discrete actions and Gaussian before squashing for boxes (PPO, A2C,
SAC, TQC, CrossQ); the deterministic action as the mean of a unit Gaussian (TD3, DDPG); action
values as the mean of a unit Gaussian (DQN, QR-DQN), or softmax(values / temperature).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import gymnasium as gym
import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

from holdfast.agents.base.observations import TaskNormalize, restated
from holdfast.agents.base.parameters import (
    Named,
    group_of,
    is_actor_critic,
    named_parameters,
    replaced,
)
from holdfast.errors import UsageError

Output = dict[str, Tensor]
"""``logits`` (batch, n), or ``mean`` (batch, n) and, for a Gaussian, ``log_std`` (batch, n)."""

Kind = Literal["categorical", "bernoulli", "gaussian", "unit_gaussian"]


@dataclass(frozen=True)
class OutputSpec:
    """Form of an output.

    Attributes:
        kind: The family of the distribution.
        splits: Sizes of the independent categorical parts; one entry for Discrete actions. Of
            action values, how many there are of each agent; empty for a single one.
    """

    kind: Kind
    splits: list[int] = field(default_factory=list)


@contextmanager
def as_evaluated(policy: nn.Module) -> Iterator[None]:
    """Run layers that differ while training as in evaluation.

    Batch norm must not drift, and dropout draws nothing.
    """
    if not any(module._buffers or isinstance(module, nn.Dropout) for module in policy.modules()):
        yield
        return
    modes = [
        (module, module.training) for module in policy.modules()
    ]  # CrossQ sets them one by one
    policy.train(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class PolicyOutput(nn.Module):
    """The policy as a module whose forward gives its output.

    Attributes:
        spec: How to read the output.
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


class ValueOutput(nn.Module):
    """The critic as a module whose forward gives its values of the policy's likeliest action.

    The values count as the mean of a unit Gaussian, as Continual World takes them for the Fisher
    information of a critic.
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


class _Learner(Protocol):
    """The agent, as the door reads it."""

    normalizer: TaskNormalize | None

    @property
    def policy(self) -> Any: ...

    def activity(self, observations: Any, names: Collection[str]) -> dict[str, Tensor]: ...


class Reader:
    """Output of a network of the current task, as a function of named tensors."""

    def __init__(self, learner: _Learner, kind: type[PolicyOutput | ValueOutput]) -> None:
        self._learner, self._kind = learner, kind
        self._known: PolicyOutput | ValueOutput | None = None

    @property
    def _module(self) -> PolicyOutput | ValueOutput:
        policy = self._learner.policy
        if self._known is None or self._known.policy is not policy:
            self._known = self._kind(policy)
        return self._known

    @property
    def spec(self) -> OutputSpec:
        """Form of the output."""
        return self._module.spec

    @property
    def is_coded(self) -> bool:
        """True where observations are numbers of categories, which vmap cannot batch."""
        space = self._module.policy.observation_space
        entries = space.spaces.values() if isinstance(space, gym.spaces.Dict) else [space]
        return any(isinstance(e, gym.spaces.Discrete | gym.spaces.MultiDiscrete) for e in entries)

    def action(self, output: Output) -> Output:
        """Return an output of ``of`` with the mean as the environment gets it.

        Where the algorithm squashes it (SAC, TQC, CrossQ) that is tanh(mean) x half the width of
        the actions, which drops what only shifts it; elsewhere the output as it is.
        """
        policy: Any = self._module.policy
        if self.spec.kind != "gaussian" or is_actor_critic(policy):
            return output
        space = policy.action_space
        half = torch.as_tensor((space.high - space.low) / 2).to(output["mean"])  # (n,)
        return {**output, "mean": torch.tanh(output["mean"]) * half}

    def of(self, parameters: Named, observations: Any) -> Output:
        """Return what it says with some of its parameters replaced.

        Args:
            parameters: By their names in the policy; those left out are as they are now.
            observations: As the policy takes them, shape (batch, ...).
        """
        module = self._module
        with as_evaluated(module.policy), replaced(module.policy, parameters):
            output: Output = module(observations)
        return output


class Outputs:
    """The output door: what the task's networks say. The model is built after ``pre_adapt``.

    Attributes:
        actor: What decides actions.
        critic: What judges them, at the policy's likeliest action.
    """

    def __init__(self, learner: _Learner) -> None:
        self._learner = learner
        self.actor, self.critic = Reader(learner, PolicyOutput), Reader(learner, ValueOutput)

    @property
    def spec(self) -> OutputSpec:
        """Form of the actor's output."""
        return self.actor.spec

    def of(self, parameters: Named, observations: Any) -> Output:
        """Return the actor's output with some of its parameters replaced; see ``Reader``."""
        return self.actor.of(parameters, observations)

    def activity(self, observations: Any, names: Collection[str]) -> dict[str, Tensor]:
        """Return what the activations of hidden layers put out, by name; see ``activations``."""
        return self._learner.activity(observations, names)

    def kept(self) -> dict[str, Named]:
        """Return copies of all that decides actions, and the statistics of its observations.

        Under ``policy`` are parameters, and buffers such as those of batch norm.
        """
        policy, normalizer = self._learner.policy, self._learner.normalizer
        tensors = dict(named_parameters(policy, *ACTING))
        buffers = {n: b for n, b in policy.named_buffers() if group_of(n, policy) in ACTING}
        copies = {name: t.detach().clone() for name, t in (tensors | buffers).items()}
        statistics = {} if normalizer is None else normalizer.tensors()
        return {"policy": copies, "normalization": statistics}

    def restated(self, observations: Any, statistics: dict[str, Tensor]) -> Any:
        """Return observations as the policy takes them, scaled by statistics of another time."""
        return restated(self._learner.normalizer, observations, statistics)


ACTING = ("actor", "encoder")
"""Groups of the parameters that decide actions."""


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
            (p.log_softmax(-1) * one_hot(actions[..., i], p)).sum(-1)
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


def one_hot(indices: Tensor, like: Tensor) -> Tensor:
    """Return (..., n); torch's own one_hot reads the values, which vmap cannot batch."""
    return (indices.unsqueeze(-1) == torch.arange(like.shape[-1], device=like.device)).to(like)


def _categorical_divergence(old: Tensor, new: Tensor) -> Tensor:
    old_log, new_log = old.log_softmax(-1), new.log_softmax(-1)
    return (old_log.exp() * (old_log - new_log)).sum(-1)
