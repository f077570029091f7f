"""What a cell needs of the machine it runs on, where a cluster is to find it one."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from holdfast.scenarios.schema.fields import SECTION, AboveZero, AtLeastZero


def _share(gpus: float) -> float:
    if gpus > 1 and not gpus.is_integer():
        raise ValueError(f"{gpus} is neither a part of one GPU nor a whole number of them")
    return gpus


class Resources(BaseModel):
    """What each cell takes of a node; only a Ray cluster reads it, and it changes no number."""

    model_config = SECTION

    cpus: AboveZero = Field(default=1.0, description="Cores.")
    gpus: Annotated[AtLeastZero, AfterValidator(_share)] = Field(
        default=0.0, description="GPUs; below 1, cells share one."
    )
    memory_gb: AboveZero | None = Field(
        default=None, description="Gigabytes of memory that are set aside. Default: none are."
    )
