"""Short sections of a scenario: spaces, carry, evaluation, and what its cells run on."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, Tag

from holdfast.scenarios.schema.fields import (
    SECTION,
    AboveZero,
    AtLeastZero,
    Flag,
    Index,
    Positive,
    Steps,
    told_by,
)
from holdfast.scenarios.source import bounds


class Spaces(BaseModel):
    """Treatment of tasks whose spaces differ: refused (same) or padded."""

    model_config = SECTION

    observation: Literal["same", "pad"] = "same"
    """Pad vectors with zeros."""
    action: Literal["same", "pad"] = "same"
    """Take the largest action space; each task ignores what it lacks."""


class Carry(BaseModel):
    """State that a task start takes over from the task before."""

    model_config = SECTION

    weights: Flag = True
    """Weights of all networks."""
    optimizer: Flag = False
    """Moments of the optimizers; those of the entropy coefficient only if it is carried, too."""
    replay_buffer: Flag = False
    """Transitions stored so far (off-policy)."""
    entropy_coefficient: Annotated[Flag | Literal["per_task"], Field(exclude_if=operator.not_)] = (
        False
    )
    """SAC's, TQC's and CrossQ's learned one; per_task: a task that comes again goes on with its
    own. Default: every task learns one from its start.
    """


class Sample(BaseModel):
    """Tasks that take turns in being measured: a budget for streams of many tasks."""

    model_config = SECTION

    sample: Positive
    """Tasks measured at each evaluation: the one being learned, and others by turns."""
    boundaries: Literal["last", "all"] = "last"
    """Boundaries at which all tasks are measured: the end of the stream, or each."""


Measured = Annotated[
    Annotated[Sample, Tag("turns")] | Annotated[Literal["all", "seen"], Tag("words")],
    told_by(Mapping, Sample, tag="turns", other="words"),
]


class Evaluation(BaseModel):
    """Plan of measuring the frozen agent."""

    model_config = SECTION

    every: Steps | None = None
    """Steps between evaluations inside a task. Default: at boundaries only."""
    episodes: Annotated[Positive, Field(le=bounds.EPISODES)] = 10
    """Episodes of each task at each evaluation."""
    deterministic: Flag = True
    """Most likely action rather than a sample."""
    tasks: Measured = "all"
    """Tasks measured at each evaluation: all, those seen so far, or {sample: 10} by turns."""
    most_steps: Annotated[Steps | None, Field(exclude_if=operator.not_)] = None
    """Steps after which an episode is cut, and recorded as cut. Default: the task's time limit,
    that of the environment's spec, or 10,000. An endless stream states it.
    """
    window: Annotated[Steps | None, Field(exclude_if=operator.not_, le=bounds.WINDOW)] = None
    """Newest steps that the reward rate of an endless stream is taken over. Default: 1,000."""

    @property
    def rate_steps(self) -> int:
        """Newest steps that a reward rate is taken over."""
        return self.window or 1_000

    @property
    def words(self) -> str:
        """Which tasks are measured, in words: ``all tasks``."""
        if not isinstance(self.tasks, Sample):
            return f"{self.tasks} tasks"
        which = "the end of the stream" if self.tasks.boundaries == "last" else "boundaries"
        return f"{self.tasks.sample} tasks by turns, and of all at {which}"


class Adapt(BaseModel):
    """Learning of the tasks that the stream does not train, once a cell has ended.

    Every stage's agent learns each of them, beside one that is fresh.
    """

    model_config = SECTION

    steps: Steps
    """Environment steps of each task."""
    every: Steps | None = None
    """Steps between evaluations. Default: 20 of them."""
    episodes: Annotated[Positive, Field(le=bounds.EPISODES)] = 5
    """Episodes of each evaluation."""
    stages: Literal["all", "last"] = "all"
    """Stages that adapt: all, whose checkpoints are then kept whole, or the last one."""


class Pool(BaseModel):
    """Processes that the training environments run in; they change no number."""

    model_config = SECTION

    workers: Index = 0
    """Processes; n_envs are shared out to them. 0: in this process."""
    reset_timeout_s: AboveZero = 60.0
    """Seconds after which a reset counts as hung."""
    step_timeout_s: AboveZero = 10.0
    """Seconds after which a step counts as hung."""
    restarts: Index = 5
    """Most restarts of crashed or hung processes in a task."""


def _share(gpus: float) -> float:
    if gpus > 1 and not gpus.is_integer():
        raise ValueError(f"{gpus} is neither a part of one GPU nor a whole number of them")
    return gpus


class Resources(BaseModel):
    """A cell's share of a node; only a Ray cluster reads it, and it changes no number."""

    model_config = SECTION

    cpus: AboveZero = 1.0
    """Cores."""
    gpus: Annotated[AtLeastZero, AfterValidator(_share)] = 0.0
    """GPUs; below 1, cells share one."""
    memory_gb: AboveZero | None = None
    """Gigabytes of memory that are set aside. Default: none are."""


class Checkpoint(BaseModel):
    """Checkpoints of a cell, from which it continues; after each task there is one anyway."""

    model_config = SECTION

    every: Positive | Literal["off"] = "off"
    """Steps between checkpoints inside a task, or off. Default: off where no task is long, else
    10,000 (off-policy) or 25,000, and 2,500 or 6,250 for each of many environments.
    """
    resets: Flag = False
    """Begin anew also in environments whose episodes never end."""
    keep: Literal["policies", "all"] = "policies"
    """Content of all but the two newest: what their policies need to act, or all of it."""
