"""The memory door: what the agent saw in the task, and what it is shown while it learns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from torch import Tensor

from holdfast.errors import UsageError

Mixer = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""A sampled batch by name (``observations``, ``actions``, ...) to a batch of the same size.

Entries of a Dict observation are named ``observations.<key>``."""

Arrays = dict[str, NDArray[Any]]


class Memory:
    """Recent rollouts of the task, and mixers of the replay buffer's batches.

    Observations are kept as the environment gave them, before normalisation.
    """

    def __init__(self) -> None:
        self._mixers: list[Mixer] = []
        self._wanted, self._kept = 0, 0
        self._recent: deque[Arrays] = deque()

    def mix(self, mixer: Mixer) -> None:
        """Let ``mixer`` replace rows of every batch sampled from the replay buffer in this task."""
        self._mixers.append(mixer)

    def keep_rollouts(self, count: int) -> None:
        """Ask an on-policy agent to keep its last ``count`` steps until the next task starts.

        They are kept with all that was learned from; see ``rollout_arrays``. Off-policy agents have
        their replay buffer.
        """
        self._wanted = max(self._wanted, count)

    @property
    def wanted(self) -> int:
        """Steps that an on-policy agent is asked to keep; 0 where no method asked."""
        return self._wanted

    def record(self, rollout: Arrays) -> None:
        """Keep one rollout, each array of shape (steps, n_envs, ...); drop what is too old."""
        self._kept = self._wanted
        self._recent.append(rollout)
        while (
            len(self._recent) > 1 and sum(map(_rows, islice(self._recent, 1, None))) >= self._kept
        ):
            self._recent.popleft()

    @property
    def rollouts(self) -> list[Arrays]:
        """The kept rollouts, newest last; each array has the shape (steps, n_envs, ...)."""
        return list(self._recent)

    def recent(self) -> Arrays:
        """Return the kept steps as rows by name, newest last; each array of shape (rows, ...)."""
        return {
            name: np.concatenate([r[name].reshape(-1, *r[name].shape[2:]) for r in self._recent])[
                -self._kept :
            ]
            for name in self._recent[0]
        }

    def attach(self, buffer: Any) -> None:
        """Put the mixers behind the ``sample`` of a replay buffer."""
        if not self._mixers:
            return
        published, mixers = buffer.sample, tuple(self._mixers)

        def sample(batch_size: int, env: Any = None) -> Any:
            batch = published(batch_size, env=env)
            tensors = flatten(batch._asdict())
            for mixer in mixers:
                tensors = mixer(tensors)
            return type(batch)(**unflatten(tensors, batch._asdict()))

        buffer.sample = sample

    def detach(self) -> None:
        """Forget what the methods asked for; what was kept stays until the next task starts."""
        self._mixers, self._wanted = [], 0

    def clear(self) -> None:
        """Forget the rollouts of the last task."""
        self._recent.clear()


def _rows(rollout: Arrays) -> int:
    steps, n_envs = rollout["actions"].shape[:2]
    return int(steps * n_envs)


def rollout_arrays(buffer: Any) -> Arrays:
    """Return a copy of what a filled rollout buffer holds, each of shape (steps, n_envs, ...).

    ``observations`` (with ``.key`` for each entry of a Dict) as the policy saw them, ``actions``,
    ``rewards``, ``episode_starts``, and of the policy that collected it ``old_values`` and
    ``old_log_prob``, with the ``advantages`` and ``returns`` that it learned from; of MaskablePPO
    also the ``action_masks``.
    """
    stored = buffer.observations
    arrays: Arrays = (
        {f"observations.{key}": value.copy() for key, value in stored.items()}
        if isinstance(stored, dict)
        else {"observations": stored.copy()}
    )
    names = {"values": "old_values", "log_probs": "old_log_prob"}
    masks = ("action_masks",) if hasattr(buffer, "action_masks") else ()
    for name in (*_ROLLOUT, *masks, *names):
        arrays[names.get(name, name)] = getattr(buffer, name).copy()
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
        for key, stored in observation_arrays(buffer, name).items():
            arrays[f"{name}.{key}" if key else name] = stored[step, env]
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
    for name in ("observations", "next_observations"):
        for key, stored in observation_arrays(buffer, name).items():
            arrays[f"{name}.{key}"] = stored[:size]
    return arrays | {name: getattr(buffer, name)[:size] for name in _ROWS}


def load_buffer_arrays(buffer: Any, arrays: Arrays) -> None:
    """Put back what ``buffer_arrays`` gave."""
    position, full = (int(value) for value in arrays["position"])
    for name, stored in arrays.items():
        target, _, key = name.partition(".")
        if target != "position":
            into = getattr(buffer, target)
            into = into[key] if key and isinstance(into, dict) else into
            into[: len(stored)] = stored
    buffer.pos, buffer.full = position, bool(full)
