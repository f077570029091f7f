"""The gradient door: what methods do to each update, as pure functions of named tensors.

In one update of an optimizer, in this order::

    backward   raw gradient; + terms; x scales
    clip       where the algorithm does
    step       projections; finite check; the step; revisions; looks; rewrites

A function is given all that it needs as named tensors: the parameters, its state, and what the host
drew for this update. It has fixed shapes, reads no tensor on the host and takes no branch on data,
so that an engine may trace it once and run it compiled. Exceptions are in ``registry.ON_HOST``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named, named_parameters, target_parameters
from holdfast.errors import CheckpointUnusable, Diverged

Tensors = Mapping[str, Any]
"""Named tensors, or further such mappings of them: the state of a function, or its batch."""

Term = Callable[..., Named]
"""``term(parameters, state, batch)``: the gradients to add by name; others get nothing."""

Scale = Callable[..., Named]
"""``factors(parameters, state, batch)``: factors of gradients by name; others keep theirs."""

MovingTerm = Callable[..., tuple[Named, Tensors]]
"""``term(parameters, state, batch)``: the gradients to add by name, and new state."""

Projection = Callable[..., tuple[Named, Tensors]]
"""``projection(parameters, gradients, state, batch)``: what replaces gradients, and new state."""

Revision = Callable[..., tuple[Named, Tensors]]
"""``revision(move, state, batch)``: the weights that replace those after a step, and new state."""

Look = Callable[..., Tensors]
"""``look(step, state, batch)``: the new state."""


class Move(NamedTuple):
    """A step of one optimizer, parameter by parameter; those that got no gradient are left out.

    Attributes:
        before: The weights before the step, by name.
        gradients: What the optimizer got: after terms, scales, clipping and projections.
        after: The weights after the step.
        rate: Learning rate of the step, shape (); of the optimizer's first group.
    """

    before: Named
    gradients: Named
    after: Named
    rate: Tensor


class Step(NamedTuple):
    """A step of one optimizer, as vectors: for small networks one operation costs as many do.

    Attributes:
        before: The weights before the step.
        raw: Gradients of the algorithm's own loss, before terms, scales and clipping.
        after: The weights after the step.
    """

    before: Tensor
    raw: Tensor
    after: Tensor


class Rewritten(NamedTuple):
    """Parameters to write after a step.

    Attributes:
        values: New values by name.
        renewed: Boolean masks by name: entries that start from new. The optimizer's moments of them
            become zero, and the target network takes their new values.
        copied: Such masks of entries that the target network takes beside them; None for none.
        restarts_steps: Whether Adam counts the steps of renewed entries from zero as well; else
            its bias correction goes on as if their moments had never been zero.
    """

    values: Named
    renewed: Named
    copied: Named | None = None
    restarts_steps: bool = False


Rewrite = Callable[..., Rewritten | None]
"""``rewrite(parameters, state, batch)``: what is written into the parameters after the step."""

Begin = Callable[[Named], Tensors]
"""Parameters of an optimizer before its first update, to the state of a function there."""

Draw = Callable[[Named], Tensors | None]
"""Parameters of an optimizer to what a function gets in this update; None: it is not called."""


@dataclass
class Part:
    """A function in the updates of one optimizer.

    Attributes:
        parameters: Those that it is given, by name: detached views.
        state: Its state there; None before the first update.
        updates: Updates so far.
    """

    parameters: Named
    state: Tensors | None = None
    updates: int = 0


@dataclass(eq=False)
class Work:
    """A function that a method added; the methods of ``Gradients`` tell of the arguments.

    Attributes:
        parts: What it is for each optimizer, while the agent learns and after.
    """

    function: Callable[..., Any]
    state: Tensors | Begin = field(default_factory=dict)
    batch: Draw | None = None
    groups: tuple[str, ...] = ()
    flags: Callable[[int], Mapping[str, Any]] | None = None
    after: Callable[[Tensors], None] | None = None
    parts: list[Part] = field(default_factory=list)
    is_stopped: bool = False

    def restart(self) -> None:
        """Begin the state again at the next update."""
        for part in self.parts:
            part.state, part.updates = None, 0

    def stop(self) -> None:
        """Do nothing more in this task."""
        self.is_stopped = True

    def told(self) -> dict[str, Any]:
        """Return how far the function has come in its task, as nested data and tensors."""
        parts = []
        for part in self.parts:
            is_given = part.state is self.state
            state = None if is_given else part.state
            names = list(part.parameters)
            parts.append({"updates": part.updates, "given": is_given, "state": state, "of": names})
        return {"stopped": self.is_stopped, "parts": parts}

    def put_back(self, told: Mapping[str, Any]) -> None:
        """Put back what ``told`` gave, into parts of the same optimizers."""
        self.is_stopped = bool(told["stopped"])
        for part, known in zip(self.parts, told["parts"], strict=True):
            part.updates = int(known["updates"])
            part.parameters = {name: part.parameters[name] for name in known["of"]}
            given: Any = self.state
            part.state = given if known["given"] else known["state"]

    def begin(self, part: Part) -> Tensors:
        """Return the state of a part, which begins at its first update."""
        if part.state is None:
            part.state = self.state(part.parameters) if callable(self.state) else self.state
        return part.state

    def drawn(self, part: Part) -> tuple[Tensors, Mapping[str, Any]] | None:
        """Return batch and flags of the next update; None where the function is not called."""
        if self.is_stopped:
            return None
        batch: Tensors | None = _NOTHING if self.batch is None else self.batch(part.parameters)
        if batch is None:
            return None
        flags = self.flags(part.updates) if self.flags else _NOTHING
        part.updates += 1
        return batch, flags

    def __call__(self, part: Part, *given: Any) -> Any:
        """Return what the function gives in this update; None where there is nothing to do."""
        if self.is_stopped:
            return None
        state, drawn = self.begin(part), self.drawn(part)
        if drawn is None:
            return None
        batch, flags = drawn
        return self.function(*given, state, batch, **flags)


_NOTHING: dict[str, Any] = {}


def parted(
    works: list[Work], parameters: Named, groups: Mapping[str, str | None]
) -> list[tuple[Work, Part]]:
    """Return the functions that are called in the updates of one optimizer, each with its part.

    Args:
        works: Functions of one kind.
        parameters: Those that the optimizer moves, by name; detached views.
        groups: The group of each.
    """
    found = []
    for work in works:
        if own := of_groups(parameters, groups, work.groups):
            work.parts.append(Part(own))
            found.append((work, work.parts[-1]))
    return found


def merged(found: Iterable[Named | None], merge: Callable[[Tensor, Tensor], Tensor]) -> Named:
    """Return what several functions give, by name; what two of them give is merged."""
    total: Named = {}
    for part in found:
        for name, value in (part or {}).items():
            total[name] = merge(total[name], value) if name in total else value
    return total


def of_groups(parameters: Named, groups: Mapping[str, str | None], wanted: Any) -> Named:
    """Return the parameters of the wanted groups; all where none is wanted."""
    return {name: p for name, p in parameters.items() if not wanted or groups.get(name) in wanted}


def diverged(bad: list[str]) -> Diverged:
    """Return the error of gradients that are not finite.

    Args:
        bad: Names of the parameters whose gradients they are.
    """
    return Diverged(
        f"the gradient of {', '.join(bad[:3]) or 'the policy'} is not finite; the last "
        "task boundary is kept. Lower agent.learning_rate or the method's strength, scale "
        "the rewards (agent.normalize, changes.reward_scale), or look for the cause "
        "in the environment with: holdfast check-env"
    )


@dataclass
class Works:
    """Requests of the methods for the coming task, in their order."""

    terms: list[Work] = field(default_factory=list)
    moving: list[Work] = field(default_factory=list)
    scales: list[Work] = field(default_factory=list)
    projections: list[Work] = field(default_factory=list)
    revisions: list[Work] = field(default_factory=list)
    looks: list[Work] = field(default_factory=list)
    rewrites: list[Work] = field(default_factory=list)
    hosted: list[tuple[Callable[[], None], tuple[str, ...]]] = field(default_factory=list)

    def told(self) -> list[Any]:
        """Return how far each function has come in its task; see ``Work``.

        Kinds that came later are left out where there is none, as earlier versions know them not.
        """
        told = [[work.told() for work in works] for works in self._functions()]
        while len(told) > _FIRST_KINDS and not told[-1]:
            told.pop()
        return told

    def put_back(self, told: list[Any]) -> None:
        """Put back what ``told`` gave, once the same functions were added and attached again.

        Raises:
            CheckpointUnusable: If others were added.
        """
        told = [*told, *([] for _ in self._functions()[len(told) :])]
        counts = [len(works) for works in self._functions()]
        if counts != [len(known) for known in told]:
            raise CheckpointUnusable(
                "the checkpoint is of methods that added other functions to the gradient door; "
                "was it written by another version?"
            )
        for works, known in zip(self._functions(), told, strict=True):
            for work, one in zip(works, known, strict=True):
                work.put_back(one)

    def _functions(self) -> list[list[Work]]:
        first = [self.terms, self.scales, self.projections, self.looks, self.rewrites]
        return [*first, self.revisions, self.moving]


_FIRST_KINDS = 5
"""Terms, scales, projections, looks and rewrites, which every checkpoint tells of."""


class _Learner(Protocol):
    """The part of the agent that the door needs."""

    @property
    def policy(self) -> Any: ...
    def layer_names(self) -> set[str]: ...
    def fresh(self, names: set[str], rng: np.random.Generator) -> Named: ...
    def units(self) -> list[Any]: ...
    def task_rows(self, name: str, task: int) -> Tensor | None: ...
    def loss_inputs(
        self, parameters: Named, rows: Mapping[str, Any], noise: torch.Generator
    ) -> Tensors: ...
    def loss_gradient(self, parameters: Named, inputs: Tensors) -> Named: ...
    def last_loss(self) -> float | None: ...
    def train_more(self, updates: int) -> None: ...


class Gradients:
    """Door to the updates of the coming task and to the parameters.

    Every verb that adds a function takes:

    * ``state``: named tensors, or a function of the parameters that returns them before the first
      update of each optimizer; ``Work.restart`` lets it begin again.
    * ``batch``: draws on the host what the function gets in one update (rows, noise); called once
      per update of each optimizer. Where it returns None, the function is not called.
    * ``groups``: the function is given parameters of these groups alone (``actor``, ``critic``,
      ``encoder``), and not called for an optimizer that moves none of them; all where empty.
    * ``flags``: number of the update, from 0, to keyword arguments of the function that are no
      tensors: an engine traces the function once for each set of them.

    Attributes:
        works: What was added for the coming task.
    """

    def __init__(self, learner: _Learner) -> None:
        self._learner = learner
        self.works = Works()

    # -- what is done in each update ---------------------------------------------------------------

    def add(self, term: Term, **options: Any) -> Work:
        """Add ``term(parameters, state, batch)`` to the gradients, before clipping."""
        return _added(self.works.terms, term, **options)

    def add_moving(self, term: MovingTerm, **options: Any) -> Work:
        """Add such a term that returns its new state beside the gradients."""
        return _added(self.works.moving, term, **options)

    def scale(self, factors: Scale, **options: Any) -> Work:
        """Multiply gradients, terms included and before clipping, by what ``factors`` returns."""
        return _added(self.works.scales, factors, **options)

    def project(self, projection: Projection, **options: Any) -> Work:
        """Replace gradients right before the step, after clipping.

        ``after`` takes the new state on the host, to look at what it counts.
        """
        return _added(self.works.projections, projection, **options)

    def revise(self, revision: Revision, **options: Any) -> Work:
        """Replace the weights that a step has led to: for what changes how an optimizer steps."""
        return _added(self.works.revisions, revision, **options)

    def watch(self, look: Look, **options: Any) -> Work:
        """Follow every step; parameters that no gradient reached in the first one are left out."""
        return _added(self.works.looks, look, **options)

    def rewrite(self, rewrite: Rewrite, **options: Any) -> Work:
        """Write parameters after every step."""
        return _added(self.works.rewrites, rewrite, **options)

    def after_update(self, action: Callable[[], None], *groups: str) -> None:
        """Call ``action`` on the host after every step that moves parameters of these groups."""
        self.works.hosted.append((action, groups))

    # -- what is read ------------------------------------------------------------------------------

    def parameters(self, *groups: str) -> Named:
        """Return the parameters that learn, by name; of all groups where none is given.

        They are as they are now, not to be written: copy what is kept.
        """
        named = named_parameters(self._learner.policy, *groups)
        return {name: parameter.detach() for name, parameter in named.items()}

    def layer_names(self) -> set[str]:
        """Return the names of the weights and biases of layers, those of targets among them."""
        return self._learner.layer_names()

    def targets(self) -> set[str]:
        """Return the names of the parameters that a slowly moving copy follows."""
        return set(target_parameters(self._learner.policy))

    def fresh(self, names: set[str], rng: np.random.Generator) -> Named:
        """Return values of parameters newly drawn as their layers were initialised, by name."""
        return self._learner.fresh(names, rng)

    def units(self) -> list[Any]:
        """Return the hidden layers with the weights that feed and read their units.

        See ``HiddenLayer``.
        """
        return self._learner.units()

    def task_rows(self, name: str, task: int) -> Tensor | None:
        """Return which entries of a parameter belong to one task's head; None: tasks share it."""
        return self._learner.task_rows(name, task)

    # -- the algorithm's own loss ------------------------------------------------------------------

    def loss_inputs(
        self, parameters: Named, rows: Mapping[str, Any], noise: torch.Generator
    ) -> Tensors:
        """Return all that the loss of these parameters depends on besides them, on the host.

        Args:
            parameters: Those that one optimizer moves, or some of them.
            rows: As ``memory.transitions`` gives them.
            noise: Draws the noise of actions.
        """
        return self._learner.loss_inputs(parameters, rows, noise)

    def loss_gradient(self, parameters: Named, inputs: Tensors) -> Named:
        """Return the gradient of the algorithm's own loss: a pure function of its arguments."""
        return self._learner.loss_gradient(parameters, inputs)

    def last_loss(self) -> float | None:
        """Return the actor's own loss in the last round of updates, as the algorithm logs it.

        Read it when work is due after a round (``lifecycle.after_steps``): the log is emptied
        later. None where there was no update of the actor since.
        """
        return self._learner.last_loss()

    def train_more(self, updates: int) -> None:
        """Do gradient updates on the replay buffer after the task, without environment steps.

        A method calls it in ``post_adapt``, after it has added what they shall go through.
        """
        self._learner.train_more(updates)


def _added(works: list[Work], function: Callable[..., Any], **options: Any) -> Work:
    works.append(Work(function, **options))
    return works[-1]
