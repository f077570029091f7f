"""The networks door: named slots of a policy, and how their modules are replaced.

A slot is one multi-layer perceptron of the policy: a trunk and the linear heads on it. A method
maps slots to new modules right after the model is built and before anything has learned; the
optimizers, targets and caches that Stable-Baselines3 built for the old modules are then rebuilt. A
live model is never grown: its optimizers and target updates hold the old lists of parameters.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from holdfast.agents.base.parameters import GAINS, is_actor_critic, is_orthogonal
from holdfast.agents.doors.outputs import OutputSpec, output_spec
from holdfast.errors import UsageError


@dataclass(frozen=True)
class Slot:
    """One network of a policy.

    Attributes:
        role: Whether it decides actions, judges them, or is a slowly moving copy of either.
        acts: Whether it decides actions, or follows one that does.
        trunk: Everything before the heads; takes the features (and, for a critic of box actions,
            the action after them).
        heads: The linear output layers by name; more than one for SAC's mean and log_std.
        features: Number of features at the start of the trunk's input.
        spec: How to read the policy's output; None where one output does not determine it.
        initialise: Gives a new hidden layer first weights as the policy's own have them.
        replace: Puts a new trunk and new heads, under the same names, into the policy.
    """

    role: Literal["actor", "critic", "target"]
    acts: bool
    trunk: nn.Sequential
    heads: dict[str, nn.Linear]
    features: int
    replace: Callable[[nn.Module, dict[str, nn.Module]], None]
    spec: OutputSpec | None
    initialise: Callable[[nn.Linear], None]


NetworkMap = Callable[[Slot], tuple[nn.Module, dict[str, nn.Module]] | None]
"""Gives the new trunk and heads of a slot, or None to leave it."""


class Networks:
    """The networks door: modules of the coming task's model, before anything has learned.

    Attributes:
        maps: What is done to the newly built policy.
        maps_above_heads: What is done to it once it has a head per task, where it gets them.
    """

    def __init__(self) -> None:
        self.maps: list[Callable[[Any], None]] = []
        self.maps_above_heads: list[Callable[[Any], None]] = []

    def map(
        self,
        network_map: NetworkMap,
        *,
        method: str = "",
        encoder: str = "",
        above_heads: bool = False,
    ) -> None:
        """Replace the modules of the coming model's slots by those that ``network_map`` gives.

        A method keeps hold of the modules that it makes: no door leads to them again.

        Args:
            network_map: Called for every slot.
            method: Name of the method, for errors.
            encoder: Why a features extractor that learns is refused; empty where it is not.
            above_heads: Whether it is called after ``task_id: heads``, so that trunks and heads are
                ``TaskTrunk`` and ``TaskHead`` there; else before.
        """

        def change(policy: Any) -> None:
            if encoder:
                _check_encoder(policy, method, encoder)
            map_slots(policy, network_map)

        (self.maps_above_heads if above_heads else self.maps).append(change)


def install(model: Any, mappings: list[Callable[[Any], None]]) -> None:
    """Apply network maps to a newly built model, and rebuild what hung on the old modules."""
    if not mappings:
        return
    for mapping in mappings:
        mapping(model.policy)
    model.policy.to(model.device)
    for online, target in target_pairs(model.policy):
        target.load_state_dict(online.state_dict())
        target.train(False)
    _rebuild_optimizers(model.policy)


def map_slots(policy: Any, network_map: NetworkMap) -> None:
    """Replace each slot of a policy by what the map gives for it.

    Raises:
        UsageError: If a network keeps running statistics: the lists of them that Stable-Baselines3
            cached would still point into the old modules.
    """
    for slot in slots(policy):
        if any("running_" in name for name in slot.trunk.state_dict()):
            raise UsageError(
                f"{type(policy).__name__}: networks with batch norm cannot be replaced"
            )
        replacement = network_map(slot)
        if replacement is not None:
            slot.replace(*replacement)


SHARED = "is shared by all columns, so old columns would change"
"""Why a features extractor that learns is refused by methods that keep columns."""


def _check_encoder(policy: Any, method: str, why: str) -> None:
    """Refuse a policy whose modules would share a part that goes on learning.

    Raises:
        UsageError: If the features extractor learns.
    """
    if any("features_extractor." in name for name, _ in policy.named_parameters()):
        raise UsageError(
            f"method {method}: the features extractor learns and {why}; use it with vector "
            "observations"
        )


def slots(policy: Any) -> list[Slot]:
    """Return the slots of a policy.

    Raises:
        UsageError: If the policy has networks of another shape.
    """

    def initialise(layer: nn.Linear) -> None:
        if is_orthogonal(policy):
            policy.init_weights(layer, gain=GAINS["mlp_extractor"])

    make = partial(Slot, spec=_spec(policy), initialise=initialise)
    if is_actor_critic(policy):
        return _actor_critic_slots(policy, make)
    for name in ("q_net", "quantile_net"):
        if hasattr(policy, name):
            online, target = getattr(policy, name), getattr(policy, f"{name}_target")
            return [
                _sequential_slot(partial(make, "actor", True), online, name),
                _sequential_slot(partial(make, "target", True), target, name),
            ]
    if not hasattr(policy, "actor") or not hasattr(policy, "critic_target"):
        raise UsageError(f"{type(policy).__name__}: its networks cannot be replaced")
    return _box_slots(policy, make)


def _spec(policy: Any) -> OutputSpec | None:
    try:
        return output_spec(policy)
    except UsageError:
        return None


def _actor_critic_slots(policy: Any, make: Callable[..., Slot]) -> list[Slot]:
    extractor = policy.mlp_extractor

    def replace_actor(trunk: nn.Module, heads: dict[str, nn.Module]) -> None:
        extractor.policy_net, policy.action_net = trunk, heads["action_net"]

    def replace_critic(trunk: nn.Module, heads: dict[str, nn.Module]) -> None:
        extractor.value_net, policy.value_net = trunk, heads["value_net"]

    actor_width = policy.pi_features_extractor.features_dim
    critic_width = policy.vf_features_extractor.features_dim
    actor_heads, critic_heads = {"action_net": policy.action_net}, {"value_net": policy.value_net}
    return [
        make("actor", True, extractor.policy_net, actor_heads, actor_width, replace_actor),
        make("critic", False, extractor.value_net, critic_heads, critic_width, replace_critic),
    ]


def _box_slots(policy: Any, make: Callable[..., Slot]) -> list[Slot]:
    found = []
    for role, actor in (("actor", policy.actor), ("target", getattr(policy, "actor_target", None))):
        if hasattr(actor, "latent_pi"):  # SAC, TQC, CrossQ: two heads on one trunk
            found.append(_two_headed_slot(make, actor))
        elif actor is not None:
            found.append(_sequential_slot(partial(make, role, True), actor, "mu"))
    for index in range(len(policy.critic.q_networks)):
        for role, critic in (("critic", policy.critic), ("target", policy.critic_target)):
            judge = partial(make, role, False)
            found.append(_sequential_slot(judge, critic, f"qf{index}", index))
    return found


def _two_headed_slot(make: Callable[..., Slot], actor: Any) -> Slot:
    def replace(trunk: nn.Module, heads: dict[str, nn.Module]) -> None:
        actor.latent_pi, actor.mu, actor.log_std = trunk, heads["mu"], heads["log_std"]

    heads = {"mu": actor.mu, "log_std": actor.log_std}
    return make("actor", True, actor.latent_pi, heads, actor.features_dim, replace)


def _sequential_slot(
    make: Callable[..., Slot], owner: Any, name: str, index: int | None = None
) -> Slot:
    """A trunk, one linear head, and perhaps an activation after it, in one Sequential."""
    layers = list(getattr(owner, name))
    last = max(i for i, layer in enumerate(layers) if next(layer.parameters(), None) is not None)
    trunk, head, tail = nn.Sequential(*layers[:last]), layers[last], layers[last + 1 :]

    def replace(new_trunk: nn.Module, heads: dict[str, nn.Module]) -> None:
        # Kept flat, so that the next map finds its layers again.
        inside = [*new_trunk] if type(new_trunk) is nn.Sequential else [new_trunk]
        network = nn.Sequential(*inside, heads["head"], *tail)
        setattr(owner, name, network)
        if index is not None:
            owner.q_networks[index] = network

    return make(trunk, {"head": head}, owner.features_extractor.features_dim, replace)


def target_pairs(policy: Any) -> list[tuple[Any, Any]]:
    """Return the networks that have a slowly moving copy, each with that copy."""
    names = ("q_net", "quantile_net", "actor", "critic", "mixer")
    return [
        (getattr(policy, name), getattr(policy, f"{name}_target"))
        for name in names
        if getattr(policy, f"{name}_target", None) is not None
    ]


def _rebuild_optimizers(policy: Any) -> None:
    critic: Any = getattr(policy, "critic", None)
    owners: tuple[Any, ...] = (policy, getattr(policy, "actor", None), critic)
    for owner in owners:
        old = getattr(owner, "optimizer", None)
        if not isinstance(old, torch.optim.Optimizer):
            continue
        shared = owner is critic and owner.share_features_extractor
        members = [
            parameter
            for name, parameter in owner.named_parameters()
            if parameter.requires_grad
            and not (shared and "features_extractor" in name)
            and "target" not in name.split(".")[0]
        ]
        # AdamW's defaults name what its constructor does not take.
        taken = inspect.signature(type(old)).parameters
        defaults = {name: value for name, value in old.defaults.items() if name in taken}
        owner.optimizer = type(old)(members, **defaults)
