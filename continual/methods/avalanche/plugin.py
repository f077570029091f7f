"""A plugin of Avalanche as a method of the supervised agent."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from holdfast.continual.method import Doors, Method
from holdfast.continual.methods.avalanche.plugin_state import Rebuild, pack, unpack
from holdfast.errors import UsageError
from holdfast.registry import PLUGINS


class PluginMethod(Method):
    """Lets Avalanche call a plugin while the agent learns.

    A new plugin is made for every task and gets what the last one held, which leaves it as tensors
    at the end of each task, whether the run goes on or is started again: a run that was interrupted
    cannot differ from one that was not.

    Args:
        name: As the scenario writes it.
        plugin: The plugin's class.
        arguments: Of its constructor.
    """

    needs = ("boundaries",)
    doors = ("plugins",)

    def __init__(self, name: str, plugin: Any, arguments: dict[str, Any]) -> None:
        self._name, self._class, self._arguments = name, plugin, arguments
        self._plugin = self._make()  # at once, so that arguments are refused before anything runs
        self._packed: dict[str, Tensor] = {}
        self.convention = PLUGINS[name].convention if name in PLUGINS else ""  # type: ignore[misc]  # of the class elsewhere

    def _make(self) -> Any:
        try:
            return self._class(**self._arguments)
        except AssertionError as error:  # how Avalanche refuses arguments
            raise UsageError(f"method {self._name}: {error}") from error

    # An experience of data sets: the plugins door is the supervised agent's alone.

    def pre_adapt(self, doors: Doors, experience: Any) -> None:
        """Give the agent a plugin that holds what the last one did."""
        self._plugin = self._make()
        rebuild = Rebuild(
            samples=experience.pool.subset,
            network=lambda count: doors.plugins.network(experience, experience.earlier[:count]),
        )
        unpack(self._plugin, self._packed, rebuild)
        doors.plugins.add(self._plugin)

    def post_adapt(self, doors: Doors, experience: Any) -> None:
        """Take out of the plugin what later tasks need.

        Raises:
            UsageError: If it holds something that no checkpoint can, or froze weights.
        """
        if doors.plugins.frozen():
            raise UsageError(
                f"method {self._name}: it froze weights of the network, and the next task's "
                "network is a new one in which they would not be; it cannot be used here"
            )
        self._packed = pack(self._plugin, self._name, experience.stage + 1)

    def state(self) -> dict[str, Tensor]:
        """Return what the plugin holds."""
        return dict(self._packed)

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take back what ``state`` returned."""
        self._packed = dict(tensors)
