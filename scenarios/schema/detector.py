"""The ``detector:`` section: what finds the changes of task that nobody tells of."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from holdfast.scenarios.schema.fields import (
    SECTION,
    AboveZero,
    AtLeastZero,
    Flag,
    Index,
    Positive,
    Sparse,
)
from holdfast.scenarios.source import bounds

TESTS = ("page_hinkley", "adwin", "kolmogorov_smirnov")


class PageHinkley(BaseModel):
    """Page-Hinkley test: a mean that moves away from that of the slot so far."""

    model_config = SECTION

    tolerance: AtLeastZero = 0.5
    """Change of the mean that is let pass, in units of the signal."""
    threshold: AboveZero = 300.0
    """Sum of what exceeds it that tells of a change, in units of the signal."""


class Adwin(BaseModel):
    """ADWIN: a window that is cut where the means of its parts differ too much."""

    model_config = SECTION

    delta: Annotated[AboveZero, Field(lt=1)] = 1e-6
    """Bound on the probability of a false alarm at one look, of numbers that are independent."""


class KolmogorovSmirnov(BaseModel):
    """Two-sample Kolmogorov-Smirnov test of the newest numbers against older ones."""

    model_config = SECTION

    alpha: Annotated[AboveZero, Field(lt=1)] = 1e-12
    """Bound on the p-value, of numbers that are independent."""
    window: Annotated[Positive, Field(le=100_000)] = 2000
    """Numbers that are kept."""
    recent: Positive = 400
    """The newest of them, which are tested against the others."""

    @model_validator(mode="after")
    def _has_both(self) -> Self:
        if self.recent >= self.window:
            raise ValueError("recent: must be smaller than window:, which holds the older ones too")
        return self


class Detector(Sparse):
    """What finds changes of task under boundaries: detected: one test of one signal."""

    signal: Literal["dynamics", "reward", "return"] = "dynamics"
    """Error of a small model of the dynamics, rewards, or returns of episodes."""
    page_hinkley: PageHinkley | None = None
    """Test for a mean that rises (dynamics) or falls (reward, return). Default where no other is
    written.
    """
    adwin: Adwin | None = None
    """Test by an adaptive window."""
    kolmogorov_smirnov: KolmogorovSmirnov | None = None
    """Test for a distribution that changes."""
    cooldown: Index = 1000
    """Steps at the start of each slot in which nothing is tested."""
    most: Annotated[Positive, Field(le=bounds.STAGES)] = 100
    """Detections after which no more are made."""
    recurring: Annotated[Flag, Field(exclude_if=operator.not_)] = False
    """Whether a slot whose model of the dynamics fits what is seen now is taken up again."""

    @model_validator(mode="before")
    @classmethod
    def _has_one_test(cls, data: Any) -> Any:
        """Take Page-Hinkley where no test is written; refuse two tests of one signal."""
        if not isinstance(data, Mapping):
            return data
        given = [name for name in TESTS if name in data]
        if len(given) > 1:
            raise ValueError(
                f"one test of one signal, but here are {' and '.join(given)}; keep one"
            )
        if empty := [name for name in given if data[name] is None]:
            raise ValueError(f"write {empty[0]}: {{}} for its defaults")
        return data if given else {"page_hinkley": {}, **data}

    @model_validator(mode="after")
    def _has_threshold(self) -> Self:
        """Ask for a threshold in units of rewards, which nobody else knows."""
        test = self.page_hinkley
        if self.signal != "dynamics" and test and "threshold" not in test.model_fields_set:
            raise ValueError(
                f"page_hinkley on {self.signal} needs threshold: (and tolerance:) in units of "
                "rewards; write them, or take adwin: {}"
            )
        return self

    @model_validator(mode="after")
    def _can_recognise(self) -> Self:
        """Ask for a model of each slot, and for the test that tells whether it still fits."""
        if self.recurring and self.signal != "dynamics":
            raise ValueError(
                f"recurring compares models of the dynamics, and {self.signal} has none; write "
                "signal: dynamics, or remove recurring"
            )
        if self.recurring and self.page_hinkley is None:
            raise ValueError(
                "recurring asks page_hinkley which slot fits; write page_hinkley: {}, or remove "
                "recurring"
            )
        return self
