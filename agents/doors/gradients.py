"""The gradient door: what methods do to each update, without a seam in ``train``.

Every Stable-Baselines3 algorithm with this door does, for each optimizer, ``zero_grad``,
``backward``, perhaps clip, ``step``. So an optimizer's ``zero_grad`` opens an update and its
``step`` closes it. In one update, in this order::

    zero_grad
    backward   raw gradient; + terms; x scales       hooks on the parameters
    clip       where the algorithm does
    step       projections; finite check; the step; looks; rewrites      hooks on the optimizer

The actor's ``backward`` of SAC and TD3 reaches critic parameters too: the critic's update is closed
then, and the hooks do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.errors import Diverged

Named = dict[str, Tensor]
Term = Callable[[Named], Named]
"""Named parameters, detached, to the gradients to add by name; names it leaves out get none."""

Scale = Callable[[Named], Named]
"""Named parameters to the factors of their gradients; names it leaves out keep theirs."""

Projection = Callable[[Named, Named], Named]
"""Named parameters and their gradients, clipped, to the gradients that replace some of them."""


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


@dataclass
class Step:
    """A step of one optimizer, as vectors: for small networks one operation costs as many do.

    Attributes:
        parameters: Those that it moves and that a gradient reached, in the vectors' order.
        before: The weights before the step.
        raw: Gradients of the algorithm's own loss, before terms, scales and clipping.
        after: The weights after the step.
    """

    parameters: Named
    before: Tensor
    raw: Tensor
    after: Tensor

    def named(self, vector: Tensor) -> Named:
        """Return one of the vectors by the names of the parameters."""
        return split(vector, self.parameters)


Look = Callable[[Step], None]
Wanted = Callable[[], Container[str]]


class Rewritten(NamedTuple):
    """Parameters to write after a step.

    Attributes:
        values: New values by name.
        renewed: Boolean masks by name: entries that start anew. The optimizer's moments of them
            become zero, and the target network takes their new values.
    """

    values: Named
    renewed: Named


Rewrite = Callable[[Named], Rewritten | None]
"""Named parameters after the step to what is written into them; None writes nothing."""


def gradient_of(loss: Callable[[Named], Tensor], parameters: Named) -> Named:
    """Return the gradient of a scalar function of named tensors, computed on detached copies."""
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    with torch.enable_grad():
        gradients = torch.autograd.grad(
            loss(leaves), list(leaves.values()), allow_unused=True, materialize_grads=True
        )
    return dict(zip(leaves, gradients, strict=True))


class Gradients:
    """What the methods do to the updates of this task, and the glue that does it."""

    def __init__(self) -> None:
        self._work = _Work()
        self._detachers: list[Callable[[], None]] = []

    def add(self, term: Term) -> None:
        """Add a term for the coming task; it is called once per update of each optimizer.

        A term is given the parameters that this optimizer moves; where it needs others (the actor's
        while the critic is updated), it returns nothing. The same holds for the other doors here.
        """
        self._work.terms.append(term)

    def scale(self, factors: Scale) -> None:
        """Multiply the gradients, terms included and before clipping, in the coming task."""
        self._work.scales.append(factors)

    def project(self, projection: Projection) -> None:
        """Replace gradients right before the step, after clipping, in the coming task."""
        self._work.projections.append(projection)

    def watch(self, look: Look, wanted: Wanted | None = None) -> None:
        """Be told of every step of the coming task.

        Args:
            look: Takes a step; it must not write to its vectors.
            wanted: The names of parameters that matter, asked for in the first update; None for
                all. An optimizer that moves none of them is left out.
        """
        self._work.looks.append((look, wanted))

    def rewrite(self, rewrite: Rewrite) -> None:
        """Write parameters after every step of the coming task."""
        self._work.rewrites.append(rewrite)

    def attach(
        self,
        parameters: dict[str, nn.Parameter],
        optimizers: Iterable[Optimizer],
        targets: dict[str, nn.Parameter] | None = None,
    ) -> None:
        """Install the hooks on a policy's parameters and its optimizers.

        Args:
            parameters: By name.
            optimizers: Those that move them.
            targets: The slowly moving copies, by the name of the parameter that each one follows.
        """
        for optimizer in optimizers:
            members = {id(p) for group in optimizer.param_groups for p in group["params"]}
            own = {name: p for name, p in parameters.items() if id(p) in members}
            update = _Update(own, targets or {}, optimizer, self._work)
            handles: list[Any] = [optimizer.register_step_pre_hook(update.before_step)]
            if self._work.is_in_backward:
                for name, parameter in own.items():
                    hook = parameter.register_hook(update.changer(name))  # type: ignore[no-untyped-call]  # torch's
                    handles.append(hook)
            if self._work.is_wanted:
                handles.append(optimizer.register_step_post_hook(update.after_step))
                handles.append(_ZeroGradHandle(optimizer, update.open))
            self._detachers += [handle.remove for handle in handles]

    def detach(self) -> None:
        """Remove every hook and forget the work: the next task adds its own."""
        for remove in self._detachers:
            remove()
        self._detachers.clear()
        self._work = _Work()


class _Work:
    """What the methods asked for."""

    def __init__(self) -> None:
        self.terms: list[Term] = []
        self.scales: list[Scale] = []
        self.projections: list[Projection] = []
        self.looks: list[tuple[Look, Wanted | None]] = []
        self.rewrites: list[Rewrite] = []

    @property
    def is_wanted(self) -> bool:
        return any(vars(self).values())

    @property
    def is_in_backward(self) -> bool:
        return bool(self.terms or self.scales or self.looks)


class _Update:
    """One optimizer's update in progress: closed, open, or open with its extra gradients known."""

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        targets: dict[str, nn.Parameter],
        optimizer: Optimizer,
        work: _Work,
    ) -> None:
        self.parameters, self.targets = parameters, targets
        self.optimizer, self.work = optimizer, work
        self.is_open = False
        self.extra: Named | None = None
        self.factors: Named = {}
        self.raw: Named = {}
        # Views, made once: what is written into the parameters shows through them.
        self.detached = {name: p.detach() for name, p in parameters.items()}
        self.flat = {name: p.view(-1) for name, p in self.detached.items()}
        self.steps: list[Step] = []
        self.wanted: dict[Wanted, Container[str]] = {}
        device = next((p.device for p in parameters.values()), torch.device("cpu"))
        self.found, self.one = torch.zeros(1, device=device), torch.ones(1, device=device)

    def open(self) -> None:
        self.is_open, self.extra = True, None
        self.raw = {}

    def changer(self, name: str) -> Callable[[Tensor], Tensor | None]:
        def change(gradient: Tensor) -> Tensor | None:
            if not self.is_open:
                return None
            if self.extra is None:
                self.extra = _merged(self.work.terms, self.detached, torch.add)
                self.factors = _merged(self.work.scales, self.detached, torch.mul)
            if self.work.looks:
                self.raw[name] = gradient
            extra, factor = self.extra.get(name), self.factors.get(name)
            changed = gradient if extra is None else gradient + extra
            return changed if factor is None else changed * factor

        return change

    def before_step(self, *_: object) -> None:
        for projection in self.work.projections:
            gradients = {n: p.grad for n, p in self.parameters.items() if p.grad is not None}
            for name, gradient in projection(self.detached, gradients).items():
                self.parameters[name].grad = gradient
        self._check()
        self.steps = [self._begun(wanted) for _, wanted in self.work.looks]

    def after_step(self, *_: object) -> None:
        self.is_open, self.extra = False, None
        for (look, _wanted), step in zip(self.work.looks, self.steps, strict=True):
            if step.parameters:
                step.after = torch.cat([self.flat[name] for name in step.parameters])
                look(step)
        for rewrite in self.work.rewrites:
            rewritten = rewrite(self.detached)
            if rewritten is not None:
                self._write(rewritten)

    def _begun(self, wanted: Wanted | None) -> Step:
        """Return a step that is yet to be taken."""
        if wanted is not None and wanted not in self.wanted:
            self.wanted[wanted] = wanted()  # the same all through a task
        names = self.raw if wanted is None else self.wanted[wanted]
        moved = {n: p for n, p in self.detached.items() if n in self.raw and n in names}
        if not moved:
            return Step({}, *[self.one] * 3)
        before = torch.cat([self.flat[name] for name in moved])
        raw = joined({name: self.raw[name] for name in moved})
        return Step(moved, before, raw, before)

    @torch.no_grad()
    def _write(self, rewritten: Rewritten) -> None:
        for name, value in rewritten.values.items():
            self.parameters[name].copy_(value)
        for name, mask in rewritten.renewed.items():
            parameter, target = self.parameters[name], self.targets.get(name)
            for moment in self.optimizer.state.get(parameter, {}).values():
                if isinstance(moment, Tensor) and moment.shape == parameter.shape:
                    moment.masked_fill_(mask, 0.0)
            if target is not None:
                target.copy_(torch.where(mask, parameter, target))

    def _check(self) -> None:
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


def _merged(
    functions: Iterable[Callable[[Named], Named]],
    parameters: Named,
    merge: Callable[[Tensor, Tensor], Tensor],
) -> Named:
    """Return what the functions give, by name; what two of them give is merged."""
    total: Named = {}
    for function in functions:
        for name, value in function(parameters).items():
            total[name] = merge(total[name], value) if name in total else value
    return total


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
