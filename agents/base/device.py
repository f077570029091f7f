"""The device that an agent's tensors lie on."""

from __future__ import annotations

import torch

from holdfast.errors import UsageError


def device_of(name: str) -> torch.device:
    """Return the device that ``agent.device`` means; ``auto`` is a GPU where torch sees one.

    Raises:
        UsageError: If a GPU is asked for that torch does not see.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        seen = f"torch sees {count}, from cuda:0 on" if count else "torch sees none"
        raise UsageError(f"agent.device: {name} was asked for and {seen}; write cpu or auto")
    return device
