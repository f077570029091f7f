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
    """

    def __init__(self) -> None:
        self.everything_fresh = False
        self.has_views = False
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

    def keep_view(self, task_index: int, view: View) -> None:
        """Let a finished task be evaluated inside ``view`` from now on."""
        self._views[task_index] = view

    def view(self, task_index: int) -> AbstractContextManager[None]:
        """Return the view of a task; the policy as it is now where the task has none."""
        view = self._views.get(task_index)
        return nullcontext() if view is None else view()
