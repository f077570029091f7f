"""The rows of a replay buffer in parts that are written once: only new rows at each pause."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from holdfast.agents.base.buffers import ring_arrays
from holdfast.agents.base.parameters import Named
from holdfast.agents.base.pauses import Parts

PART_BYTES = 32 << 20
"""Most bytes of a part, so that writing one takes little memory beside the buffer."""


class Span(NamedTuple):
    """Rows of a ring that a part holds.

    Attributes:
        part: Its name.
        start: First row.
        stop: One after the last.
    """

    part: str
    start: int
    stop: int


class ReplayRows:
    """Follows which part holds which rows of one task's replay buffer.

    The buffer is a ring: a part whose rows were all written over since is dropped.

    Attributes:
        spans: The parts that hold the buffer, the oldest first; a later one wins.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._position: int | None = None
        self._steps = 0

    def take(self, buffer: Any, number: int, steps: int) -> tuple[Parts, dict[str, Any]]:
        """Return the parts of the buffer as it is now, and plain data to put them back by.

        Args:
            buffer: The replay buffer.
            number: Of the pause in this task; it names the new parts.
            steps: Steps of all environments together so far, each at most one row of the ring.
        """
        for start, stop in self._new(buffer, steps):
            each = _rows_of_a_part(buffer)
            for first in range(start, stop, each):
                name = f"rows-{number}-{len(self.spans)}-{first}"
                self.spans.append(Span(name, first, min(first + each, stop)))
        self._position, self._steps = int(buffer.pos), steps
        self.spans = _needed(self.spans, int(buffer.buffer_size))
        parts: Parts = {s.part: partial(_rows, buffer, s.start, s.stop) for s in self.spans}
        position = [int(buffer.pos), bool(buffer.full)]
        return parts, {"position": position, "spans": [list(s) for s in self.spans]}

    def put_back(self, buffer: Any, told: dict[str, Any], parts: Parts, steps: int) -> None:
        """Put rows back, one part after another."""
        self.spans = [Span(str(part), int(a), int(b)) for part, a, b in told["spans"]]
        for span in self.spans:
            rows: Named = parts[span.part]()
            for name, stored in ring_arrays(buffer).items():
                stored[span.start : span.stop] = rows[name].numpy()
        position, full = told["position"]
        buffer.pos, buffer.full = int(position), bool(full)
        self._position, self._steps = buffer.pos, steps

    def _new(self, buffer: Any, steps: int) -> list[tuple[int, int]]:
        """Return the rows that were written since the last time, in one or two pieces."""
        size, now = int(buffer.buffer_size), int(buffer.pos)
        if self._position is None:
            return [(0, int(buffer.size()))]
        # A row more: in a team, transitions may have waited for others to fill a row.
        if steps - self._steps + 1 >= size:
            old = [(now, int(buffer.size()))] if buffer.full else []
            return [*old, (0, now)]
        last = self._position
        pieces = [(last, now)] if now >= last else [(last, size), (0, now)]
        return [(start, stop) for start, stop in pieces if stop > start]


def _rows(buffer: Any, start: int, stop: int) -> dict[str, Tensor]:
    """Return some rows by name: views, not copies."""
    return {n: torch.as_tensor(a[start:stop]) for n, a in ring_arrays(buffer).items()}


def _rows_of_a_part(buffer: Any) -> int:
    row = sum(array[:1].nbytes for array in ring_arrays(buffer).values())
    return max(1, PART_BYTES // max(1, row))


def _needed(spans: list[Span], size: int) -> list[Span]:
    """Return the spans of which a row was not written over by a later one."""
    seen = np.zeros(size, np.bool_)
    found: list[Span] = []
    for span in reversed(spans):
        rows = seen[span.start : span.stop]
        if not rows.all():
            found.append(span)
            rows[:] = True
    return found[::-1]
