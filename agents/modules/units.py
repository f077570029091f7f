"""The hidden units of a policy: which weights feed each one, which read it, and how active it is.

A *unit* is one output of a linear or convolutional layer with an activation after it. Its incoming
weights are its row of that layer, and its entries of a normalisation between the two; its outgoing
weights are the columns of every later layer that read it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from torch import Tensor, nn

from holdfast.agents.base.parameters import Named, is_actor_critic
from holdfast.agents.doors.gradients import Rewritten
from holdfast.agents.modules.heads import TaskHead, TaskTrunk
from holdfast.agents.modules.options import CReLU
from holdfast.errors import UsageError


@dataclass(frozen=True)
class Outgoing:
    """A layer that reads the units of another.

    Attributes:
        weight: Name of its weight, shape (out, in, ...).
        bias: Name of its bias; None where it has none.
        columns: Shape (units, n): the entries of its second axis that carry each unit.
    """

    weight: str
    bias: str | None
    columns: Tensor


@dataclass(frozen=True)
class HiddenLayer:
    """The units of one hidden layer.

    Attributes:
        name: Name of the module whose output is their activity.
        units: How many there are.
        weight: Name of the weight that feeds them, shape (units, in, ...).
        incoming: Names of every parameter that feeds them, that weight first; the first axis of
            each is the units.
        outgoing: The layers that read them.
    """

    name: str
    units: int
    weight: str
    incoming: tuple[str, ...]
    outgoing: tuple[Outgoing, ...]

    @property
    def names(self) -> set[str]:
        """Names of all parameters that feed or read the units."""
        readers = (name for out in self.outgoing for name in (out.weight, out.bias) if name)
        return {*self.incoming, *readers}


def hidden_layers(policy: Any) -> list[HiddenLayer]:
    """Return the hidden layers of the networks that learn; not of their targets.

    An encoder of the user's own is left out, as is a layer that nothing reads.

    Raises:
        UsageError: If the networks have another shape, such as columns or a recurrent part.
    """
    trace = _Trace()
    if hasattr(policy, "lstm_actor"):
        raise UsageError("the hidden units of a recurrent policy cannot be told apart")
    if is_actor_critic(policy):
        actor = trace.encoder("features_extractor", policy.pi_features_extractor)
        critic = actor
        if policy.vf_features_extractor is not policy.pi_features_extractor:
            critic = trace.encoder("vf_features_extractor", policy.vf_features_extractor)
        for name, head, seen in (("policy", "action", actor), ("value", "value", critic)):
            trunk = getattr(policy.mlp_extractor, f"{name}_net")
            below = trace.network(f"mlp_extractor.{name}_net", trunk, seen)
            trace.network(f"{head}_net", getattr(policy, f"{head}_net"), below)
        return trace.found()
    for name in ("q_net", "quantile_net"):
        if (owner := getattr(policy, name, None)) is not None:
            seen = trace.encoder(f"{name}.features_extractor", owner.features_extractor)
            trace.network(f"{name}.{name}", getattr(owner, name), seen)
            return trace.found()
    _trace_box(trace, policy.actor, policy.critic)
    return trace.found()


def _trace_box(trace: _Trace, actor: Any, critic: Any) -> None:
    seen = trace.encoder("actor.features_extractor", actor.features_extractor)
    if hasattr(actor, "latent_pi"):
        below = trace.network("actor.latent_pi", actor.latent_pi, seen)
        heads = [name for name in ("mu", "log_std") if isinstance(getattr(actor, name), nn.Module)]
        for name in heads:
            trace.network(f"actor.{name}", getattr(actor, name), below)
    else:
        trace.network("actor.mu", actor.mu, seen)
    if critic.features_extractor is not actor.features_extractor:
        seen = trace.encoder("critic.features_extractor", critic.features_extractor)
    for index, network in enumerate(critic.q_networks):
        trace.network(f"critic.qf{index}", network, seen)  # the action comes after the features


@dataclass
class _Layer:
    """A layer on the way through a network."""

    units: int
    incoming: list[str]
    name: str = ""
    outgoing: list[Outgoing] = field(default_factory=list)


_Source = tuple[_Layer, Tensor]
"""A layer, and the columns of what is passed on that carry its units, shape (units, n)."""


class _Trace:
    """Follows units from layer to layer."""

    def __init__(self) -> None:
        self.layers: list[_Layer] = []

    def found(self) -> list[HiddenLayer]:
        return [
            HiddenLayer(one.name, one.units, one.incoming[0], (*one.incoming,), (*one.outgoing,))
            for one in self.layers
            if one.outgoing
        ]

    def encoder(self, name: str, extractor: nn.Module) -> list[_Source]:
        """Return the units among the features of an extractor."""
        if isinstance(extractor, NatureCNN):
            below = self.network(f"{name}.cnn", extractor.cnn, [])
            return self.network(f"{name}.linear", extractor.linear, below)
        sources: list[_Source] = []
        if isinstance(extractor, CombinedExtractor):
            start, spaces = 0, extractor._observation_space.spaces  # type: ignore[attr-defined]  # a Dict
            for key, part in extractor.extractors.items():
                inside = self.encoder(f"{name}.extractors.{key}", part)
                sources += [(layer, columns + start) for layer, columns in inside]
                width = getattr(part, "features_dim", 0) or get_flattened_obs_dim(spaces[key])
                start += int(width)
        return sources

    def network(self, name: str, network: nn.Module, sources: list[_Source]) -> list[_Source]:
        """Follow a network from its inputs on and return the units among its outputs."""
        open_layer: _Layer | None = None  # no activation was met yet
        is_spread = False  # each channel has become a block of columns
        for path, module in _modules(name, network):
            if isinstance(module, TaskTrunk):
                sources = [(layer, _without_id(columns, module)) for layer, columns in sources]
            elif isinstance(module, nn.Linear | nn.Conv2d):
                self._connect(path, module, sources, is_spread=is_spread)
                open_layer = _Layer(module.weight.shape[0], _parameter_names(path, module))
                sources, is_spread = [], False
            elif isinstance(module, nn.Flatten):
                is_spread = bool(sources)
            elif isinstance(module, nn.Dropout):
                continue  # the activation comes after it
            elif _parameter_names(path, module):  # a normalisation
                if open_layer is not None:
                    open_layer.incoming += _parameter_names(path, module)
            elif open_layer is not None:
                open_layer.name = path
                self.layers.append(open_layer)
                columns = torch.arange(open_layer.units)[:, None]  # (units, 1)
                if isinstance(module, CReLU):  # twice the outputs
                    columns = torch.cat([columns, columns + open_layer.units], 1)  # (units, 2)
                sources, open_layer = [(open_layer, columns)], None
        return sources

    def _connect(self, path: str, module: Any, sources: list[_Source], *, is_spread: bool) -> None:
        bias = None if module.bias is None else f"{path}.bias"
        for layer, columns in sources:
            if is_spread:
                block = module.weight.shape[1] // (columns.max().item() + 1)
                inside = torch.arange(int(block))
                columns = (columns[..., None] * block + inside).flatten(1)  # (units, n * block)
            layer.outgoing.append(Outgoing(f"{path}.weight", bias, columns))


def _modules(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of a network in the order of its forward.

    Raises:
        UsageError: If that order is not known.
    """
    if isinstance(module, nn.Sequential):
        for key, child in module.named_children():
            yield from _modules(f"{name}.{key}", child)
    elif isinstance(module, TaskTrunk):
        yield name, module
        yield from _modules(f"{name}.trunk", module.trunk)
    elif isinstance(module, TaskHead):
        yield f"{name}.heads", module.heads
    elif next(module.children(), None) is None:
        yield name, module
    else:
        raise UsageError(f"the hidden units of a {type(module).__name__} cannot be told apart")


def _parameter_names(path: str, module: nn.Module) -> list[str]:
    return [f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)]


def _without_id(columns: Tensor, trunk: TaskTrunk) -> Tensor:
    """Return where columns are after the task id has been cut out of the input."""
    return torch.where(columns >= trunk.start, columns - trunk.tasks, columns)


@torch.no_grad()
def activations(
    policy: Any, observations: Any, names: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Return what activation modules put out, in the order they ran; nothing else changes.

    Critics of box actions judge the policy's own most likely action.

    Args:
        policy: Its networks run in evaluation mode, so that no running statistics move; no random
            numbers are drawn.
        observations: As the policy takes them, shape (batch, ...) or such tensors by key.
        names: Names of the modules; None takes every activation of a hidden layer.

    Returns:
        Shape (batch, features), or (batch, channels, height, width), by the module's name.
    """
    modules = dict(policy.named_modules())
    wanted = _activation_names(policy) if names is None else names
    seen: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        seen[name] = output.detach()

    handles = [modules[name].register_forward_hook(partial(keep, name)) for name in wanted]
    was_training = policy.training
    policy.set_training_mode(False)
    try:
        _run(policy, observations, critic=any(name.startswith("critic.") for name in wanted))
    finally:
        policy.set_training_mode(was_training)
        for handle in handles:
            handle.remove()
    return seen


def _run(policy: Any, observations: Any, *, critic: bool) -> None:
    if is_actor_critic(policy):
        extract = BasePolicy.extract_features
        actor = extract(policy, observations, policy.pi_features_extractor)
        policy.mlp_extractor.forward_actor(actor)
        shared = policy.vf_features_extractor is policy.pi_features_extractor
        features = actor if shared else extract(policy, observations, policy.vf_features_extractor)
        policy.mlp_extractor.forward_critic(features)
    elif hasattr(policy, "q_net"):
        policy.q_net(observations)
    elif hasattr(policy, "quantile_net"):
        policy.quantile_net(observations)
    else:
        action = policy._predict(observations, deterministic=True)
        if critic:
            policy.critic(observations, action)


def _activation_names(policy: Any) -> list[str]:
    squash = getattr(getattr(policy, "actor", None), "mu", None)  # TD3: a Tanh ends the network
    last = list(squash.children())[-1:] if isinstance(squash, nn.Sequential) else []
    return [
        name
        for name, module in policy.named_modules()
        if "target" not in name.split(".")[0]
        and is_activation(module)
        and not any(module is other for other in last)
    ]


def is_activation(module: nn.Module) -> bool:
    """Return whether a module is a nonlinearity of single values."""
    is_known = type(module).__module__ == "torch.nn.modules.activation"
    return isinstance(module, CReLU) or (is_known and next(module.children(), None) is None)


def unit_means(values: Tensor, units: int) -> Tensor:
    """Return the mean of each output of each unit over a batch, shape (units, n).

    Args:
        values: Shape (batch, n * units, ...); the n outputs of a unit (two of CReLU) are as far
            apart as there are units, and the places of a feature map count as observations.
        units: Number of units.
    """
    means = values.transpose(0, 1).flatten(1).mean(1)  # (n * units,)
    return means.reshape(-1, units).T  # (units, n)


def unit_magnitudes(activity: Tensor, units: int) -> Tensor:
    """Return the mean absolute activity of each unit, shape (units,)."""
    return unit_means(activity.abs(), units).mean(1)


def magnitudes(policy: Any, activity: Named) -> Named:
    """Return the mean absolute activity of each unit, shape (units,), by module name.

    Args:
        policy: The networks.
        activity: As ``activations`` gives it.
    """
    modules, found = dict(policy.named_modules()), {}
    for name, values in activity.items():
        units = values.shape[1] // (2 if isinstance(modules[name], CReLU) else 1)
        found[name] = unit_magnitudes(values, units)
    return found


def renew_units(
    parameters: Named, chosen: Iterable[tuple[HiddenLayer, Tensor]], fresh: Named
) -> Rewritten:
    """Return what starts units again: fresh incoming weights, outgoing weights of zero.

    Where a new unit reads a new unit, the weight is zero.

    Args:
        parameters: By name.
        chosen: Layers with a boolean mask of shape (units,).
        fresh: Newly drawn values of the layers' incoming parameters, by name.
    """
    chosen = [(layer, mask) for layer, mask in chosen if bool(mask.any())]
    values: Named = {}
    renewed: Named = {}
    for layer, mask in chosen:
        for name in layer.incoming:
            values[name] = parameters[name].clone()
            values[name][mask] = fresh[name][mask].to(values[name])
            renewed[name] = torch.zeros_like(values[name], dtype=torch.bool)
            renewed[name][mask] = True
    for layer, mask in chosen:
        for out in layer.outgoing:
            columns = out.columns.to(mask.device)[mask].flatten()
            if out.weight not in values:
                values[out.weight] = parameters[out.weight].clone()
                renewed[out.weight] = torch.zeros_like(values[out.weight], dtype=torch.bool)
            values[out.weight][:, columns] = 0.0
            renewed[out.weight][:, columns] = True
    return Rewritten(values, renewed)
