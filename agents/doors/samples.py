"""Samples of what an agent saw in its task, raw as stored and as its networks take them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from holdfast.agents.agent import Observations
from holdfast.agents.doors.memory import (
    Arrays,
    Memory,
    observation_arrays,
    rollout_arrays,
    stored_count,
    stored_rows,
)
from holdfast.agents.sb3.normalization import TaskNormalize

OBSERVATIONS = ("observations", "next_observations")


def observations(model: Any, memory: Memory, count: int, rng: np.random.Generator) -> Arrays:
    """Return up to ``count`` raw observations by key ("" for one that is no Dict)."""
    if isinstance(model, OnPolicyAlgorithm):
        recent = by_key(memory.recent(), "observations")
        rows = choose(len(next(iter(recent.values()))), count, rng)
        return {key: values[rows] for key, values in recent.items()}
    buffer = model.replay_buffer
    step, env = np.divmod(choose(stored_count(buffer), count, rng), buffer.n_envs)
    stored = observation_arrays(buffer, "observations")
    return {key: values[step, env] for key, values in stored.items()}


def as_seen(space: gym.Space[Any], batch: Observations) -> Observations:
    """Return stored observations in the shape in which an environment shows them.

    Stable-Baselines3's buffers keep a Discrete observation as a row of one number, which its
    policies refuse.
    """
    if isinstance(batch, dict):
        entries = space.spaces  # type: ignore[attr-defined]  # a Dict
        return {key: as_seen(entries[key], rows) for key, rows in batch.items()}  # type: ignore[misc]  # arrays
    return batch.reshape(len(batch)) if isinstance(space, gym.spaces.Discrete) else batch


def transitions(model: Any, memory: Memory, count: int, rng: np.random.Generator) -> Arrays:
    """Return up to ``count`` raw rows, each at most once: of the replay buffer, or of rollouts."""
    if isinstance(model, OnPolicyAlgorithm):
        recent = memory.recent()
        rows = choose(len(recent["actions"]), count, rng)
        return {name: values[rows] for name, values in recent.items()}
    buffer = model.replay_buffer
    return stored_rows(buffer, choose(stored_count(buffer), count, rng))


def current_observations(
    model: Any, normalizer: TaskNormalize | None, count: int, rng: np.random.Generator
) -> Observations:
    """Return ``count`` observations, repeats allowed, of what is learned from right now.

    They are as the policy takes them: normalised.
    """
    if isinstance(model, OnPolicyAlgorithm):
        buffer = model.rollout_buffer
        stored = buffer.observations
        entries = stored if isinstance(stored, dict) else {"": stored}
        if not buffer.generator_ready:  # (steps, n_envs, ...) until it is first read from
            entries = {key: rows.reshape(-1, *rows.shape[2:]) for key, rows in entries.items()}
        rows = rng.integers(len(next(iter(entries.values()))), size=count)
        chosen = {key: values[rows] for key, values in entries.items()}
        seen: Observations = chosen.get("", chosen)
        return seen
    buffer = model.replay_buffer
    step, env = np.divmod(rng.integers(stored_count(buffer), size=count), buffer.n_envs)
    entries = observation_arrays(buffer, "observations")
    raw = {key: values[step, env] for key, values in entries.items()}
    batch: Observations = raw.get("", raw)
    return batch if normalizer is None else normalizer.normalize_obs(batch)


def raw_rollout(buffer: Any, normalizer: TaskNormalize | None) -> Arrays:
    """Return a copy of a filled rollout buffer with observations as the environment gave them."""
    rollout = rollout_arrays(buffer)
    if normalizer is None:
        return rollout
    seen = by_key(rollout, "observations")
    raw = normalizer.unnormalize_obs(seen.get("", seen))
    entries = raw if isinstance(raw, dict) else {"": raw.astype(np.float32)}
    return rollout | {
        f"observations.{key}" if key else "observations": v for key, v in entries.items()
    }


def batch(model: Any, normalizer: TaskNormalize | None, rows: Arrays) -> dict[str, Tensor]:
    """Return raw rows as a batch of this model's buffer: normalised, as tensors by flat name."""
    arrays = dict(rows)
    on_policy = isinstance(model, OnPolicyAlgorithm)
    if normalizer is not None:
        for kind in OBSERVATIONS[: 1 if on_policy else 2]:
            seen = normalizer.normalize_obs(rows.get(kind, by_key(rows, kind)))
            entries = seen if isinstance(seen, dict) else {"": seen}
            arrays |= {f"{kind}.{key}" if key else kind: v for key, v in entries.items()}
        if not on_policy:  # a rollout's rewards, and what was made of them, are scaled already
            arrays["rewards"] = normalizer.normalize_reward(rows["rewards"])
    tensors = {name: torch.as_tensor(v, device=model.device) for name, v in arrays.items()}
    if not on_policy:
        # Stored rows are one step long; only a buffer of n-step returns asks for this entry.
        tensors["discounts"] = torch.full_like(tensors["rewards"], model.gamma)
    return tensors


def by_key(rows: Arrays, name: str) -> Arrays:
    """Return the entries of an observation in flat rows by key ("" for one that is no Dict)."""
    prefix = f"{name}."
    entries = {n.removeprefix(prefix): v for n, v in rows.items() if n.startswith(prefix)}
    return entries or {"": rows[name]}


def choose(available: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return up to ``count`` different rows, in ascending order."""
    chosen = rng.choice(available, size=min(count, available), replace=False)
    rows: NDArray[np.int64] = np.sort(chosen).astype(np.int64)
    return rows
