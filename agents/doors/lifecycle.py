"""The lifecycle door: what is carried over a task switch, work at steps, the view of each task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named, group_of
from holdfast.agents.doors.exploration import Exploration

Blend = Callable[[Named, Named], Named]
"""Carried and newly built tensors of the policy, by name, to those that replace carried ones."""

Opened = Callable[[], AbstractContextManager[Any]]
"""Opens a context."""

Snapshot = Mapping[str, Named]
"""Tensors of the policy under ``policy``, statistics of its observations under ``normalization``;
both may be left out."""


class Due(NamedTuple):
    """Work that a method asked for.

    Attributes:
        steps: Step of the task at which it is due.
        name: What it is called.
        act: Does it.
        owner: The method that asked.
    """

    steps: int
    name: str
    act: Callable[[], None]
    owner: str = ""


class Plan:
    """The agent's half of the door: what methods said of task starts, steps and earlier tasks.

    Attributes:
        everything_fresh: Whether the coming task start carries nothing at all.
        has_views: Whether a method keeps a view per task; a task without one is then unseen.
        is_interleaved: Whether the coming task is learned from all tasks of the stream in turns.
        knows_all: Whether the current one is.
        frozen_from: First stage at which nothing is learned any more; None where all are learned.
        exploration: How the coming task is explored at its start; None where as published.
        pending: Work that is due in this task, by name and step.
        trained: Tasks that were learned from once the current one has been, in order.
        owners: What does the work of each method.
    """

    def __init__(self) -> None:
        self.everything_fresh = False
        self.has_views = False
        self.is_interleaved = self.knows_all = False
        self.frozen_from: int | None = None
        self.exploration: Exploration | None = None
        self.pending: list[Due] = []
        self.trained: tuple[int, ...] = ()
        self.first: list[Callable[[], None]] = []
        self.openings: list[Callable[[], None]] = []
        self.fresh_names: tuple[str, ...] = ()
        self.fresh_tests: list[Callable[[str], bool]] = []
        self.blends: list[Blend] = []
        self.contexts: list[tuple[Opened, Opened]] = []
        self.views: dict[int, Opened] = {}
        self.owners: dict[str, Callable[[str], None]] = {}

    # -- a task start ------------------------------------------------------------------------------

    def is_fresh(self, name: str) -> bool:
        """Return whether a policy tensor keeps its newly built value at the coming start."""
        return name in self.fresh_names or any(test(name) for test in self.fresh_tests)

    def blended(self, carried: Named, fresh: Named) -> Named:
        """Return what is loaded into the newly built policy in place of the carried tensors."""
        for blend in self.blends:
            carried = {**carried, **blend(carried, fresh)}
        return carried

    def started(self, stage: int, order: tuple[int, ...]) -> None:
        """Forget what was said about the start of this stage, which is now done.

        Args:
            stage: The stage.
            order: Tasks of the whole stream.
        """
        self.knows_all = self.is_interleaved
        self.reached(stage, order)
        self.everything_fresh, self.fresh_names, self.fresh_tests = False, (), []
        self.is_interleaved = False
        self.blends = []

    def reached(self, stage: int, order: tuple[int, ...]) -> None:
        """Count tasks as learned from, once this stage is; ``order`` as in ``started``."""
        self.trained = order if self.knows_all else order[: self.learned(stage)]

    def learned(self, stage: int) -> int:
        """Return how many stages have been learned from once ``stage`` is begun."""
        return stage + 1 if self.frozen_from is None else min(stage + 1, self.frozen_from)

    # -- inside a task -----------------------------------------------------------------------------

    def updated(self, steps: int) -> None:
        """Do what is due after an update at this step of the task."""
        while self.pending and steps >= min(due.steps for due in self.pending):
            due = min(self.pending, key=lambda entry: entry.steps)
            self.pending.remove(due)
            due.act()

    def ask(self, steps: int, name: str, owner: str) -> None:
        """Make work due at a step of the task."""
        act = partial(self.owners[owner], name)
        self.pending.append(Due(steps, name, act, owner))

    def asked(self) -> list[list[Any]]:
        """Return the work that is due, as plain data; ``ask`` takes each entry back."""
        return [[due.steps, due.name, due.owner] for due in self.pending]

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Open what the coming task is learned in, after what comes first."""
        first, self.first = self.first, []
        with ExitStack() as opened:
            for act in first:
                act()
            for learning, _ in self.contexts:
                opened.enter_context(learning())
            yield

    def open(self) -> None:
        """Do what a task that begins is opened with."""
        for act in self.openings:
            act()

    def detach(self) -> None:
        """Forget the work that did not come due, and how the task is learned and explored."""
        self.pending.clear()
        self.first.clear()
        self.openings.clear()
        self.contexts.clear()
        self.exploration = None

    # -- views -------------------------------------------------------------------------------------

    def shown(self, task_index: int, *, has_heads: bool) -> tuple[int, bool]:
        """Return the task whose id or head is shown, and whether its own view is missing."""
        unseen = (has_heads or self.has_views) and task_index not in self.trained
        return (self.trained[-1] if has_heads and unseen else task_index), unseen

    @contextmanager
    def viewing(self, task_index: int, current: int) -> Iterator[None]:
        """Act as for a task: in its view where a method keeps one, else as the policy is now."""
        view = None if task_index == current else self.views.get(task_index)
        with ExitStack() as opened:
            for _, measuring in self.contexts:
                opened.enter_context(measuring())
            opened.enter_context(nullcontext() if view is None else view())
            yield


class _Learner(Protocol):
    """The part of the agent that the door needs."""

    plan: Plan
    normalizer: Any

    @property
    def policy(self) -> Any: ...
    def files(self) -> Mapping[str, Named]: ...
    def overlaid(self, tensors: Named, statistics: Named) -> AbstractContextManager[None]: ...


class Lifecycle:
    """Door to task starts, to steps inside a task, and to views of earlier tasks.

    Args:
        learner: The agent.
        due: Does a method's work of this name.
        owner: What names the method.
    """

    def __init__(self, learner: _Learner, due: Callable[[str], None], owner: str = "") -> None:
        self._learner, self._due, self._owner = learner, due, owner
        learner.plan.owners[owner] = due

    @property
    def _plan(self) -> Plan:
        return self._learner.plan

    # -- the coming task start ---------------------------------------------------------------------

    def start_fresh(self, *names: str) -> None:
        """Keep these tensors out of the coming task start; without names, carry nothing."""
        self._plan.everything_fresh = self._plan.everything_fresh or not names
        self._plan.fresh_names += names

    def start_fresh_where(self, test: Callable[[str], bool]) -> None:
        """Keep tensors whose name passes ``test`` out of the coming task start."""
        self._plan.fresh_tests.append(test)

    def blend(self, blend: Blend) -> None:
        """Blend carried weights with newly built ones at the coming task start."""
        self._plan.blends.append(blend)

    def interleave(self) -> None:
        """Make the environments of the coming task take turns through all tasks of the stream."""
        self._plan.is_interleaved = True

    def freeze(self, stage: int) -> None:
        """Stop learning from this stage on: no step is taken, the policy stays."""
        self._plan.frozen_from = stage

    def explore(self, exploration: Exploration) -> None:
        """Make an off-policy agent act as for earlier tasks at the start of the coming task."""
        self._plan.exploration = exploration

    # -- inside the coming task --------------------------------------------------------------------

    def before_learning(self, name: str) -> None:
        """Call ``method.due(doors, name)`` once the model is built, before any step."""
        self._plan.first.append(lambda: self._due(name))

    def open_with(self, name: str) -> None:
        """Call ``method.due(doors, name)`` once the task has begun, before it is learned from.

        Unlike ``before_learning``, not where it goes on from a checkpoint inside. ``try_out`` is
        there for this work alone.
        """
        self._plan.openings.append(lambda: self._due(name))

    def try_out(self, tensors: Named, steps: int) -> list[float]:
        """Act by other tensors of the policy, greedily, in steps of the task that nothing learns.

        They count for the task's budget, and are stored where the agent has a replay buffer. Every
        environment begins a new episode afterwards. Evaluations that fall into these steps measure
        the policy as it is, without the tensors; the user's own callbacks are not told of them.

        Args:
            tensors: By name; those left out are as they are now.
            steps: A multiple of the number of environments.

        Returns:
            Returns of the episodes that ended; of an environment in which none did, that of the one
            that was cut short.
        """
        returns: list[float] = self._learner.try_out(tensors, steps)  # type: ignore[attr-defined]  # of one that plays
        return returns

    def after_steps(self, steps: int, name: str) -> None:
        """Call ``method.due(doors, name)`` after the first update at or after a step.

        On-policy that is between two rollouts, so that no rollout is collected by two policies.
        Work is known by its name and step, so that what is due can be saved.
        """
        self._plan.ask(steps, name, self._owner)

    def learn_in(self, learning: Opened, measuring: Opened) -> None:
        """Learn the coming task inside one context, and measure meanwhile inside another.

        For what belongs to learning alone, such as noise in the weights: ``learning`` is open while
        the agent collects and updates, ``measuring`` inside it during every evaluation.
        """
        self._plan.contexts.append((learning, measuring))

    def recent_scores(self, count: int) -> list[float]:
        """Return how the last training episodes of the current task went, oldest first.

        As scores of the task (``score:``): 0 like a random policy, 1 like the reference; or 1 and 0
        for success. They are of the acting that explores, not of the policy that is evaluated.

        Args:
            count: At most so many, and at most 100.
        """
        scores: list[float] = self._learner.recent_scores(count)  # type: ignore[attr-defined]  # of one that plays
        return scores

    # -- earlier tasks -----------------------------------------------------------------------------

    def keep_views(self) -> None:
        """Count a task as unseen until a view of it is kept."""
        self._plan.has_views = True

    def keep_view(
        self,
        task_index: int,
        snapshot: Snapshot | Callable[[], Snapshot],
        inside: Opened = nullcontext,
    ) -> None:
        """Evaluate a finished task in a view of its own from now on.

        Args:
            task_index: The task.
            snapshot: What lies over the policy there, or a function that returns it then.
            inside: Opens a context around it.
        """

        @contextmanager
        def view() -> Iterator[None]:
            with inside():
                kept = snapshot() if callable(snapshot) else snapshot
                over = kept.get("policy", {}), kept.get("normalization", {})
                with self._learner.overlaid(*over):
                    yield

        self._plan.views[task_index] = view

    def weights(self, *groups: str) -> Named:
        """Return all tensors of the policy, buffers and targets too, as they are now.

        Those of ``groups`` alone where any are given. Not to be written: copy what is kept.
        """
        named = [(name, p.detach()) for name, p in self._learner.policy.named_parameters()]
        return self.buffers(*groups) | self._of(groups, named)

    def buffers(self, *groups: str) -> Named:
        """Return those of the weights that no optimizer moves: running statistics, frozen parts."""
        return self._of(groups, self._learner.policy.named_buffers())

    def _of(self, groups: tuple[str, ...], named: Iterable[tuple[str, Tensor]]) -> Named:
        policy = self._learner.policy
        return {n: t for n, t in named if not groups or group_of(n, policy) in groups}

    def statistics(self) -> Named:
        """Return a copy of the statistics that observations and rewards are normalised by."""
        normalizer = self._learner.normalizer
        return {} if normalizer is None else dict(normalizer.tensors())

    def snapshot(self) -> Snapshot:
        """Return copies of all weights and of the statistics: the trained agent."""
        files = self._learner.files().items()
        return {name: tensors for name, tensors in files if name in ("policy", "normalization")}

    @torch.no_grad()
    def write(self, tensors: Named, *, targets: bool = False) -> None:
        """Write tensors of the policy, outside of its updates.

        Args:
            tensors: By name.
            targets: Whether the slowly moving copies of them are written too.
        """
        live = self.weights()
        for name, value in tensors.items():
            owner, _, rest = name.partition(".")
            for place in (name, f"{owner}_target.{rest}")[: 1 + targets]:
                if place in live:
                    live[place].copy_(value)
