"""Distributions of actions in NumPy: draws, and log-likelihoods by their closed forms."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib.common.maskable.distributions import MaskableBernoulliDistribution
from torch import Tensor

from holdfast.agents.doors.outputs import output_spec

Masks = NDArray[np.bool_] | None
Floats = NDArray[np.float32]

_MASKED = np.float32(-1e8)
"""Logit of an action that a mask forbids, as in sb3_contrib."""

_HALF_LOG_TAU = np.float32(0.5 * np.log(2 * np.pi))


class Distribution(Protocol):
    """A distribution of actions, as a program says it."""

    def said(self, policy: Any, observations: Any) -> dict[str, Tensor]:
        """Return ``values`` and what the distribution is made of, as the policy's ``forward``."""

    def draw(self, said: Any) -> NDArray[Any]:
        """Draw actions, shape (rows, n), or (rows,) for one choice."""

    def log_likelihood(self, said: Any, actions: NDArray[Any]) -> Floats:
        """Return the log-likelihood of actions of shape (rows, n), shape (rows,)."""


def distribution_of(policy: Any) -> Distribution:
    """Return the distribution of a policy of an actor with a critic."""
    spec = output_spec(policy)
    if isinstance(policy.action_dist, MaskableBernoulliDistribution):
        return _Categoricals(list(policy.action_dist.action_dims))  # a choice of two for each bit
    match spec.kind:
        case "categorical":
            return _Categoricals(spec.splits) if spec.splits[1:] else _Categorical()
        case "bernoulli":
            return _Bernoulli()
    return _Gaussian()


def _latent(policy: Any, observations: Any) -> tuple[Tensor, Tensor]:
    """Return what the layer of actions puts out, and the values, shape (rows,)."""
    features = policy.extract_features(observations)
    if policy.share_features_extractor:
        for_actor, for_critic = policy.mlp_extractor(features)
    else:
        for_actor = policy.mlp_extractor.forward_actor(features[0])
        for_critic = policy.mlp_extractor.forward_critic(features[1])
    return policy.action_net(for_actor), policy.value_net(for_critic).reshape(-1)


class _Categorical:
    """One choice."""

    def said(self, policy: Any, observations: Any) -> dict[str, Tensor]:
        head, values = _latent(policy, observations)
        return {"values": values, "log_probs": head.log_softmax(-1)}

    def mask(self, said: Any, masks: NDArray[np.bool_]) -> None:
        said["log_probs"] = _masked(said["log_probs"], masks)

    def draw(self, said: Any) -> NDArray[np.int64]:
        log_probs = said["log_probs"]
        # Gumbel's trick: where log p + noise is largest is distributed as p.
        actions: NDArray[np.int64] = (log_probs + np.random.gumbel(size=log_probs.shape)).argmax(1)
        return actions

    def log_likelihood(self, said: Any, actions: NDArray[Any]) -> Floats:
        chosen: Floats = said["log_probs"][np.arange(len(actions)), actions.reshape(-1)]
        return chosen


def _masked(log_probs: Floats, masks: Any) -> Floats:
    """Return log-probabilities of what the masks leave, as sb3_contrib has them."""
    left = np.where(np.asarray(masks, bool).reshape(log_probs.shape), log_probs, _MASKED)
    left -= left.max(1, keepdims=True)
    normalized: Floats = left - np.log(np.exp(left).sum(1, keepdims=True))
    return normalized


class _Categoricals:
    """Several choices, independent of each other.

    Args:
        splits: How many there are to choose from, for each.
    """

    def __init__(self, splits: list[int]) -> None:
        self._one, self._splits = _Categorical(), splits
        self._ends = np.cumsum(splits).tolist()

    def said(self, policy: Any, observations: Any) -> dict[str, Tensor]:
        head, values = _latent(policy, observations)
        parts = torch.split(head, self._splits, -1)
        return {"values": values, "log_probs": torch.cat([p.log_softmax(-1) for p in parts], -1)}

    def _parts(self, rows: Any) -> list[Any]:
        return [rows[:, end - n : end] for n, end in zip(self._splits, self._ends, strict=True)]

    def mask(self, said: Any, masks: NDArray[np.bool_]) -> None:
        left = self._parts(masks.reshape(len(masks), -1))
        parts = zip(self._parts(said["log_probs"]), left, strict=True)
        said["log_probs"] = np.concatenate([_masked(own, mask) for own, mask in parts], 1)

    def draw(self, said: Any) -> NDArray[np.int64]:
        parts = self._parts(said["log_probs"])
        return np.stack([self._one.draw({"log_probs": own}) for own in parts], 1)

    def log_likelihood(self, said: Any, actions: NDArray[Any]) -> Floats:
        parts = zip(self._parts(said["log_probs"]), actions.T, strict=True)
        each = [self._one.log_likelihood({"log_probs": own}, chosen) for own, chosen in parts]
        total: Floats = np.add.reduce(each)
        return total


class _Bernoulli:
    """Bits, as floats like torch has them."""

    def said(self, policy: Any, observations: Any) -> dict[str, Tensor]:
        head, values = _latent(policy, observations)
        return {"values": values, "logits": head}

    def draw(self, said: Any) -> Floats:
        logits: Floats = said["logits"]
        # The logit of a uniform number is distributed logistically.
        return (np.random.logistic(size=logits.shape) < logits).astype(logits.dtype)

    def log_likelihood(self, said: Any, actions: NDArray[Any]) -> Floats:
        logits: Floats = said["logits"]
        total: Floats = -np.logaddexp(0, np.where(actions > 0, -logits, logits)).sum(1)
        return total


class _Gaussian:
    """Independent Gaussians."""

    def said(self, policy: Any, observations: Any) -> dict[str, Tensor]:
        head, values = _latent(policy, observations)
        gaussian = policy.action_dist.proba_distribution(head, policy.log_std).distribution
        log_std = gaussian.scale.log()
        return {"values": values, "mean": gaussian.loc, "std": gaussian.scale, "log_std": log_std}

    def draw(self, said: Any) -> Floats:
        mean: Floats = said["mean"]
        noise = np.random.standard_normal(mean.shape).astype(mean.dtype)
        actions: Floats = mean + said["std"] * noise
        return actions

    def log_likelihood(self, said: Any, actions: NDArray[Any]) -> Floats:
        scaled = (actions - said["mean"]) / said["std"]
        parts = -0.5 * (scaled * scaled) - said["log_std"] - _HALF_LOG_TAU
        total: Floats = parts.sum(1)
        return total


Choices = _Categorical | _Categoricals
"""Distributions that masks may bar actions of: sb3_contrib masks no others."""
