"""What tests of all folders share."""

from __future__ import annotations

import gc
import importlib
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import launched


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what opens a page."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(autouse=True)
def forget_imports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forget what a test imported from its own folder, and what that registered with Gymnasium.

    A scenario's folder stays on ``sys.path``, and its modules loaded, for the process's life.
    """
    path, loaded, base = list(sys.path), set(sys.modules), tmp_path_factory.getbasetemp()
    yield
    sys.path[:] = path
    # Only what is new: to look at some thousand modules takes longer than most tests.
    new = {name: getattr(sys.modules[name], "__file__", None) for name in {*sys.modules} - loaded}
    own = {name for name, file in new.items() if file and Path(file).is_relative_to(base)}
    if not own:
        return
    for name in own:
        del sys.modules[name]
    importlib.invalidate_caches()
    registry = sys.modules["gymnasium"].registry if "gymnasium" in sys.modules else {}
    for name, spec in list(registry.items()):
        if _module_of(spec.entry_point) in own:
            del registry[name]


@pytest.fixture(autouse=True, scope="session")
def collect_rarely() -> None:
    """Leave what is imported to itself: there are a million objects to look through."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


@pytest.fixture(autouse=True, scope="session")
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is remembered of runs, and programs, in folders of the tests; in no one's home.

    Programs are shared by the workers of a run, small ones too: most are compiled by several tests.
    """
    base = tmp_path_factory.getbasetemp()
    run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    own = {
        "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")),
        "JAX_COMPILATION_CACHE_DIR": str(run / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05",
    }
    known = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    yield
    for name, value in known.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture(autouse=True, scope="session")
def forget_power_cuts() -> Iterator[None]:
    """Leave out waiting for the disk: no test can cut the power, and small cells wait a lot."""
    published = os.fsync
    os.fsync = lambda _: None
    yield
    os.fsync = published


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's chromium, headless; ``browser.Visit`` opens pages in it."""
    with launched() as started:
        yield started


def _module_of(entry_point: Any) -> str:
    if isinstance(entry_point, str):
        return entry_point.partition(":")[0]
    return getattr(entry_point, "__module__", "")


@pytest.fixture(scope="session")
def make_python(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the interpreter of a new virtual environment that sees some of our packages only."""

    def make(*packages: str) -> Path:
        folder = tmp_path_factory.mktemp("other")
        venv, site, own = folder / "venv", folder / "packages", sysconfig.get_path("purelib")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        site.mkdir()
        for name in packages:
            for path in Path(own).glob(f"{name}*"):
                if path.suffix != ".dist-info" and path.name.split(".")[0] == name:
                    (site / path.name).symlink_to(path)
        (inner,) = venv.glob("lib/python*/site-packages")
        (inner / "packages.pth").write_text(f"{site}\n")
        return venv / "bin" / "python"

    return make


@pytest.fixture(scope="session")
def other_python(make_python: Callable[..., Path]) -> Path:
    """Another interpreter, with gymnasium, numpy and what gymnasium imports, but not Holdfast."""
    imported = ("cloudpickle", "farama_notifications", "typing_extensions", "pygame")
    return make_python("gymnasium", "numpy", *imported)
