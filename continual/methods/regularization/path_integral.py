"""Path integral of the loss, weight by weight: what each one's movement gained."""

from __future__ import annotations

import torch

from holdfast.agents.base.parameters import Named, joined
from holdfast.agents.doors.gradients import Step, Tensors


def begun(parameters: Named) -> Tensors:
    """Return the state of a path before its first step.

    ``start`` is each weight there, ``gains`` what its movement gained, as vectors in the order of
    the parameters.
    """
    start = joined(parameters)
    return {"start": start, "gains": torch.zeros_like(start)}


def walked(step: Step, state: Tensors, _batch: Tensors) -> Tensors:
    """Return a path after a step: gains grow by the first-order fall of the loss along it.

    That is -(gradient x move), positive where the movement lowered the loss.
    """
    moved = step.after - step.before
    return {**state, "gains": state["gains"].addcmul(moved, step.raw, value=-1)}
