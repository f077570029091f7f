"""Rows of rollout and replay buffers: raw as stored, as networks take them, and for checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from holdfast.agents.base.agent import Observations
from holdfast.agents.base.observations import TaskNormalize
from holdfast.errors import UsageError

Arrays = dict[str, NDArray[Any]]

OBSERVATIONS = ("observations", "next_observations")


def as_seen(space: gym.Space[Any], batch: Observations) -> Observations:
    """Return stored observations in the shape in which an environment shows them.

    Stable-Baselines3's buffers keep a Discrete observation as a row of one number, which its
    policies refuse.
    """
    if isinstance(batch, dict):
        entries = space.spaces  # type: ignore[attr-defined]  # a Dict
        return {key: as_seen(entries[key], rows) for key, rows in batch.items()}  # type: ignore[misc]  # arrays
    return batch.reshape(len(batch)) if isinstance(space, gym.spaces.Discrete) else batch


def transitions(
    model: Any,
    kept: Callable[[], Arrays],
    count: int,
    rng: np.random.Generator,
    *,
    since: int = 0,
    until: int = 0,
    costs: bool = False,
) -> Arrays:
    """Return up to ``count`` raw rows, each at most once: of the replay buffer, or of rollouts.

    Args:
        model: The algorithm.
        kept: Returns the rows of rollouts.
        count: Of rows.
        rng: Chooses.
        since: Step of the model from which on rows of its replay buffer count.
        until: Step of the model up to which they count, if some do; 0 for all.
        costs: Whether rows of rollouts tell what they cost.
    """
    if isinstance(model, OnPolicyAlgorithm):
        recent = {name: rows for name, rows in kept().items() if costs or name != COSTS}
        rows = choose(len(recent["actions"]), count, rng)
        return {name: values[rows] for name, values in recent.items()}
    buffer = model.replay_buffer
    if not since and not until:
        return stored_rows(buffer, choose(stored_count(buffer), count, rng))
    newest = min((model.num_timesteps - since) // buffer.n_envs, buffer.size())
    late = (model.num_timesteps - until) // buffer.n_envs if until else 0
    counted = newest - late if late < newest else newest
    rows = choose(counted * buffer.n_envs, count, rng)
    first = (buffer.pos - newest) * buffer.n_envs  # below 0 where the ring was closed
    return stored_rows(buffer, (first + rows) % (buffer.buffer_size * buffer.n_envs))


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
    raw = raw if isinstance(raw, dict) else raw.astype(np.float32)
    return rollout | by_name("observations", raw)


def batch(model: Any, normalizer: TaskNormalize | None, rows: Arrays) -> dict[str, Tensor]:
    """Return raw rows as a batch of this model's buffer: normalised, as tensors by flat name."""
    arrays = dict(rows)
    on_policy = isinstance(model, OnPolicyAlgorithm)
    if normalizer is not None:
        for kind in OBSERVATIONS[: 1 if on_policy else 2]:
            seen = normalizer.normalize_obs(rows.get(kind, by_key(rows, kind)))
            arrays |= by_name(kind, seen)
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


def by_name(name: str, seen: Any) -> Arrays:
    """Return observations as flat rows: undoes ``by_key``, and takes a single array too."""
    entries = seen if isinstance(seen, dict) else {"": seen}
    return {f"{name}.{key}" if key else name: rows for key, rows in entries.items()}


def choose(available: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return up to ``count`` different rows, in ascending order."""
    chosen = rng.choice(available, size=min(count, available), replace=False)
    rows: NDArray[np.int64] = np.sort(chosen).astype(np.int64)
    return rows


# -- Stable-Baselines3's buffers -------------------------------------------------------------------


def rollout_arrays(buffer: Any) -> Arrays:
    """Return a copy of what a filled rollout buffer holds, each of shape (steps, n_envs, ...).

    ``observations`` (with ``.key`` for each entry of a Dict) as the policy saw them, ``actions``,
    ``rewards``, ``episode_starts``, and of the policy that collected it ``old_values`` and
    ``old_log_prob``, with the ``advantages`` and ``returns`` that it learned from; of MaskablePPO
    also the ``action_masks``, and of a task that has any the ``costs``.
    """
    stored = by_name("observations", buffer.observations)
    arrays: Arrays = {name: rows.copy() for name, rows in stored.items()}
    names = {"values": "old_values", "log_probs": "old_log_prob"}
    masks = ("action_masks",) if hasattr(buffer, "action_masks") else ()
    for name in (*_ROLLOUT, *masks, *names):
        arrays[names.get(name, name)] = getattr(buffer, name).copy()
    if hasattr(buffer, COSTS):
        arrays[COSTS] = buffer.costs[: buffer.buffer_size].copy()
    return arrays


_ROLLOUT = ("actions", "rewards", "episode_starts", "advantages", "returns")


def flatten(batch: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a batch by dotted name; entries that are None are left out."""
    flat: dict[str, Tensor] = {}
    for name, value in batch.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": tensor for key, tensor in value.items()}
        elif value is not None:
            flat[name] = value
    return flat


def unflatten(flat: dict[str, Tensor], like: dict[str, Any]) -> dict[str, Any]:
    """Return a batch in the shape of ``like`` from tensors by dotted name."""
    return {
        name: {key: flat[f"{name}.{key}"] for key in value}
        if isinstance(value, dict)
        else flat.get(name)
        for name, value in like.items()
    }


_ROWS = ("actions", "rewards", "dones", "timeouts")
COSTS = "costs"
"""What steps cost, in the buffers of a task that has any."""
COST_ROWS = ("own_rewards", COSTS)
"""Beside them under a constraint: rewards as the environment gave them, and costs."""


def stored_rows(buffer: ReplayBuffer, rows: NDArray[np.int64]) -> Arrays:
    """Return transitions of a replay buffer as the environment gave them.

    Args:
        buffer: Stable-Baselines3's; its arrays are (size, n_envs, ...).
        rows: Indices into size x n_envs, in 0..stored_count - 1.

    Returns:
        Arrays of shape (len(rows), ...): ``observations``, ``next_observations`` (with ``.key`` for
        each entry of a Dict), ``actions``, ``rewards``, ``dones`` (termination alone, not
        truncation).
    """
    step, env = np.divmod(rows, buffer.n_envs)
    arrays: Arrays = {}
    for name in ("observations", "next_observations"):
        stored = observation_arrays(buffer, name)
        arrays |= by_name(name, {key: rows[step, env] for key, rows in stored.items()})
    arrays["actions"] = buffer.actions[step, env]
    arrays["rewards"] = buffer.rewards[step, env][:, None]
    arrays["dones"] = (buffer.dones[step, env] * (1 - buffer.timeouts[step, env]))[:, None]
    return arrays


def stored_count(buffer: ReplayBuffer) -> int:
    """Return how many transitions a replay buffer holds, over all environments."""
    return int(buffer.size()) * int(buffer.n_envs)


def observation_arrays(buffer: Any, name: str) -> Arrays:
    """Return ``observations`` or ``next_observations`` by key ("" for one that is no Dict).

    Raises:
        UsageError: If the buffer keeps no successors of its own.
    """
    if buffer.optimize_memory_usage:
        raise UsageError(
            "agent.optimize_memory_usage: true cannot be used where transitions are kept beyond a "
            "task (method replay, carry.replay_buffer); remove it"
        )
    stored = getattr(buffer, name)
    return dict(stored) if isinstance(buffer, DictReplayBuffer) else {"": stored}


def buffer_arrays(buffer: Any) -> Arrays:
    """Return everything a replay buffer holds, for a checkpoint; views, not copies."""
    size = buffer.size()
    arrays: Arrays = {"position": np.array([buffer.pos, int(buffer.full)])}
    return arrays | {name: stored[:size] for name, stored in ring_arrays(buffer).items()}


def ring_arrays(buffer: Any) -> Arrays:
    """Return the arrays of a replay buffer, whole, each of shape (size, n_envs, ...)."""
    arrays: Arrays = {}
    for name in ("observations", "next_observations"):
        for key, stored in observation_arrays(buffer, name).items():
            arrays[f"{name}.{key}"] = stored
    more = [name for name in COST_ROWS if hasattr(buffer, name)]
    return arrays | {name: getattr(buffer, name) for name in (*_ROWS, *more)}


def load_buffer_arrays(buffer: Any, arrays: Arrays) -> None:
    """Put back what ``buffer_arrays`` gave.

    Raises:
        ValueError: If an array does not fit the buffer.
    """
    position, full = (int(value) for value in arrays["position"])
    if not 0 <= position < buffer.buffer_size:
        raise ValueError(f"position {position} of a buffer of {buffer.buffer_size} rows")
    for name, stored in arrays.items():
        target, _, key = name.partition(".")
        if target != "position":
            into = getattr(buffer, target)
            into = into[key] if key and isinstance(into, dict) else into
            if stored.shape[1:] != into.shape[1:] or len(stored) > len(into):
                raise ValueError(f"{name} has the shape {stored.shape}, here {into.shape}")
            into[: len(stored)] = stored
    buffer.pos, buffer.full = position, bool(full)
