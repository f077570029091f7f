"""The pauses of one task of a running cell: what is kept there, and how it is taken up again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

from holdfast.agents.base.agent import Agent
from holdfast.agents.base.pauses import Inside
from holdfast.continual.experience import Experience
from holdfast.continual.method import Method
from holdfast.continual.run_folder.inside_task import Found, InsideTask
from holdfast.continual.training.diagnostics import Diagnostics
from holdfast.continual.training.tensorboard import TensorBoard
from holdfast.scenarios.schema.scenario import Scenario

GENERATORS, _NORMS = "generators", "gradient_norms"
"""Files of the generators of methods, and of what diagnostics have gathered."""


class _Stopwatch(Protocol):
    def paused(self, step: int) -> AbstractContextManager[None]: ...


class Recording(Protocol):
    """The journal of a cell, as its pauses need it."""

    scenario: Scenario
    agent: Agent
    methods: Sequence[Method]
    diagnostics: Diagnostics
    board: TensorBoard

    @property
    def training(self) -> _Stopwatch: ...  # noqa: D102  # what steps are timed by

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint inside a task keeps of the run."""

    def slot_files(self) -> dict[str, dict[str, Tensor]]:
        """Return what a checkpoint needs to go on inside a slot; nothing where there are none."""

    def note(self, text: str) -> None:
        """Tell of something, beside how far the run is."""


class TaskPauses:
    """Writes checkpoints inside one task, and gives back what the last one holds.

    Args:
        journal: Of the cell.
        experience: The task.
        told: The same, as methods were told of it.
        store: Where the checkpoints of this task are.
        found: The checkpoint that it goes on from; None where it begins.

    Attributes:
        every: Environment steps between two; 0 where there are none.
        resets: Whether environments whose episodes never end may begin again.
        resumed: What the agent was; None where the task begins.
    """

    def __init__(
        self,
        journal: Recording,
        experience: Experience,
        told: Experience,
        store: InsideTask,
        found: Found | None,
    ) -> None:
        asked = journal.scenario.checkpoint
        self.every, self.resets = 0 if asked.every == "off" else asked.every, asked.resets
        self.resumed = (
            None if found is None else Inside(found.files, dict(found.parts), found.values)
        )
        self._journal, self._experience, self._told = journal, experience, told
        self._store, self._found = store, found
        self._is_warned = False

    @property
    def _methods(self) -> Sequence[Method]:
        return self._journal.methods

    @property
    def _agent(self) -> Agent:
        return self._journal.agent

    def save(self, step: int, inside: Inside) -> None:
        """Write a checkpoint at this step of the task."""
        journal, files = self._journal, dict(inside.files)
        with journal.training.paused(step):
            files |= {f"method-{n}": method.state() for n, method in enumerate(self._methods)}
            files |= journal.slot_files()
            files[GENERATORS] = self._told.generators()
            norms, files[_NORMS] = journal.diagnostics.inside()
            journal.board.flush()  # a resume trusts what was logged up to here
            state = journal.state() | {"diagnostics": norms, "drifted": self._drifted()}
            try:
                self._store.save(step, files, inside.parts, inside.values, state)
            except OSError as error:  # a full disk: the checkpoint before stays, training goes on
                self._store.clear()
                journal.note(f"no checkpoint was saved inside the task: {error}")

    def put_back(self) -> None:
        """Give the methods, their generators and the journal what they had."""
        assert self._found is not None
        files = self._found.files
        for number, method in enumerate(self._methods):
            method.load_state(self._agent.doors(method), files.get(f"method-{number}", {}))
        self._told.set_generators(files.get(GENERATORS, {}))
        if self._found.step:  # at a hidden boundary, neither has begun
            norms = files.get(_NORMS, {})
            self._journal.diagnostics.put_back(self._found.state["diagnostics"], norms)
        if self._found.step and hasattr(self._experience, "drifted"):
            known = [(int(at), dict(values)) for at, values in self._found.state["drifted"]]
            self._experience.drifted[:] = known
        self.resumed, self._found.files, self._found.parts = None, {}, {}  # may be large

    def skipped(self, step: int) -> None:
        """Say once that nothing can be kept, as no episode has ended."""
        if not self._is_warned:
            self._journal.note(
                f"no episode has ended in {step:,} steps, and nothing limits them: no checkpoint "
                "is taken inside this task until one has. Give the task a time limit (changes: "
                "{time_limit: steps}), or write checkpoint: {resets: true}"
            )
        self._is_warned = True

    def _drifted(self) -> list[Any]:
        return [[step, values] for step, values in getattr(self._experience, "drifted", ())]
