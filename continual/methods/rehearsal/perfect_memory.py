"""Every transition of the stream, kept for good."""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor

from holdfast.agents.base.buffers import Arrays
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.rehearsal.replay import with_old_rows
from holdfast.errors import UsageError


class PerfectMemory(Method):
    """Keeps all transitions and learns from all of them alike.

    Every row of a batch is drawn evenly from all transitions of the stream so far, so that the
    share of a task is its share of the steps. Source: Wolczyk et al. 2021, Continual World
    (arXiv:2105.10919), baseline "perfect memory", there with batches of 512; the size of a batch is
    ``agent.batch_size``.

    ``carry: {replay_buffer: true}`` differs in its memory: it is one ring of ``agent.buffer_size``
    transitions, in which new ones replace the oldest. Where the ring holds the whole stream, both
    learn from the same distribution. Here only the current task must fit into ``buffer_size``.
    """

    needs = ("boundaries",)
    doors = ("memory",)
    acts_by = ()
    on_policy = False
    not_in_teams = "it keeps every step of the environments, not every one of their agents"
    refuses = (
        ("replay_buffer", True, "it keeps earlier transitions itself, which would count twice"),
    )
    grows = "transitions"
    memory = "every transition"
    samples = sys.maxsize

    def __init__(self) -> None:
        self._stored: Arrays = {}

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Mix all earlier transitions into the batches of the coming task."""
        facts = doors.facts
        if "replay_buffer" in facts.carries:
            raise UsageError(
                "method perfect-memory: keeps earlier transitions itself; "
                "remove carry.replay_buffer: true, which would count them twice"
            )
        size, longest = int(facts.settings["buffer_size"]), facts.longest_task
        if size < longest:
            raise UsageError(
                f"method perfect-memory: a task has {longest:,} steps and agent.buffer_size "
                f"holds {size:,}; write at least {longest}"
            )
        if not self._stored:
            return
        rng = experience.generator("perfect-memory")

        def mix(batch: dict[str, Tensor]) -> dict[str, Tensor]:
            earlier, now = len(self._stored["actions"]), doors.memory.stored()
            old = rng.binomial(len(batch["actions"]), earlier / (earlier + now))
            return with_old_rows(doors, batch, self._stored, rng.integers(earlier, size=old))

        doors.memory.mix(mix)

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Keep the finished task's transitions."""
        rng = experience.generator("perfect-memory", "store")
        for name, rows in doors.memory.transitions(experience.steps, rng).items():
            self._stored[name] = np.concatenate([self._stored.get(name, rows[:0]), rows])

    def state(self) -> dict[str, Tensor]:
        """Return every transition."""
        return {name: torch.as_tensor(rows) for name, rows in self._stored.items()}

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take them back."""
        self._stored = {name: tensor.numpy() for name, tensor in tensors.items()}
