"""The tensors of a policy by name and by group, as vectors, and the optimizers that move them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.optim import Optimizer

Named = dict[str, Tensor]

ENTROPY_COEFFICIENT = "log_ent_coef"
"""SAC's and TQC's, carried beside the policy's tensors."""

# Stable-Baselines3's ActorCriticPolicy._build, from OpenAI's baselines; by the policy's parts.
GAINS = {
    "features_extractor": 2**0.5,
    "pi_features_extractor": 2**0.5,
    "vf_features_extractor": 2**0.5,
    "mlp_extractor": 2**0.5,
    "action_net": 0.01,
    "value_net": 1.0,
}


def joined(named: Named) -> Tensor:
    """Return named tensors as one vector."""
    return torch.cat([tensor.reshape(-1) for tensor in named.values()])


def split(vector: Tensor, like: Named) -> Named:
    """Return a vector as named tensors, views of it, in the order and shapes of ``like``."""
    parts = torch.split(vector, [tensor.numel() for tensor in like.values()])
    return {
        name: part.view(tensor.shape)
        for (name, tensor), part in zip(like.items(), parts, strict=True)
    }


def snapshot(named: Named | dict[str, nn.Parameter]) -> Named:
    """Return a detached copy of each tensor."""
    if not named:
        return {}
    copies = torch._foreach_clone([tensor.detach() for tensor in named.values()])
    return dict(zip(named, copies, strict=True))


def flat(nested: Mapping[Any, Any]) -> Named:
    """Return what nested mappings hold by path, as tensors: for a checkpoint.

    >>> flat({"rows": {"a": [1, 2]}, "seen": 3})
    {'rows/a': tensor([1, 2]), 'seen': tensor(3)}
    """
    found: Named = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            found |= {f"{key}/{path}": tensor for path, tensor in flat(value).items()}
        else:
            found[str(key)] = torch.as_tensor(value)
    return found


def grouped(tensors: Named) -> dict[str, Named]:
    """Return tensors by the first part of their path, then by the rest of it."""
    found: dict[str, Named] = {}
    for path, tensor in tensors.items():
        head, _, rest = path.partition("/")
        found.setdefault(head, {})[rest] = tensor
    return found


def below(tensors: Named, head: str, device: torch.device | str | None = None) -> Named:
    """Return the tensors whose path begins with ``<head>/``, by the rest of it.

    Args:
        tensors: By path, as ``flat`` gives them.
        head: First parts of the path.
        device: Where they shall be; None leaves them.
    """
    return {
        path.removeprefix(f"{head}/"): tensor.to(device)
        for path, tensor in tensors.items()
        if path.startswith(f"{head}/")
    }


def gradient_of(loss: Any, parameters: Named) -> Named:
    """Return the gradient of a scalar function of named tensors, computed on detached copies."""
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    with torch.enable_grad():
        gradients = torch.autograd.grad(
            loss(leaves), list(leaves.values()), allow_unused=True, materialize_grads=True
        )
    return dict(zip(leaves, gradients, strict=True))


def optimizers_of(policy: Any) -> list[Optimizer]:
    """Return the optimizers of a policy: its own, or the actor's and the critic's."""
    owners = (policy, getattr(policy, "actor", None), getattr(policy, "critic", None))
    found = [getattr(owner, "optimizer", None) for owner in owners]
    return [optimizer for optimizer in found if isinstance(optimizer, Optimizer)]


def is_actor_critic(policy: Any) -> bool:
    """Return whether actor and critic share one policy, as in PPO and its kin.

    MaskablePPO's policy is no subclass of ActorCriticPolicy, so its parts are asked instead.
    """
    return hasattr(policy, "mlp_extractor")


def is_orthogonal(policy: Any) -> bool:
    """Return whether a policy's layers were initialised with orthogonal matrices."""
    return is_actor_critic(policy) and bool(getattr(policy, "ortho_init", False))


def group_of(name: str, policy: BasePolicy) -> str | None:
    """Return ``actor``, ``critic`` or ``encoder`` for a tensor's name; None for target networks.

    The network of action values (DQN, QR-DQN) is the actor: it decides the action.
    """
    if "target" in name.split(".")[0]:
        return None
    if is_actor_critic(policy):
        if name.startswith(("features_extractor.", "pi_features_extractor.")):
            return "encoder"
        critic = ("mlp_extractor.value_net.", "value_net.", "vf_features_extractor.", "lstm_critic")
        return "critic" if name.startswith(critic) else "actor"
    if name.startswith(("critic.", "mixer.")):  # a mixer judges the actions of a whole team
        return "critic"
    return "encoder" if ".features_extractor." in name else "actor"


def named_parameters(policy: BasePolicy, *groups: str) -> dict[str, nn.Parameter]:
    """Return the parameters that learn, by name; only those of ``groups`` where any are given."""
    return {
        name: parameter
        for name, parameter in policy.named_parameters()
        if parameter.requires_grad
        and (group := group_of(name, policy)) is not None
        and (not groups or group in groups)
    }


def target_parameters(policy: BasePolicy) -> dict[str, nn.Parameter]:
    """Return the slowly moving copies by the name of the parameter that each one follows."""
    found = {}
    for name, parameter in policy.named_parameters():
        owner, _, rest = name.partition(".")
        if owner.endswith("_target"):
            found[f"{owner.removesuffix('_target')}.{rest}"] = parameter
    return found


def is_deviation(name: str) -> bool:
    """Return whether this is a bare parameter log_std, and no weight of a layer of that name."""
    return name.rpartition(".")[2] == "log_std"


@contextmanager
def replaced(module: nn.Module, tensors: Named) -> Iterator[None]:
    """Let other tensors stand in a module in the place of its own, inside the block.

    ``torch.func.functional_call`` does so for one call, but leaves its tensors behind in a part
    that the module knows under several names, such as the features extractor of
    Stable-Baselines3's actor-critics.

    Args:
        module: The module.
        tensors: By name; those that are left out stay as they are. A tensor that is known under
            several names is replaced under all of them.
    """
    named = chain(
        module.named_parameters(remove_duplicate=False),
        module.named_buffers(remove_duplicate=False),
    )
    others = {id(own): tensors[name] for name, own in named if name in tensors}
    places: list[tuple[dict[str, Any], str, Tensor]] = [
        (members, name, own)
        for part in module.modules()
        for members in (part._parameters, part._buffers)
        for name, own in members.items()
        if own is not None and id(own) in others
    ]
    for members, name, own in places:
        members[name] = others[id(own)]
    try:
        yield
    finally:
        for members, name, own in places:
            members[name] = own


@contextmanager
def overlaid(network: nn.Module, tensors: Named) -> Iterator[None]:
    """Give a network other tensors inside the block; names that are left out stay as they are."""
    saved = {name: t.clone() for name, t in network.state_dict().items() if name in tensors}
    network.load_state_dict(tensors, strict=False)
    try:
        yield
    finally:
        network.load_state_dict(saved, strict=False)
