"""The record of plasticity in a run folder: what each number is, read and written without torch.

``plasticity.json`` holds one entry per evaluation point, ``{"stage": .., "step": .., "<quantity>/
<group>": ..}``, and is replaced whole at each; what was not measured (n/a) is left out. A resume
drops the points after its checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from holdfast.continual.run_folder.files import write_whole
from holdfast.continual.run_folder.readers import Points, modelled, read_json
from holdfast.errors import CheckpointUnusable

PLASTICITY = "plasticity.json"

GROUPS = ("actor", "critic", "encoder")
"""Of the parameters and units that learn; a network of action values is the actor."""

QUANTITIES = {
    "dormant_fraction": (
        "dormant units",
        "share of the hidden units whose mean |activity| is at most .025 of their layer's mean "
        "(arXiv:2302.12902)",
    ),
    "effective_rank": (
        "effective rank",
        "exp(entropy of the singular values of the last hidden layer's outputs, as shares of their "
        "sum) (Roy and Vetterli 2007); the mean over several critics",
    ),
    "srank": (
        "srank",
        "how many of these singular values make up 99% of their sum (arXiv:2010.14498)",
    ),
    "weight_norm": ("weight norm", "Euclidean norm of all parameters that learn"),
    "distance": ("distance", "Euclidean distance of the parameters from those of the first start"),
    "gradient_norm": (
        "gradient norm",
        "mean Euclidean norm of the gradient that the optimizer's step got (after clipping, where "
        "the algorithm clips), over every 16th update since the point before",
    ),
}
"""Title and definition by name."""

FREE = {
    "free_weights": (
        "free weights",
        "share of the weights that tasks share, and that the method would hold, whose importance "
        "is exactly zero after the finished tasks (before any floor)",
    ),
    "free_moved": ("free moved", "how far these moved since the task began, root mean square"),
    "held_moved": ("held moved", "how far the weights with an importance moved, likewise"),
    "dead_units": (
        "dead units",
        "hidden units that put out exactly zero, when the task began, on all observations of the "
        "other tasks that were finished",
    ),
    "woken_units": (
        "woken units",
        "how many of these put out something on the same observations now",
    ),
}
"""The same, in the second task and later ones, of methods with an importance per weight."""

Point = dict[str, float]
"""``stage``, ``step`` and the quantities of one evaluation point."""


def read_points(folder: Path) -> list[Point]:
    """Return the points of a run folder in time order; none where nothing was recorded.

    Raises:
        CheckpointUnusable: If the file is not such a record.
    """
    path = folder / PLASTICITY
    try:
        found = read_json(path)
    except FileNotFoundError:
        return []
    points: list[Point] = modelled(Points, found, f"{path}: not a record of plasticity")
    if lacking := [one for one in points if not {"stage", "step"} <= one.keys()]:
        raise CheckpointUnusable(f"{path}: a point lacks stage or step: {str(lacking[0])[:200]}")
    return points


def line_of(point: Point) -> str:
    """Return a point as a line of the record."""
    return json.dumps(point, allow_nan=False)


def write_points(folder: Path, lines: Sequence[str]) -> None:
    """Replace the record of a run folder by these lines, one for each point."""
    text = ",\n".join(lines)
    write_whole(folder / PLASTICITY, f"[\n{text}\n]\n".encode())
