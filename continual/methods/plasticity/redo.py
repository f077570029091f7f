"""Recycling of dormant units."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
from torch import Tensor

from holdfast.agents.base.parameters import Named
from holdfast.agents.doors.gradients import Rewritten, Tensors
from holdfast.agents.modules.plasticity import dormant_scores
from holdfast.agents.modules.units import renew_units, unit_magnitudes
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.plasticity.counted import Counted


@dataclass(kw_only=True, eq=False)
class ReDo(Method):
    """Starts units again that are hardly ever active: ReDo.

    Every ``period`` updates of an optimizer, each hidden unit i of the networks it moves gets the
    score ``E|h_i| / mean over the layer's units k of E|h_k|``, on observations of what is being
    learned from. Where it is at most ``tau``, the unit's incoming weights are drawn again as its
    layer was initialised and its outgoing weights become zero, so that the network's output hardly
    moves. Source: Sokar et al. 2023, The Dormant Neuron Phenomenon in Deep RL (arXiv:2302.12902),
    definition 3.1 and algorithm 1. Adam's moments of these weights become zero and the target
    networks take them, as a target with the old units would pull the new ones back.

    Actor and critic alike; a convolution's unit is a channel. An encoder whose readers belong to
    another optimizer (SAC with a shared features extractor) is left as it is, as is an encoder of
    the user's own. Tanh units (PPO's default) are seldom dormant; ``activation: relu`` ones are.

    Args:
        tau: Highest score of a dormant unit; .025 as in the paper's default setting.
        period: Updates between two looks; 1,000 as in the paper.
        samples: Observations that the activity is averaged over.
    """

    doors = ("gradients", "output", "memory")
    claims = ("weights",)
    logs: ClassVar[dict[str, str]] = {"recycled_": "units reset"}
    extra = "a forward pass every period updates"
    convention = (
        "units whose mean |activity| is at most tau x the mean of their layer are reset every "
        "period updates; actor and critic"
    )

    tau: Annotated[float, (0, 1)] = 0.025
    period: Annotated[int, (1, None)] = 1000
    samples: Annotated[int, (1, None)] = 256
    _updates: Counted = field(init=False, default_factory=Counted)

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Look for dormant units every ``period`` updates of the coming task."""
        rng, updates = experience.generator("redo"), Counted()
        self._updates = updates

        def draw(parameters: Named) -> Tensors | None:
            return None if updates.next_of(parameters) % self.period else {}

        def recycle(parameters: Named, _state: Tensors, _batch: Tensors) -> Rewritten:
            return self._recycled(doors, parameters, rng)

        doors.gradients.rewrite(recycle, batch=draw)

    def _recycled(self, doors: Doors, parameters: Named, rng: np.random.Generator) -> Rewritten:
        layers = [one for one in doors.gradients.units() if one.names <= parameters.keys()]
        observations = doors.memory.batch_observations(self.samples, rng)
        activity = doors.output.activity(observations, [layer.name for layer in layers])
        scores = [
            dormant_scores(unit_magnitudes(activity[layer.name], layer.units)) for layer in layers
        ]
        chosen = [(layer, score <= self.tau) for layer, score in zip(layers, scores, strict=True)]
        due = [layer for layer, mask in chosen if mask.any()]
        fresh = doors.gradients.fresh({name for layer in due for name in layer.incoming}, rng)
        for part in ("actor", "critic", "encoder"):
            own = doors.gradients.parameters(part)
            counts = [int(mask.sum()) for layer, mask in chosen if layer.weight in own]
            if counts:
                doors.log(f"method/redo/recycled_{part}", sum(counts))
        return renew_units(parameters, chosen, fresh)

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Count no more."""
        self._updates = Counted()

    def state(self) -> dict[str, Tensor]:
        """Return the updates of each optimizer in the task."""
        return self._updates.state()

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take them back."""
        self._updates.load(tensors)
