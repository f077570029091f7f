"""The lifecycle door: what is carried over a task switch, and the view of each task."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

View = Callable[[], AbstractContextManager[None]]
"""Opens a context in which the current policy acts as it does for one task."""


class Lifecycle:
    """What methods say about task starts and about earlier tasks.

    Attributes:
        everything_fresh: Whether the coming task start carries nothing at all.
        has_views: Whether a method keeps a view per task; a task without one is then unseen.
        is_interleaved: Whether the coming task is learned from all tasks of the stream in turns.
        frozen_from: First stage at which nothing is learned any more; None where all are learned.
    """

    def __init__(self) -> None:
        self.everything_fresh = False
        self.has_views = False
        self.is_interleaved = False
        self.frozen_from: int | None = None
        self._actions: list[tuple[int, Callable[[], None]]] = []
        self._fresh_names: tuple[str, ...] = ()
        self._views: dict[int, View] = {}

    def start_fresh(self, *names: str) -> None:
        """Keep these tensors out of the coming task start; without names, carry nothing."""
        self.everything_fresh = self.everything_fresh or not names
        self._fresh_names += names

    def is_fresh(self, name: str) -> bool:
        """Return whether a policy tensor keeps its newly built value at the coming start."""
        return name in self._fresh_names

    def started(self) -> None:
        """Forget what was said about the start that is now done."""
        self.everything_fresh, self._fresh_names = False, ()
        self.is_interleaved = False

    def interleave(self) -> None:
        """Let the environments of the coming task take turns through all tasks of the stream."""
        self.is_interleaved = True

    def freeze(self, stage: int) -> None:
        """Let nothing be learned from this stage on: no step is taken, the policy stays."""
        self.frozen_from = stage

    def learned(self, stage: int) -> int:
        """Return how many stages have been learned from once ``stage`` is begun."""
        return stage + 1 if self.frozen_from is None else min(stage + 1, self.frozen_from)

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

    def detach(self) -> None:
        """Forget the actions that did not come due: the next task adds its own."""
        self._actions.clear()

    def keep_view(self, task_index: int, view: View) -> None:
        """Let a finished task be evaluated inside ``view`` from now on."""
        self._views[task_index] = view

    def view(self, task_index: int) -> AbstractContextManager[None]:
        """Return the view of a task; the policy as it is now where the task has none."""
        view = self._views.get(task_index)
        return nullcontext() if view is None else view()
