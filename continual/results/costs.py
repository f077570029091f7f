"""Costs of a cell: the entries of ``run.json`` that a report shows, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from holdfast.continual.results.formatting import duration, size


def _whole(count: float) -> str:
    return f"{count:,.0f}"


def _energy(kilowatt_hours: float) -> str:
    return f"{1000 * kilowatt_hours:,.3g} Wh"


class Cost(NamedTuple):
    """One of the costs.

    Attributes:
        title: Its name in a table.
        form: Writes a number of it.
        meaning: What was counted.
        optional: Left out of tables where no cell recorded it.
    """

    title: str
    form: Callable[[float], str]
    meaning: str
    optional: bool = False


COSTS = {
    "wall_s": Cost("wall time", duration, "of the cell, evaluation and checkpoints included"),
    "steps_per_s": Cost(
        "steps/s",
        _whole,
        "environment steps per second of training, the method's own work included, "
        "evaluation left out",
    ),
    "updates": Cost(
        "updates", _whole, "steps of all optimizers while the agent learned", optional=True
    ),
    "extra_updates": Cost(
        "extra updates",
        _whole,
        "steps of optimizers in the method's own work before and after each task",
        optional=True,
    ),
    "parameters": Cost("parameters", _whole, "of the policy at the end of the stream"),
    "stored_bytes": Cost("stored", size, "what the method keeps beside the policy at the end"),
    "extra_steps": Cost(
        "extra steps", _whole, "environment steps that the method took beyond the budget"
    ),
    "peak_memory_bytes": Cost(
        "peak memory",
        size,
        "largest resident memory of the cell's process, environments in processes of their own "
        "left out",
        optional=True,
    ),
    "energy_kwh": Cost(
        "energy",
        _energy,
        "of the cell's process, estimated by codecarbon where it is installed (`holdfast[energy]`)",
        optional=True,
    ),
}
"""By the name of the entry in ``run.json``."""


def cost(info: Mapping[str, Any], name: str) -> float:
    """Return a cost of a cell; NaN where ``run.json`` has none."""
    value = info.get(name)
    return float(value) if isinstance(value, int | float) else math.nan
