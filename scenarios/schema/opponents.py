"""Others who act in a task: opponents in a turn-based game, partners in a team."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, Tag, model_validator

from holdfast.scenarios.schema.fields import (
    SECTION,
    Flag,
    Index,
    Name,
    Positive,
    Sparse,
    Text,
    told_by,
)
from holdfast.scenarios.source import bounds

PAST, RANDOM = "past", "random"


class OpponentSpec(Sparse):
    """A search, or the policy of an earlier run, that plays against the learner."""

    minimax: Annotated[Positive, Field(le=bounds.MINIMAX)] | None = None
    """A search of so many moves, its own first among them; connect_four_v3 and tictactoe_v3."""
    run: Text | None = None
    """Folder of a run, runs/x/naive/seed-0; paths count from the scenario's folder."""
    stage: Index | None = None
    """With run: the stage whose final policy plays, from 0. Default: the last."""
    task: Name | None = None
    """With run: the task that it acts as in. Default: the stage's."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.minimax is None) == (self.run is None):
            raise ValueError("write one of {minimax: 2} and {run: runs/x/naive/seed-0}")
        if self.run is None and (self.stage is not None or self.task is not None):
            raise ValueError("stage and task belong to run:, and a minimax has none")
        return self


Opponent = Annotated[
    Annotated[Literal["random", "past"], Tag("word")] | Annotated[OpponentSpec, Tag("mapping")],
    told_by(Mapping, OpponentSpec, tag="mapping", other="word"),
]


class Past(BaseModel):
    """The pool of past selves, which ``past`` among the opponents draws from."""

    model_config = SECTION

    sample: Literal["latest", "uniform", "prioritized"] = "uniform"
    """The newest; each alike; or prioritized, by how often they are lost against."""
    every: Positive | None = None
    """Steps of a task after which a self joins; one always joins as a task begins."""
    most: Annotated[Positive, Field(le=bounds.PAST_SELVES)] = 20
    """Size of the pool; the oldest leaves for the newest."""


class Opponents(BaseModel):
    """Players of the other seats of a turn-based game, in which one seat learns."""

    model_config = SECTION

    against: Annotated[tuple[Opponent, ...], Field(min_length=1)]
    """random, past, {minimax: 2}, {run: runs/x/naive/seed-0}; drawn alike each game."""
    measured: Annotated[tuple[Opponent, ...], Field(min_length=1)] | None = None
    """Opponents in evaluation, by turns. Default: those of against but past, else random."""
    seat: Text = "alternate"
    """Seat that learns: alternate, drawn (for each game), or an agent's name."""
    past: Past = Field(default_factory=Past)
    """The pool of past selves."""

    @property
    def in_evaluation(self) -> tuple[Any, ...]:
        """The players in evaluation."""
        fixed = tuple(entry for entry in self.against if entry != PAST)
        return self.measured or fixed or (RANDOM,)


class Partner(Sparse):
    """The policy of a group in an earlier run of a team, which learns no more."""

    run: Text
    """Its folder, runs/x/naive/seed-0; paths count from the scenario's folder."""
    stage: Index | None = None
    """Stage whose final policy it is, from 0. Default: the last one finished."""
    task: Name | None = None
    """Task of its run that it acts as in. Default: the stage's."""
    group: Name | None = None
    """Group of that run. Default: the one of this name."""
    deterministic: Flag = False
    """Its likeliest action rather than a sample."""
