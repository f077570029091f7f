"""Progress & Compress: an active column that learns, a knowledge base that keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.agents.doors.gradients import Named, group_of
from holdfast.agents.doors.networks import Slot, check_encoder, map_slots
from holdfast.agents.doors.outputs import PolicyOutput
from holdfast.agents.doors.samples import choose
from holdfast.agents.sb3.imitation import imitation_gradient, output_of
from holdfast.continual.method import Method
from holdfast.continual.methods.architecture.progressive import Adapter, ColumnHead, ColumnTrunk
from holdfast.continual.methods.regularization.importance import fisher_information
from holdfast.continual.methods.regularization.quadratic import Quadratic
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.agents.sb3.learner import StableBaselinesAgent
    from holdfast.continual.streams.task_stream import TaskExperience

_KNOWLEDGE_BASE, _ACTIVE = 0, 1
_DEVIATION = "log_std"

_MEASURED = 2560
"""Observations that the importances are measured on, as for ``ewc``."""


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

    needs: ClassVar[tuple[str, ...]] = ("boundaries",)
    doors: ClassVar[tuple[str, ...]] = ("networks", "lifecycle", "output")
    claims: ClassVar[tuple[str, ...]] = ("views",)
    limits: ClassVar[dict[str, tuple[float, float | None]]] = {
        "strength": (0, None),
        "decay": (0, 1),
        "updates": (0, None),
        "learning_rate": (0, None),
        "batch_size": (1, None),
        "samples": (1, None),
        "temperature": (1e-6, None),
    }
    memory: ClassVar[str] = "a second actor and 2 numbers per weight of it, however many tasks"
    extra: ClassVar[str] = "1,000 updates of the knowledge base after each task (`updates`)"
    convention: ClassVar[str] = (
        "strength x sum F (theta - theta')^2 beside the mean KL of the compress, no factor 1/2; F "
        "is the mean of per-sample squared gradients of the log-likelihood, not normalised"
    )

    def __init__(
        self,
        *,
        strength: float = 100.0,
        decay: float = 0.99,
        updates: int = 1000,
        learning_rate: float = 1e-3,
        batch_size: int = 128,
        samples: int = 10_000,
        adapter: Adapter = "mlp",
        reset: bool = True,
        temperature: float | None = None,
    ) -> None:
        self.penalty = Quadratic(strength, "online", decay)
        self.updates = updates
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.samples = samples
        self.adapter: Adapter = adapter
        self.reset = reset
        self.temperature = temperature
        self._tasks: list[int] = []
        self._deviation: Tensor | None = None

    def pre_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Let the coming model be built of two columns, the active one new."""
        if not agent.scenario.carry.weights:
            raise UsageError(
                "method progress-compress: carries its knowledge base among the weights; "
                "remove carry.weights: false"
            )
        agent.memory.keep_rollouts(self.samples)
        agent.lifecycle.has_views = True
        if self.reset:
            agent.lifecycle.start_fresh_where(is_active)
        agent.networks.append(self._install)

    def _install(self, policy: Any) -> None:
        why = "is shared by both columns, so the knowledge base would change"
        check_encoder(policy, "progress-compress", why)
        map_slots(policy, self._columns)

    def _columns(self, slot: Slot) -> tuple[nn.Module, dict[str, nn.Module]] | None:
        """Return two columns for the actor and for a slowly moving copy of it."""
        first = next((layer for layer in slot.trunk if isinstance(layer, nn.Linear)), None)
        judges = first is not None and first.in_features != slot.features  # it takes an action too
        if slot.role == "critic" or judges:
            return None
        trunk = ColumnTrunk(slot.trunk, 2, self.adapter)
        heads = {n: ColumnHead(h, trunk.width, 2, self.adapter) for n, h in slot.heads.items()}
        return trunk, dict(heads)

    def post_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Compress the finished task, and act as the knowledge base from now on."""
        rng = experience.generator("progress-compress")
        observations = agent.policy_input(agent.observations(self.samples, rng))
        module: Any = agent.output()
        with torch.no_grad():
            taught = output_of(module, {}, observations)
        _act_as(agent.policy, _KNOWLEDGE_BASE)
        kept = knowledge_base(agent.policy)
        if self._deviation is not None:
            kept[_DEVIATION] = self._deviation
        kept = self.compress(module, kept, (observations, taught), rng)
        if _DEVIATION in kept:
            self._deviation = kept[_DEVIATION].clone()
        _write(agent.policy, kept)
        count = len(next(iter(taught.values())))
        rows = torch.as_tensor(choose(count, _MEASURED, rng))
        fisher = fisher_information(module, kept, _rows(observations, rows), rng)
        self.penalty.consolidate(kept, fisher)
        if agent.current_task not in self._tasks:
            self._tasks.append(agent.current_task)
        self._keep_views(agent)

    def compress(
        self, module: PolicyOutput, kept: Named, taught: tuple[Any, Named], rng: np.random.Generator
    ) -> Named:
        """Return the knowledge base after it was taught a task.

        Args:
            module: The policy, acting as the knowledge base.
            kept: Its parameters by name.
            taught: Observations as the policy takes them, and what the active column says of them.
            rng: Draws the batches.
        """
        observations, outputs = taught
        leaves = {name: tensor.clone() for name, tensor in kept.items()}
        optimizer = torch.optim.Adam(list(leaves.values()), lr=self.learning_rate)
        count = len(next(iter(outputs.values())))
        for _ in range(self.updates):
            rows = torch.as_tensor(rng.integers(count, size=self.batch_size))
            gradients = imitation_gradient(
                module,
                leaves,
                _rows(observations, rows),
                {name: values[rows] for name, values in outputs.items()},
                strength=1.0,
                temperature=self.temperature,
            )
            held = self.penalty.gradient(leaves)
            for name, leaf in leaves.items():
                leaf.grad = gradients[name] + held[name] if name in held else gradients[name]
            optimizer.step()
        return leaves

    def _keep_views(self, agent: StableBaselinesAgent) -> None:
        for task in self._tasks:
            agent.lifecycle.keep_view(task, lambda: self._view(agent))

    @contextmanager
    def _view(self, agent: StableBaselinesAgent) -> Iterator[None]:
        """Act as the knowledge base, with its own deviation."""
        active = _act_as(agent.policy, _KNOWLEDGE_BASE)
        own = {} if self._deviation is None else {_DEVIATION: self._deviation}
        try:
            with agent.overlaid(own, {}):
                yield
        finally:
            _act_as(agent.policy, active)

    def state(self) -> dict[str, Tensor]:
        """Return what the knowledge base needs besides its weights, which the policy has."""
        own = {} if self._deviation is None else {_DEVIATION: self._deviation}
        return self.penalty.state() | own | {"tasks": torch.tensor(self._tasks)}

    def load_state(self, agent: StableBaselinesAgent, tensors: dict[str, Tensor]) -> None:
        """Take it back; an agent that has its model acts as the knowledge base."""
        self.penalty.load(tensors, agent.device)
        self._tasks = [int(task) for task in tensors["tasks"]]
        if _DEVIATION in tensors:
            self._deviation = tensors[_DEVIATION].to(agent.device)
        agent.lifecycle.has_views = True
        self._keep_views(agent)
        if agent.model is not None:
            _act_as(agent.policy, _KNOWLEDGE_BASE)


def is_active(name: str) -> bool:
    """Return whether a tensor of the policy belongs to the active column or its adapters."""
    parts = (f".columns.{_ACTIVE}.", f".heads.{_ACTIVE}.", ".adapters.")
    return name == _DEVIATION or any(part in name for part in parts)


def knowledge_base(policy: Any) -> Named:
    """Return copies of the knowledge base's parameters by name, PPO's deviation among them."""
    parts = (f".columns.{_KNOWLEDGE_BASE}.", f".heads.{_KNOWLEDGE_BASE}.")
    return {
        name: tensor.detach().clone()
        for name, tensor in policy.state_dict().items()
        if group_of(name, policy) == "actor"
        and (name == _DEVIATION or any(part in name for part in parts))
    }


def _write(policy: Any, kept: Named) -> None:
    """Put the knowledge base back into the policy and into the slowly moving copy of it."""
    tensors = policy.state_dict()  # shares storage with the policy
    for name, value in kept.items():
        owner, _, rest = name.partition(".")
        for place in (name, f"{owner}_target.{rest}"):
            if place in tensors:
                tensors[place].copy_(value)


def _act_as(policy: Any, column: int) -> int:
    """Let the actor act as one column; return which one it was before."""
    before = column
    for module in policy.modules():
        if isinstance(module, ColumnTrunk | ColumnHead):
            before = module.active
            module.active = column
    return before


def _rows(observations: Any, rows: Tensor) -> Any:
    if isinstance(observations, dict):
        return {key: values[rows] for key, values in observations.items()}
    return observations[rows]
