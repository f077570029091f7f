"""Buffers that hold nothing of agents that are absent: dead, or not there yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm


def learn_from_present(
    model: Any, absent: Callable[[], NDArray[np.bool_]], is_absent: Callable[[Any], bool]
) -> None:
    """Make a model's buffer leave out the rows of seats that did not act.

    Where nobody is absent, it does exactly what it would do as published. The buffer gets another
    class after it is made, because the algorithm chooses its class by the observations.

    Args:
        model: A Stable-Baselines3 model, newly built.
        absent: Returns which seats did not act in the last step, shape (seats,).
        is_absent: Whether an info says so of its seat.
    """
    if isinstance(model, OnPolicyAlgorithm):
        buffer = model.rollout_buffer = _mixed(PresentRollouts, model.rollout_buffer)
        buffer.absent, buffer.seats = absent, buffer.n_envs
        buffer.reset()
    else:
        buffer = model.replay_buffer = _mixed(PresentTransitions, model.replay_buffer)
        buffer.is_absent, buffer.pending = is_absent, []


def _mixed(mixin: type, buffer: Any) -> Any:
    kind = type(buffer)
    mixed: Any = type(f"{mixin.__name__}{kind.__name__}", (mixin, kind), {})
    made = mixed.__new__(mixed)
    made.__dict__.update(buffer.__dict__)
    return made


class PresentRollouts:
    """A rollout buffer, mixed in before its class, that drops absent rows once it is full.

    An absent row is always the start of an episode, so that the advantages before it end there.
    """

    absent: Callable[[], NDArray[np.bool_]]
    seats: int
    present: NDArray[np.bool_]
    buffer_size: int
    n_envs: int
    pos: int

    def reset(self) -> None:
        """Begin a rollout of full length, of all seats."""
        self.n_envs = self.seats
        self.present = np.zeros((self.buffer_size, self.n_envs), np.bool_)
        super().reset()  # type: ignore[misc]  # of the buffer that this is mixed into

    def add(self, *values: Any, **named: Any) -> None:
        """Add a step of all seats."""
        self.present[self.pos] = ~self.absent()
        super().add(*values, **named)  # type: ignore[misc]

    def compute_returns_and_advantage(self, *values: Any, **named: Any) -> None:
        """Compute them, then keep the rows that were acted in, as steps of a single seat."""
        super().compute_returns_and_advantage(*values, **named)  # type: ignore[misc]
        if self.present.all():
            return
        steps, seats = self.present.shape
        keep = self.present.reshape(-1)
        for name, value in vars(self).items():
            if isinstance(value, dict):
                setattr(self, name, {k: _kept(v, steps, seats, keep) for k, v in value.items()})
            elif isinstance(value, np.ndarray) and name != "present":
                setattr(self, name, _kept(value, steps, seats, keep))
        self.buffer_size, self.n_envs = int(keep.sum()), 1


def _kept(array: Any, steps: int, seats: int, keep: NDArray[np.bool_]) -> Any:
    if not isinstance(array, np.ndarray) or array.shape[:2] != (steps, seats):
        return array
    return array.reshape(steps * seats, *array.shape[2:])[keep][:, None]


class PresentTransitions:
    """A replay buffer, mixed in before its class, that packs present transitions densely.

    Transitions of a step in which somebody is absent wait until as many are there as the buffer
    takes at once; each is stored once.
    """

    is_absent: Callable[[Any], bool]
    pending: list[tuple[Any, ...]]
    n_envs: int

    def add(
        self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[Any]
    ) -> None:
        """Add a step of all seats."""
        present = [row for row, info in enumerate(infos) if not self.is_absent(info)]
        if len(present) == self.n_envs and not self.pending:
            super().add(obs, next_obs, action, reward, done, infos)  # type: ignore[misc]
            return
        step = (obs, next_obs, action, reward, done, infos)
        self.pending += [tuple(_row(part, row) for part in step) for row in present]
        while len(self.pending) >= self.n_envs:
            rows, self.pending = self.pending[: self.n_envs], self.pending[self.n_envs :]
            *parts, told = zip(*rows, strict=True)
            super().add(*map(_stacked, parts), list(told))  # type: ignore[misc]


def _row(part: Any, row: int) -> Any:
    if isinstance(part, dict):
        return {key: np.array(value[row]) for key, value in part.items()}
    return part[row] if isinstance(part, list) else np.array(part[row])


def _stacked(rows: tuple[Any, ...]) -> Any:
    if isinstance(rows[0], dict):
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    return np.stack(rows)
