"""Avalanche's scenarios, streams and experiences without the rest of Avalanche.

``import avalanche`` executes some 3,600 modules: every benchmark, model and plugin, and with them
torchvision, torchmetrics, wandb, matplotlib and jax. A stream of environments needs three files,
none of which imports anything else of Avalanche. They are executed here as published and stand in
``sys.modules`` under their own names, so that there is one of each class: whoever imports Avalanche
later, all of it or a part, finds these three imported already.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

NEEDED = (
    "avalanche.benchmarks.utils.dataset_definitions",
    "avalanche.benchmarks.utils.dataset_utils",
    "avalanche.benchmarks.scenarios.generic_scenario",
)
"""Each imports only those before it."""


def load_scenarios_alone() -> None:
    """Import what streams need of Avalanche; nothing where Avalanche itself has been imported."""
    found = find_spec("avalanche")
    if "avalanche" in sys.modules or found is None or not found.submodule_search_locations:
        return  # not installed: the import that follows says so
    root = Path(found.submodule_search_locations[0])
    for name in NEEDED:
        path = root.joinpath(*name.split(".")[1:]).with_suffix(".py")
        if name not in sys.modules and path.exists():
            _load(name, path)
    if _Binder not in sys.meta_path:
        sys.meta_path.insert(0, _Binder)


def _load(name: str, path: Path) -> None:
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    # Only now, so that no other thread finds half a module. One that is there by now is kept: a
    # version of Avalanche whose file needs others has imported itself.
    sys.modules.setdefault(name, module)


class _Binder:
    """A finder that finds nothing: it makes the modules attributes of their packages.

    The import system does so where it has loaded a module itself. A package that is being imported
    looks for other modules below it, which is the moment.
    """

    @staticmethod
    def find_spec(name: str, path: object = None, target: ModuleType | None = None) -> None:  # noqa: ARG004  # a finder's signature
        """Bind the modules to those of their packages that are there by now."""
        if not name.startswith("avalanche."):
            return
        for needed in NEEDED:
            package, _, child = needed.rpartition(".")
            if package in sys.modules and needed in sys.modules:
                setattr(sys.modules[package], child, sys.modules[needed])
