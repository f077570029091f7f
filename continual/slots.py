"""Slots of a stream whose boundaries a detector finds, as methods are told of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from holdfast.continual.method import Method


class Slots:
    """Tells methods of the boundaries that a detector finds.

    A slot is to them what a task is where boundaries are known: they consolidate at its end, and
    begin the next one. The agent itself lives on. Where slots may come again, each visit is a stage
    of its own, and ``slot`` of the experience says which slot it is. To go on inside a slot, a
    method begins it again from the state that it had there; that state is kept.

    Args:
        told: The first experience, as methods are told of it; here it becomes that of each slot.
        agent: A single agent, whose detector it is.
        methods: In the order of the scenario.
        record: Called once a slot has begun.
    """

    def __init__(
        self, told: Any, agent: Any, methods: Sequence[Method], record: Callable[[], None]
    ) -> None:
        self._told, self._agent, self._methods, self._record = told, agent, methods, record
        self._states = [_copied(method.state()) for method in methods]

    @property
    def detections(self) -> list[tuple[int, int, float, int]]:
        """Changes that were found so far: step, step at which a slot began or -1, statistic, slot.

        The slot is -1 where none has begun, and where none can come again.
        """
        found: list[tuple[int, int, float, int]] = self._agent.detector.detections
        return found

    def begin_next(self, steps: int) -> None:
        """End the slot and begin the next one; the agent's doors are closed meanwhile.

        Args:
            steps: Environment steps of the slot that ends.
        """
        stated, self._told.steps = self._told.steps, steps
        for method in self._methods:
            method.post_adapt(self._agent.doors(method), self._told)
        self._told.steps = stated
        self._states = [_copied(method.state()) for method in self._methods]
        self._told.begin_slot(self._told.stage + 1, self._agent.detector.slot)
        for method in self._methods:
            method.pre_adapt(self._agent.doors(method), self._told)
        self._record()

    def files(self) -> dict[str, dict[str, Tensor]]:
        """Return what a checkpoint needs to go on inside the slot."""
        return {f"{_STEM}{number}": state for number, state in enumerate(self._states)}

    def resume(self, files: Mapping[str, dict[str, Tensor]]) -> None:
        """Take back what ``files`` gave, among the files of a checkpoint; before ``pre_adapt``."""
        begun = int((files["detector"]["detections"][:, 1] >= 0).sum())
        self._told.begin_slot(begun, int(files["detector"]["slot"]))
        self._states = [files.get(f"{_STEM}{number}", {}) for number in range(len(self._methods))]
        for method, state in zip(self._methods, self._states, strict=True):
            method.load_state(self._agent.doors(method), state)


_STEM = "slot-method-"


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a copy of a method's state; what is settled never changes."""
    return {n: t if n.startswith("settled/") else t.clone() for n, t in state.items()}
