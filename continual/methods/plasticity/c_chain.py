"""C-CHAIN: continual churn approximated reduction."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from holdfast.agents.base.parameters import Named
from holdfast.agents.doors.gradients import Tensors
from holdfast.agents.doors.outputs import ACTING, Output, OutputSpec, Reader
from holdfast.continual.method import Doors, Experience, Method

_LOSS = "loss"
_EPSILON = 1e-8
"""Added to the mean churn, as in the authors' code."""


class Balance(NamedTuple):
    """How the coefficient of the churn is set.

    Attributes:
        scale: Of the loss, which churn times its coefficient is to reach.
        initial: Coefficient before the means are known.
        least: Smallest coefficient after that.
    """

    scale: float
    initial: float
    least: float


AUTHORS = {
    "categorical": Balance(1e4, 1.0, 1.0),  # Gym control
    "bernoulli": Balance(1e4, 1.0, 1.0),
    "gaussian": Balance(0.05, 100.0, 0.0),  # DeepMind control
    "unit_gaussian": Balance(0.01, 50.0, 0.0),  # MinAtar, action values
}
"""The authors' settings, by the kind of output; of several actions of two choices ours."""


@dataclass(kw_only=True, eq=False)
class CChain(Method):
    """Keeps an update from changing what the policy says elsewhere (churn), to stay plastic.

    The loss added for the actor (and its encoder), on a batch of observations of its own, drawn
    from what is being learned from, is::

        coefficient * mean over the batch of D(output before the last update, current output)

    with D the cross entropy for discrete actions, and for Gaussians and action values the squared
    difference of means, averaged over dimensions. The coefficient sets itself: with means over the
    last updates::

        coefficient = max(scale * mean |actor's loss| / (mean churn + 1e-8), least)

    Source: Tang et al. 2025, Mitigating Plasticity Loss in Continual Reinforcement Learning by
    Reducing Churn (arXiv:2506.00592), and the authors' code (github.com/bluecontra/C-CHAIN), which
    measures churn as above. Its numbers differ from one benchmark to the next. Those of Gym control
    are taken for discrete actions (``scale`` 10,000, ``initial`` 1, at least 1), those of DeepMind
    control for Gaussians (.05, 100, no bound), those of MinAtar for action values (.01, 50, no
    bound). SAC and TD3 are not among them: there the loss is that of the actor.

    Ours: means are exponential, over updates, where the code has windows of 50 or 100 iterations or
    50,000 updates; the loss is the mean over a round of updates. All begins again at a task start
    where boundaries are known, as in the code; the first update has nothing to compare with.

    Args:
        scale: Of the actor's loss, which churn times its coefficient is to reach; None takes the
            authors' of this kind of output, 0 does nothing.
        initial: Coefficient in the first ``warmup`` updates; None takes the authors'.
        batch_size: Observations per update; 64 in DeepMind control, 32 in Gym control and MinAtar.
        warmup: Updates before the coefficient sets itself: 10 iterations of 125 in Gym control.
        window: Updates that the means look back on: 50 such iterations.
    """

    doors = ("gradients", "output", "memory", "lifecycle")
    acts_by = ()
    memory = "one copy of the actor"
    extra = "two forward passes and a backward pass on a second batch, per update"
    convention = (
        "coefficient x mean D(output before the last update, current) on a second batch, such that "
        "it is scale x the actor's loss; actor only"
    )

    scale: Annotated[float | None, (0, None)] = None
    initial: Annotated[float | None, (0, None)] = None
    batch_size: Annotated[int, (1, None)] = 64
    warmup: Annotated[int, (1, None)] = 1250
    window: Annotated[int, (1, None)] = 6250
    _loss: float | None = field(init=False, default=None)

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Add the gradient of the churn for the coming task."""
        rng, self._loss = experience.generator("c-chain"), None

        def draw(parameters: Named) -> Tensors:
            first = next(iter(parameters.values()))
            seen = doors.memory.batch_observations(self.batch_size, rng)
            known = first.new_tensor([0.0, 0.0] if self._loss is None else [abs(self._loss), 1.0])
            return {"seen": seen, "loss": known}

        term = partial(self.gradient, doors.output.actor)
        doors.gradients.add_moving(term, state=begun, batch=draw, groups=ACTING)
        doors.lifecycle.after_steps(1, _LOSS)

    def due(self, doors: Doors, name: str) -> None:
        """Read what the actor's loss was in the round that is done."""
        loss = doors.gradients.last_loss()
        self._loss = self._loss if loss is None else loss
        doors.lifecycle.after_steps(doors.step + 1, name)

    def gradient(
        self, output: Reader, parameters: Named, state: Tensors, batch: Tensors
    ) -> tuple[Named, Tensors]:
        """Return the gradient of the loss; the next state, whose network is the current one."""
        with torch.no_grad():
            old = output.of(state["old"], batch["seen"])
        leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        with torch.enable_grad():
            value = churn(output.spec, old, output.of(leaves, batch["seen"]))
            found = torch.autograd.grad(
                value, list(leaves.values()), allow_unused=True, materialize_grads=True
            )
        factor = self.coefficient(output.spec, state)
        gradients = {name: factor * g for name, g in zip(leaves, found, strict=True)}
        # The first update compares the network with itself.
        compared = torch.stack([value.detach(), torch.ones_like(value)])
        compared = compared * (state["updates"] > 0)
        kept = 1 - 1 / self.window
        after = {
            "old": {name: value.clone() for name, value in parameters.items()},
            "updates": state["updates"] + 1,
            "churn": kept * state["churn"] + (1 - kept) * compared,
            "loss": kept * state["loss"] + (1 - kept) * batch["loss"],
        }
        return gradients, after

    def coefficient(self, spec: OutputSpec, state: Tensors) -> Tensor:
        """Return the coefficient of the churn in the next update, shape ()."""
        scale, initial, least = AUTHORS[spec.kind]
        scale = scale if self.scale is None else self.scale
        initial = initial if self.initial is None else self.initial
        if not scale:
            return torch.zeros_like(state["updates"])
        loss, losses = state["loss"]
        churned, churns = state["churn"]
        is_known = (state["updates"] >= self.warmup) & (losses > 0) & (churns > 0)
        means = loss / losses.clamp_min(1e-30), churned / churns.clamp_min(1e-30)
        balanced = (scale * means[0] / (means[1] + _EPSILON)).clamp_min(least)
        return torch.where(is_known, balanced, torch.full_like(balanced, initial))

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Forget the loss of the finished task."""
        self._loss = None

    def state(self) -> dict[str, Tensor]:
        """Return the actor's last loss inside a task."""
        return {} if self._loss is None else {_LOSS: torch.tensor(self._loss, dtype=torch.float64)}

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take it back."""
        self._loss = float(tensors[_LOSS]) if _LOSS in tensors else None


def begun(parameters: Named) -> Tensors:
    """Return the state before the first update: means with how much is known of them."""
    zeros = next(iter(parameters.values())).new_zeros(2)
    old = {name: value.clone() for name, value in parameters.items()}
    return {"old": old, "updates": zeros[0].clone(), "churn": zeros, "loss": zeros.clone()}


def churn(spec: OutputSpec, old: Output, new: Output) -> Tensor:
    """Return how much outputs differ, a mean over the batch, shape ().

    The cross entropy of discrete actions, summed over several at a time; of Gaussians the mean
    squared difference of their means, over dimensions too.
    """
    if spec.kind == "categorical":
        both = zip(*(torch.split(o["logits"], spec.splits, -1) for o in (old, new)), strict=True)
        parts = [-(p.softmax(-1) * q.log_softmax(-1)).sum(-1) for p, q in both]  # (batch,) each
        return torch.stack(parts).sum(0).mean()
    if spec.kind == "bernoulli":
        on, logits = torch.sigmoid(old["logits"]), new["logits"]
        likely = on * nn.functional.logsigmoid(logits)
        return -(likely + (1 - on) * nn.functional.logsigmoid(-logits)).sum(-1).mean()
    return (new["mean"] - old["mean"]).square().mean()
