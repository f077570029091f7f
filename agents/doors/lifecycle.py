"""The lifecycle door: what is carried over a task switch, and the view of each task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from holdfast.agents.doors.exploration import Exploration
from holdfast.agents.doors.gradients import Named

Blend = Callable[[Named, Named], Named]
"""Carried and newly built tensors of the policy, by name, to those that replace carried ones."""

View = Callable[[], AbstractContextManager[None]]
"""Opens a context in which the current policy acts as it does for one task."""


class Lifecycle:
    """What methods say about task starts and about earlier tasks.

    Attributes:
        everything_fresh: Whether the coming task start carries nothing at all.
        has_views: Whether a method keeps a view per task; a task without one is then unseen.
        is_interleaved: Whether the coming task is learned from all tasks of the stream in turns.
        frozen_from: First stage at which nothing is learned any more; None where all are learned.
        exploration: How the coming task is explored at its start; None where as published.
    """

    def __init__(self) -> None:
        self.everything_fresh = False
        self.has_views = False
        self.is_interleaved = False
        self.frozen_from: int | None = None
        self.exploration: Exploration | None = None
        self._actions: list[tuple[int, Callable[[], None]]] = []
        self._fresh_names: tuple[str, ...] = ()
        self._fresh_tests: list[Callable[[str], bool]] = []
        self._blends: list[Blend] = []
        self._views: dict[int, View] = {}
        self._learning: list[tuple[View, View]] = []

    def start_fresh(self, *names: str) -> None:
        """Keep these tensors out of the coming task start; without names, carry nothing."""
        self.everything_fresh = self.everything_fresh or not names
        self._fresh_names += names

    def start_fresh_where(self, test: Callable[[str], bool]) -> None:
        """Keep tensors whose name passes ``test`` out of the coming task start."""
        self._fresh_tests.append(test)

    def is_fresh(self, name: str) -> bool:
        """Return whether a policy tensor keeps its newly built value at the coming start."""
        return name in self._fresh_names or any(test(name) for test in self._fresh_tests)

    def blend(self, blend: Blend) -> None:
        """Let carried weights be blended with newly built ones at the coming task start."""
        self._blends.append(blend)

    def blended(self, carried: Named, fresh: Named) -> Named:
        """Return what is loaded into the newly built policy in place of the carried tensors."""
        for blend in self._blends:
            carried = {**carried, **blend(carried, fresh)}
        return carried

    def started(self) -> None:
        """Forget what was said about the start that is now done."""
        self.everything_fresh, self._fresh_names, self._fresh_tests = False, (), []
        self.is_interleaved = False
        self._blends = []

    def interleave(self) -> None:
        """Let the environments of the coming task take turns through all tasks of the stream."""
        self.is_interleaved = True

    def freeze(self, stage: int) -> None:
        """Let nothing be learned from this stage on: no step is taken, the policy stays."""
        self.frozen_from = stage

    def learned(self, stage: int) -> int:
        """Return how many stages have been learned from once ``stage`` is begun."""
        return stage + 1 if self.frozen_from is None else min(stage + 1, self.frozen_from)

    def explore(self, exploration: Exploration) -> None:
        """Let an off-policy agent act as for earlier tasks at the start of the coming task."""
        self.exploration = exploration

    def after_steps(self, steps: int, action: Callable[[], None]) -> None:
        """Call ``action`` once, after the first update at or after this step of the coming task.

        On-policy that is between two rollouts, so that no rollout is collected by two policies.
        """
        self._actions.append((steps, action))

    def updated(self, steps: int) -> None:
        """Do what is due after an update at this step of the task."""
        while self._actions and steps >= min(when for when, _ in self._actions):
            due = min(self._actions, key=lambda entry: entry[0])
            self._actions.remove(due)
            due[1]()

    def learn_in(self, learning: View, measuring: View) -> None:
        """Let the coming task be learned inside one context and measured meanwhile inside another.

        For what belongs to learning alone, such as noise in the weights: ``learning`` is open while
        the agent collects and updates, ``measuring`` inside it during every evaluation.
        """
        self._learning.append((learning, measuring))

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Open what the coming task is learned in."""
        with ExitStack() as opened:
            for learning, _ in self._learning:
                opened.enter_context(learning())
            yield

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Open what is measured in while the task is learned."""
        with ExitStack() as opened:
            for _, measuring in self._learning:
                opened.enter_context(measuring())
            yield

    def detach(self) -> None:
        """Forget the actions that did not come due, and how the task is learned and explored."""
        self._actions.clear()
        self._learning.clear()
        self.exploration = None

    def keep_view(self, task_index: int, view: View) -> None:
        """Let a finished task be evaluated inside ``view`` from now on."""
        self._views[task_index] = view

    def view(self, task_index: int) -> AbstractContextManager[None]:
        """Return the view of a task; the policy as it is now where the task has none."""
        view = self._views.get(task_index)
        return nullcontext() if view is None else view()
