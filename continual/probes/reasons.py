"""Reasons for actions, as the record of ``holdfast explain`` holds them; read without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from holdfast.continual.probes.frames import Frame, Picture, grid_of, heated, picture_of
from holdfast.continual.probes.outcomes import Real
from holdfast.continual.probes.record import Record
from holdfast.continual.results.curves import Array
from holdfast.continual.run_folder.files import csv_table
from holdfast.continual.run_folder.readers import Count, Short
from holdfast.continual.run_folder.record import RunFolder

EXPLAIN = "explain.jsonl"
"""Record of explanations, in the folder of a cell."""

NAMED = 3
"""Entries of an observation that are told of."""

Side = Annotated[int, Field(ge=1, le=1 << 14)]
"""Pixels of a side of what is observed."""


class ExplainPlan(BaseModel):
    """What is asked.

    Attributes:
        states: How many of each task, at even distances over its episodes.
    """

    model_config = ConfigDict(extra="forbid")

    states: Count


class Cluster(BaseModel):
    """States of a kind in which a policy departs from that of the task's end.

    Attributes:
        states: How many.
        divergence: Mean divergence of the policy's output.
        step: Mean step of the episode.
        rest: Mean return from there on, by the policy of the task's end.
        centre: Mean of every entry of the observation, in standard deviations from the mean over
            all states of the task; 0 for one that never moves. Empty of pictures.
        frame: The state nearest to the middle, as it is seen; None where nothing draws it.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    states: Count
    divergence: Real
    step: Real
    rest: Real
    centre: list[Real]
    frame: Frame | None = None

    @property
    def where(self) -> str:
        """The entries that are furthest from the task's mean."""
        centre = np.array(self.centre)
        order = np.argsort(np.abs(centre))[::-1][:NAMED]
        return ", ".join(f"entry {entry} {centre[entry]:+.1f}" for entry in order)


class Explained(BaseModel):
    """One stage in one task.

    Attributes:
        stage: The policy at the end of this stage, from 0.
        task: Name of the task.
        shares: Of each entry of the observation in the attributions, mean over states; their sum is
            1, or 0 where the action hangs on none. Of pictures, of each cell of a map, row by row.
        removed: How many entries, or pixels, are replaced by their means where that is tried.
        top: Mean divergence of the output where those of highest attribution are.
        random: Where random ones are.
        more: The 95% interval over states of the difference between both; None for one state.
        departs: Share of the states in which the most likely action is another one than that of the
            policy of the task's end.
        clusters: Those states, by kind.
        picture: Height and width of pictures that are observed, in pixels; None of vectors.
        mean: The mean of those pictures.
        unseen: Why clusters have no frames though the environment draws some; else empty.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    stage: Count
    task: Short
    shares: Annotated[list[Real], Field(min_length=1)]
    removed: Count
    top: Real
    random: Real
    more: Annotated[list[Real], Field(min_length=2, max_length=2)] | None
    departs: Real
    clusters: list[Cluster]
    picture: Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    mean: Frame | None = None
    unseen: Short = ""

    @model_validator(mode="after")
    def _fits(self) -> Explained:
        if (self.picture is None) != (self.mean is None):
            raise ValueError("picture and mean come together")
        if self.picture is not None and len(self.shares) != np.prod(grid_of(self.picture)):
            raise ValueError(f"{len(self.shares)} shares are no map of a picture {self.picture}")
        return self

    @property
    def place(self) -> tuple[int, str]:
        """What was asked."""
        return self.stage, self.task

    def heat(self) -> Picture | None:
        """Return the map over the mean picture; None of vectors."""
        if self.picture is None or self.mean is None:
            return None
        shares = np.array(self.shares).reshape(grid_of(self.picture))
        return heated(picture_of(self.mean), shares, self.picture)

    def hangs_on(self, shares: Array) -> str:
        """Return in words which entries, or part of a picture, have the largest shares.

        Args:
            shares: As its own, or a mean of such.
        """
        order = np.argsort(shares)[::-1]
        if self.picture is None:
            return ", ".join(f"entry {entry} ({shares[entry]:.0%})" for entry in order[:NAMED])
        if not shares.any():
            return "nothing"
        rows, columns = grid_of(self.picture)
        half = int(np.searchsorted(np.cumsum(shares[order]), shares.sum() / 2)) + 1
        row, column = divmod(int(order[0]), columns)
        part = f"half of it on {half / len(shares):.1%} of the picture"
        return f"{part}, most at row {row} of {rows}, column {column} of {columns}"


def explain_record(folder: RunFolder) -> Record[ExplainPlan, Explained]:
    """Return the record of a cell's explanations."""
    return Record(folder.path / EXPLAIN, ExplainPlan, Explained)


def explain_table(cells: Sequence[RunFolder]) -> str:
    """Return what every stage hangs on as CSV, a row for each entry of the observation.

    Of pictures, a row for each cell of the map, whose entry is named by its row and column.
    """
    head = (
        *("method", "seed", "stage", "task", "entry", "share"),
        *("top", "random", "more_low", "more_high", "departs"),
    )
    rows = [
        (
            *(cell.label, cell.seed, *one.place, _entry(one, entry), share, one.top, one.random),
            *more,
            one.departs,
        )
        for cell in cells
        for one in explain_record(cell).read()[1]
        for more in [one.more or ("", "")]
        for entry, share in enumerate(one.shares)
    ]
    return csv_table(head, rows)


def _entry(one: Explained, entry: int) -> str:
    if one.picture is None:
        return str(entry)
    return "{}:{}".format(*divmod(entry, grid_of(one.picture)[1]))
