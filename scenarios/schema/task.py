"""A task as the scenario states it: an environment, what is changed about it, and how it drifts."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, Tag, field_validator, model_validator

from holdfast.scenarios.schema.changes import Changes
from holdfast.scenarios.schema.cost import Cost
from holdfast.scenarios.schema.fields import (
    SECTION,
    AboveZero,
    AtLeastZero,
    Flag,
    Index,
    Name,
    Number,
    Positive,
    Sparse,
    Steps,
    Text,
    told_by,
)
from holdfast.scenarios.schema.method_spec import Wrapper
from holdfast.scenarios.schema.opponents import Opponents, Partner

ENV_OR_BENCHMARK = (
    "a task has an env (a Gymnasium id, module:Id-v0, or module:Class of your own), or else, for "
    "the supervised agent, a benchmark"
)


class Score(BaseModel):
    """Returns that count as 0 and as 1: (return - random) / (reference - random), not clipped."""

    model_config = SECTION

    random: Number
    """Return of a random policy; counts as 0."""
    reference: Number
    """Return of a trained policy; counts as 1."""

    @field_validator("reference")
    @classmethod
    def _differs(cls, value: float, info: Any) -> float:
        if value == info.data.get("random"):
            raise ValueError("must differ from random: a score would divide by zero")
        return value


ScoreForm = Annotated[
    Annotated[Score, Tag("score")] | Annotated[Literal["success"], Tag("success")],
    told_by(Mapping, Score, tag="score", other="success"),
]


class Demonstrations(BaseModel):
    """Transitions of somebody who acts well, in every batch of the task."""

    model_config = SECTION

    data: Text
    """File that holdfast record has written; its path counts from the scenario's folder."""
    share: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.5
    """Share of each batch."""
    cloning: Annotated[AtLeastZero, Field(exclude_if=operator.not_)] = 0.0
    """Weight of a loss that draws the policy to what was done there."""

    @model_validator(mode="after")
    def _is_of_use(self) -> Self:
        if not self.share and not self.cloning:
            raise ValueError("a share of 0 without cloning: shows nothing; raise one of the two")
        return self


_DRAWS = {"uniform": 2, "log_uniform": 2, "normal": 2, "integers": 2, "choice": 0}
_DRAW = re.compile(r"(\w+)\((.*)\)")


def read_distribution(text: str) -> tuple[str, list[float]]:
    """Return the name and the numbers of ``uniform(-15, -5)``.

    ``uniform`` and ``log_uniform`` take both ends, ``normal`` mean and standard deviation,
    ``integers`` both ends, which may be drawn too, and ``choice`` what is chosen from.

    >>> read_distribution("uniform(-15, -5)")
    ('uniform', [-15.0, -5.0])

    Raises:
        ValueError: If it is no distribution.
    """
    match = _DRAW.fullmatch(text.replace(" ", ""))
    if not match or match[1] not in _DRAWS:
        kinds = ", ".join(_DRAWS)
        cut = "; within [ ], a text that has a comma needs quotes" if ")" not in text else ""
        raise ValueError(
            f"{text!r} is no distribution, like uniform(-15, -5); there are: {kinds}{cut}"
        )
    try:
        numbers = [float(number) for number in match[2].split(",")]
    except ValueError:
        raise ValueError(f"{text!r} takes numbers") from None
    wanted = _DRAWS[match[1]]
    if wanted and len(numbers) != wanted:
        raise ValueError(f"{text!r} takes {wanted} numbers, got {len(numbers)}")
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{text!r} takes finite numbers")
    if match[1] in ("uniform", "log_uniform", "integers") and numbers[0] >= numbers[1]:
        raise ValueError(f"{text!r} takes the smaller number first")
    if match[1] == "log_uniform" and numbers[0] <= 0:
        raise ValueError(f"{text!r} takes numbers above 0")
    if match[1] == "normal" and numbers[1] <= 0:
        raise ValueError(f"{text!r} takes a standard deviation above 0")
    if match[1] == "integers" and not all(number.is_integer() for number in numbers):
        raise ValueError(f"{text!r} takes whole numbers")
    return match[1], numbers


def _distribution(text: str) -> str:
    read_distribution(text)
    return text


Distribution = Annotated[str, Field(strict=True), AfterValidator(_distribution)]
Draws = Annotated[
    Annotated[Distribution, Tag("one")]
    | Annotated[tuple[Distribution, ...], Field(min_length=1), Tag("list")],
    told_by(list, tuple, tag="list", other="one"),
]


class Drift(Sparse):
    """Movement of one attribute of an environment while its task is trained.

    One of the first four keys says along which line. The value at a step of the task is a function
    of that step alone, so that a run that is repeated or continued drifts alike.
    """

    linear: tuple[Number, Number] | None = None
    """From the first to the second, over the task or the period."""
    sine: tuple[Number, Number] | None = None
    """Between both, from the middle upwards, once in a period."""
    jumps: Annotated[tuple[Number, ...], Field(min_length=2)] | None = None
    """Each value for an equal share of the task or the period."""
    points: Annotated[tuple[tuple[Index, Number], ...], Field(min_length=2)] | None = None
    """Steps and values, straight lines between them."""
    period: Positive | None = None
    """Steps after which it comes again. Default: the task's steps."""
    per: Literal["step", "episode"] = "episode"
    """step: it moves within episodes; episode: between them only."""

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        given = [form for form in _FORMS if getattr(self, form) is not None]
        if len(given) != 1:
            raise ValueError(f"write one of {', '.join(_FORMS)}")
        if self.points is not None:
            steps = [step for step, _ in self.points]
            if steps[0] != 0 or any(a >= b for a, b in pairwise(steps)):
                raise ValueError("points begin at step 0, and their steps grow")
        return self

    def at(self, step: int, steps: int) -> float:
        """Return the value at a step of the task, from 0 to ``steps``, its budget.

        >>> Drift(linear=(0.0, 10.0)).at(25, 100)
        2.5
        >>> Drift(sine=(8.0, 12.0), period=40).at(10, 100)  # a quarter: the upper end
        12.0
        >>> [Drift(jumps=(1.0, 2.0)).at(step, 100) for step in (0, 49, 50, 100)]
        [1.0, 1.0, 2.0, 2.0]
        >>> [Drift(points=((0, 1.0), (10, 2.0))).at(step, 100) for step in (5, 50)]
        [1.5, 2.0]
        """
        period = self.period or steps
        share = (step % period) / period if self.period else min(step / steps, 1.0)
        if self.linear is not None:
            first, last = self.linear
            return first + (last - first) * share
        if self.sine is not None:
            low, high = self.sine
            return (low + high) / 2 + (high - low) / 2 * math.sin(2 * math.pi * share)
        if self.jumps is not None:
            return self.jumps[min(int(share * len(self.jumps)), len(self.jumps) - 1)]
        assert self.points is not None
        now = step % self.period if self.period else step
        return _interpolated(self.points, now)


_FORMS = ("linear", "sine", "jumps", "points")


def _interpolated(points: tuple[tuple[int, float], ...], step: int) -> float:
    for (before, low), (after, high) in pairwise(points):
        if step < after:
            return low + (high - low) * (step - before) / (after - before)
    return points[-1][1]


class Task(BaseModel):
    """One environment, changes to it, and a budget of steps."""

    model_config = SECTION

    name: Name
    """Name of the task: letters, digits, '.', '_' and '-'."""
    env: Text | None = None
    """Gymnasium id (CartPole-v1), module:Id-v0, or module:Class of your own."""
    benchmark: Text | None = None
    """Instead of env, for the supervised agent: split-digits, or module:function."""
    experience: Index | None = None
    """Experience of the benchmark, counted from 0."""
    steps: Steps
    """Environment steps to train, a multiple of n_envs; supervised: updates."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the environment's constructor, or of the benchmark."""
    changes: Changes = Field(default_factory=Changes)
    """Changes to the environment, as small wrappers."""
    wrappers: tuple[Wrapper, ...] = ()
    """frame_stack, atari, or module:Class; outermost last."""
    sample: dict[Text, Draws] = Field(default_factory=dict)
    """Drawn at every visit: {gravity: uniform(-15, -5)}, or a list of them for a list of numbers;
    see Distribution.
    """
    randomize: dict[Text, Distribution] = Field(default_factory=dict)
    """Attributes of the unwrapped environment, drawn at every reset."""
    drift: dict[Text, Drift] = Field(default_factory=dict)
    """Attributes of the unwrapped environment that move while the task is trained."""
    rate: AboveZero | None = None
    """Steps per second of real time; a robot's control rate."""
    python: Text | None = None
    """Another interpreter, whose packages the environment runs with."""
    exclusive: Flag = False
    """The environment exists once (a robot): one instance at a time."""
    score: ScoreForm | None = None
    """Rule by which a return becomes a score; overrides the scenario's."""
    cost: Cost | None = Field(default=None, exclude_if=operator.not_)
    """What is to stay below a limit beside the return, as a speed."""
    demonstrations: Demonstrations | None = Field(default=None, exclude_if=operator.not_)
    """What the learner is shown beside its own transitions; off-policy algorithms only."""
    opponents: Opponents | None = None
    """In a turn-based game of PettingZoo's: who plays the seats that do not learn."""
    partners: dict[Name, Partner] = Field(default_factory=dict)
    """Groups of agent.policies that do not learn in this task, by earlier runs: {helpers:
    {run: runs/x/naive/seed-0}}.
    """

    @model_validator(mode="after")
    def _learns_one_thing(self) -> Self:
        if (self.env is None) == (self.benchmark is None):
            raise ValueError(ENV_OR_BENCHMARK)
        return self
