"""What every test needs: what it imports from its own folder is forgotten with it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def forget_imports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A scenario's folder stays on ``sys.path``, and its modules loaded, for the process's life."""
    path, base = list(sys.path), tmp_path_factory.getbasetemp()
    yield
    sys.path[:] = path
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and Path(file).is_relative_to(base):
            del sys.modules[name]
    importlib.invalidate_caches()
