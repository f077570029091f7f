"""Hooks that do what methods ask of updates, with no seam in Stable-Baselines3's ``train``.

Every algorithm with a gradient door does, for each optimizer, ``zero_grad``, ``backward``, perhaps
clip, ``step``. So an optimizer's ``zero_grad`` opens an update and its ``step`` closes it; hooks on
the parameters add and scale, hooks on the optimizer do the rest, in the order of the gradient door.
The actor's ``backward`` of SAC and TD3 reaches critic parameters too: the critic's update is closed
then, and the hooks do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.agents.base.parameters import (
    Named,
    group_of,
    named_parameters,
    optimizers_of,
    snapshot,
    target_parameters,
)
from holdfast.agents.doors.gradients import (
    Move,
    Part,
    Rewritten,
    Step,
    Work,
    Works,
    diverged,
    merged,
    of_groups,
    parted,
)
from holdfast.agents.sb3 import adam


@contextmanager
def attached(policy: Any, works: Works) -> Iterator[None]:
    """Let methods at the updates of a policy inside the block."""
    parameters = named_parameters(policy)
    updates = Updates()
    updates.attach(
        works,
        parameters,
        optimizers_of(policy),
        groups={name: group_of(name, policy) for name in parameters},
        targets=target_parameters(policy),
    )
    try:
        yield
    finally:
        updates.detach()


class Updates:
    """The hooks of one task on the parameters and optimizers of a policy."""

    def __init__(self) -> None:
        self._detachers: list[Callable[[], None]] = []

    def attach(
        self,
        works: Works,
        parameters: dict[str, nn.Parameter],
        optimizers: Iterable[Optimizer],
        *,
        groups: Mapping[str, str | None] | None = None,
        targets: dict[str, nn.Parameter] | None = None,
    ) -> None:
        """Install the hooks.

        Args:
            works: What the methods asked for.
            parameters: By name.
            optimizers: Those that move them.
            groups: The group of each parameter.
            targets: The slowly moving copies, by the name of the parameter that each one follows.
        """
        in_backward = bool(works.terms or works.moving or works.scales or works.looks)
        for optimizer in optimizers:
            members = {id(p) for group in optimizer.param_groups for p in group["params"]}
            own = {name: p for name, p in parameters.items() if id(p) in members}
            update = _Update(own, groups or {}, targets or {}, optimizer, works)
            handles: list[Any] = [optimizer.register_step_pre_hook(update.before_step)]
            if in_backward:
                for name, parameter in own.items():
                    hook = parameter.register_hook(update.changer(name))  # type: ignore[no-untyped-call]  # torch's
                    handles.append(hook)
            if any(vars(works).values()):
                handles.append(optimizer.register_step_post_hook(update.after_step))
                self._detachers.append(_after_zero_grad(optimizer, update.open))
            self._detachers += [handle.remove for handle in handles]

    def detach(self) -> None:
        """Remove every hook."""
        for remove in self._detachers:
            remove()
        self._detachers.clear()


class _Update:
    """One optimizer's update in progress: closed, open, or open with its extra gradients known."""

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        groups: Mapping[str, str | None],
        targets: dict[str, nn.Parameter],
        optimizer: Optimizer,
        works: Works,
    ) -> None:
        self.parameters, self.groups, self.targets = parameters, groups, targets
        self.optimizer = optimizer
        self.is_open = False
        self.extra: Named | None = None
        self.factors: Named = {}
        self.raw: Named = {}
        # Views, made once: what is written into the parameters shows through them.
        self.detached = {name: p.detach() for name, p in parameters.items()}
        self.flat = {name: p.view(-1) for name, p in self.detached.items()}
        self.terms, self.scales = self._parts(works.terms), self._parts(works.scales)
        self.moving, self.revisions = self._parts(works.moving), self._parts(works.revisions)
        self.projections, self.looks = self._parts(works.projections), self._parts(works.looks)
        self.rewrites = self._parts(works.rewrites)
        self.before: Named = {}
        self.hosted = [
            action for action, of in works.hosted if of_groups(self.detached, self.groups, of)
        ]
        self.begun: list[tuple[Tensor, Tensor] | None] = []
        device = next((p.device for p in parameters.values()), torch.device("cpu"))
        self.found, self.one = torch.zeros(1, device=device), torch.ones(1, device=device)

    def _parts(self, works: list[Work]) -> list[tuple[Work, Part]]:
        return parted(works, self.detached, self.groups)

    @staticmethod
    def _given(parts: list[tuple[Work, Part]]) -> Iterator[Named | None]:
        return (work(part, part.parameters) for work, part in parts)

    def _moved(self) -> Iterator[Named]:
        for work, part in self.moving:
            if (given := work(part, part.parameters)) is not None:
                gradients, part.state = given
                yield gradients

    def open(self) -> None:
        self.is_open, self.extra = True, None
        self.raw = {}

    def changer(self, name: str) -> Callable[[Tensor], Tensor | None]:
        def change(gradient: Tensor) -> Tensor | None:
            if not self.is_open:
                return None
            if self.extra is None:
                terms = chain(self._given(self.terms), self._moved())
                self.extra = merged(terms, torch.add)
                self.factors = merged(self._given(self.scales), torch.mul)
            if self.looks:
                self.raw[name] = gradient
            extra, factor = self.extra.get(name), self.factors.get(name)
            changed = gradient if extra is None else gradient + extra
            return changed if factor is None else changed * factor

        return change

    def before_step(self, *_: object) -> None:
        for work, part in self.projections:
            self._project(work, part)
        self._check()
        self.begun = [self._begin(work, part) for work, part in self.looks]
        for work, part in (*self.revisions, *self.rewrites):
            work.begin(part)
        if self.revisions:
            self.before = snapshot(self.detached)

    def _project(self, work: Work, part: Part) -> None:
        gradients = {n: g for n in part.parameters if (g := self.parameters[n].grad) is not None}
        moved = {name: part.parameters[name] for name in gradients}
        projected = work(part, moved, gradients)
        if projected is None:
            return
        replaced, part.state = projected
        for name, gradient in replaced.items():
            self.parameters[name].grad = gradient
        if work.after is not None:
            work.after(part.state)

    @torch.no_grad()
    def _revise(self, work: Work, part: Part) -> None:
        gradients = {n: g for n in part.parameters if (g := self.parameters[n].grad) is not None}
        before = {name: self.before[name] for name in gradients}
        after = {name: part.parameters[name] for name in gradients}
        first = next(iter(self.detached.values()))
        rate = torch.as_tensor(self.optimizer.param_groups[0]["lr"]).to(first)
        revised = work(part, Move(before, gradients, after, rate))
        if revised is not None:
            values, part.state = revised
            for name, value in values.items():
                self.parameters[name].copy_(value)

    def _begin(self, work: Work, part: Part) -> tuple[Tensor, Tensor] | None:
        """Return the weights before a step that is yet to be taken, and their gradients."""
        if part.state is None:
            part.parameters = {n: p for n, p in part.parameters.items() if n in self.raw}
        if not part.parameters or work.is_stopped:
            return None
        work.begin(part)
        own = {name: self.flat[name] for name in part.parameters}
        raw = [self.raw[n].reshape(-1) if n in self.raw else torch.zeros_like(own[n]) for n in own]
        return torch.cat([*own.values()]), torch.cat(raw)

    def after_step(self, *_: object) -> None:
        self.is_open, self.extra = False, None
        if self.rewrites:
            adam.correct(self.optimizer)
        for work, part in self.revisions:
            self._revise(work, part)
        for (work, part), begun in zip(self.looks, self.begun, strict=True):
            if begun is not None:
                after = torch.cat([self.flat[name] for name in part.parameters])
                seen = work(part, Step(*begun, after))
                part.state = part.state if seen is None else seen
        for work, part in self.rewrites:
            rewritten = work(part, part.parameters)
            if rewritten is not None:
                self._write(rewritten)
        for action in self.hosted:
            action()

    @torch.no_grad()
    def _write(self, rewritten: Rewritten) -> None:
        for name, value in rewritten.values.items():
            self.parameters[name].copy_(value)
        for name, mask in rewritten.renewed.items():
            self._renew(self.parameters[name], mask)
            if rewritten.restarts_steps:
                adam.renew(self.optimizer, self.parameters[name], mask)
        for name, mask in [*rewritten.renewed.items(), *(rewritten.copied or {}).items()]:
            if (target := self.targets.get(name)) is not None:
                target.copy_(torch.where(mask, self.parameters[name], target))

    def _renew(self, parameter: nn.Parameter, mask: Tensor) -> None:
        for quantity, moment in self.optimizer.state.get(parameter, {}).items():
            is_moment = isinstance(moment, Tensor) and moment.shape == parameter.shape
            if is_moment and quantity != adam.RENEWED_AT:
                moment.masked_fill_(mask, 0.0)

    def _check(self) -> None:
        """Stop before a step that would write NaN into the weights."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        # What torch.amp's GradScaler calls, here to scale by one: a tenth of the price of a norm,
        # and this runs at every update.
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, self.found, self.one)
        if self.found.item():
            found = ((name, p.grad) for name, p in self.parameters.items() if p.grad is not None)
            bad = [name for name, gradient in found if not gradient.isfinite().all()]
            raise diverged(bad)


def _after_zero_grad(optimizer: Optimizer, act: Callable[[], None]) -> Callable[[], None]:
    """Call ``act`` after this optimizer's ``zero_grad``, for which torch has no hook.

    Returns:
        What ends that.
    """
    published = optimizer.zero_grad

    def zero_grad(set_to_none: bool = True) -> None:
        published(set_to_none=set_to_none)
        act()

    optimizer.zero_grad = zero_grad  # type: ignore[method-assign]
    return partial(delattr, optimizer, "zero_grad")  # the instance's; the class's shows again
