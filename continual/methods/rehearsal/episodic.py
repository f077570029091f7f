"""Rows of finished tasks, the gradient of the algorithm's own loss on them, and its use."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
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


class EpisodicMemory:
    """Rows of finished tasks, and the gradient of the algorithm's own loss on them.

    Off-policy, rows are transitions of the task's replay buffer, raw: what is normalised is
    normalised when it is used. On-policy they are the task's last rollout rows, with
    log-likelihoods, advantages and returns as the policy that collected them had them. A task that
    comes again is one more task.

    Args:
        samples: Rows kept per task.
        batch_size: Rows per gradient, drawn again each time; all where there are no more than that.
    """

    def __init__(self, samples: int, batch_size: int) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self._rows: Arrays = {}
        self._ends: list[int] = []

    def __len__(self) -> int:
        """Return how many tasks are kept."""
        return len(self._ends)

    def store(self, doors: Doors, rng: np.random.Generator) -> None:
        """Keep rows of the task that the agent has just finished."""
        new = doors.memory.transitions(self.samples, rng)
        if "returns" in new:
            new = {name: rows for name, rows in new.items() if name not in _NOT_LEARNED_FROM}
        self._rows = {
            name: np.concatenate([self._rows.get(name, rows[:0]), rows])
            for name, rows in new.items()
        }
        self._ends.append(len(self._rows["actions"]))

    def batch(self, doors: Doors, parameters: Named, drawn: Draws) -> Tensors:
        """Return what the loss is taken on: one batch of rows of all kept tasks."""
        return self._batch(doors, parameters, drawn, 0, self._ends[-1])

    def batches(self, doors: Doors, parameters: Named, drawn: Draws) -> list[Tensors]:
        """Return one batch of each kept task, oldest task first."""
        spans = zip([0, *self._ends], self._ends, strict=False)
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
        return settled(flat(self._rows), self._ends)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what ``state`` gave."""
        rows, self._ends = all_rows(tensors)
        if "ends" in tensors:  # of a version that wrote all rows as one
            rows, self._ends = below(tensors, "rows"), [int(end) for end in tensors["ends"]]
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
        self._ends: list[int] = []
        self._dropped = 0  # blocks, whose numbers are not used again

    def __len__(self) -> int:
        """Return how many observations are kept."""
        return len(next(iter(self.observations.values()), ()))

    def add(self, observations: Arrays, labels: Named) -> None:
        """Keep more of both, in the same order."""
        for key, values in observations.items():
            old = self.observations.get(key, values[:0])
            self.observations[key] = np.concatenate([old, values])
        for name, label in labels.items():
            self.labels[name] = torch.cat([self.labels.get(name, label[:0]), label])
        self._ends.append(len(self))

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
        self._dropped += len(self._ends)
        self.observations, self.labels, self._ends = {}, {}, []

    def state(self) -> dict[str, Tensor]:
        """Return the observations and labels, a settled block for each time that some came."""
        rows = flat({"observations": self.observations, "label": self.labels})
        dropped = flat({"dropped": self._dropped} if self._dropped else {})
        return settled(rows, self._ends, self._dropped) | dropped

    def load(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Take back what ``state`` gave."""
        self._dropped = int(tensors.get("dropped", 0))
        rows, self._ends = all_rows(tensors)
        if not rows:  # a version before wrote all as one
            rows = {name: held for name, held in tensors.items() if "/" in name}
            self._ends = [len(held) for held in rows.values()][:1]
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
        self.stored.store(doors, experience.generator(self.name, "store"))
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
