"""What modules keep beside parameters and buffers, as a method's noise; a trace is given it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

_PUBLISHED = ("torch", "stable_baselines3", "sb3_contrib")
_OF_MODULES = frozenset(vars(nn.Module()))
"""Attributes that every module has."""

Source = tuple[dict[str, Any], str]
"""Where a module keeps something: by name, for it may be replaced."""


def settings(network: nn.Module) -> list[Source]:
    """Return what modules that are not torch's or Stable-Baselines3's keep besides."""
    return [
        (vars(module), name)
        for module in network.modules()
        if type(module).__module__.split(".")[0] not in _PUBLISHED
        for name in vars(module)
        if name not in _OF_MODULES
    ]


def kept_tensors(found: list[Source]) -> list[Source]:
    """Return those that are tensors, or tuples or lists of such, which no gradient reaches."""
    return [
        (own, name)
        for own, name in found
        if is_tensors(own[name]) and not any(one.requires_grad for one in _all(own[name]))
    ]


@contextmanager
def replaced_by(kept: list[Source], values: list[Any]) -> Iterator[None]:
    """Let modules keep other values inside the block."""
    saved = [own[name] for own, name in kept]
    try:
        for (own, name), value in zip(kept, values, strict=True):
            own[name] = value
        yield
    finally:
        for (own, name), value in zip(kept, saved, strict=True):
            own[name] = value


def is_tensors(value: Any) -> bool:
    """Return whether a value is a tensor, or a tuple or list of such."""
    if isinstance(value, tuple | list):
        return bool(value) and all(isinstance(one, Tensor) for one in value)
    return isinstance(value, Tensor)


def _all(value: Any) -> list[Tensor]:
    return list(value) if isinstance(value, tuple | list) else [value]
