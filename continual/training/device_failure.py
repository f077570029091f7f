"""Failure of the device that a cell learns on: its memory is full, or the GPU is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

from holdfast.agents.base.agent import Agent
from holdfast.continual.results.formatting import size
from holdfast.continual.training.memory_budget import argument, kept_bytes
from holdfast.errors import HoldfastError, UsageError
from holdfast.scenarios.checks.memory import memory_bytes
from holdfast.scenarios.schema.scenario import Scenario

_SAVED = "what was learned up to the last checkpoint is saved, and the same command goes on from it"
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")
_LOST = ("cuda error", "cublas_status", "cudnn_status", "cusolver error", "hip error")


@contextmanager
def device_told(scenario: Scenario, agent: Agent) -> Iterator[None]:
    """Raise a device's failure inside the block as ours, with the sizes and the mend.

    Neither is tried again by itself: the same sizes do not fit the next time either, and a process
    that has lost its GPU never gets it back.

    Args:
        scenario: Of the cell.
        agent: Of the cell.

    Raises:
        UsageError: The memory is full.
        HoldfastError: The GPU is lost.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error).partition("\n")[0]
        words = text.lower()
        is_full = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if is_full or any(part in words for part in _OUT_OF_MEMORY):
            raise UsageError(_memory_text(text or "none is left", scenario, agent)) from error
        if any(part in words for part in _LOST):
            raise HoldfastError(
                f"the GPU failed: {text}. This process cannot use it any more; {_SAVED}. Where it "
                "fails again, CUDA_LAUNCH_BLOCKING=1 shows the place, and agent.device: cpu does "
                "without the GPU"
            ) from error
        raise


def _memory_text(text: str, scenario: Scenario, agent: Agent) -> str:
    """Return what takes how much, and what would take less."""
    parts, device = [f"n_envs {scenario.n_envs}"], scenario.agent.device
    names = ("batch_size", "n_steps", "buffer_size")
    given = {name: argument(scenario, name) for name in names}
    parts += [f"agent.{name} {value:,}" for name, value in given.items() if isinstance(value, int)]
    with suppress(Exception):  # what failed may be the building of it
        tensors = dict(agent.policy.state_dict())
        count, device = sum(map(torch.numel, tensors.values())), _device_of(tensors)
        parts.append(f"networks of {count:,} numbers in {size(kept_bytes([tensors]))}")
    parts.append(_room(device))
    smaller = "agent.batch_size" if given["batch_size"] else "n_envs"
    elsewhere = ", or agent.device: cpu" if device.startswith("cuda") else ""
    return (
        f"{device} is out of memory: {text}. There are {', '.join(parts)}. Write a smaller "
        f"{smaller}, smaller networks (agent.policy_kwargs.net_arch){elsewhere}; that is another "
        f"scenario, which begins at its start. Or free some memory: {_SAVED}"
    )


def _device_of(tensors: dict[str, Tensor]) -> str:
    return str(next(iter(tensors.values())).device)


def _room(device: str) -> str:
    if not device.startswith("cuda"):
        return f"{size(memory_bytes())} of memory"
    with suppress(Exception):  # a driver that does not answer any more
        free, total = torch.cuda.mem_get_info(torch.device(device))
        taken = torch.cuda.memory_allocated(torch.device(device))
        return (
            f"{size(total)} on the GPU, {size(taken)} of it taken by tensors of this process and "
            f"{size(free)} free"
        )
    return "a GPU that does not say how much it has"
