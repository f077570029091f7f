"""Progressive networks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from holdfast.agents.base.parameters import below, flat
from holdfast.agents.doors.networks import SHARED, Slot
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.snapshots import DEVIATION, Snapshots, deviation_of
from holdfast.errors import UsageError

Adapter = Literal["linear", "mlp"]


@dataclass(kw_only=True, eq=False)
class Growing(Method):
    """Base of the methods that give every task a module of its own, beside frozen earlier ones."""

    needs = ("boundaries", "task_id", "evaluation_task_id")
    claims = ("views",)

    _tasks: list[int] = field(init=False, default_factory=list)  # of each module
    _kept: Snapshots = field(init=False, default_factory=Snapshots)
    _grown: Columns = field(init=False, default_factory=lambda: Columns())

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Note which module the finished task has, and what else its view needs."""
        self._tasks.append(doors.facts.current_task)
        newest = len(self._tasks) - 1
        self._kept.keep(doors, self._number(newest), deviation_of(doors))
        self._keep_view(doors, newest)

    def _number(self, module: int) -> int:
        """Return the number that the snapshot of a module is kept under."""
        return module

    def _keep_view(self, doors: Doors, module: int) -> None:
        doors.lifecycle.keep_view(
            self._tasks[module],
            partial(self._kept.of, self._number(module)),
            inside=lambda: self._grown.acting(module),
        )

    def state(self) -> dict[str, Tensor]:
        """Return the task of each module and what the views need."""
        return flat({"tasks": self._tasks, "kept": self._kept.kept})

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take the modules' tasks back and register their views."""
        self._tasks = [int(task) for task in tensors["tasks"]]
        self._kept.load(below(tensors, "kept"))
        doors.lifecycle.keep_views()
        for module in range(len(self._tasks)):
            self._keep_view(doors, module)


@dataclass(kw_only=True, eq=False)
class Progressive(Growing):
    """Gives every task a new column; earlier columns are frozen and feed it through adapters.

    Layer i of column k computes ``h_i = f(W_i h_{i-1} + adapter(h_{i-1} of columns < k))``; the
    adapter is linear (Rusu et al. 2016, arXiv:1606.04671, equation 1) or a perceptron with one
    hidden layer and a learned scale (equation 2). Actor and critic both grow. A task is acted on by
    its own column, so it can never be forgotten; the parameters grow with the square of the tasks.
    The last matrix of every adapter starts at zero, so that a new column starts as a fresh network.

    Args:
        adapter: ``linear`` or ``mlp``.
    """

    doors = ("networks", "lifecycle")
    grows = "columns"
    memory = "one column of actor and critic per task, fed by all before it"

    adapter: Adapter = "linear"

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Build the coming model with one more column."""
        doors.lifecycle.keep_views()
        # PPO's deviation is no part of a column; each task learns its own.
        doors.lifecycle.start_fresh(DEVIATION)
        count = len(self._tasks) + 1
        self._grown = Columns()
        columns = partial(self._grown.of, count=count, adapter=self.adapter)
        doors.networks.map(columns, method="progressive", encoder=SHARED)


class Columns:
    """The columns (or modules) that were built into the current model, in all its networks.

    Attributes:
        parts: Trunks and heads, of targets too; ``active`` is the column that each acts with.
    """

    def __init__(self) -> None:
        self.parts: list[Any] = []

    def of(
        self, slot: Slot, *, count: int, adapter: Adapter, learning: int = 1
    ) -> tuple[nn.Module, dict[str, nn.Module]]:
        """Return columns for a slot; arguments as those of ``ColumnTrunk``."""
        trunk = ColumnTrunk(slot.trunk, count, adapter, learning)
        heads = {
            name: ColumnHead(head, trunk.width, count, adapter, learning)
            for name, head in slot.heads.items()
        }
        self.parts += [trunk, *heads.values()]
        return trunk, dict(heads)

    def act_with(self, column: int) -> int:
        """Make a column decide and judge; return which one did before."""
        before: int = self.parts[0].active if self.parts else column
        for part in self.parts:
            part.active = column
        return before

    @contextmanager
    def acting(self, column: int) -> Iterator[None]:
        """Make a column decide and judge inside the block."""
        before = self.act_with(column)
        try:
            yield
        finally:
            self.act_with(before)


class ColumnTrunk(nn.Module):
    """Columns of hidden layers; gives the last one of every column up to ``active``.

    Frozen columns are buffers, which no optimizer, clipping or moving average goes through.

    Args:
        trunk: The newly built trunk; it becomes the newest column.
        count: Number of columns.
        adapter: How earlier columns feed later ones.
        learning: How many of the newest columns learn; the others are frozen.
    """

    def __init__(
        self, trunk: nn.Sequential, count: int, adapter: Adapter, learning: int = 1
    ) -> None:
        super().__init__()
        self.count, self.active = count, count - 1
        blocks = _blocks(trunk)
        self.widths = [layer.out_features for layer in trunk if isinstance(layer, nn.Linear)]
        self.width: int = self.widths[-1]
        self.columns = nn.ModuleList(
            [nn.ModuleList(copy.deepcopy(blocks)) for _ in range(count - 1)]
            + [nn.ModuleList(blocks)]
        )
        self.adapters = nn.ModuleList(
            nn.ModuleList(
                make_adapter(adapter, column, self.widths[i - 1], self.widths[i])
                for i in range(1, len(blocks))
            )
            for column in range(1, count)
        )
        for frozen in (*self.columns[:-learning], *self.adapters[:-learning]):
            to_buffers(frozen)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the last hidden layers side by side, shape (batch, (active + 1) * width)."""
        hidden: list[Tensor] = []  # layer i - 1 of every column up to the active one
        for i in range(len(self.widths)):
            below, hidden = hidden, []
            for column in range(self.active + 1):
                linear, *after = self.columns[column][i]  # type: ignore[index]
                value = linear(below[column] if i else inputs)
                if i and column:
                    # Copied side by side: slices of one tensor cost more, in their backward.
                    earlier = torch.cat(below[:column], -1) if column > 1 else below[0]
                    value = value + self.adapters[column - 1][i - 1](earlier)  # type: ignore[index]
                for layer in after:
                    value = layer(value)
                hidden.append(value)
        return torch.cat(hidden, -1)


class ColumnHead(nn.Module):
    """One linear head per column, with an adapter from the columns before it."""

    def __init__(
        self, head: nn.Linear, width: int, count: int, adapter: Adapter, learning: int = 1
    ) -> None:
        super().__init__()
        self.count, self.active, self.width = count, count - 1, width
        self.heads = nn.ModuleList([copy.deepcopy(head) for _ in range(count - 1)] + [head])
        self.adapters = nn.ModuleList(
            make_adapter(adapter, column, width, head.out_features) for column in range(1, count)
        )
        for frozen in (*self.heads[:-learning], *self.adapters[:-learning]):
            to_buffers(frozen)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the active column's output from the hidden layers of ``ColumnTrunk``."""
        before, own = hidden[..., : -self.width], hidden[..., -self.width :]
        output: Tensor = self.heads[self.active](own)
        return output + self.adapters[self.active - 1](before) if self.active else output


def to_buffers(module: nn.Module) -> None:
    """Turn the parameters of a module into buffers of the same names."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach())


class ScaledPerceptron(nn.Module):
    """U relu(V (alpha h)): the adapter of equation 2, projected to the width of one column."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        # The paper draws alpha at small random values; with U at zero one value will do for all.
        self.alpha = nn.Parameter(torch.ones(()))
        self.project = nn.Linear(inputs, hidden)
        self.out = nn.Linear(hidden, outputs, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return what earlier columns add, shape (batch, outputs)."""
        added: Tensor = self.out(torch.relu(self.project(self.alpha * hidden)))
        return added


def make_adapter(kind: Adapter, columns: int, width: int, outputs: int) -> nn.Module:
    """Return an adapter from ``columns`` layers of ``width``, adding zero at first."""
    if kind == "linear":
        linear = nn.Linear(columns * width, outputs, bias=False)
        nn.init.zeros_(linear.weight)
        return linear
    perceptron = ScaledPerceptron(columns * width, width, outputs)
    nn.init.zeros_(perceptron.out.weight)
    return perceptron


def _blocks(trunk: nn.Sequential) -> list[nn.ModuleList]:
    """Return the layers in groups that each start with a linear one.

    Raises:
        UsageError: If there is no hidden layer, or something stands before the first.
    """
    blocks: list[nn.ModuleList] = []
    for layer in trunk:
        if isinstance(layer, nn.Linear):
            blocks.append(nn.ModuleList())
        elif not blocks:
            raise UsageError(f"method progressive: cannot split a network that starts with {layer}")
        blocks[-1].append(layer)
    if not blocks:
        raise UsageError(
            "method progressive: needs at least one hidden layer (policy_kwargs.net_arch)"
        )
    return blocks
