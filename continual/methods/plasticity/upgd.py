"""Utility-based perturbed gradient descent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch

from holdfast.agents.base.parameters import Named
from holdfast.agents.doors.gradients import Move, Tensors
from holdfast.continual.method import Doors, Experience
from holdfast.continual.methods.plasticity.lasting_state import LastingState


@dataclass(kw_only=True, eq=False)
class UPGD(LastingState):
    """Lets weights of little use take larger and noisy steps, and useful ones smaller: UPGD.

    After each step of the optimizer, which went from theta to theta + u with the gradient g, for
    each weight i::

        U[i]     <- beta U[i] - (1 - beta) g[i] theta[i]
        gate[i]   = 1 - sigmoid((U[i] / (1 - beta^t)) / max over all weights of U)
        theta[i] <- (1 - rate decay) theta[i] + 2 gate[i] (u[i] - rate sigma noise[i])

    with noise from N(0, 1) and the learning rate. U is the utility: what the loss would gain, to
    first order, were the weight zero. A weight of no use has a gate of 1/2 and takes the
    optimizer's own step, with noise; useful ones are held, those in the way move by up to twice it.
    Source: Elsayed and Mahmood 2024, Addressing Loss of Plasticity and Catastrophic Forgetting in
    Continual Learning (arXiv:2404.00781), and the authors' code for PPO, AdaUPGD
    (github.com/mohmdelsayed/upgd, core/run/rl/adaupgd.py): the factor 2 is of that code, as is the
    largest utility being the one before its correction for the start from zero. Under Adam this is
    AdaUPGD; under another optimizer the same is done to its step.

    It needs no boundaries: utilities are those of the whole stream, of each optimizer by itself.

    Args:
        beta: Decay of the utilities; .999 in the authors' PPO.
        sigma: Deviation of the noise, in learning rates; .001 there.
        weight_decay: Decoupled weight decay; .001 there.
    """

    doors = ("gradients",)
    claims = ("weights",)
    acts_by = ()
    memory = "1 number per weight"
    extra = "noise for every weight, per update"
    convention = (
        "optimizer's step and noise x 2 (1 - sigmoid(utility / largest utility)); sigma is in "
        "learning rates; actor and critic"
    )

    beta: Annotated[float, (0, 0.999999)] = 0.999
    sigma: Annotated[float, (0, None)] = 0.001
    weight_decay: Annotated[float, (0, None)] = 0.001

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Gate the steps of the coming task."""
        noise = experience.noise(doors.facts.device, "upgd")

        def draw(parameters: Named) -> Tensors:
            if not self.sigma:
                return {}
            return {n: torch.empty_like(p).normal_(generator=noise) for n, p in parameters.items()}

        state = partial(self.begun, fresh=begun)
        self._work = doors.gradients.revise(self.revised, state=state, batch=draw)

    def revised(self, move: Move, state: Tensors, batch: Tensors) -> tuple[Named, Tensors]:
        """Return the weights after a gated step, and the utilities."""
        updates = state["updates"] + 1
        utility = dict(state["utility"])
        for name, gradient in move.gradients.items():
            gain = gradient * move.before[name]
            utility[name] = utility[name] * self.beta - gain * (1 - self.beta)
        largest = torch.stack([utility[name].max() for name in move.gradients]).max()
        # Where no weight has any use, as at gradients of zero, all gates are 1/2.
        largest = torch.where(largest == 0, torch.ones_like(largest), largest)
        if self.beta:
            largest = largest * -torch.expm1(updates * math.log(self.beta))
        values = {}
        for name, before in move.before.items():
            step = move.after[name] - before
            if name in batch:
                step = step - move.rate * self.sigma * batch[name]
            gate = 1 - torch.sigmoid(utility[name] / largest)
            values[name] = before * (1 - move.rate * self.weight_decay) + 2 * gate * step
        return values, {"utility": utility, "updates": updates}


def begun(parameters: Named) -> Tensors:
    """Return the utilities before the first step, which are zero."""
    utility = {name: torch.zeros_like(value) for name, value in parameters.items()}
    return {"utility": utility, "updates": next(iter(parameters.values())).new_zeros(())}
