"""Progress & Compress: an active column that learns, a knowledge base that keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.agents.base.buffers import choose
from holdfast.agents.base.parameters import Named
from holdfast.agents.doors.networks import Slot
from holdfast.agents.doors.outputs import Reader
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.architecture.progressive import Adapter, Columns
from holdfast.continual.methods.imitation import Imitation, descended
from holdfast.continual.methods.regularization.importance import fisher_information
from holdfast.continual.methods.regularization.quadratic import Quadratic, pull
from holdfast.continual.methods.snapshots import DEVIATION
from holdfast.errors import UsageError

_KNOWLEDGE_BASE, _ACTIVE = 0, 1

_LEARNING = "learning"
"""Name of a tensor that is there inside a task only."""

_MEASURED = 2560
"""Observations that the importances are measured on, as for ``ewc``."""


@dataclass(kw_only=True, eq=False)
class ProgressCompress(Method):
    """Learns each task in an active column and distils it into a knowledge base at its end.

    Progress: the active column is trained by the algorithm; each of its layers sees that of the
    frozen knowledge base through an adapter, ``h_i = f(W_i h_{i-1} + alpha U g(V h_{i-1} of the
    knowledge base))``. Compress: the knowledge base, alone, is trained on observations of the
    finished task for ``updates`` steps of Adam on::

        mean KL(active column || knowledge base) + strength * sum F (theta - theta')^2

    with online EWC's importances ``F <- decay F + F_t`` of the knowledge base itself and its
    weights theta' after the last compress. Source: Schwarz et al. 2018 (arXiv:1805.06370),
    equations 1 and 9. Only the actor has columns; the critic is carried on as by ``naive``.

    From a task's end on, its policy is the knowledge base: the score at that point is what survived
    the compress. On-policy the paper takes new steps to distil on; here stored observations serve,
    so that nothing is added to the budget of steps.

    Args:
        strength: Factor of the penalty.
        decay: Of older importances; CORA uses .99.
        updates: Steps of the compress; no environment step is taken.
        learning_rate: Of these steps.
        batch_size: Rows of each.
        samples: Observations of a task that it is distilled on; they are not kept.
        adapter: ``mlp`` as in the paper, or ``linear``.
        reset: Whether each task begins with a new active column, as in CORA.
        temperature: For action values: compare softmax(values / temperature); None compares the
            values.
    """

    needs = ("boundaries",)
    doors = ("networks", "lifecycle", "output", "memory")
    acts_by = ("tasks", "log_std")
    claims = ("views",)
    work = "updates"
    refuses = (("weights", False, "it carries its knowledge base among them"),)
    memory = "a second actor and 2 numbers per weight of it, however many tasks"
    extra = "1,000 updates of the knowledge base after each task (`updates`)"
    convention = (
        "strength x sum F (theta - theta')^2 beside the mean KL of the compress, no factor 1/2; F "
        "is the mean of per-sample squared gradients of the log-likelihood, not normalised"
    )

    strength: Annotated[float, (0, None)] = 100.0
    decay: Annotated[float, (0, 1)] = 0.99
    updates: Annotated[int, (0, None)] = 1000
    learning_rate: Annotated[float, (0, None)] = 1e-3
    batch_size: Annotated[int, (1, None)] = 128
    samples: Annotated[int, (1, None)] = 10_000
    adapter: Adapter = "mlp"
    reset: bool = True
    temperature: Annotated[float | None, (1e-6, None)] = None
    _tasks: list[int] = field(init=False, default_factory=list)
    _deviation: Tensor | None = field(init=False, default=None)
    _grown: Columns = field(init=False, default_factory=Columns)
    _is_learning = False

    def __post_init__(self) -> None:
        self.penalty = Quadratic(self.strength, "online", self.decay)

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Build the coming model of two columns, the active one new."""
        if "weights" not in doors.facts.carries:
            raise UsageError(
                "method progress-compress: carries its knowledge base among the weights; "
                "remove carry.weights: false"
            )
        doors.memory.keep_rollouts(self.samples)
        doors.lifecycle.keep_views()
        if self.reset:
            doors.lifecycle.start_fresh_where(is_active)
        self._is_learning = True
        self._grown = Columns()
        why = "is shared by both columns, so the knowledge base would change"
        doors.networks.map(self._columns, method="progress-compress", encoder=why)

    def _columns(self, slot: Slot) -> tuple[nn.Module, dict[str, nn.Module]] | None:
        """Return two columns for the actor and for a slowly moving copy of it."""
        return self._grown.of(slot, count=2, adapter=self.adapter) if slot.acts else None

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Compress the finished task, and act as the knowledge base from now on."""
        rng = experience.generator("progress-compress")
        seen = doors.memory.policy_input(doors.memory.observations(self.samples, rng))
        output = doors.output.actor
        with torch.no_grad():
            taught = output.of({}, seen)
        self._grown.act_with(_KNOWLEDGE_BASE)
        self._is_learning = False
        kept = knowledge_base(doors)
        if self._deviation is not None:
            kept[DEVIATION] = self._deviation
        kept = self.compress(output, kept, (seen, taught), rng)
        if DEVIATION in kept:
            self._deviation = kept[DEVIATION].clone()
        doors.lifecycle.write(kept, targets=True)
        count = len(next(iter(taught.values())))
        rows = torch.as_tensor(choose(count, _MEASURED, rng))
        fisher = fisher_information(output, kept, _rows(seen, rows), rng)
        self.penalty.consolidate(kept, fisher)
        if doors.facts.current_task not in self._tasks:
            self._tasks.append(doors.facts.current_task)
        self._keep_views(doors)

    def compress(
        self, output: Reader, kept: Named, taught: tuple[Any, Named], rng: np.random.Generator
    ) -> Named:
        """Return the knowledge base after it was taught a task.

        Args:
            output: The policy, acting as the knowledge base.
            kept: Its parameters by name.
            taught: Observations as the policy takes them, and what the active column says of them.
            rng: Draws the batches.
        """
        observations, outputs = taught
        imitation = Imitation(1.0, self.temperature)
        count, held_by = len(next(iter(outputs.values()))), self.penalty.tensors()

        def gradient(leaves: Named) -> Named:
            rows = torch.as_tensor(rng.integers(count, size=self.batch_size))
            said = {name: values[rows] for name, values in outputs.items()}
            found = imitation.gradient(output, leaves, _rows(observations, rows), said)
            held = pull(leaves, held_by, {})
            return {n: g + held[n] if n in held else g for n, g in found.items()}

        rate = self.learning_rate
        return descended(kept, gradient, updates=self.updates, learning_rate=rate)

    def _keep_views(self, doors: Doors) -> None:
        """Act on every task by the knowledge base, with its own deviation."""
        for task in self._tasks:
            doors.lifecycle.keep_view(
                task,
                lambda: {"policy": self._own()},
                inside=lambda: self._grown.acting(_KNOWLEDGE_BASE),
            )

    def _own(self) -> Named:
        return {} if self._deviation is None else {DEVIATION: self._deviation}

    def state(self) -> dict[str, Tensor]:
        """Return what the knowledge base needs besides its weights, which the policy has."""
        inside = {_LEARNING: torch.tensor(True)} if self._is_learning else {}
        tasks = {"tasks": torch.tensor(self._tasks)}
        return self.penalty.state() | self._own() | tasks | inside

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take it back; an agent that has its model acts as the knowledge base."""
        self.penalty.load(tensors, doors.facts.device)
        self._tasks = [int(task) for task in tensors["tasks"]]
        if DEVIATION in tensors:
            self._deviation = tensors[DEVIATION].to(doors.facts.device)
        doors.lifecycle.keep_views()
        self._keep_views(doors)
        if _LEARNING not in tensors:  # inside a task, the active column acts
            self._grown.act_with(_KNOWLEDGE_BASE)


def is_active(name: str) -> bool:
    """Return whether a tensor of the policy belongs to the active column or its adapters."""
    parts = (f".columns.{_ACTIVE}.", f".heads.{_ACTIVE}.", ".adapters.")
    return name == DEVIATION or any(part in name for part in parts)


def knowledge_base(doors: Doors) -> Named:
    """Return copies of the knowledge base's parameters by name, PPO's deviation among them."""
    parts = (f".columns.{_KNOWLEDGE_BASE}.", f".heads.{_KNOWLEDGE_BASE}.")
    return {
        name: tensor.clone()
        for name, tensor in doors.lifecycle.weights("actor").items()
        if name == DEVIATION or any(part in name for part in parts)
    }


def _rows(observations: Any, rows: Tensor) -> Any:
    if isinstance(observations, dict):
        return {key: values[rows] for key, values in observations.items()}
    return observations[rows]
