"""Records with a point per evaluation and boundary: rewards of an endless stream, costs.

A record is replaced whole at each point. A resume drops the points after its checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import NamedTuple

from holdfast.continual.run_folder.files import write_whole
from holdfast.continual.run_folder.readers import Points, modelled, read_json
from holdfast.errors import CheckpointUnusable


class PointRecord(NamedTuple):
    """A record of a run folder.

    Attributes:
        file: Its name.
        keys: What every point holds.
    """

    file: str
    keys: tuple[str, ...]

    def read(self, folder: Path, most: float = inf) -> list[dict[str, float]]:
        """Return the points of a run folder in time order; none where there is no record.

        Args:
            folder: The run folder.
            most: Step of the stream up to which they are returned.

        Raises:
            CheckpointUnusable: If the file is not such a record.
        """
        path = folder / self.file
        try:
            found = read_json(path)
        except FileNotFoundError:
            return []
        points: list[dict[str, float]] = modelled(Points, found, f"{path}: not a record of points")
        for point in points:
            if point.keys() != set(self.keys):
                raise CheckpointUnusable(
                    f"{path}: a point is not of {', '.join(self.keys)}: {point}"[:300]
                )
        return [point for point in points if point["step"] <= most]

    def write(self, folder: Path, points: Sequence[dict[str, float]]) -> None:
        """Replace the record of a run folder by these points."""
        text = ",\n".join(json.dumps(point, allow_nan=False) for point in points)
        write_whole(folder / self.file, f"[\n{text}\n]\n".encode())


ONLINE = PointRecord(
    "online.json", ("stage", "step", "phase_steps", "phase_return", "reward_rate", "late_steps")
)
"""Of an endless stream: steps and sum of rewards of the stage so far, the newest reward per step,
and how many steps of the life came too late for their ``rate``."""

COSTS = PointRecord("costs.json", ("stage", "step", "steps", "cost", "episodes", "violations"))
"""Of tasks with a ``cost:``, while they were learned: of the stage so far its steps and the sum of
their costs, the episodes that ended, and those of them that cost more than the limit."""
