"""Attributes that are arrays or numbers, as the named tensors of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from holdfast.agents.base.parameters import Named


def written(values: Mapping[str, Any], names: Iterable[str]) -> Named:
    """Return attributes as tensors; exact, as all are float64 or int64."""
    return {name: torch.as_tensor(np.array(values[name])) for name in names}


def read(owner: Any, tensors: Named, names: Iterable[str]) -> None:
    """Set attributes to what ``written`` gave; a number becomes a number again."""
    for name in names:
        value = tensors[name].numpy().copy()
        setattr(owner, name, value.item() if value.ndim == 0 else value)
