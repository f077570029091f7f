"""The processes that a scenario's training environments run in."""

from __future__ import annotations

from pydantic import BaseModel, Field

from holdfast.scenarios.schema.fields import SECTION, AboveZero, Index


class Pool(BaseModel):
    """Processes that the training environments run in; they change no number."""

    model_config = SECTION

    workers: Index = Field(
        default=0, description="Processes; n_envs are shared out to them. 0: in this process."
    )
    reset_timeout_s: AboveZero = Field(
        default=60.0, description="Seconds after which a reset counts as hung."
    )
    step_timeout_s: AboveZero = Field(
        default=10.0, description="Seconds after which a step counts as hung."
    )
    restarts: Index = Field(
        default=5,
        description="How often in a task a process that crashed or hung is started anew.",
    )
