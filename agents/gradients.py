"""The gradient door: what methods add to a gradient, inside ``backward()`` and before clipping.

Stable-Baselines3's ``train`` has no seam, but every algorithm with this door does, for each
optimizer, ``zero_grad``, ``backward``, perhaps clip, ``step``. So an optimizer's ``zero_grad``
opens an update and its ``step`` closes it; a hook on each parameter adds the extra gradient in
between. The actor's ``backward`` of SAC and TD3 reaches critic parameters too: the critic's update
is closed then, and the hooks add nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.errors import Diverged

Named = dict[str, Tensor]
Term = Callable[[Named], Named]
"""Named parameters, detached, to the gradients to add by name; names it leaves out get none."""


def gradient_of(loss: Callable[[Named], Tensor], parameters: Named) -> Named:
    """Return the gradient of a scalar function of named tensors, computed on detached copies."""
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    with torch.enable_grad():
        gradients = torch.autograd.grad(
            loss(leaves), list(leaves.values()), allow_unused=True, materialize_grads=True
        )
    return dict(zip(leaves, gradients, strict=True))


class Gradients:
    """The terms of this task, and the glue that adds them while the agent learns."""

    def __init__(self) -> None:
        self._terms: list[Term] = []
        self._detachers: list[Callable[[], None]] = []

    def add(self, term: Term) -> None:
        """Add a term for the coming task; it is called once per update of each optimizer.

        A term is given the parameters that this optimizer moves; where it needs others (the actor's
        while the critic is updated), it returns nothing.
        """
        self._terms.append(term)

    def attach(self, parameters: dict[str, nn.Parameter], optimizers: Iterable[Optimizer]) -> None:
        """Install the hooks on a policy's parameters and its optimizers."""
        for optimizer in optimizers:
            members = {id(p) for group in optimizer.param_groups for p in group["params"]}
            own = {name: p for name, p in parameters.items() if id(p) in members}
            update = _Update(own, self._terms)
            handles: list[Any] = [optimizer.register_step_pre_hook(update.check)]
            if self._terms:
                for name, parameter in own.items():
                    hook = parameter.register_hook(update.adder(name))  # type: ignore[no-untyped-call]  # torch's
                    handles.append(hook)
                handles.append(optimizer.register_step_post_hook(update.close))
                handles.append(_ZeroGradHandle(optimizer, update.open))
            self._detachers += [handle.remove for handle in handles]

    def detach(self) -> None:
        """Remove every hook and forget the terms: the next task adds its own."""
        for remove in self._detachers:
            remove()
        self._detachers.clear()
        self._terms = []


class _Update:
    """One optimizer's update in progress: closed, open, or open with its extra gradients known."""

    def __init__(self, parameters: dict[str, nn.Parameter], terms: list[Term]) -> None:
        self.parameters = parameters
        self.terms = terms
        self.is_open = False
        self.extra: Named | None = None
        device = next((p.device for p in parameters.values()), torch.device("cpu"))
        self.found, self.one = torch.zeros(1, device=device), torch.ones(1, device=device)

    def open(self) -> None:
        self.is_open, self.extra = True, None

    def close(self, *_: object) -> None:
        self.is_open, self.extra = False, None

    def adder(self, name: str) -> Callable[[Tensor], Tensor | None]:
        def add(gradient: Tensor) -> Tensor | None:
            if not self.is_open:
                return None
            if self.extra is None:
                self.extra = self._compute()
            extra = self.extra.get(name)
            return None if extra is None else gradient + extra

        return add

    def _compute(self) -> Named:
        detached = {name: p.detach() for name, p in self.parameters.items()}
        total: Named = {}
        for term in self.terms:
            for name, gradient in term(detached).items():
                total[name] = total[name] + gradient if name in total else gradient
        return total

    def check(self, *_: object) -> None:
        """Stop before a step that would write NaN into the weights."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        # What torch.amp's GradScaler calls, here to scale by one: a tenth of the price of a norm,
        # and this runs at every update.
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, self.found, self.one)
        if self.found.item():
            bad = [
                name
                for name, p in self.parameters.items()
                if p.grad is not None and not p.grad.isfinite().all()
            ]
            raise Diverged(
                f"the gradient of {', '.join(bad[:3]) or 'the policy'} is not finite; the last "
                "task boundary is kept. Lower agent.learning_rate or the method's strength, scale "
                "the rewards (agent.normalize, changes.reward_scale), or look for the cause "
                "in the environment with: holdfast check-env"
            )


class _ZeroGradHandle:
    """Calls ``on_zero_grad`` after this optimizer's ``zero_grad``; torch has no hook for it."""

    def __init__(self, optimizer: Optimizer, on_zero_grad: Callable[[], None]) -> None:
        self.optimizer = optimizer
        published = optimizer.zero_grad

        def zero_grad(set_to_none: bool = True) -> None:
            published(set_to_none=set_to_none)
            on_zero_grad()

        optimizer.zero_grad = zero_grad  # type: ignore[method-assign]

    def remove(self) -> None:
        del self.optimizer.zero_grad  # the instance's; the class's shows again


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


def group_of(name: str, policy: BasePolicy) -> str | None:
    """Return ``actor``, ``critic`` or ``encoder`` for a parameter's name; None for target networks.

    The network of action values (DQN, QR-DQN) is the actor: it decides the action.
    """
    if "target" in name.split(".")[0]:
        return None
    if is_actor_critic(policy):
        if name.startswith(("features_extractor.", "pi_features_extractor.")):
            return "encoder"
        critic = ("mlp_extractor.value_net.", "value_net.", "vf_features_extractor.", "lstm_critic")
        return "critic" if name.startswith(critic) else "actor"
    if name.startswith("critic."):
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
