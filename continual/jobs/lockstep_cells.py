"""Cells that learn in lockstep: of one method, in one process, each with a seed of its own."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from holdfast import seeding
from holdfast.agents.compiled.lockstep import Lockstep
from holdfast.continual.jobs.attempt import attempted, run_one, stoppable
from holdfast.continual.jobs.queue import Outcome, Turn
from holdfast.continual.progress import Tell
from holdfast.envs.wrappers.at_work import AT_WORK


def run_together(
    turns: Sequence[Turn],
    tell: Tell,
    ended: Callable[[Turn, Outcome], None],
    *,
    capture: bool = False,
) -> None:
    """Run cells, and tell how each ended. KeyboardInterrupt and SIGTERM pass through.

    Args:
        turns: One cell, or several that learn in lockstep.
        tell: Takes progress.
        ended: Takes how one ended; the others may run on.
        capture: Write all that a cell prints to its log and nowhere else.
    """
    if not turns[0].folder.in_lockstep:
        for turn in turns:
            ended(turn, run_one(turn, tell, capture=capture))
        return
    with stoppable() as check, AT_WORK.guests():

        def body(turn: Turn) -> None:
            ended(turn, attempted(turn, tell, check, capture=capture))

        before = Scene()
        try:
            Lockstep([Scene() for _ in turns]).run([partial(body, turn) for turn in turns])
        finally:
            before.enter()


class Scene:
    """What belongs to the process, as one of its cells has it; made as it is now.

    These are the global generators, the working folder, where output and warnings go, and what is
    noted of the cell that runs.
    """

    def __init__(self) -> None:
        self._states: Any = None
        self._outputs: list[tuple[int, int]] = []
        self.leave()

    def leave(self) -> None:
        """Put it away."""
        self._states = seeding.global_states()
        self._shown, self._view = warnings.showwarning, AT_WORK.view()
        self._folder: str | None = None
        with suppress(OSError):  # it is gone
            self._folder = os.getcwd()  # noqa: PTH109  # a text that chdir takes back
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # full, closed, or None
                stream.flush()
        for number in (1, 2):
            with suppress(OSError):  # closed
                self._outputs.append((number, os.dup(number)))

    def enter(self) -> None:
        """Bring it back."""
        seeding.set_global_states(self._states)
        warnings.showwarning = self._shown
        AT_WORK.look(self._view)
        if self._folder is not None:
            with suppress(OSError):
                os.chdir(self._folder)
        for number, copy in self._outputs:
            os.dup2(copy, number)
            os.close(copy)
        self._outputs.clear()
