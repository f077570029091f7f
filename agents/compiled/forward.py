"""A network's forward as a NumPy program, which reads the parameters where they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor, nn

from holdfast.agents.base.parameters import replaced
from holdfast.agents.compiled.attributes import (
    Source,
    is_tensors,
    kept_tensors,
    replaced_by,
    settings,
)
from holdfast.agents.compiled.transfer import arrays_of
from holdfast.errors import UsageError

_MOST_WEIGHTS = 1_000_000
"""Above it, torch multiplies several rows at once faster than NumPy, by more than a call costs."""


class Forward:
    """A function of a network and of observations, on NumPy; the parameters are the network's own.

    Args:
        function: Of the network and of observations as it takes them, to tensors.
        network: The network.
        observations: An example, as arrays; every call gets as many rows.

    Raises:
        UsageError: If NumPy cannot do it, the network is on a GPU, or hooks look at its calls.
    """

    def __init__(
        self, function: Callable[[Any, Any], Any], network: nn.Module, observations: Any
    ) -> None:
        # Here: tracing needs much of torch that nothing else does.
        from holdfast.agents.tracing.trace import traced

        self._sources = _sources(network)
        tensors = {name: own[last] for name, (own, last) in self._sources.items()}
        if any(tensor.device.type != "cpu" for tensor in tensors.values()):
            raise UsageError("NumPy acts on the CPU alone")
        if any(module._forward_hooks or module._forward_pre_hooks for module in network.modules()):
            raise UsageError("a hook waits for calls of the network")
        self._settings = settings(network)
        self._seen = [own[name] for own, name in self._settings]
        self._kept = kept_tensors(self._settings)

        def of_tensors(tensors: dict[str, Tensor], kept: list[Any], observations: Any) -> Any:
            with replaced_by(self._kept, kept), replaced(network, tensors):
                return function(network, observations)

        example = obs_as_tensor(observations, torch.device("cpu"))
        kept = [own[name] for own, name in self._kept]
        with torch.no_grad():
            self._function = traced(of_tensors, tensors, kept, example).on(np)
        self._places: list[int] = []
        self._run: Callable[[Any], Any]
        self.refresh()

    @property
    def is_current(self) -> bool:
        """Whether the network is the one that was traced, its own settings included."""
        return all(
            _is_alike(own.get(name), seen)
            for (own, name), seen in zip(self._settings, self._seen, strict=True)
        )

    def refresh(self, *, copied: bool = False) -> None:
        """Look for the parameters where they are now.

        Args:
            copied: Whether matrices are copied column by column, until the next refresh. NumPy
                multiplies several rows with those up to four times faster.
        """
        tensors = [own[last] for own, last in self._sources.values()]
        places = [] if copied else [tensor.data_ptr() for tensor in tensors]
        if places and places == self._places and not self._kept:
            return
        self._places = places
        views = [tensor.detach().numpy() for tensor in tensors]
        if copied:
            views = [np.array(one, order="F") if one.ndim == 2 else one for one in views]
        kept = [arrays_of(own[name]) for own, name in self._kept]
        self._run = self._function.having(dict(zip(self._sources, views, strict=True)), kept)

    def __call__(self, observations: Any) -> Any:
        """Return what the function says of observations."""
        return self._run(observations)


def _sources(network: nn.Module) -> dict[str, Source]:
    """Return where parameters and buffers are, each of them once."""
    found: dict[str, Source] = {}
    seen: set[int] = set()
    for path, module in network.named_modules():
        for own in (module._parameters, module._buffers):
            for last, tensor in own.items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    found[f"{path}.{last}" if path else last] = own, last
    return found


def _is_alike(value: Any, seen: Any) -> bool:
    """Return whether a trace that saw one value holds for another."""
    if value is seen:
        return True
    if not (is_tensors(value) and is_tensors(seen)):
        return False
    if isinstance(value, Tensor) or isinstance(seen, Tensor):
        return isinstance(value, type(seen)) and value.shape == seen.shape
    return [one.shape for one in value] == [one.shape for one in seen]


def fits(network: nn.Module, rows: int) -> bool:
    """Return whether NumPy is the faster one."""
    weights = sum(p.numel() for p in network.parameters() if p.dim() > 1)
    return rows == 1 or weights <= _MOST_WEIGHTS
