"""Hard attention to the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.agents.base.parameters import Named, below, flat, grouped, is_deviation
from holdfast.agents.doors.gradients import Rewritten, Tensors
from holdfast.agents.doors.networks import Slot
from holdfast.agents.modules.units import HiddenLayer
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.architecture.freezing import Freezing
from holdfast.continual.methods.architecture.gates import (
    EMBEDDING,
    SCALE,
    Gate,
    annealed,
    compensated,
    gated_slot,
)
from holdfast.continual.methods.snapshots import Snapshots
from holdfast.errors import UsageError

_BEGIN, _ANNEAL = "begin", "anneal"

FARTHEST = 6.0
"""Embeddings stay within plus and minus this: ``thres_emb`` in the code of the paper's authors."""


@dataclass(kw_only=True, eq=False)
class HAT(Method):
    """Learns with each task which hidden units it uses, and freezes what they are fed by.

    Hidden unit i of the actor is multiplied by a gate ``a_i = sigmoid(s e_i)``, with an embedding e
    of the task that learns along. s grows from 1 / s_max to s_max over the task's steps, so that
    the gates end nearly binary. The weight between two units that an earlier task uses learns no
    more (its gradient times ``1 - min(a_i, a_j)``, with the largest gates of earlier tasks), and to
    the loss is added::

        strength * sum over units of a (1 - a of earlier tasks) / sum of (1 - a of earlier tasks)

    so that a task takes few new units. Source: Serra et al. 2018 (arXiv:1801.01423), equations 1 to
    6; the compensated gradient of equation 5 is in ``continual/methods/architecture/gates.py``.

    Here s follows the task's steps, once, where the paper anneals in every epoch; on-policy it
    changes between two rollouts only. The task that is being learned is measured through its gates
    as they are. At its end each gate becomes 0 or 1, and it is acted on through these for good: a
    factor above is 0 or 1 then, and frozen weights stay to the bit. Observations and outputs count
    as used by every task: a unit's weights from the observations are frozen with it, and its
    weights to a shared output. The bias of that output learns in the first task only; the heads of
    ``task_id: heads`` learn in their own task. PPO's ``log_std`` and running statistics are kept
    per task. The critic has no gates.

    A task that comes again begins with the embedding that it ended with and is annealed again. It
    may take free units and give up its own, and is acted on by its new gates from then on; what it
    or another task used stays frozen. Where a layer has no free unit left, a task chooses among
    what there is and learns in what is free elsewhere and in its head alone;
    ``method/hat/free`` says at the start of each task which share of the weights below the heads
    that is (a shared output counted in).

    Args:
        strength: Factor of the term above; the paper's c, .75 in its experiments.
        s_max: How steep the gates are in the end; 400 in the paper.
    """

    needs = ("boundaries", "task_id", "evaluation_task_id")
    doors = ("gradients", "networks", "lifecycle")
    claims = ("views",)
    logs: ClassVar[dict[str, str]] = {"free": "share of the weights that is free"}
    refuses = (("weights", False, "it would drop what tasks use"),)
    memory = "2 numbers per hidden unit of the actor and task"
    convention = "strength x the mean gate of the units that no earlier task uses; actor only"

    strength: Annotated[float, (0, None)] = 0.75
    s_max: Annotated[float, (1, None)] = 400.0

    def __post_init__(self) -> None:
        self._used: list[Tensor] = []  # by layer: the units that some finished task uses
        self._embeddings: dict[int, list[Tensor]] = {}  # by task, as learned
        self._kept = Snapshots()
        self._task, self._steps = 0, 0
        self._rng = np.random.default_rng(0)
        self._gates: list[Gate] = []  # of the current model's actor
        self._copies: list[Gate] = []  # of what follows it slowly
        self._free: Named = {}
        self._held: Freezing | None = None

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Give the coming actor gates of its task; freeze what earlier tasks use."""
        if "weights" not in doors.facts.carries:
            raise UsageError("method hat: carry.weights: false would drop what tasks use")
        doors.lifecycle.keep_views()
        self._task, self._steps = experience.task_index, experience.steps
        self._rng, self._gates, self._copies = experience.generator("hat"), [], []
        doors.lifecycle.start_fresh_where(is_gate)
        why = "has no gates, so what earlier tasks see would change"
        doors.networks.map(self._gated, method="hat", encoder=why)
        doors.lifecycle.before_learning(_BEGIN)
        self._held = Freezing(doors.gradients, lambda: self._free)
        doors.gradients.rewrite(bounded, groups=("actor",))
        if self.strength > 0:
            doors.gradients.add(
                sparsity,
                state=self.begun,
                batch=lambda _: {"scale": self._gates[0].gate_scale},
                groups=("actor",),
            )

    def _gated(self, slot: Slot) -> tuple[nn.Module, dict[str, nn.Module]] | None:
        known = self._embeddings.get(self._task, [])

        def embedding(layer: int, units: int) -> Tensor:
            if known:
                return known[layer].clone()
            return torch.as_tensor(self._rng.standard_normal(units))

        made = gated_slot(slot, embedding, 1 / self.s_max)
        if made is None:
            return None
        gates, trunk = made
        (self._gates if slot.role == "actor" else self._copies).extend(gates)
        return trunk, dict(slot.heads)

    def due(self, doors: Doors, name: str) -> None:
        """Freeze now that the task's model exists; set the scale for each round of learning."""
        if name == _BEGIN:
            self._begin(doors)
        self._anneal(doors)

    def _begin(self, doors: Doors) -> None:
        free = self._free = free_weights(doors, self._used, self._task)
        shared = (
            mask
            for name, mask in free.items()
            if mask.dim() > 1 and doors.gradients.task_rows(name, self._task) is None
        )
        kernels = torch.cat([mask.flatten() for mask in shared])
        doors.log("method/hat/free", float(kernels.sum()) / kernels.numel())

    def _anneal(self, doors: Doors) -> None:
        """Set the scale for the next rollout and its update, and come back after them."""
        done, whole = doors.step, doors.facts.round_steps
        last = -(-self._steps // whole) - 1  # number of the last round of collecting and updating
        share = min(done / whole / last, 1.0) if last > 0 else 1.0
        for gate in (*self._gates, *self._copies):
            gate.gate_scale.fill_(annealed(share, self.s_max))
        doors.lifecycle.after_steps(done + 1, _ANNEAL)

    def begun(self, parameters: Named) -> Tensors:
        """Return the state of ``sparsity``: the units that no earlier task uses, and a factor."""
        embeddings = [p for name, p in parameters.items() if is_embedding(name)]
        used = self._used or [torch.zeros_like(e, dtype=torch.bool) for e in embeddings]
        count = sum(int((~mask).sum()) for mask in used)
        factor = torch.tensor(self.strength / max(count, 1), dtype=torch.float64)
        return {"unused": [~mask for mask in used], "factor": factor}

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Set each gate to 0 or 1, count the open ones' units as used, and keep the view."""
        task = doors.facts.current_task
        assert self._held is not None
        self._held.write(doors)
        learned = [gate.gate_embedding.detach().clone() for gate in self._gates]
        self._embeddings[task] = learned
        earlier = self._used or [torch.zeros_like(e, dtype=torch.bool) for e in learned]
        self._used = [mask | (e > 0) for mask, e in zip(earlier, learned, strict=True)]
        for gate in self._gates:
            gate.harden()
        own = doors.lifecycle.buffers("actor")
        for name, tensor in doors.gradients.parameters("actor").items():
            is_own = is_deviation(name) and doors.gradients.task_rows(name, task) is None
            if is_own or is_embedding(name):
                own[name] = tensor
        self._kept.keep(doors, task, own)
        doors.lifecycle.keep_view(task, partial(self._kept.of, task))
        self._held = None

    def state(self) -> dict[str, Tensor]:
        """Return used units by layer, embeddings by task and layer, and what views need.

        Inside a task also what is held.
        """
        learned = {task: dict(enumerate(layers)) for task, layers in self._embeddings.items()}
        used = dict(enumerate(self._used))
        held = {} if self._held is None else self._held.state()
        kept = {"used": used, "embedding": learned, "kept": self._kept.kept}
        return flat({**kept, "held": held})

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take back what ``state`` returned and register the views."""
        self._kept.load(below(tensors, "kept"))
        used = below(tensors, "used", doors.facts.device)
        self._used = [used[str(layer)] for layer in range(len(used))]
        doors.lifecycle.keep_views()
        learned = below(tensors, "embedding", doors.facts.device)
        for task, layers in grouped(learned).items():
            self._embeddings[int(task)] = [layers[str(layer)] for layer in range(len(used))]
            doors.lifecycle.keep_view(int(task), partial(self._kept.of, int(task)))
        if self._held is not None:
            self._held.load(below(tensors, "held"), doors.facts.device)


def sparsity(parameters: Named, state: Tensors, batch: Tensors) -> Named:
    """Return the gradient of the term that keeps gates closed, for the embeddings."""
    named = {name: p for name, p in parameters.items() if is_embedding(name)}
    gradients = sparsity_gradient(
        list(named.values()), state["unused"], batch["scale"], state["factor"]
    )
    return dict(zip(named, gradients, strict=True))


def bounded(parameters: Named, _state: Tensors, _batch: Tensors) -> Rewritten:
    """Return the embeddings within their bounds."""
    return Rewritten(
        {n: p.clamp(-FARTHEST, FARTHEST) for n, p in parameters.items() if is_embedding(n)}, {}
    )


def sparsity_gradient(
    embeddings: Sequence[Tensor], unused: Sequence[Tensor], scale: Tensor, factor: Tensor
) -> list[Tensor]:
    """Return the compensated gradient of equation 6 for the embeddings of each layer.

    Args:
        embeddings: By layer, of shape (units,).
        unused: By layer: whether no earlier task uses the unit.
        scale: How steep the gates are.
        factor: Strength over the number of unused units.

    >>> e, unused = torch.tensor([0.0, 0.0]), torch.tensor([False, True])
    >>> sparsity_gradient([e], [unused], torch.tensor(3.0), torch.tensor(2.0))
    [tensor([0.0000, 0.5000])]
    """
    gradients = []
    for e, mask in zip(embeddings, unused, strict=True):
        smooth = torch.sigmoid(e)
        each = compensated(e, scale) * smooth * (1 - smooth) * mask
        gradients.append(each * factor)
    return gradients


def is_embedding(name: str) -> bool:
    """Return whether a tensor of the policy is the embedding of a gate."""
    return name.rpartition(".")[2] == EMBEDDING


def is_gate(name: str) -> bool:
    """Return whether a tensor of the policy is of a gate; each task has its own."""
    return name.rpartition(".")[2] in (EMBEDDING, SCALE)


def free_weights(doors: Doors, used: Sequence[Tensor], task: int) -> Named:
    """Return masks of the actor's weights that a task may change, by name.

    Args:
        doors: Of an agent whose model has been built.
        used: By hidden layer: the units that finished tasks use; empty in the first task.
        task: Which task it is.
    """
    free: Named = {}
    parameters = doors.gradients.parameters("actor")
    layers = [layer for layer in doors.gradients.units() if layer.weight in parameters]
    feeds, fed = _used_by_name(parameters, layers, used)
    for name, parameter in parameters.items():
        rows = doors.gradients.task_rows(name, task)
        if rows is not None:
            free[name] = rows
        elif not is_gate(name) and not is_deviation(name):
            frozen = torch.full_like(parameter, bool(used), dtype=torch.bool)
            if name in fed:
                frozen &= fed[name].view(-1, *[1] * (parameter.dim() - 1))
            if name in feeds:
                frozen &= feeds[name]  # (in,), along the last axis
            free[name] = ~frozen
    return free


def _used_by_name(
    parameters: Named,
    layers: Sequence[HiddenLayer],
    used: Sequence[Tensor],
) -> tuple[Named, Named]:
    """Return, by parameter, which of its inputs and which of its outputs are used."""
    feeds: Named = {}
    fed: Named = {}
    # strict only once a task has finished: before that, nothing is used
    for layer, mask in zip(layers, used, strict=bool(used)):
        fed |= dict.fromkeys(layer.incoming, mask)
        for out in layer.outgoing:
            columns = torch.ones(
                parameters[out.weight].shape[1], dtype=torch.bool, device=mask.device
            )
            columns[out.columns.to(mask.device)] = mask[:, None]  # (units, n)
            feeds[out.weight] = columns
    return feeds, fed
