"""Experience replay of finished tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.agents.base.buffers import Arrays
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.rehearsal.episodic import Blocks
from holdfast.continual.methods.rehearsal.selection import coverage_places, placed, reservoir_places
from holdfast.errors import UsageError

Strategy = Literal["per_task", "reservoir", "coverage"]
Points = NDArray[np.float32]

_WIDEST = 64
"""Features of an observation that distances are measured in; more are projected onto so many."""

_CHUNK = 1024
"""Observations that are projected at once."""

_SCALED = 4096
"""Observations of the first task, about, that the standard deviations are taken of."""


@dataclass(kw_only=True, eq=False)
class Replay(Method):
    """Keeps transitions of finished tasks and puts them into the batches of later ones.

    A batch keeps its size: ``fraction`` of its rows are replaced by rows drawn evenly from all that
    are kept. Source: Rolnick et al. 2018, Experience Replay for Continual Learning
    (arXiv:1811.11682), which mixes new and old half and half; here for off-policy algorithms, which
    need no importance weights. On-policy algorithms use ``clear`` or ``cloning``.

    At each task's end the rows of its replay buffer are offered. What is kept of them:

    * ``per_task``: as many of every task, drawn evenly; the store grows with the tasks. Of a slot
      that a detector takes up again, those of the newest visit.
    * ``reservoir``: one store, of which every row ever offered is a member with equal chance
      (algorithm R), so that long tasks have more rows.
    * ``coverage``: one store, of rows whose observations are far from those of the others, as
      Continual-Dreamer's coverage maximisation (arXiv:2211.15944). Distances are Euclidean, the
      task id included, and each entry is divided by its standard deviation in the first task.
      Observations of more than 64 entries are projected by a random Gaussian matrix.

    Args:
        samples: Transitions kept, per task or in the one store; 10,000 as A-GEM and ClonEx keep in
            Continual World.
        fraction: Share of each batch that is old, 0 to 1.
        strategy: ``per_task``, ``reservoir`` or ``coverage``.
        comparisons: For ``coverage``: kept rows that each offered one is compared with;
            Continual-Dreamer's 1,000.
    """

    needs = ("boundaries",)
    doors = ("memory",)
    acts_by = ()
    on_policy = False
    grows = "samples"
    memory = "10,000 transitions per task, or in all (`samples`, `strategy`)"
    convention = "fraction of the rows of each batch that come from finished tasks"

    samples: Annotated[int, (1, None)] = 10_000
    fraction: Annotated[float, (0, 1)] = 0.5
    strategy: Strategy = "per_task"
    comparisons: Annotated[int, (1, None)] = 1000
    _stored: Arrays = field(init=False, default_factory=dict)
    _blocks: Blocks = field(init=False, default_factory=Blocks)  # where slots may come again
    _seen = 0
    _distances: Points = field(init=False, default_factory=lambda: np.empty(0, np.float32))
    _projection: Points | None = field(init=False, default=None)

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Mix stored transitions into the batches of the coming task, once there are any."""
        if self.strategy != "per_task" and "replay_buffer" in doors.facts.carries:
            raise UsageError(
                f"method replay.strategy: {self.strategy} takes each transition once, but with "
                "carry.replay_buffer: true a task's buffer holds those of earlier tasks too; "
                "remove one of them"
            )
        if not self._stored:
            return
        rng = experience.generator("replay")

        def mix(batch: dict[str, Tensor]) -> dict[str, Tensor]:
            size = len(batch["actions"])
            rows = rng.integers(len(self._stored["actions"]), size=round(size * self.fraction))
            return with_old_rows(doors, batch, self._stored, rows)

        doors.memory.mix(mix)

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Store transitions of the finished task, before its replay buffer is dropped."""
        rng = experience.generator("replay", "store")
        if self.strategy == "per_task":
            new = doors.memory.transitions(self.samples, rng)
            left = self._blocks.begin(experience.slot)
            self._stored = {
                name: np.concatenate([self._stored.get(name, values[:0])[left], values])
                for name, values in new.items()
            }
            if experience.slot is not None:
                self._blocks.end(len(self._stored["actions"]), experience.slot)
        else:
            self.offer(doors.memory.transitions(experience.steps, rng), rng)

    def offer(self, rows: Arrays, rng: np.random.Generator) -> None:
        """Keep of the store and the offered rows what the strategy says."""
        offered = len(rows["actions"])
        if self.strategy == "reservoir":
            places = reservoir_places(self._seen, offered, self.samples, rng)
        else:
            places, self._distances = coverage_places(
                self._points(rows, rng),
                self._points(self._stored, rng),
                self._distances,
                self.samples,
                self.comparisons,
                rng,
            )
        self._seen += offered
        self._stored = placed(self._stored, rows, places)

    def _points(self, rows: Arrays, rng: np.random.Generator) -> Points:
        """Return the points of rows, shape (rows, features); the first rows fix the scale."""
        names = [n for n in rows if n == "observations" or n.startswith("observations.")]
        count = len(rows[names[0]]) if names else 0

        def flat(chosen: slice) -> Points:
            parts = [rows[n][chosen] for n in names]
            return np.concatenate([p.reshape(len(p), -1) for p in parts], -1, dtype=np.float32)

        if self._projection is None:
            self._projection = projection(flat(slice(None, None, max(1, count // _SCALED))), rng)
        points = np.empty((count, self._projection.shape[1]), np.float32)
        for start in range(0, count, _CHUNK):
            chunk = slice(start, start + _CHUNK)
            points[chunk] = flat(chunk) @ self._projection
        return points

    def state(self) -> dict[str, Tensor]:
        """Return the stored transitions, and how they were chosen."""
        stored = {name: torch.as_tensor(values) for name, values in self._stored.items()}
        if self.strategy == "per_task":
            if self._blocks.slots:
                stored[f"{_CHOICE}ends"] = torch.tensor(self._blocks.ends)
                stored[f"{_CHOICE}slots"] = torch.tensor(self._blocks.slots)
            return stored
        stored[f"{_CHOICE}seen"] = torch.tensor(self._seen)
        if self._projection is not None:
            stored[f"{_CHOICE}distances"] = torch.as_tensor(self._distances)
            stored[f"{_CHOICE}projection"] = torch.as_tensor(self._projection)
        return stored

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take the stored transitions back."""
        self._stored = {n: t.numpy() for n, t in tensors.items() if not n.startswith(_CHOICE)}
        if f"{_CHOICE}slots" in tensors:
            self._blocks.ends = tensors[f"{_CHOICE}ends"].tolist()
            self._blocks.slots = tensors[f"{_CHOICE}slots"].tolist()
        if f"{_CHOICE}seen" in tensors:
            self._seen = int(tensors[f"{_CHOICE}seen"])
        if f"{_CHOICE}projection" in tensors:
            self._distances = tensors[f"{_CHOICE}distances"].numpy()
            self._projection = tensors[f"{_CHOICE}projection"].numpy()


_CHOICE = "choice/"


def projection(observations: Points, rng: np.random.Generator) -> Points:
    """Return the matrix from flat observations to points, shape (entries, features).

    It divides each entry by its standard deviation, and is square where there are few entries.
    """
    deviation = observations.std(0, dtype=np.float64)
    scale = 1 / np.where(deviation > 1e-6, deviation, 1.0)  # what never moved stays as it is
    if len(scale) <= _WIDEST:
        return np.diag(scale).astype(np.float32)
    drawn = rng.normal(scale=_WIDEST**-0.5, size=(len(scale), _WIDEST))
    return (scale[:, None] * drawn).astype(np.float32)


def with_old_rows(
    doors: Doors, batch: dict[str, Tensor], stored: Arrays, rows: NDArray[np.int64]
) -> dict[str, Tensor]:
    """Return a batch whose first rows are replaced by ``rows`` of a store of transitions."""
    old = doors.memory.batch({name: values[rows] for name, values in stored.items()})
    return {name: torch.cat([old[name], values[len(rows) :]]) for name, values in batch.items()}
