"""The step of an optimizer as a pure function of named tensors, in torch's own order of operations.

Adam's bias corrections are written with ``expm1``: in float32 ``1 - beta**t`` loses digits at the
first steps, while torch computes it in Python's float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from holdfast.agents.base.parameters import Named
from holdfast.errors import UsageError

Moments = dict[str, Named]
"""What an optimizer remembers of each parameter: quantity, then name."""

Settings = Mapping[str, Any]
"""A parameter group of an optimizer, without its parameters."""


class Moved(NamedTuple):
    """A parameter after a step.

    Attributes:
        value: Its new value.
        moments: What the optimizer remembers of it, by quantity.
    """

    value: Tensor
    moments: Named


_Rule = Callable[[Tensor, Tensor, Named, Tensor, Tensor, Settings], Moved]


class Stepper:
    """The step of one optimizer.

    Args:
        optimizer: A torch optimizer; its settings are read, its state is not.
        parameters: Those that it moves, by name.

    Attributes:
        quantities: What it remembers of each parameter, and where that starts.
        counts: Whether it keeps its steps beside them, as a ``tensor`` or a ``number``.
        groups: The names of each of its parameter groups.

    Raises:
        UsageError: If its step is not known as a pure function.
    """

    def __init__(self, optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
        self._rule, self.quantities = _rule_of(optimizer)
        is_port = isinstance(optimizer, RMSpropTFLike)
        self.counts = ("number" if is_port else "tensor") if self.quantities else None
        self._moved: set[str] = set()
        names = {id(parameter): name for name, parameter in parameters.items()}
        self.groups = [[names[id(p)] for p in g["params"]] for g in optimizer.param_groups]
        self._settings = [
            {key: value for key, value in group.items() if key != "params"}
            for group in optimizer.param_groups
        ]

    def remembers(self, name: str) -> bool:
        """Return whether a step has moved this parameter."""
        return name in self._moved

    def initial(self, parameters: Named) -> Moments:
        """Return what the optimizer remembers before its first step."""
        return {
            quantity: {name: torch.full_like(value, start) for name, value in parameters.items()}
            for quantity, start in self.quantities.items()
        }

    def step(
        self,
        parameters: Named,
        gradients: Named,
        moments: Moments,
        count: Tensor,
        rates: list[Tensor],
    ) -> tuple[Named, Moments]:
        """Return parameters and moments after a step; those without a gradient stay as they are.

        Args:
            parameters: By name.
            gradients: By name.
            moments: By quantity and name.
            count: Steps, this one among them; shape ().
            rates: The learning rate of each parameter group; shape () each.
        """
        values = dict(parameters)
        after = {quantity: dict(named) for quantity, named in moments.items()}
        for names, settings, rate in zip(self.groups, self._settings, rates, strict=True):
            for name in names:
                if name not in gradients:
                    continue
                own = {quantity: moments[quantity][name] for quantity in moments}
                moved = self._rule(parameters[name], gradients[name], own, count, rate, settings)
                values[name] = moved.value
                self._moved.add(name)  # the same at every step: it is of the graph, not of data
                for quantity, moment in moved.moments.items():
                    after[quantity][name] = moment
        return values, after


def clipped(gradients: Named, norm: float) -> Named:
    """Return gradients whose common norm is at most ``norm``, as torch's ``clip_grad_norm_``."""
    total = torch.sqrt(torch.stack([g.square().sum() for g in gradients.values()]).sum())
    factor = torch.clamp(norm / (total + 1e-6), max=1.0)
    return {name: gradient * factor for name, gradient in gradients.items()}


def _rule_of(optimizer: Optimizer) -> tuple[_Rule, dict[str, float]]:
    """Return an optimizer's rule, and where its moments start."""
    name = type(optimizer).__name__
    for group in optimizer.param_groups:
        for option in ("amsgrad", "maximize", "centered", "decoupled_weight_decay"):
            wanted = option == "decoupled_weight_decay" and isinstance(optimizer, AdamW)
            if group.get(option) and not wanted:
                raise UsageError(f"engine: compiled does not know {name} with {option}")
    match optimizer:
        case AdamW() | Adam():
            return _adam, {"exp_avg": 0.0, "exp_avg_sq": 0.0}
        case RMSpropTFLike() | RMSprop():
            start = 1.0 if isinstance(optimizer, RMSpropTFLike) else 0.0
            inside = isinstance(optimizer, RMSpropTFLike)
            has_momentum = any(group["momentum"] for group in optimizer.param_groups)
            buffers = {"momentum_buffer": 0.0} if has_momentum else {}
            return _root_mean_square(inside=inside), {"square_avg": start, **buffers}
        case SGD() if not any(group["momentum"] for group in optimizer.param_groups):
            return _descent, {}
    raise UsageError(
        f"engine: compiled does not know the step of {name} as a function; take Adam, AdamW, "
        "RMSprop, RMSpropTFLike or SGD without momentum, or engine: sb3"
    )


def _adam(
    value: Tensor, gradient: Tensor, moments: Named, count: Tensor, rate: Tensor, settings: Settings
) -> Moved:
    """Kingma and Ba 2015 (arXiv:1412.6980), algorithm 1; AdamW: arXiv:1711.05101, algorithm 2."""
    (first, second), decay = settings["betas"], settings["weight_decay"]
    if decay and settings.get("decoupled_weight_decay"):
        value = value * (1 - rate * decay)
    else:
        gradient = _decayed(gradient, value, settings)
    mean = torch.lerp(moments["exp_avg"], gradient, 1 - first)
    square = moments["exp_avg_sq"] * second + gradient * gradient * (1 - second)
    root = torch.sqrt(_corrected(second, count))
    denominator = square.sqrt() / root + settings["eps"]
    moved = value - (rate / _corrected(first, count)) * (mean / denominator)
    return Moved(moved, {"exp_avg": mean, "exp_avg_sq": square})


def _corrected(beta: float, count: Tensor) -> Tensor:
    """Return 1 - beta**count."""
    return -torch.expm1(count * math.log(beta)) if beta else torch.ones_like(count)


def _root_mean_square(*, inside: bool) -> _Rule:
    """Return RMSprop's rule; TensorFlow's adds its epsilon inside the root."""

    def rule(
        value: Tensor,
        gradient: Tensor,
        moments: Named,
        _count: Tensor,
        rate: Tensor,
        settings: Settings,
    ) -> Moved:
        gradient = _decayed(gradient, value, settings)
        alpha, eps, momentum = settings["alpha"], settings["eps"], settings["momentum"]
        square = moments["square_avg"] * alpha + gradient * gradient * (1 - alpha)
        root = (square + eps).sqrt() if inside else square.sqrt() + eps
        after = {"square_avg": square}
        if not momentum:
            return Moved(value - rate * (gradient / root), after)
        buffer = moments["momentum_buffer"] * momentum + gradient / root
        return Moved(value - rate * buffer, after | {"momentum_buffer": buffer})

    return rule


def _descent(
    value: Tensor,
    gradient: Tensor,
    moments: Named,
    _count: Tensor,
    rate: Tensor,
    settings: Settings,
) -> Moved:
    return Moved(value - rate * _decayed(gradient, value, settings), moments)


def _decayed(gradient: Tensor, value: Tensor, settings: Settings) -> Tensor:
    """Return a gradient with that of weight decay."""
    return gradient + settings["weight_decay"] * value if settings["weight_decay"] else gradient
