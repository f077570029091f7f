"""One update of one optimizer as a pure function of tensors, with what methods do to it.

The order is that of the gradient door: raw gradient, terms, scales; clipping; projections, step,
revisions, looks, rewrites. The hooks of ``agents/sb3/updates.py`` do the same to the published
``train``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_flatten

from holdfast.agents.base.parameters import Named
from holdfast.agents.compiled.optimizers import Moments, Stepper, clipped
from holdfast.agents.doors.gradients import (
    Move,
    Part,
    Rewritten,
    Step,
    Tensors,
    Work,
    Works,
    merged,
    of_groups,
    parted,
)
from holdfast.errors import UsageError

Loss = Callable[[Named], tuple[Tensor, Named]]
"""Parameters to the loss, and to figures that are logged."""

NORM = "gradient_norm/"
"""Before a group of parameters, among figures: the norm of its gradient."""

KINDS = ("terms", "moving", "scales", "projections", "revisions", "looks", "rewrites")

_MOVING = ("moving", "projections", "revisions", "looks")
"""Kinds of functions that change their state."""

State = dict[str, Any]
"""What an update changes: ``parameters``, ``moments``, ``count``, and states of ``works``."""


@dataclass(frozen=True)
class Called:
    """Which functions of methods an update calls, and how: an update is traced once for each.

    Attributes:
        flags: By kind, for each function: its flags, or None where it is not called.
    """

    flags: tuple[tuple[tuple[tuple[str, Hashable], ...] | None, ...], ...]


_NOTHING: tuple[Called, dict[str, list[Tensors]]] = (
    Called(((),) * len(KINDS)),
    {kind: [] for kind in KINDS},
)


class Update:
    """The update of one optimizer of a model.

    Args:
        optimizer: Stable-Baselines3's.
        parameters: Those that it moves, by name.
        groups: The group of each.
        works: What methods asked for.
        norm: Greatest common norm of the gradients; None where none is clipped.

    Attributes:
        parts: By kind, the functions that are called in it, each with its part.
        hosted: What is called on the host after it.
        touched: Parameters that the loss reaches; known once functions look at steps.
        form: Of the functions' states: a program is traced for one.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        parameters: Mapping[str, nn.Parameter],
        groups: Mapping[str, str | None],
        works: Works,
        *,
        norm: float | None,
    ) -> None:
        self.optimizer, self.parameters = optimizer, dict(parameters)
        self._groups = groups
        self.stepper, self.norm = Stepper(optimizer, parameters), norm
        detached = {name: p.detach() for name, p in parameters.items()}
        self.parts: dict[str, list[tuple[Work, Part]]] = {
            kind: parted(getattr(works, kind), detached, groups) for kind in KINDS
        }
        self.hosted = [action for action, of in works.hosted if of_groups(detached, groups, of)]
        self.touched: set[str] | None = None
        self.form: Hashable = None

    def raw(self, loss: Loss, parameters: Named) -> tuple[Named, Named]:
        """Return the gradient of the algorithm's own loss where it reaches, and the figures."""
        leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        with torch.enable_grad():
            value, figures = loss(leaves)
            found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        gradients = {n: g for n, g in zip(leaves, found, strict=True) if g is not None}
        told = {name: figure.detach() for name, figure in figures.items()}
        return gradients, told | {"loss": value.detach()}

    def function(
        self,
        loss: Loss,
        called: Called,
        state: State,
        fixed: Tensors,
        given: Tensors,
        rates: list[Tensor],
    ) -> tuple[State, Named, Named, list[Tensors], Named]:
        """Return the state after the update, figures, what is finite, what projections say, masks.

        The masks are of entries that a target network takes over, by name.

        Args:
            loss: Of the parameters, on the batch of this update.
            called: Which functions are called, and how.
            state: Before the update.
            fixed: States of functions that do not change them, by kind.
            given: What functions get in this update, by kind.
            rates: Learning rate of each parameter group.
        """
        parameters: Named = state["parameters"]
        states = {kind: list(state["works"][kind]) for kind in _MOVING}
        raw, figures = self.raw(loss, parameters)
        flags = dict(zip(KINDS, called.flags, strict=True))

        def results(kind: str, *leading: Any) -> list[Named]:
            found = []
            for number, (work, part) in enumerate(self.parts[kind]):
                if (chosen := flags[kind][number]) is not None:
                    own = {name: parameters[name] for name in part.parameters}
                    result = work.function(
                        own, *leading, fixed[kind][number], given[kind][number], **dict(chosen)
                    )
                    found.append(result or {})
            return found

        gradients = dict(raw)
        terms = results("terms") + self._moving_terms(flags["moving"], parameters, states, given)
        for name, value in merged(terms, torch.add).items():
            if name in gradients:
                gradients[name] = gradients[name] + value
        for name, factor in merged(results("scales"), torch.mul).items():
            if name in gradients:
                gradients[name] = gradients[name] * factor
        if self.norm is not None:
            gradients = clipped(gradients, self.norm)
        figures |= self._norms(gradients)
        said = self._project(flags["projections"], parameters, gradients, states, given)
        # A sum of squares is what clipping computes too; it overflows at gradients of 1e19.
        finite = {name: g.square().sum().isfinite() for name, g in gradients.items()}
        count = state["count"] + 1
        values, moments = self.stepper.step(parameters, gradients, state["moments"], count, rates)
        move = Move(parameters, gradients, values, rates[0])
        self._revise(flags["revisions"], move, states, given)
        self._look(flags["looks"], (parameters, raw, values), states, given)
        copied = self._rewrite(flags["rewrites"], values, moments, fixed, given)
        after = {"parameters": values, "moments": moments, "count": count, "works": states}
        return after, figures, finite, said, copied

    def _norms(self, gradients: Named) -> Named:
        """Return the norm of the gradient of each group, as figures."""
        squares: dict[str, Tensor] = {}
        for name, gradient in gradients.items():
            if (group := self._groups.get(name)) is not None:
                square = gradient.square().sum()
                squares[group] = squares[group] + square if group in squares else square
        return {f"{NORM}{group}": square.sqrt() for group, square in squares.items()}

    def _moving_terms(
        self,
        flags: tuple[Any, ...],
        parameters: Named,
        states: dict[str, list[Tensors]],
        given: Tensors,
    ) -> list[Named]:
        """Return what moving terms add."""
        found = []
        for number, (work, part) in enumerate(self.parts["moving"]):
            if flags[number] is not None:
                own = {name: parameters[name] for name in part.parameters}
                before, batch = states["moving"][number], given["moving"][number]
                added, after = work.function(own, before, batch, **dict(flags[number]))
                states["moving"][number] = after
                found.append(added)
        return found

    def _revise(
        self, flags: tuple[Any, ...], move: Move, states: dict[str, list[Tensors]], given: Tensors
    ) -> None:
        """Write what revisions make of a step into the weights after it."""
        for number, (work, part) in enumerate(self.parts["revisions"]):
            if flags[number] is not None:
                names = [name for name in part.parameters if name in move.gradients]
                own = move._replace(
                    before={name: move.before[name] for name in names},
                    gradients={name: move.gradients[name] for name in names},
                    after={name: move.after[name] for name in names},
                )
                before, batch = states["revisions"][number], given["revisions"][number]
                values, after = work.function(own, before, batch, **dict(flags[number]))
                states["revisions"][number] = after
                move.after.update(values)

    def _project(
        self,
        flags: tuple[Any, ...],
        parameters: Named,
        gradients: Named,
        states: dict[str, list[Tensors]],
        given: Tensors,
    ) -> list[Tensors]:
        said: list[Tensors] = []
        for number, (work, part) in enumerate(self.parts["projections"]):
            if flags[number] is None:
                continue
            own = {name: gradients[name] for name in part.parameters if name in gradients}
            moved = {name: parameters[name] for name in own}
            batch, before = given["projections"][number], states["projections"][number]
            replaced, after = work.function(moved, own, before, batch, **dict(flags[number]))
            gradients |= replaced
            # What begins empty keeps nothing from one update to the next.
            states["projections"][number] = after if before else before
            if work.after is not None:
                said.append(after)
        return said

    def _look(
        self,
        flags: tuple[Any, ...],
        seen: tuple[Named, Named, Named],
        states: dict[str, list[Tensors]],
        given: Tensors,
    ) -> None:
        before, raw, after = seen
        for number, (work, part) in enumerate(self.parts["looks"]):
            if flags[number] is None:
                continue
            names = [name for name in part.parameters if name in raw]
            if not names:
                continue
            vectors = (
                torch.cat([named[name].reshape(-1) for name in names])
                for named in (before, raw, after)
            )
            states["looks"][number] = work.function(
                Step(*vectors),
                states["looks"][number],
                given["looks"][number],
                **dict(flags[number]),
            )

    def _rewrite(
        self,
        flags: tuple[Any, ...],
        values: Named,
        moments: Moments,
        fixed: Tensors,
        given: Tensors,
    ) -> Named:
        """Write into values and moments; return masks of what target networks take over."""
        copied: Named = {}
        for number, (work, part) in enumerate(self.parts["rewrites"]):
            if flags[number] is None:
                continue
            own = {name: values[name] for name in part.parameters}
            chosen = dict(flags[number])
            rewritten: Rewritten | None = work.function(
                own, fixed["rewrites"][number], given["rewrites"][number], **chosen
            )
            if rewritten is None:
                continue
            if rewritten.restarts_steps:
                raise UsageError("engine: compiled cannot restart Adam's count of single weights")
            values |= rewritten.values
            for name, mask in rewritten.renewed.items():
                for named in moments.values():
                    named[name] = named[name].masked_fill(mask, 0.0)
            for name, mask in [*rewritten.renewed.items(), *(rewritten.copied or {}).items()]:
                copied[name] = copied[name] | mask if name in copied else mask
        return copied

    # -- what the host does before updates ---------------------------------------------------------

    @property
    def begins(self) -> bool:
        """Whether a function begins its state at the next update."""
        every = (pair for kind in KINDS for pair in self.parts[kind])
        return any(part.state is None and not work.is_stopped for work, part in every)

    def begin(self, loss: Loss) -> None:
        """Begin the states of functions, as the hooks do at their first update.

        What a program is traced for has the form of these states, and ``form`` tells them apart.
        """
        if self.form is not None and not self.begins:
            return
        if self.touched is None and self.parts["looks"]:
            detached = {name: p.detach() for name, p in self.parameters.items()}
            self.touched = set(self.raw(loss, detached)[0])
        for kind in KINDS:
            for work, part in self.parts[kind]:
                if part.state is None and not work.is_stopped:
                    if kind == "looks" and self.touched is not None:
                        part.parameters = {
                            n: p for n, p in part.parameters.items() if n in self.touched
                        }
                    work.begin(part)
        leaves, spec = tree_flatten((self.fixed(), self.moving()))
        self.form = str(spec), tuple(tuple(leaf.shape) for leaf in leaves)

    def draw(self) -> tuple[Called, dict[str, list[Tensors]]]:
        """Return which functions the next update calls, and what each gets."""
        if not any(self.parts.values()):  # of a rollout's 320 updates, a twentieth of the time
            return _NOTHING
        called, given = [], {}
        for kind in KINDS:
            drawn = [
                work.drawn(part) if part.parameters else None for work, part in self.parts[kind]
            ]
            called.append(tuple(None if one is None else tuple(one[1].items()) for one in drawn))
            given[kind] = [{} if one is None else one[0] for one in drawn]
        return Called(tuple(called)), given

    def undraw(self, count: int) -> None:
        """Count updates out that were drawn for and not taken."""
        for kind in KINDS:
            for work, part in self.parts[kind]:
                part.updates -= count if work.flags is not None and count else 0

    def tell(self, said: list[Any]) -> None:
        """Tell methods what their projections said in each update."""
        works = [work for work, _ in self.parts["projections"] if work.after is not None]
        for update in said:
            for work, one in zip(works, update, strict=True):
                work.after(one)  # type: ignore[misc]  # chosen by it

    def fixed(self) -> dict[str, list[Tensors]]:
        """Return the states of functions that do not change them."""
        return {
            kind: [part.state or {} for _, part in self.parts[kind]]
            for kind in ("terms", "scales", "rewrites")
        }

    def moving(self) -> dict[str, list[Tensors]]:
        """Return the states of functions that change them."""
        return {kind: [part.state or {} for _, part in self.parts[kind]] for kind in _MOVING}


def norms_in(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the norms of gradients that are among figures, by group."""
    found = ((tag.split(NORM), values) for tag, values in figures.items() if NORM in tag)
    return {group: values for (_, group), values in found}


def filled(given: Tensors, everything: Named, temperature: Tensor) -> dict[str, list[Tensors]]:
    """Return what functions get, with the model's tensors as they are in this very update.

    A method that takes the gradient of the algorithm's loss is handed all that the loss depends
    on. Drawn on the host before a round, these would be as they were then.

    Args:
        given: By kind, for each function.
        everything: All tensors of the policy, by name.
        temperature: The entropy coefficient.
    """
    current = {"others": everything, "temperature": temperature}

    def exchanged(one: Any) -> Any:
        if not isinstance(one, Mapping):
            return one
        inside = {name: exchanged(value) for name, value in one.items() if name not in current}
        return inside | {name: value for name, value in current.items() if name in one}

    return {kind: [exchanged(one) for one in ones] for kind, ones in given.items()}
