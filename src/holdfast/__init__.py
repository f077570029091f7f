"""Holdfast: continual reinforcement learning on a stream of tasks.

scenario = holdfast.load("quickstart", ["seeds=[0, 1]"])
finished = holdfast.run(scenario)
agent = holdfast.open_run("runs/quickstart/ewc/seed-0").agent("mirrored")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.continual.jobs.run_handle import open_run
    from holdfast.prompt import run
    from holdfast.scenarios.load import load

    __version__: str

__all__ = ["__version__", "load", "open_run", "run"]

_HOMES = {
    "load": "holdfast.scenarios.load",
    "open_run": "holdfast.continual.jobs.run_handle",
    "run": "holdfast.prompt",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import holdfast` itself costs nothing."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("holdfast")
    raise AttributeError(f"module 'holdfast' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
