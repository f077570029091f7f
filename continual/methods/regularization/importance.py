"""Importance of each weight for a network's output, from one backward pass per observation.

Every measure here is a mean over observations of something done to *per-sample* gradients: squares
or absolute values of the gradient of a batch's mean would underestimate it by up to the batch size.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import grad, jacrev, vmap

from holdfast.agents.base.parameters import Named, snapshot
from holdfast.agents.doors.outputs import Output, OutputSpec, Reader, draw, log_likelihood
from holdfast.continual.method import Doors
from holdfast.continual.methods.regularization.quadratic import GROUPS

_CHUNK = 128
"""Per-sample gradients that are held at once."""

GAUSSIAN_FLOOR = 1e-6
"""Added to the variance that an analytic Fisher information divides by, as in Continual World."""

Batch = Tensor | dict[str, Tensor]

Floor = float | Named
"""Least importance per observation: of every weight, or by name as tensors of their shapes."""

Measure = Callable[[Any, Named, Batch], Named]
"""Reader, parameters and observations to one importance per weight."""


def measured(
    doors: Doors, regularize: str, observations: Batch, measure: Measure
) -> tuple[Named, Named]:
    """Return the weights that ``regularize`` names, and what each matters to its network's output.

    The output of the critic is its values of the policy's likeliest actions.
    """
    parameters: Named = {}
    importance: Named = {}
    for role, reader in (("actor", doors.output.actor), ("critic", doors.output.critic)):
        if role in GROUPS[regularize]:
            own = snapshot(doors.gradients.parameters(*GROUPS[role]))
            parameters |= own
            if own:  # DQN has no critic
                importance |= measure(reader, own, observations)
    return parameters, importance


def floors(doors: Doors, floor: float, regularize: str) -> Floor:
    """Return the least importance of each weight: none in the heads of other tasks.

    The finished task says nothing about them. Continual World leaves all heads out, so its floor
    pulls none that has not learned.
    """
    if not floor or not doors.facts.has_heads:
        return floor
    task, found = doors.facts.current_task, {}
    for name, parameter in doors.gradients.parameters(*GROUPS[regularize]).items():
        rows = doors.gradients.task_rows(name, task)
        own = torch.ones_like(parameter) if rows is None else rows.to(parameter)
        found[name] = own * floor
    return found


def fisher_information(
    output: Reader,
    parameters: Named,
    observations: Batch,
    rng: np.random.Generator,
    floor: Floor = 0.0,
    *,
    weights: Tensor | None = None,
    mattered: Named | None = None,
) -> Named:
    """Return the diagonal Fisher information of the policy, one tensor per parameter.

    The mean over observations of the squared gradient of log pi(a | s), for one action drawn per
    observation, times the weight of the observation.

    Args:
        output: The policy.
        parameters: By their names in the policy, detached.
        observations: As the policy takes them, shape (samples, ...) or such tensors by key.
        rng: Draws the actions.
        floor: Least value per observation.
        weights: Of the observations, shape (samples,); None for ones.
        mattered: Takes by name which weights had any information, whatever the floor.
    """

    def likelihood(values: Named, observation: Tensor, action: Tensor, *root: Tensor) -> Tensor:
        outputs = output.of(values, _one(observation))
        return _times(log_likelihood(output.spec, outputs, action[None])[0], root)

    with torch.no_grad():
        outputs = output.of({}, observations)
    device = next(iter(outputs.values())).device
    generator = torch.Generator(device=device).manual_seed(int(rng.integers(2**63)))
    actions = draw(output.spec, outputs, generator)

    def squares(name: str, gradient: Tensor) -> Tensor:
        return _at_least(_noted(gradient.square(), mattered, name), floor, name).sum(0)

    rows = (observations, actions, *_roots_of(weights))
    return _mean(output, grad(likelihood), parameters, rows, squares)


def analytic_fisher(
    output: Reader,
    parameters: Named,
    observations: Batch,
    floor: Floor = 0.0,
    *,
    squashed: bool = False,
    weights: Tensor | None = None,
    mattered: Named | None = None,
) -> Named:
    """Return the diagonal Fisher information with the expectation over actions done exactly.

    Per observation, for a Gaussian the sum over dimensions of (dmu^2 + 2 dsigma^2) / (sigma^2 +
    1e-6); for a categorical output the sum over actions a of p_a (d log p_a)^2; for action values
    and other unit Gaussians the sum of dmu^2.

    Args:
        output: The policy.
        parameters: By their names in the policy, detached.
        observations: As the policy takes them, shape (samples, ...) or such tensors by key.
        floor: Least value per observation.
        squashed: Differentiate mu as the environment gets it, tanh(mu) x scale for SAC and its kin,
            while sigma stays that before squashing. Continual World does so (arXiv:2105.10919, its
            sac/models.py and methods/ewc.py).
        weights: As ``fisher_information`` takes them.
        mattered: Likewise.
    """

    def roots(values: Named, observation: Tensor, *root: Tensor) -> Tensor:
        outputs = _said(output, values, _one(observation), squashed=squashed)
        return _times(_roots(output.spec, outputs)[0], root)

    with torch.no_grad():
        first = _each(lambda t: t[:1], observations)
        width = _roots(output.spec, output.of({}, first)).shape[-1]

    def squares(name: str, jacobian: Tensor) -> Tensor:  # (chunk, width, ...)
        information = _noted(jacobian.square().sum(1), mattered, name)
        return _at_least(information, floor, name).sum(0)

    chunk = max(1, _CHUNK // width)  # of each observation, ``width`` gradients are held
    rows = (observations, *_roots_of(weights))
    return _mean(output, jacrev(roots), parameters, rows, squares, chunk)


def sensitivity(
    output: Reader, parameters: Named, observations: Batch, *, squashed: bool = False
) -> Named:
    """Return the mean absolute gradient of the squared length of the output, per weight.

    The output is as ``PolicyOutput`` gives it: logits, action values, or mean and logarithm of the
    deviation side by side.

    Args:
        output: The policy.
        parameters: By their names in the policy, detached.
        observations: As the policy takes them, shape (samples, ...) or such tensors by key.
        squashed: As ``analytic_fisher`` takes it; Continual World's methods/mas.py.
    """

    def length(values: Named, observation: Tensor) -> Tensor:
        outputs = _said(output, values, _one(observation), squashed=squashed)
        return torch.stack([value[0].square().sum() for value in outputs.values()]).sum()

    def lengths(_name: str, gradient: Tensor) -> Tensor:
        return gradient.abs().sum(0)

    return _mean(output, grad(length), parameters, (observations,), lengths)


def _roots_of(weights: Tensor | None) -> tuple[Tensor, ...]:
    """Return what makes squared gradients weighted ones, a row per sample; nothing without."""
    return () if weights is None else (weights.sqrt(),)


def _times(value: Tensor, root: tuple[Tensor, ...]) -> Tensor:
    return value * root[0] if root else value


def _said(output: Reader, values: Named, observations: Any, *, squashed: bool) -> Output:
    said = output.of(values, observations)
    return output.action(said) if squashed else said


def _roots(spec: OutputSpec, output: Output) -> Tensor:
    """Return g, shape (batch, n), whose squared gradients sum to the Fisher information.

    What weighs a gradient is detached: sqrt(p) in sqrt(p) * d log p.
    """
    if spec.kind == "categorical":
        parts = [p.log_softmax(-1) for p in torch.split(output["logits"], spec.splits, -1)]
        return torch.cat([(0.5 * p.detach()).exp() * p for p in parts], -1)
    if spec.kind == "bernoulli":
        logits = output["logits"]
        both = [nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)]
        return torch.cat([(0.5 * p.detach()).exp() * p for p in both], -1)
    if spec.kind == "unit_gaussian":
        return output["mean"]
    std = output["log_std"].exp()
    scale = (std.detach().square() + GAUSSIAN_FLOOR).rsqrt()
    return torch.cat([output["mean"] * scale, 2**0.5 * std * scale], -1)


def _mean(
    output: Reader,
    gradient: Callable[..., Named],
    parameters: Named,
    rows: tuple[Any, ...],
    reduce: Callable[[str, Tensor], Tensor],
    size: int = _CHUNK,
) -> Named:
    """Return the mean over rows of what ``reduce`` makes of a chunk of per-sample gradients.

    Args:
        output: The network.
        gradient: Parameters and one row of each of ``rows`` to gradients by name.
        parameters: Where they are taken.
        rows: Observations and what else there is one of per sample.
        reduce: Name and gradients of shape (chunk, ...) to their sum over the chunk, shape (...).
        size: Rows per chunk.
    """
    per_sample = vmap(gradient, in_dims=(None, *[0 for _ in rows]))
    if output.is_coded:
        per_sample = _one_by_one(gradient)
    count = _length(rows[0])
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for start in range(0, count, size):
        cut = itemgetter(slice(start, start + size))
        chunk = [_each(cut, row) for row in rows]
        for name, gradients in per_sample(parameters, *chunk).items():
            total[name] += reduce(name, gradients)
    return {name: value / count for name, value in total.items()}


def _at_least(values: Tensor, floor: Floor, name: str) -> Tensor:
    least = floor[name] if isinstance(floor, dict) else floor
    return values if isinstance(least, float) and not least else values.clamp_min(least)


def _noted(values: Tensor, mattered: Named | None, name: str) -> Tensor:
    """Return the values of a chunk, after noting which are above zero in any row."""
    if mattered is not None:
        found = (values > 0).any(0)
        mattered[name] = mattered[name] | found if name in mattered else found
    return values


def _length(batch: Any) -> int:
    return len(next(iter(batch.values())) if isinstance(batch, dict) else batch)


def _one(observation: Any) -> Any:
    return _each(lambda t: t.unsqueeze(0), observation)  # (1, ...)


def _each(change: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """Return a batch with ``change`` made to its tensor, or to each entry of a Dict observation."""
    if isinstance(batch, dict):
        return {key: change(value) for key, value in batch.items()}
    return change(batch)


def _one_by_one(gradient: Callable[..., Named]) -> Callable[..., Named]:
    def per_sample(parameters: Named, *rows: Any) -> Named:
        chosen = ([_each(itemgetter(i), row) for row in rows] for i in range(_length(rows[0])))
        each = [gradient(parameters, *one) for one in chosen]
        return {name: torch.stack([row[name] for row in each]) for name in parameters}

    return per_sample
