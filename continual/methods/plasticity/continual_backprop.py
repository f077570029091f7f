"""Continual backpropagation: generate and test."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named, below, flat, grouped
from holdfast.agents.doors.gradients import Rewritten, Tensors
from holdfast.agents.modules.units import HiddenLayer, renew_units, unit_means
from holdfast.continual.method import Doors, Experience, Method

_REPLACED = "replaced"


@dataclass(kw_only=True, eq=False)
class ContinualBackprop(Method):
    """Replaces, all the time, the few mature hidden units that are of least use.

    After every update, with running averages of rate ``decay`` over a batch of what is being
    learned from, the utility of unit i of a layer is::

        u_i <- decay * u_i + (1 - decay) * E|h_i| * sum over its outgoing weights of |w_ik|

    Of the units older than ``maturity`` updates, ``replacement_rate`` are replaced per update
    (fractions add up until they make a unit), those of lowest u first: incoming weights drawn as
    the layer was initialised, outgoing weights zero, utility and age zero; Adam's moments and
    numbers of steps of these weights too, as in the authors' code (with Adam and AdamW). Source:
    Dohare et al. 2024, Loss of plasticity in deep continual learning (Nature 632;
    arXiv:2306.13812), algorithm 1 and the section "Continual backpropagation". So that the network
    keeps its output, what the unit gave on average, ``w_ik * E[h_i]``, goes into the reader's bias
    (arXiv:2306.13812 version 1, and the authors' code); both averages are corrected for their start
    from zero.

    Actor and critic alike; a convolution's unit is a channel. Target networks take the new units.

    Args:
        replacement_rate: Share of the mature units replaced per update; 1e-4 as in the paper.
        maturity: Updates before a unit can be replaced; the paper's agents use 10,000, shorter
            tasks less.
        decay: Of the running averages; .99 as in the paper.
        samples: Observations per update that the averages are fed with.
    """

    doors = ("gradients", "output", "memory")
    acts_by = ()
    # Not CrossQ: its batch normalisation stands between a unit and what reads it.
    algorithms = (
        "ppo",
        "a2c",
        "dqn",
        "sac",
        "td3",
        "ddpg",
        "tqc",
        "qrdqn",
        "maskable_ppo",
        "mappo",
        "vdn",
        "qmix",
    )
    claims = ("weights",)
    logs: ClassVar[dict[str, str]] = {"replaced": "units replaced"}
    memory = "3 numbers per hidden unit"
    extra = "a forward pass every update"
    convention = (
        "replacement_rate x the units older than maturity are replaced per update, those of lowest "
        "running mean of |activity| x sum |outgoing weights|; actor and critic"
    )

    replacement_rate: Annotated[float, (0, 1)] = 1e-4
    maturity: Annotated[int, (0, None)] = 1000
    decay: Annotated[float, (0, 1)] = 0.99
    samples: Annotated[int, (1, None)] = 64
    _kept: dict[str, Named] = field(init=False, default_factory=dict)  # by layer, then by quantity
    _replaced = 0  # in this task

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Test and replace units after every update of the coming task."""
        if "weights" not in doors.facts.carries:
            self._kept = {}
        rng = experience.generator("continual-backprop")
        known: list[HiddenLayer] = []
        self._replaced = 0

        def test(parameters: Named, _state: Tensors, _batch: Tensors) -> Rewritten | None:
            if not known:  # the task's model does not exist before it starts
                known.extend(doors.gradients.units())
            layers = [layer for layer in known if layer.names <= parameters.keys()]
            observations = doors.memory.batch_observations(self.samples, rng)
            activity = doors.output.activity(observations, [layer.name for layer in layers])
            tested = [(one, self.test(one, activity[one.name], parameters)) for one in layers]
            chosen = [(layer, mask) for layer, mask in tested if mask is not None]
            if not chosen:
                return None
            self._replaced += sum(int(mask.sum()) for _, mask in chosen)
            doors.log("method/continual-backprop/replaced", self._replaced)
            fresh = doors.gradients.fresh({n for layer, _ in chosen for n in layer.incoming}, rng)
            return self.replace(parameters, chosen, fresh, doors.gradients.targets())

        doors.gradients.rewrite(test)

    def test(self, layer: HiddenLayer, activity: Tensor, parameters: Named) -> Tensor | None:
        """Update the averages of a layer and return which units to replace; None where none.

        Args:
            layer: The layer.
            activity: Of its units on a batch, shape (batch, n * units, ...).
            parameters: By name.
        """
        means = unit_means(activity, layer.units)  # (units, n)
        kept = self._kept.setdefault(layer.name, _new_averages(means))
        use = contributions(layer, unit_means(activity.abs(), layer.units), parameters)
        kept["age"] += 1
        kept["utility"].lerp_(use, 1 - self.decay)
        kept["mean"].lerp_(means, 1 - self.decay)
        eligible = kept["age"] > self.maturity
        kept["due"] += self.replacement_rate * eligible.sum()
        count = int(kept["due"].item())
        if not count:
            return None
        kept["due"] -= count
        utility = torch.where(eligible, kept["utility"] / self._grown(kept["age"]), torch.inf)
        mask = torch.zeros_like(eligible)
        mask[utility.topk(min(count, int(eligible.sum())), largest=False).indices] = True
        return mask

    def _grown(self, age: Tensor) -> Tensor:
        """Return what share of its final size an average that started at zero has reached."""
        return 1 - self.decay**age

    def replace(
        self,
        parameters: Named,
        chosen: list[tuple[HiddenLayer, Tensor]],
        fresh: Named,
        followed: Collection[str],
    ) -> Rewritten:
        """Return what replaces units and keeps the mean of what they gave to their readers.

        Args:
            parameters: By name.
            chosen: Layers, each with a mask of its units to replace.
            fresh: Newly drawn values of the layers' incoming parameters.
            followed: Names of parameters that a target network follows.
        """
        again, copied = renew_units(parameters, chosen, fresh), dict[str, Tensor]()
        values, renewed = again.values, again.renewed
        for layer, mask in chosen:
            kept = self._kept[layer.name]
            mean = kept["mean"] / self._grown(kept["age"])[:, None]  # (units, n)
            for out in layer.outgoing:
                if out.bias is None:
                    continue
                weight = parameters[out.weight]
                weight = weight.reshape(*weight.shape[:2], -1).sum(2)  # (out, in): over a kernel
                given = torch.zeros_like(weight[:, 0])
                for unit in mask.nonzero().flatten():
                    columns = out.columns[unit.item()].to(weight.device)
                    parts = weight[:, columns].reshape(len(weight), mean.shape[1], -1).sum(2)
                    given += parts @ mean[unit]  # (out, n) @ (n,)
                is_new = renewed.get(out.bias, torch.zeros_like(given, dtype=torch.bool))
                old = values.get(out.bias, parameters[out.bias])
                values[out.bias] = torch.where(is_new, old, old + given)
                if out.bias in followed:  # a target without the units needs their mean as well
                    copied[out.bias] = torch.ones_like(is_new)
        for layer, mask in chosen:
            for name in ("utility", "age", "mean"):
                self._kept[layer.name][name][mask] = 0.0
        return Rewritten(values, renewed, copied, restarts_steps=True)

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Count the replaced units of the next task from zero."""
        self._replaced = 0

    def state(self) -> dict[str, Tensor]:
        """Return the averages of every layer, under ``<layer>/<quantity>``; the units replaced."""
        counted = {_REPLACED: torch.tensor(self._replaced)} if self._replaced else {}
        return flat(self._kept) | counted

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take them back."""
        self._replaced = int(tensors.get(_REPLACED, 0))
        layers = grouped({name: t for name, t in tensors.items() if name != _REPLACED})
        self._kept = {layer: below(tensors, layer, doors.facts.device) for layer in layers}


def _new_averages(means: Tensor) -> dict[str, Tensor]:
    return {
        "utility": torch.zeros_like(means[:, 0]),
        "age": torch.zeros_like(means[:, 0]),
        "mean": torch.zeros_like(means),
        "due": torch.zeros((), dtype=torch.float64, device=means.device),
    }


def contributions(layer: HiddenLayer, magnitudes: Tensor, parameters: Named) -> Tensor:
    """Return E|h_i| x sum of the outgoing |w_ik| of each unit, shape (units,).

    Args:
        layer: The layer.
        magnitudes: Shape (units, n), mean absolute activity of each of a unit's n outputs.
        parameters: By name.
    """
    total = torch.zeros_like(magnitudes[:, 0])
    for out in layer.outgoing:
        strength = parameters[out.weight].abs().transpose(0, 1).flatten(1).sum(1)  # (in,)
        columns = out.columns.to(strength.device)
        parts = strength[columns].reshape(*magnitudes.shape, -1).sum(2)  # (units, n)
        total += (magnitudes * parts).sum(1)
    return total
