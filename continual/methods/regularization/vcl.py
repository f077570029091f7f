"""Variational continual learning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor, nn

from holdfast.agents.base.parameters import Named, below, flat, grouped, is_deviation, snapshot
from holdfast.agents.doors.gradients import Tensors
from holdfast.agents.doors.networks import Slot
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.regularization.bayesian import (
    SUFFIX,
    BayesianLinear,
    bayesian_slot,
    draw_noise,
)
from holdfast.continual.methods.regularization.quadratic import GROUPS

_NEW_NOISE = "noise"


@dataclass(kw_only=True, eq=False)
class VCL(Method):
    """Learns a Gaussian over each weight of the actor and stays near that of the task before.

    Every linear layer of the actor has a mean and a deviation per weight, and the penalty added to
    the loss is::

        strength * sum over weights i of KL(N(mu[i], sigma[i]^2) || N(mu_old[i], sigma_old[i]^2))

    with the old Gaussians as the latest task left them: weights that it knew well (small deviation)
    are held. Source: Nguyen et al. 2018, Variational Continual Learning (arXiv:1710.10628), without
    a coreset. The loss is that of weights drawn as mu + sigma * noise, so that its gradient reaches
    both.

    One noise is drawn for all weights at a time. On-policy it is kept for a whole rollout and the
    update from it, as NoisyNet-A3C does (Fortunato et al. 2018, arXiv:1706.10295, section 3.1): the
    probabilities that the update divides are then of one and the same policy, and PPO's ratio
    starts at one. Off-policy it is drawn again after each update of the actor. Whatever is measured
    or stored acts by the means.

    With ``task_id: heads`` each head has a posterior of its own. A head that has learned is held by
    it, as in the paper's multi-head networks: other tasks leave it as it is, to the bit, and when
    its task comes again it stays near what it was. Heads that have not learned take no part. One
    that learns for the first time is free, or near N(0, 1) under ``first_task_kl``: it is the
    paper's prior, and Continual World leaves heads out without that switch.

    Parameters without a deviation (layer norms, an encoder) are points. From the second task on
    they are held as Gaussians of the fixed deviation ``initial_std``: the divergence of two such is
    (theta - theta_old)^2 / (2 initial_std^2). That is ours: the paper's networks have none, and
    Continual World freezes its actor's layer norm after the first task. PPO's bare ``log_std`` is
    free.

    Args:
        strength: Factor of the divergence; 1 in Continual World and COOM.
        initial_std: Deviation that every weight starts with; Continual World uses .05 (variance
            e^-6).
        first_task_kl: Whether the first task, and a head in its first, is held near N(0, 1) too;
            False in Continual World's experiments.
    """

    needs = ("boundaries",)
    doors = ("gradients", "networks", "lifecycle")
    takes_heads = True
    acts_by = ()
    memory = "3 numbers more per weight of the actor, however many tasks; 4 per weight of a head"
    extra = "noise for every weight of the actor, per rollout or update"
    convention = (
        "strength x KL(weights || weights after the task before), summed over weights, not divided "
        "by the number of samples; layer norms and encoder as Gaussians of a fixed deviation; "
        "actor only"
    )

    strength: Annotated[float, (0, None)] = 1.0
    initial_std: Annotated[float, (1e-6, None)] = 0.05
    first_task_kl: bool = False
    means: Named = field(init=False, default_factory=dict)
    precisions: Named = field(init=False, default_factory=dict)
    at_rest: Named = field(init=False, default_factory=dict)  # excess of heads at their priors
    _layers: list[BayesianLinear] = field(init=False, default_factory=list)  # those that learn, now
    _noise: torch.Generator | None = field(init=False, default=None)
    _own_rows: Callable[[str], Tensor | None] = field(init=False, default_factory=lambda: _no_rows)

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Make the coming model's actor Bayesian, with noise while it learns; add the penalty."""
        self._layers = []
        self._own_rows = lambda name: doors.gradients.task_rows(name, doors.facts.current_task)
        doors.networks.map(self._bayesian, above_heads=True)
        self._noise = experience.noise(doors.facts.device, "vcl")
        doors.lifecycle.learn_in(self._learning, self._at_the_means)
        if doors.facts.on_policy:
            doors.lifecycle.after_steps(1, _NEW_NOISE)
        else:
            doors.gradients.after_update(self._draw, "actor")
        if self.precisions or self.first_task_kl:
            doors.gradients.add(self.gradient, state=self.begun, groups=GROUPS["actor"])

    def _bayesian(self, slot: Slot) -> tuple[nn.Module, dict[str, nn.Module]] | None:
        made = bayesian_slot(slot, self.initial_std)
        if made is not None and slot.role == "actor":  # a target's layers stay at their means
            modules = [m for part in (made[0], *made[1].values()) for m in part.modules()]
            self._layers += [m for m in modules if isinstance(m, BayesianLinear)]
        return made

    def due(self, doors: Doors, name: str) -> None:
        """Draw noise for the next rollout."""
        self._draw()
        doors.lifecycle.after_steps(doors.step + 1, name)

    def _draw(self) -> None:
        assert self._noise is not None
        draw_noise(self._layers, self._noise)

    @contextmanager
    def _learning(self) -> Iterator[None]:
        self._draw()
        try:
            yield
        finally:
            for layer in self._layers:
                layer.noise = None

    @contextmanager
    def _at_the_means(self) -> Iterator[None]:
        """Act by the means inside the block, and keep the noise for after it."""
        noises = [layer.noise for layer in self._layers]
        for layer in self._layers:
            layer.noise = None
        try:
            yield
        finally:
            for layer, noise in zip(self._layers, noises, strict=True):
                layer.noise = noise

    def begun(self, parameters: Named) -> dict[str, Named]:
        """Return the state of ``gradient``: priors, which are N(0, 1) of what has not learned."""
        for name, mean in parameters.items():
            if name + SUFFIX not in parameters:
                continue
            rows = self._own_rows(name)
            if name not in self.means:
                self.means[name] = torch.zeros_like(mean)
                self.precisions[name] = torch.full_like(mean, rows is None)
                if rows is not None:
                    self.at_rest[name] = torch.full_like(mean, -1.0)
            if rows is not None and self.first_task_kl:
                begins = rows & (self.precisions[name] == 0)
                self.precisions[name] = self.precisions[name].masked_fill(begins, 1.0)
                self.at_rest[name] = self.at_rest[name].masked_fill(begins, 0.0)
        held = {"mean": self.means, "precision": self.precisions, "at_rest": self.at_rest}
        return {of: dict(tensors) for of, tensors in held.items()}

    def gradient(self, parameters: Named, state: Tensors, _batch: Tensors) -> Named:
        """Return the gradient of the penalty for means and logarithms of deviations."""
        held = [name for name in parameters if name in state["mean"]]
        if not held:
            return {}
        means, precisions = ([state[of][n] for n in held] for of in ("mean", "precision"))
        gaps = torch._foreach_sub([parameters[n] for n in held], means)
        torch._foreach_mul_(gaps, precisions)
        torch._foreach_mul_(gaps, self.strength)
        pulls = dict(zip(held, gaps, strict=True))
        names = [name for name in held if name + SUFFIX in parameters]
        if not names:
            return pulls
        deviations = [parameters[name + SUFFIX] for name in names]
        pushes = _excess(deviations, [state["precision"][name] for name in names])
        at_rest = state.get("at_rest", {})
        if at_rest:
            heads = [push for name, push in zip(names, pushes, strict=True) if name in at_rest]
            torch._foreach_sub_(heads, [at_rest[name] for name in names if name in at_rest])
        torch._foreach_mul_(pushes, self.strength)
        pushed = (name + SUFFIX for name in names)
        return pulls | dict(zip(pushed, pushes, strict=True))

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Take the Gaussians as the prior of the next task."""
        self.consolidate(snapshot(doors.gradients.parameters(*GROUPS["actor"])))

    def consolidate(self, parameters: Named) -> None:
        """Take means and deviations as the prior of the next task; of heads, where one learned."""
        for name, mean in parameters.items():
            if name + SUFFIX in parameters:
                deviation = parameters[name + SUFFIX]
                precision, rows = torch.exp(-2 * deviation), self._own_rows(name)
                if rows is not None:
                    old = self.precisions.get(name)
                    learned = rows if old is None else rows | (old > 0)
                    mean, precision = mean * learned, precision * learned
                    (self.at_rest[name],) = _excess([deviation], [precision])
                self.means[name], self.precisions[name] = mean, precision
            elif not name.endswith(SUFFIX) and not is_deviation(name):
                self.means[name] = mean
                self.precisions[name] = torch.full_like(mean, self.initial_std**-2)

    def state(self) -> dict[str, Tensor]:
        """Return mean and precision (one over the variance) of every weight; noise if any.

        The precision of a head that has not learned is zero.
        """
        noise = {
            number: dict(enumerate(layer.noise))
            for number, layer in enumerate(self._layers)
            if layer.noise is not None
        }
        held = {"mean": self.means, "precision": self.precisions, "at_rest": self.at_rest}
        return flat(held | {"noise": noise})

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take them back; inside a task, its layers get the noise that they had."""
        device = doors.facts.device
        self.means = below(tensors, "mean", device)
        self.precisions = below(tensors, "precision", device)
        self.at_rest = below(tensors, "at_rest", device)
        for number, both in grouped(below(tensors, "noise", device)).items():
            self._layers[int(number)].noise = both["0"], both["1"]


def _no_rows(_name: str) -> None:
    """Return None: tasks share every parameter."""


def _excess(deviations: list[Tensor], precisions: list[Tensor]) -> list[Tensor]:
    """Return sigma^2 x precision - 1 for the logarithms of deviations: zero at the prior's.

    It is zero there up to rounding. Adam would make whole steps of what is left.
    """
    ratios = torch._foreach_mul(deviations, 2.0)
    torch._foreach_exp_(ratios)
    torch._foreach_mul_(ratios, precisions)
    torch._foreach_sub_(ratios, 1.0)
    return list(ratios)
