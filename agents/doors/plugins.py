"""The plugins door: Avalanche's own plugins in the training loop of the supervised agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class _Learner(Protocol):
    """The part of the agent that the door needs."""

    plugins: list[Any]

    @property
    def policy(self) -> Any: ...

    def network(self, experience: Any, known: Sequence[Any]) -> Any: ...


class Plugins:
    """Plugins of the coming task; Avalanche hands them its strategy while it trains."""

    def __init__(self, learner: _Learner) -> None:
        self._learner = learner

    def add(self, plugin: Any) -> None:
        """Make Avalanche call a plugin in the coming task."""
        self._learner.plugins.append(plugin)

    def network(self, experience: Any, known: Sequence[Any]) -> Any:
        """Return a newly initialised network, which is not the agent's.

        Args:
            experience: Gives the shapes of inputs and outputs.
            known: Experiences that it has heads for, in order.
        """
        return self._learner.network(experience, known)

    def frozen(self) -> list[str]:
        """Return the names of the agent's weights that no longer get a gradient."""
        named = self._learner.policy.named_parameters()
        return [name for name, weight in named if not weight.requires_grad]
