"""Calibrated partial resets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named
from holdfast.agents.doors.gradients import Move, Tensors, Work
from holdfast.agents.modules.units import HiddenLayer
from holdfast.continual.method import Doors, Experience, Method

_EPSILON = 1e-8
"""Added to the mean gradient of a layer, as in the authors' code."""


@dataclass(kw_only=True, eq=False)
class CPR(Method):
    """Pulls units that learn little a small part of the way back to new ones: CPR.

    With g_i the gradient of the weights that feed hidden unit i, after every update::

        score_i = mean |g_i| / (mean over the layer's units k of mean |g_k| + 1e-8)
        U_i    <- decay U_i + (1 - decay) score_i

    and every ``period`` updates, layer by layer::

        r_i = replacement_rate min(2 sigmoid(-sharpness (U_i - threshold)), 1)
        weights that feed i <- (1 - r_i) weights + r_i newly drawn ones
        weights that read i <- (1 - r_i) weights
        U_i = 1

    so that a unit with less gradient than ``threshold`` means is reset by the whole rate, and one
    with more by next to nothing. Source: McCutcheon et al. 2026, Calibrated Partial Resets:
    Preventing Policy Collapse in Continual Reinforcement Learning (arXiv:2607.24996), and the
    authors' code (github.com/LucMc/continual-learning, optim/cpr.py). As there, biases and the
    optimizer's moments are left alone, the last layer's weights shrink only, and the gradient is
    the one that the optimizer got. New weights are drawn as their layer was initialised; there,
    all are uniform by He et al. Target networks follow by themselves.

    It needs no boundaries. Where they are known, U and the count of updates begin again with a
    task; in the code they go on. Actor and critic alike; a convolution's unit is a channel.

    Args:
        replacement_rate: Largest part of a unit that a reset replaces; .015 in the authors' code.
        sharpness: Of the sigmoid; 16 there.
        threshold: Share of its layer's mean gradient at which a unit counts as learning; 1 there.
        decay: Of the average of scores; .99 there.
        period: Updates between two resets; 1,000 there.
    """

    doors = ("gradients",)
    # Hidden units of a recurrent policy cannot be told apart.
    algorithms = (
        "ppo",
        "a2c",
        "dqn",
        "sac",
        "td3",
        "ddpg",
        "tqc",
        "qrdqn",
        "crossq",
        "maskable_ppo",
        "mappo",
        "vdn",
        "qmix",
    )
    claims = ("weights",)
    acts_by = ()
    memory = "1 number per hidden unit"
    convention = (
        "every period updates, each unit loses replacement_rate x min(2 sigmoid(-sharpness (U - "
        "threshold)), 1) of its weights, U its share of the layer's mean |gradient|; actor and "
        "critic"
    )

    replacement_rate: Annotated[float, (0, 1)] = 0.015
    sharpness: Annotated[float, (0, None)] = 16.0
    threshold: Annotated[float, (0, None)] = 1.0
    decay: Annotated[float, (0, 1)] = 0.99
    period: Annotated[int, (1, None)] = 1000
    _work: Work | None = field(init=False, default=None)
    _layers: list[HiddenLayer] = field(init=False, default_factory=list)

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Follow the gradients of the coming task, and reset every ``period`` updates."""
        rng, self._layers = experience.generator("cpr"), []

        def own(parameters: Named) -> list[HiddenLayer]:
            # The task's model does not exist before it starts.
            self._layers = self._layers or doors.gradients.units()
            return [one for one in self._layers if one.names <= parameters.keys()]

        def draw(parameters: Named) -> Tensors:
            layers = own(parameters)
            if not self.is_due(self._updates(parameters)):
                return {}
            return {"fresh": doors.gradients.fresh({one.weight for one in layers}, rng)}

        self._work = doors.gradients.revise(
            self.revised,
            state=lambda parameters: begun(parameters, own(parameters)),
            batch=draw,
            flags=lambda update: {"due": self.is_due(update)},
        )

    def is_due(self, update: int) -> bool:
        """Return whether units are reset in this update of a task, counted from zero."""
        return update > 0 and update % self.period == 0

    def _updates(self, parameters: Named) -> int:
        """Return how many updates of these parameters the task has seen."""
        parts = () if self._work is None else self._work.parts
        return next(part.updates for part in parts if part.parameters is parameters)

    def revised(
        self, move: Move, state: Tensors, batch: Tensors, *, due: bool
    ) -> tuple[Named, Tensors]:
        """Return the weights after a step, and the averages.

        Args:
            move: The step.
            state: The averages before it, shape (units,), by the weight that feeds the units.
            batch: Newly drawn weights under ``fresh``, where a reset is due.
            due: Whether it is.
        """
        averages = {
            name: self.decay * kept + (1 - self.decay) * shares(move.gradients[name])
            for name, kept in state.items()
        }
        if not due:
            return {}, averages
        values = dict(move.after)
        for layer in self._layers:
            if layer.weight not in averages:
                continue  # of another optimizer
            part = self.part(averages[layer.weight])  # (units,)
            weight, fresh = values[layer.weight], batch["fresh"][layer.weight]
            values[layer.weight] = torch.lerp(weight, fresh, _along(part, 0, weight))
            for out in layer.outgoing:
                values[out.weight] = shrunk(values[out.weight], out.columns, part)
        return values, {name: torch.ones_like(kept) for name, kept in averages.items()}

    def part(self, average: Tensor) -> Tensor:
        """Return what part of each unit is replaced, shape (units,)."""
        low = 2 * torch.sigmoid(-self.sharpness * (average - self.threshold))
        return self.replacement_rate * low.clamp_max(1.0)


def begun(parameters: Named, layers: list[HiddenLayer]) -> Tensors:
    """Return the averages before the first update, which are one."""
    return {one.weight: parameters[one.weight].new_ones(one.units) for one in layers}


def shares(gradient: Tensor) -> Tensor:
    """Return the mean |gradient| of each unit over that of the layer, shape (units,).

    Args:
        gradient: Of the weight that feeds the units, shape (units, in, ...).
    """
    means = gradient.abs().flatten(1).mean(1)
    return means / (means.mean() + _EPSILON)


def shrunk(weight: Tensor, columns: Tensor, part: Tensor) -> Tensor:
    """Return a weight whose columns of each unit have lost a part of themselves.

    Args:
        weight: That reads the units, shape (out, in, ...).
        columns: Shape (units, n): which entries of its second axis carry each unit.
        part: Shape (units,).
    """
    kept = (1 - part)[:, None].expand(columns.shape)  # (units, n)
    every = kept.new_ones(weight.shape[1]).index_put((columns.to(kept.device),), kept)  # (in,)
    return weight * _along(every, 1, weight)


def _along(vector: Tensor, axis: int, like: Tensor) -> Tensor:
    """Return a vector in a shape that broadcasts along one axis of another tensor."""
    return vector.view([-1 if dim == axis else 1 for dim in range(like.ndim)])
