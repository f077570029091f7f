"""What a task costs beside its reward, and what holds an agent to a limit of it."""

from __future__ import annotations

import operator
from typing import Self

from pydantic import BaseModel, Field, model_validator

from holdfast.scenarios.schema.fields import (
    SECTION,
    AboveZero,
    AtLeastZero,
    Index,
    Number,
    Sparse,
    Text,
)

COST = "cost"
"""Key of an info: what the step cost."""

SOURCES = ("info", "observation", "action", "attribute")


class CostTerm(Sparse):
    """A cost of a step: 1 times its weight where a number of the world is out of bounds.

    One of the first four keys says which number. They are those of the environment as it is, before
    ``changes:`` and ``wrappers:``.
    """

    info: Text | None = None
    """Key of what a step tells beside the observation: x_velocity."""
    observation: Index | None = None
    """Entry of the observation, a vector."""
    action: Index | None = None
    """Entry of the action, a vector, as it reaches the environment."""
    attribute: Text | None = None
    """Attribute of the unwrapped environment, dotted, with an index: data.qvel[1]."""
    above: Number | None = None
    """Largest value that costs nothing."""
    below: Number | None = None
    """Smallest value that costs nothing."""
    weight: AboveZero = 1.0
    """Cost of a step out of bounds."""

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"write one of {', '.join(SOURCES)}")
        if self.above is None and self.below is None:
            raise ValueError("write above: or below:, from where on it costs")
        if self.above is not None and self.below is not None and self.below > self.above:
            raise ValueError("below: must not be larger than above:; every value would cost")
        return self


class Cost(BaseModel):
    """What is to stay below a limit in every episode: the sum of its costs."""

    model_config = SECTION

    limit: AtLeastZero
    """Cost of an episode, undiscounted, from which on it violates."""
    terms: tuple[CostTerm, ...] = ()
    """What costs. Default: what the environment gives as info["cost"]."""


class Lagrangian(BaseModel):
    """A multiplier that climbs the violation of the limit."""

    model_config = SECTION

    rate: AboveZero = 0.05
    """Rise for each unit of cost above the limit."""
    initial: AtLeastZero = 0.0
    """Multiplier at a task's start."""


class PID(BaseModel):
    """A multiplier set by a controller of the cost (Stooke et al. 2020)."""

    model_config = SECTION

    proportional: AtLeastZero = 0.05
    """Gain on the violation."""
    integral: AtLeastZero = 0.01
    """Gain on the sum of violations, which is never below 0."""
    derivative: AtLeastZero = 0.01
    """Gain on the rise of the cost."""


class Fixed(BaseModel):
    """A penalty that stays as it is."""

    model_config = SECTION

    multiplier: AtLeastZero
    """Reward that a unit of cost takes."""


class Constraint(Sparse):
    """What makes an agent keep the limits of its tasks: one of three rules for a multiplier.

    The agent learns from (reward - multiplier * cost) / (1 + multiplier), or where costs have a
    critic from (A_r - multiplier * A_c) / (1 + multiplier) of the advantages of reward and cost.
    """

    lagrangian: Lagrangian | None = None
    """By gradient ascent."""
    pid: PID | None = None
    """By a controller."""
    fixed: Fixed | None = None
    """Not at all."""
    critic: bool = Field(default=False, exclude_if=operator.not_)
    """Whether costs have a critic of their own (algorithms that learn from rollouts)."""

    @model_validator(mode="after")
    def _has_one_rule(self) -> Self:
        given = [name for name in RULES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"write one of {', '.join(RULES)}; lagrangian: {{}} has defaults")
        return self


RULES = ("lagrangian", "pid", "fixed")
