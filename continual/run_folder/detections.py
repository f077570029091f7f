"""The record of the changes that a detector found, ``detections.json`` of a run folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, TypeAdapter

from holdfast.continual.run_folder.files import write_whole
from holdfast.continual.run_folder.readers import Count, modelled, read_json

DETECTIONS = "detections.json"


class Found(NamedTuple):
    """A change that was found.

    Attributes:
        step: Of the stream, at which the test told of it.
        begun: Step at which methods were told; None where the stream ended before.
        statistic: Of the test.
        slot: Number of the slot that began, from 0; None where none has, or none can come again.
    """

    step: Count
    begun: Count | None
    statistic: float
    slot: Count | None = None


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    step: Count
    begun: Count | None
    statistic: float
    slot: Count | None = None


_ROWS = TypeAdapter(list[_Row])


def write_detections(folder: Path, found: Iterable[tuple[int, int, float, int]]) -> None:
    """Replace the record of a run folder by these changes.

    Args:
        folder: The run folder.
        found: Step, step at which methods were told or -1, statistic, and slot or -1 of each.
    """
    rows = []
    for step, begun, statistic, slot in found:
        row = {"step": step, "begun": None if begun < 0 else begun, "statistic": statistic}
        rows.append(row | ({} if slot < 0 else {"slot": slot}))
    text = ",\n".join(map(json.dumps, rows))
    write_whole(folder / DETECTIONS, f"[\n{text}\n]\n".encode())


def read_detections(folder: Path) -> list[Found]:
    """Return the changes that were found, in time order; none where no detector has found any.

    Raises:
        CheckpointUnusable: If the file is not such a record.
    """
    path = folder / DETECTIONS
    try:
        found = read_json(path)
    except FileNotFoundError:
        return []
    rows = modelled(_ROWS, found, f"{path}: not a record of detections")
    return [Found(row.step, row.begun, row.statistic, row.slot) for row in rows]
