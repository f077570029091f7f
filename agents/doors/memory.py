"""The memory door: what the agent saw in the task, and what it is shown while it learns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from holdfast.agents.base import buffers
from holdfast.agents.base.buffers import Arrays
from holdfast.agents.base.observations import TaskNormalize
from holdfast.agents.base.pauses import Parts

Mixer = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""A sampled batch by name (``observations``, ``actions``, ...) to a batch of the same size.

Entries of a Dict observation are named ``observations.<key>``."""


class _Learner(Protocol):
    """The part of the agent that the door needs."""

    model: Any
    normalizer: TaskNormalize | None
    recent: Recent

    def policy_input(self, arrays: Arrays) -> Any: ...


class Memory:
    """Rows of the task that the agent learns or has learned, as its environment gave them."""

    def __init__(self, learner: _Learner) -> None:
        self._learner = learner

    def mix(self, mixer: Mixer) -> None:
        """Replace by ``mixer`` rows of every batch sampled from the replay buffer in this task."""
        self._learner.recent.mixers.append(mixer)

    def keep_rollouts(self, count: int) -> None:
        """Ask an on-policy agent to keep its last ``count`` steps until the next task starts.

        They are kept with all that was learned from; see ``rollout_arrays``. Off-policy agents have
        their replay buffer.
        """
        recent = self._learner.recent
        recent.wanted = max(recent.wanted, count)

    def observations(self, count: int, rng: np.random.Generator) -> Arrays:
        """Return up to ``count`` observations of the finished task, as its environment gave them.

        Off-policy they are drawn from the replay buffer; on-policy from the last rollouts that
        ``keep_rollouts`` asked for. By key; "" for an observation that is no Dict.
        """
        return buffers.by_key(self.transitions(count, rng), "observations")

    def transitions(self, count: int, rng: np.random.Generator, *, costs: bool = False) -> Arrays:
        """Return up to ``count`` rows of the finished task, each at most once.

        Off-policy they are transitions of the replay buffer (``stored_rows``); on-policy rows of
        the rollouts that ``keep_rollouts`` asked for (``rollout_arrays``).

        Args:
            count: Of rows.
            rng: Chooses.
            costs: Whether they tell their ``costs``: on-policy, where the task has any.
        """
        learner = self._learner
        recent = learner.recent
        span = {"since": recent.since, "until": recent.until}
        return buffers.transitions(learner.model, recent.rows, count, rng, **span, costs=costs)

    def rollouts(self) -> list[Arrays]:
        """Return the kept rollouts in time order; each array has the shape (steps, n_envs, ...)."""
        return list(self._learner.recent.rollouts)

    def stored(self) -> int:
        """Return how many transitions the replay buffer holds now."""
        return buffers.stored_count(self._learner.model.replay_buffer)

    def batch_observations(self, count: int, rng: np.random.Generator) -> Any:
        """Return observations of what is being learned from now, as the policy takes them."""
        learner, policy = self._learner, self._learner.model.policy
        now = buffers.current_observations(learner.model, learner.normalizer, count, rng)
        tensors, _ = policy.obs_to_tensor(buffers.as_seen(policy.observation_space, now))
        return tensors

    def policy_input(self, arrays: Arrays) -> Any:
        """Return observations as the policy takes them: normalised, as tensors."""
        return self._learner.policy_input(arrays)

    def batch(self, rows: Arrays) -> dict[str, Tensor]:
        """Return stored rows as a batch of the buffer: normalised, by flat name."""
        return buffers.batch(self._learner.model, self._learner.normalizer, rows)


class Recent:
    """The agent's half of the door: kept rollouts, and mixers of the replay buffer's batches.

    Attributes:
        mixers: Of the coming task.
        wanted: Steps that an on-policy agent is asked to keep; 0 where no method asked.
        rollouts: Those kept, newest last.
        recorded: Rollouts of this task so far, those that were dropped among them.
        since: Step of the model at which the slot began, where a detector finds boundaries; rows
            of the replay buffer from before are none of the finished task's.
        until: Step of the model after which rows are those of the next slot already; 0 where none.
    """

    def __init__(self) -> None:
        self.mixers: list[Mixer] = []
        self.wanted, self._kept = 0, 0
        self.rollouts: deque[Arrays] = deque()
        self.recorded, self.since, self.until = 0, 0, 0
        self._mixed: Any = None  # the buffer whose batches are mixed

    def clear(self) -> None:
        """Drop all rollouts: a new task starts."""
        self.rollouts.clear()
        self.recorded = 0

    def end_slot(self, step: int, changed: int) -> None:
        """Leave out what came after the change that ends the slot, where anything else is kept.

        Args:
            step: Of the model.
            changed: Step of the model at which the world changed.
        """
        self.until, end = changed, step
        while len(self.rollouts) > 1 and end > changed:
            end -= _rows(self.rollouts.pop())

    def begin_slot(self, step: int) -> None:
        """Drop what is of the slot before; the numbers of rollouts go on."""
        self.rollouts.clear()
        self.since, self.until = step, 0
        if self._mixed is not None:
            del self._mixed.sample  # the instance's; the class's shows again
            self._mixed = None

    def parts(self) -> Parts:
        """Return the rollouts by name, as a checkpoint keeps them; none of them ever changes."""
        first = self.recorded - len(self.rollouts)
        return {
            f"{_ROLLOUT}{number}": partial(_as_tensors, rollout)
            for number, rollout in enumerate(self.rollouts, start=first)
        }

    def put_back(self, parts: Parts, recorded: int) -> None:
        """Put back the rollouts that ``parts`` gave."""
        self.clear()
        self.recorded, self._kept = recorded, self.wanted
        for name, made in parts.items():
            if name.startswith(_ROLLOUT):
                self.rollouts.append({key: t.numpy() for key, t in made().items()})

    def record(self, rollout: Arrays) -> None:
        """Keep one rollout, each array of shape (steps, n_envs, ...); drop what is too old."""
        self._kept = self.wanted
        self.recorded += 1
        self.rollouts.append(rollout)
        while (
            len(self.rollouts) > 1 and sum(map(_rows, islice(self.rollouts, 1, None))) >= self._kept
        ):
            self.rollouts.popleft()

    def rows(self) -> Arrays:
        """Return the kept steps as rows by name, newest last; each array of shape (rows, ...)."""
        return {
            name: np.concatenate([r[name].reshape(-1, *r[name].shape[2:]) for r in self.rollouts])[
                -self._kept :
            ]
            for name in self.rollouts[0]
        }

    def attach(self, buffer: Any) -> None:
        """Put the mixers behind the ``sample`` of a replay buffer."""
        if not self.mixers:
            return
        published, mixers = buffer.sample, tuple(self.mixers)

        def sample(batch_size: int, env: Any = None) -> Any:
            batch = published(batch_size, env=env)
            tensors = buffers.flatten(batch._asdict())
            for mixer in mixers:
                tensors = mixer(tensors)
            return type(batch)(**buffers.unflatten(tensors, batch._asdict()))

        buffer.sample, self._mixed = sample, buffer

    def detach(self) -> None:
        """Forget what the methods asked for; what was kept stays until the next task starts."""
        self.mixers, self.wanted = [], 0


_ROLLOUT = "rollout-"


def _as_tensors(rollout: Arrays) -> dict[str, Tensor]:
    return {name: torch.as_tensor(values) for name, values in rollout.items()}


def _rows(rollout: Arrays) -> int:
    steps, n_envs = rollout["actions"].shape[:2]
    return int(steps * n_envs)
