"""Rows of finished tasks, the gradient of the algorithm's own loss on them, and its use."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.agents.base.buffers import Arrays
from holdfast.agents.base.parameters import Named, below, flat, grouped, split
from holdfast.agents.doors.gradients import Tensors
from holdfast.continual.method import Doors, Experience, Method
from holdfast.errors import Diverged

_TOGETHER = 16
"""Blocks of tasks that make a larger one."""
_LENGTHS = "lengths"
_NOT_LEARNED_FROM = ("rewards", "episode_starts")
"""Of a rollout's rows: what advantages and returns were made of."""


class Draws(NamedTuple):
    """Generators of a method in one task.

    Attributes:
        rows: Chooses rows.
        noise: Draws the noise of actions, on the agent's device.
    """

    rows: np.random.Generator
    noise: torch.Generator


def draws(doors: Doors, experience: Experience, method: str) -> Draws:
    """Return the generators of a method for a task."""
    noise = experience.noise(doors.facts.device, method, "noise")
    return Draws(experience.generator(method), noise)


class Blocks:
    """Which rows of a store came together: blocks, whose numbers are not used again.

    Attributes:
        ends: The row after the last one of each block, in ascending order.
        slots: Slot that each block is of, where slots may come again; else empty.
        dropped: Blocks whose numbers come before that of the first.
    """

    def __init__(self) -> None:
        self.ends: list[int] = []
        self.slots: list[int] = []
        self.dropped = 0

    def begin(self, slot: int | None) -> slice | NDArray[np.int64]:
        """Drop the block of an earlier visit to a slot; return which rows of the store are left."""
        if slot not in self.slots:
            return slice(None)
        place, total = self.slots.index(slot), self.ends[-1]
        start, end = [0, *self.ends][place], self.ends[place]
        self.dropped += len(self.ends)  # those that stay have other numbers now
        self.ends = [*self.ends[:place], *(e - (end - start) for e in self.ends[place + 1 :])]
        del self.slots[place]
        return np.concatenate([np.arange(start), np.arange(end, total)])

    def end(self, rows: int, slot: int | None) -> None:
        """Make a block of all rows of the store that are in none yet.

        Args:
            rows: Of the store.
            slot: That they are of, where slots may come again.
        """
        self.ends.append(rows)
        self.slots += [] if slot is None else [slot]

    def clear(self) -> None:
        """Drop all blocks."""
        self.dropped += len(self.ends)
        self.ends, self.slots = [], []

    def state(self, rows: Named) -> Named:
        """Return the rows of the store by path, a settled block for each, and their numbers."""
        found = settled(rows, self.ends, self.dropped)
        found |= flat({"dropped": self.dropped} if self.dropped else {})
        return found | flat({"slots": self.slots} if self.slots else {})

    def load(self, tensors: Named) -> Named:
        """Take back what ``state`` gave, and return the rows."""
        self.dropped = int(tensors.get("dropped", 0))
        self.slots = [int(slot) for slot in tensors.get("slots", ())]
        rows, self.ends = all_rows(tensors)
        return rows


class EpisodicMemory:
    """Rows of finished tasks, and the gradient of the algorithm's own loss on them.

    Off-policy, rows are transitions of the task's replay buffer, raw: what is normalised is
    normalised when it is used. On-policy they are the task's last rollout rows, with
    log-likelihoods, advantages and returns as the policy that collected them had them. A task that
    comes again is one more task; of a slot that a detector takes up again, the rows of the newest
    visit are kept.

    Args:
        samples: Rows kept per task.
        batch_size: Rows per gradient, drawn again each time; all where there are no more than that.
    """

    def __init__(self, samples: int, batch_size: int) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self._rows: Arrays = {}
        self._blocks = Blocks()

    def __len__(self) -> int:
        """Return how many tasks are kept."""
        return len(self._blocks.ends)

    def store(self, doors: Doors, rng: np.random.Generator, slot: int | None = None) -> None:
        """Keep rows of the task, or of the slot, that the agent has just finished."""
        left = self._blocks.begin(slot)
        new = doors.memory.transitions(self.samples, rng)
        if "returns" in new:
            new = {name: rows for name, rows in new.items() if name not in _NOT_LEARNED_FROM}
        self._rows = {
            name: np.concatenate([self._rows.get(name, rows[:0])[left], rows])
            for name, rows in new.items()
        }
        self._blocks.end(len(self._rows["actions"]), slot)

    def batch(self, doors: Doors, parameters: Named, drawn: Draws) -> Tensors:
        """Return what the loss is taken on: one batch of rows of all kept tasks."""
        return self._batch(doors, parameters, drawn, 0, self._blocks.ends[-1])

    def batches(self, doors: Doors, parameters: Named, drawn: Draws) -> list[Tensors]:
        """Return one batch of each kept task, oldest task first."""
        spans = pairwise([0, *self._blocks.ends])
        return [self._batch(doors, parameters, drawn, start, end) for start, end in spans]

    def _batch(
        self, doors: Doors, parameters: Named, drawn: Draws, start: int, end: int
    ) -> Tensors:
        chosen: slice | np.ndarray[tuple[int], np.dtype[np.int64]] = slice(start, end)
        if self.batch_size < end - start:
            chosen = drawn.rows.integers(start, end, size=self.batch_size)
        rows = {name: values[chosen] for name, values in self._rows.items()}
        return doors.gradients.loss_inputs(parameters, rows, drawn.noise)

    def state(self) -> dict[str, Tensor]:
        """Return the rows of all tasks, a settled block for each."""
        return self._blocks.state(flat(self._rows))

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what ``state`` gave."""
        rows = self._blocks.load(tensors)
        if "ends" in tensors:  # of a version that wrote all rows as one
            rows = below(tensors, "rows")
            self._blocks.ends = [int(end) for end in tensors["ends"]]
        self._rows = {name: held.numpy() for name, held in rows.items()}


class Labelled:
    """Observations of finished tasks, each with what the policy said or did there.

    Attributes:
        observations: By key, as the environment gave them, shape (rows, ...).
        labels: By name, on the agent's device, shape (rows, ...).
    """

    def __init__(self) -> None:
        self.observations: Arrays = {}
        self.labels: Named = {}
        self._blocks = Blocks()

    def __len__(self) -> int:
        """Return how many observations are kept."""
        return len(next(iter(self.observations.values()), ()))

    def add(self, observations: Arrays, labels: Named, slot: int | None = None) -> None:
        """Keep more of both, in the same order; of a slot, in place of those of its last visit."""
        left = self._blocks.begin(slot)
        for key, values in observations.items():
            old = self.observations.get(key, values[:0])
            self.observations[key] = np.concatenate([old[left], values])
        for name, label in labels.items():
            self.labels[name] = torch.cat([self.labels.get(name, label[:0])[left], label])
        self._blocks.end(len(self), slot)

    def draw(self, doors: Doors, rng: np.random.Generator, size: int) -> Tensors | None:
        """Return random observations as the policy takes them, ``seen``, and their ``labels``.

        None where nothing is kept.
        """
        if not len(self):
            return None
        rows = rng.integers(len(self), size=size)
        kept = {key: v[rows] for key, v in self.observations.items()}
        labels = {name: label[rows] for name, label in self.labels.items()}
        return {"seen": doors.memory.policy_input(kept), "labels": labels}

    def clear(self) -> None:
        """Drop everything."""
        self._blocks.clear()
        self.observations, self.labels = {}, {}

    def state(self) -> dict[str, Tensor]:
        """Return the observations and labels, a settled block for each time that some came."""
        return self._blocks.state(flat({"observations": self.observations, "label": self.labels}))

    def load(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Take back what ``state`` gave."""
        rows = self._blocks.load(tensors)
        if not rows:  # a version before wrote all as one
            rows = {name: held for name, held in tensors.items() if "/" in name}
            self._blocks.ends = [len(held) for held in rows.values()][:1]
        self.observations = {k: v.numpy() for k, v in below(rows, "observations").items()}
        self.labels = below(rows, "label", device)


def settled(rows: Named, ends: Sequence[int], first: int = 0) -> Named:
    """Return rows in blocks that never change, by the paths that a checkpoint keeps such under.

    Sixteen blocks become one, so that a checkpoint of many tasks does not consist of many files.

    Args:
        rows: By path, each of shape (rows, ...).
        ends: The row after the last one of each block, in ascending order.
        first: Number of the first block.
    """
    found: Named = {}
    bounds = [0, *ends]
    number, last = first, first + len(ends)
    while number < last:
        count = _TOGETHER if number % _TOGETHER == 0 and number + _TOGETHER <= last else 1
        own = bounds[number - first : number - first + count + 1]
        name = f"settled/{number}" if count == 1 else f"settled/{number}-{number + count - 1}"
        found |= {f"{name}/{path}": held[own[0] : own[-1]] for path, held in rows.items()}
        if count > 1:
            found[f"{name}/{_LENGTHS}"] = torch.tensor(own).diff()
        number += count
    return found


def all_rows(tensors: Named) -> tuple[Named, list[int]]:
    """Return the rows and ends that ``settled`` was given, from what a checkpoint holds."""
    blocks = grouped(below(tensors, "settled"))
    parts = [blocks[name] for name in sorted(blocks, key=lambda name: int(name.partition("-")[0]))]
    lengths: list[int] = []
    for part in parts:
        together = part.pop(_LENGTHS, None)
        lengths += [len(next(iter(part.values())))] if together is None else together.tolist()
    rows = {path: torch.cat([part[path] for part in parts]) for path in parts[0]} if parts else {}
    return rows, np.cumsum(lengths, dtype=int).tolist()


class Projected(NamedTuple):
    """A part of the gradients, projected.

    Attributes:
        like: The part, by name.
        vector: What replaces it, in that order.
        is_changed: Whether that is something else; a boolean tensor, as the next.
        is_finite: Whether the gradients that it was projected against are finite.
    """

    like: Named
    vector: Tensor
    is_changed: Tensor
    is_finite: Tensor


@dataclass(kw_only=True, eq=False)
class Projecting(Method):
    """Base of the methods that project a gradient against those on stored rows.

    Args:
        samples: Rows kept per task.
        batch_size: Rows per gradient.
    """

    name: ClassVar[str]
    needs = ("boundaries",)
    doors = ("gradients", "memory")
    acts_by = ()
    # Those whose loss is a function of stored rows, in ``agents/algorithms/losses.py``.
    algorithms = (
        "ppo",
        "a2c",
        "maskable_ppo",
        "dqn",
        "qrdqn",
        "sac",
        "td3",
        "ddpg",
        "tqc",
        "mappo",
        "vdn",
        "qmix",
    )
    claims = ("projection",)
    logs: ClassVar[dict[str, str]] = {"projected": "share of the gradients that was projected"}
    grows = "samples"
    memory = "10,000 transitions or rollout rows per task (`samples`)"
    extra = "one more gradient per update and finished task"

    samples: Annotated[int, (1, None)] = 10_000
    batch_size: Annotated[int, (1, None)] = 128

    _tried = 0  # parts of gradients in this task
    _changed = 0  # those that were projected

    def __post_init__(self) -> None:
        self.stored = EpisodicMemory(self.samples, self.batch_size)

    @abstractmethod
    def draw(self, doors: Doors, parameters: Named, drawn: Draws) -> Tensors:
        """Return what the gradients of an optimizer's parameters are projected against."""

    @abstractmethod
    def project(
        self, doors: Doors, parameters: Named, gradients: Named, batch: Tensors
    ) -> Iterable[Projected]:
        """Return the gradients, once each, in one part or several, with what replaces them.

        Args:
            doors: Give the gradient of the algorithm's loss.
            parameters: Those that this optimizer moves, by name.
            gradients: Theirs, after clipping.
            batch: As ``draw`` gave it.
        """

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Project the gradients of the coming task, once there is something to protect."""
        doors.memory.keep_rollouts(self.samples)
        self._tried = self._changed = 0
        if not len(self.stored):
            return
        drawn = draws(doors, experience, self.name)

        def look(state: Tensors) -> None:
            if not state["finite"]:
                raise Diverged(
                    f"method {self.name}: the gradient on stored rows of finished tasks is not "
                    "finite; the last checkpoint is kept. On-policy, the policy is too far from "
                    "the one that collected them: lower agent.learning_rate"
                )
            self._tried += len(state["changed"])
            self._changed += int(state["changed"].sum())
            doors.log(f"method/{self.name}/projected", self._changed / self._tried)

        doors.gradients.project(
            partial(self.projected, doors),
            batch=lambda parameters: self.draw(doors, parameters, drawn),
            after=look,
        )

    def projected(
        self, doors: Doors, parameters: Named, gradients: Named, _state: Tensors, batch: Tensors
    ) -> tuple[Named, Tensors]:
        """Return what replaces the gradients, and which parts of them were changed."""
        parts = [*self.project(doors, parameters, gradients, batch)]
        replaced: Named = {}
        for part in parts:
            replaced |= split(part.vector, part.like)
        return replaced, {
            "changed": torch.stack([part.is_changed for part in parts]),
            "finite": torch.stack([part.is_finite for part in parts]).all(),
        }

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Keep rows of the finished task."""
        self.stored.store(doors, experience.generator(self.name, "store"), experience.slot)
        self._tried = self._changed = 0

    def state(self) -> dict[str, Tensor]:
        """Return the stored rows, and inside a task what was counted in it."""
        counts = {"tried": self._tried, "changed": self._changed}
        return self.stored.state() | flat({"counts": counts if self._tried else {}})

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take them back."""
        self.stored.load(tensors)
        counts = below(tensors, "counts")
        self._tried, self._changed = (int(counts.get(name, 0)) for name in ("tried", "changed"))
