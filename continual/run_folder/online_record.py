"""The record of an endless stream's rewards, ``online.json`` of a run folder.

It holds one entry per evaluation point and boundary, and is replaced whole at each. A resume drops
the points after its checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import inf
from pathlib import Path

from holdfast.continual.run_folder.files import write_whole
from holdfast.continual.run_folder.readers import Points, modelled, read_json
from holdfast.errors import CheckpointUnusable

ONLINE = "online.json"

POINT = ("stage", "step", "phase_steps", "phase_return", "reward_rate", "late_steps")
"""What a point holds: steps and sum of rewards of the stage so far, the newest reward per step, and
how many steps of the life came too late for their ``rate``."""


def read_online(folder: Path, most: float = inf) -> list[dict[str, float]]:
    """Return the points of a run folder in time order; none where the stream was not endless.

    Args:
        folder: The run folder.
        most: Step of the stream up to which they are returned.

    Raises:
        CheckpointUnusable: If the file is not such a record.
    """
    path = folder / ONLINE
    try:
        found = read_json(path)
    except FileNotFoundError:
        return []
    points: list[dict[str, float]] = modelled(Points, found, f"{path}: not a record of rewards")
    for point in points:
        if point.keys() != set(POINT):
            raise CheckpointUnusable(f"{path}: a point is not of {', '.join(POINT)}: {point}"[:300])
    return [point for point in points if point["step"] <= most]


def write_online(folder: Path, points: Sequence[dict[str, float]]) -> None:
    """Replace the record of a run folder by these points."""
    text = ",\n".join(json.dumps(point, allow_nan=False) for point in points)
    write_whole(folder / ONLINE, f"[\n{text}\n]\n".encode())
