"""Shrinking of the weights towards a fresh network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named
from holdfast.agents.doors.gradients import Rewritten, Tensors
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.plasticity.counted import Counted
from holdfast.errors import UsageError


@dataclass(kw_only=True, eq=False)
class ShrinkPerturb(Method):
    """Shrinks the weights and adds a little of a freshly initialised network.

    ``theta <- shrink * theta + perturb * theta_0'`` for the weights and biases of all layers, with
    ``theta_0'`` newly drawn as the layers were initialised. Source: Ash and Adams 2020, On
    Warm-Starting Neural Network Training (arXiv:1910.08475), section 4, where the noise is normal;
    its scale is each layer's own here. ``perturb: 1 - shrink`` interpolates with a new network.

    Without ``period`` it is done at the start of every task but the first, as in the paper, to the
    target networks too; the optimizer starts again there (``carry.optimizer``). With ``period`` it
    is done every so many updates: in steps that small the optimizer's moments are kept, and the
    target networks follow by themselves.

    Args:
        shrink: Factor of the weights, 0 to 1. Values seen with ``perturb``: .8 and .01; for
            reinforcement learning .999 and .005 every 1,000 updates; in Continual World .99999 and
            .0001 every update.
        perturb: Factor of the fresh weights.
        period: Updates between two times; None: at task starts, which needs known boundaries.
    """

    doors = ("gradients", "lifecycle")
    claims = ("weights",)
    needs_without = (("period", "boundaries"),)
    convention = (
        "theta <- shrink x theta + perturb x fresh theta, at task starts or every period updates; "
        "weights and biases of all layers, actor and critic"
    )

    shrink: Annotated[float, (0, 1)] = 0.8
    perturb: Annotated[float, (0, None)] = 0.01
    period: Annotated[int | None, (1, None)] = None
    _updates: Counted = field(init=False, default_factory=Counted)

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Shrink what is carried into the coming task, or now and then inside it."""
        if self.period is not None:
            self._shrink_every(self.period, doors, experience)
            return
        if doors.facts.hides_boundaries:
            raise UsageError(
                "method shrink-perturb: without period it is done at task starts, which stream: "
                "hides; write {shrink-perturb: {period: 1000}}, or stream: {boundaries: known}"
            )
        doors.lifecycle.blend(lambda carried, fresh: self._blend(doors, carried, fresh))

    def _blend(self, doors: Doors, carried: Named, fresh: Named) -> Named:
        names = [name for name in doors.gradients.layer_names() if name in carried]
        return self.shrunk({n: carried[n] for n in names}, {n: fresh[n] for n in names})

    def _shrink_every(self, period: int, doors: Doors, experience: Experience) -> None:
        rng, updates = experience.generator("shrink-perturb"), Counted()
        self._updates = updates

        def draw(parameters: Named) -> Tensors | None:
            if updates.next_of(parameters) % period:
                return None
            names = doors.gradients.layer_names() & parameters.keys()
            return {"fresh": doors.gradients.fresh(names, rng)}

        doors.gradients.rewrite(self.rewritten, batch=draw)

    def rewritten(self, parameters: Named, _state: Tensors, batch: Tensors) -> Rewritten:
        """Return the weights that have fresh ones, shrunk towards them."""
        fresh = batch["fresh"]
        return Rewritten(self.shrunk({name: parameters[name] for name in fresh}, fresh), {})

    def shrunk(self, weights: Named, fresh: Named) -> Named:
        """Return the shrunk and perturbed weights, by name."""
        names = list(weights)
        small = torch._foreach_mul([weights[name] for name in names], self.shrink)
        noise = torch._foreach_mul([fresh[name] for name in names], self.perturb)
        torch._foreach_add_(small, noise)
        return dict(zip(names, small, strict=True))

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Count no more."""
        self._updates = Counted()

    def state(self) -> dict[str, Tensor]:
        """Return the updates of each optimizer in the task."""
        return self._updates.state()

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take them back."""
        self._updates.load(tensors)
