"""Hard attention to the task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from holdfast.agents.doors.gradients import Named, Rewritten, group_of, named_parameters
from holdfast.agents.modules.units import HiddenLayer, hidden_layers
from holdfast.agents.sb3.heads import head_tasks, is_deviation, rows_of
from holdfast.continual.method import Method
from holdfast.continual.methods.architecture.freezing import Freezing
from holdfast.continual.methods.architecture.gates import (
    EMBEDDING,
    SCALE,
    Gate,
    annealed,
    compensated,
    gates_of,
    install_gates,
)
from holdfast.continual.methods.architecture.task_snapshots import Kept
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.agents.sb3.learner import StableBaselinesAgent
    from holdfast.continual.streams.task_stream import TaskExperience

FARTHEST = 6.0
"""Embeddings stay within plus and minus this: ``thres_emb`` in the code of the paper's authors."""


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

    A task that comes again begins with the embedding that it ended with and is annealed anew. It
    may take free units and give up its own, and is acted on by its new gates from then on; what it
    or another task used stays frozen. Where a layer has no free unit left, a task chooses among
    what there is and learns in what is free elsewhere and in its head alone;
    ``method/hat/free`` says at the start of each task which share of the weights below the heads
    that is (a shared output counted in).

    Args:
        strength: Factor of the term above; the paper's c, .75 in its experiments.
        s_max: How steep the gates are in the end; 400 in the paper.
    """

    needs: ClassVar[tuple[str, ...]] = ("boundaries", "task_id", "evaluation_task_id")
    doors: ClassVar[tuple[str, ...]] = ("gradients", "networks", "lifecycle")
    claims: ClassVar[tuple[str, ...]] = ("views",)
    limits: ClassVar[dict[str, tuple[float, float | None]]] = {
        "strength": (0, None),
        "s_max": (1, None),
    }
    logs: ClassVar[dict[str, str]] = {"free": "share of the weights that is free"}
    memory: ClassVar[str] = "2 numbers per hidden unit of the actor and task"
    extra: ClassVar[str] = ""
    convention: ClassVar[str] = (
        "strength x the mean gate of the units that no earlier task uses; actor only"
    )

    def __init__(self, *, strength: float = 0.75, s_max: float = 400.0) -> None:
        self.strength = strength
        self.s_max = s_max
        self._used: list[Tensor] = []  # by layer: the units that some finished task uses
        self._embeddings: dict[int, list[Tensor]] = {}  # by task, as learned
        self._kept = Kept()
        self._task = 0
        self._rng = np.random.default_rng(0)
        self._held: Freezing | None = None

    def pre_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Let the coming actor have gates of its task; freeze what earlier tasks use."""
        if not agent.scenario.carry.weights:
            raise UsageError("method hat: carry.weights: false would drop what tasks use")
        agent.lifecycle.has_views = True
        self._task, self._rng = experience.task_index, experience.generator("hat")
        self._held = None
        agent.lifecycle.start_fresh_where(is_gate)
        agent.networks.append(self._install)
        agent.lifecycle.learn_in(lambda: self._learning(agent, experience.steps), nullcontext)
        agent.gradients.scale(lambda named: self._held.factors(named) if self._held else {})
        agent.gradients.rewrite(self._rewritten)
        if self.strength > 0:
            agent.gradients.add(partial(self._sparsity, agent))

    def _install(self, policy: Any) -> None:
        known = self._embeddings.get(self._task, [])

        def embedding(layer: int, units: int) -> Tensor:
            if known:
                return known[layer].clone()
            return torch.as_tensor(self._rng.standard_normal(units))

        install_gates(policy, embedding, 1 / self.s_max)

    @contextmanager
    def _learning(self, agent: StableBaselinesAgent, steps: int) -> Iterator[None]:
        """Freeze and begin to anneal, now that the task's model exists."""
        free = free_weights(agent, self._used, self._task)
        self._held = Freezing(free)
        shared = (
            mask for n, mask in free.items() if mask.dim() > 1 and not head_tasks(agent.policy, n)
        )
        kernels = torch.cat([mask.flatten() for mask in shared])
        agent.log("method/hat/free", float(kernels.sum()) / kernels.numel())
        self._anneal(agent, gates_of(agent.policy, targets=True), steps)
        yield

    def _anneal(self, agent: StableBaselinesAgent, gates: list[Gate], steps: int) -> None:
        """Set the scale for the next rollout and its update, and come back after them."""
        model = agent.model
        length = model.n_steps if agent.algorithm.on_policy else model.train_freq.frequency
        done, whole = model.num_timesteps, length * model.n_envs
        last = -(-steps // whole) - 1  # number of the last round of collecting and updating
        share = min(done / whole / last, 1.0) if last > 0 else 1.0
        for gate in gates:
            gate.gate_scale.fill_(annealed(share, self.s_max))
        agent.lifecycle.after_steps(done + 1, partial(self._anneal, agent, gates, steps))

    def _sparsity(self, agent: StableBaselinesAgent, parameters: Named) -> Named:
        """Return the gradient of the term that keeps gates closed."""
        named = {name: parameters[name] for name in parameters if is_embedding(name)}
        if not named:
            return {}  # the critic's update
        embeddings = list(named.values())
        used = self._used or [torch.zeros_like(e, dtype=torch.bool) for e in embeddings]
        scale = gates_of(agent.policy)[0].gate_scale
        gradients = sparsity_gradient(embeddings, used, scale, self.strength)
        return dict(zip(named, gradients, strict=True))

    def _rewritten(self, parameters: Named) -> Rewritten | None:
        """Put frozen weights back after a step, and embeddings within their bounds."""
        held = self._held.restore(parameters) if self._held else None
        bounded = {
            name: parameters[name].clamp(-FARTHEST, FARTHEST)
            for name in parameters
            if is_embedding(name)
        }
        if not bounded:
            return held
        return Rewritten(bounded | (held.values if held else {}), held.renewed if held else {})

    def post_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Let each gate be 0 or 1, count the open ones' units as used, and keep the view."""
        task, policy, gates = agent.current_task, agent.policy, gates_of(agent.policy)
        if self._held is not None:
            self._held.write({n: p.detach() for n, p in named_parameters(policy).items()})
        learned = [gate.gate_embedding.detach().clone() for gate in gates]
        self._embeddings[task] = learned
        earlier = self._used or [torch.zeros_like(e, dtype=torch.bool) for e in learned]
        self._used = [mask | (e > 0) for mask, e in zip(earlier, learned, strict=True)]
        for gate in gates:
            gate.harden()
        own = {
            name: tensor
            for name, tensor in [*policy.named_buffers(), *policy.named_parameters()]
            if group_of(name, policy) == "actor"
            and (
                not isinstance(tensor, torch.nn.Parameter)
                or is_embedding(name)
                or (is_deviation(name) and not head_tasks(agent.policy, name))
            )
        }
        self._kept.keep(agent, task, own)
        agent.lifecycle.keep_view(task, partial(self._kept.overlaid, agent, task))

    def state(self) -> dict[str, Tensor]:
        """Return used units by layer, embeddings by task and layer, and what views need."""
        used = {f"used/{layer}": mask for layer, mask in enumerate(self._used)}
        learned = {
            f"embedding/{task}/{layer}": embedding
            for task, embeddings in self._embeddings.items()
            for layer, embedding in enumerate(embeddings)
        }
        return used | learned | self._kept.state()

    def load_state(self, agent: StableBaselinesAgent, tensors: dict[str, Tensor]) -> None:
        """Take back what ``state`` returned and register the views."""
        self._kept.load_state(tensors)
        layers = range(sum(path.startswith("used/") for path in tensors))
        self._used = [tensors[f"used/{layer}"].to(agent.device) for layer in layers]
        tasks = {int(path.split("/")[1]) for path in tensors if path.startswith("embedding/")}
        agent.lifecycle.has_views = True
        for task in tasks:
            self._embeddings[task] = [
                tensors[f"embedding/{task}/{layer}"].to(agent.device) for layer in layers
            ]
            agent.lifecycle.keep_view(task, partial(self._kept.overlaid, agent, task))


def sparsity_gradient(
    embeddings: Sequence[Tensor], used: Sequence[Tensor], scale: Tensor, strength: float
) -> list[Tensor]:
    """Return the compensated gradient of equation 6 for the embeddings of each layer.

    Args:
        embeddings: By layer, of shape (units,).
        used: By layer: whether an earlier task uses the unit.
        scale: How steep the gates are.
        strength: Factor of the term.

    >>> e, used = torch.tensor([0.0, 0.0]), torch.tensor([True, False])
    >>> sparsity_gradient([e], [used], torch.tensor(3.0), strength=2.0)  # one unit is free
    [tensor([0.0000, 0.5000])]
    """
    count = sum(int((~mask).sum()) for mask in used)
    gradients = []
    for e, mask in zip(embeddings, used, strict=True):
        smooth = torch.sigmoid(e)
        each = compensated(e, scale) * smooth * (1 - smooth) * ~mask
        gradients.append(each * (strength / max(count, 1)))
    return gradients


def is_embedding(name: str) -> bool:
    """Return whether a tensor of the policy is the embedding of a gate."""
    return name.rpartition(".")[2] == EMBEDDING


def is_gate(name: str) -> bool:
    """Return whether a tensor of the policy is of a gate; each task has its own."""
    return name.rpartition(".")[2] in (EMBEDDING, SCALE)


def free_weights(agent: StableBaselinesAgent, used: Sequence[Tensor], task: int) -> Named:
    """Return masks of the actor's weights that a task may change, by name.

    Args:
        agent: Its model has been built.
        used: By hidden layer: the units that finished tasks use; empty in the first task.
        task: Which task it is.
    """
    free: Named = {}
    parameters = named_parameters(agent.policy, "actor")
    layers = [
        layer
        for layer in hidden_layers(agent.policy)
        if group_of(layer.weight, agent.policy) == "actor"
    ]
    feeds, fed = _used_by_name(parameters, layers, used)
    for name, parameter in parameters.items():
        tasks = head_tasks(agent.policy, name)
        if tasks:
            free[name] = rows_of(parameter, task, tasks)
        elif not is_gate(name) and not is_deviation(name):
            frozen = torch.full_like(parameter, bool(used), dtype=torch.bool)
            if name in fed:
                frozen &= fed[name].view(-1, *[1] * (parameter.dim() - 1))
            if name in feeds:
                frozen &= feeds[name]  # (in,), along the last axis
            free[name] = ~frozen
    return free


def _used_by_name(
    parameters: Named | dict[str, torch.nn.Parameter],
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
