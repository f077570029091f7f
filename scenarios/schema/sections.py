"""Short sections of a scenario: spaces, normalize, carry, evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from holdfast.scenarios.schema.fields import SECTION, AboveZero, Flag, Positive

Statistics = Literal["running", "first_task", "per_task"]


class Spaces(BaseModel):
    """What happens where tasks have different spaces: refused (same) or padded."""

    model_config = SECTION

    observation: Literal["same", "pad"] = Field(
        default="same", description="Pad vectors with zeros."
    )
    action: Literal["same", "pad"] = Field(
        default="same",
        description="Take the largest action space; each task ignores what it lacks.",
    )


class Normalize(BaseModel):
    """Running statistics that scale what the agent sees; never applied to the task id."""

    model_config = SECTION

    observations: Statistics | None = Field(
        default=None,
        description="running, first_task (frozen after it) or per_task (reset at each).",
    )
    rewards: Statistics | None = Field(
        default=None,
        description="running, first_task (frozen after it) or per_task (reset at each).",
    )
    clip: AboveZero = Field(
        default=10.0, description="Scaled values are cut at plus and minus this."
    )


class Carry(BaseModel):
    """What a task start takes over from the task before."""

    model_config = SECTION

    weights: Flag = Field(default=True, description="Weights of all networks.")
    optimizer: Flag = Field(default=False, description="Moments of the optimizers.")
    replay_buffer: Flag = Field(
        default=False, description="Transitions stored so far (off-policy)."
    )


class Evaluation(BaseModel):
    """When and how the frozen agent is measured."""

    model_config = SECTION

    every: Positive | None = Field(
        default=None,
        description="Steps between evaluations inside a task. Default: at boundaries only.",
    )
    episodes: Positive = Field(default=10, description="Episodes of each task at each evaluation.")
    deterministic: Flag = Field(
        default=True, description="Most likely action rather than a sample."
    )
    tasks: Literal["all", "seen"] = Field(
        default="all", description="Tasks measured at each evaluation."
    )
