"""Avalanche's file in the home folder, which it writes and reads when it is imported."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from holdfast.errors import FolderUnwritable

_MODULE = "avalanche.benchmarks.datasets.dataset_utils"
_ELSEWHERE = "/dev/shm"  # noqa: S108  # a folder of its own below it


def ready_for_avalanche() -> None:
    """Let Avalanche be imported where the home folder is read-only, or two processes come first.

    Raises:
        FolderUnwritable: No folder at all can be written.
    """
    config = Path("~/.avalanche/config.json").expanduser()
    if _MODULE in sys.modules or config.exists():
        return
    try:
        config.parent.mkdir(parents=True, exist_ok=True)
        beside = config.with_name(f".config-{os.getpid()}.json")
        beside.write_text(json.dumps({"dataset_location": str(config.parent / "data")}))
        beside.replace(config)  # whole: another process may read it at this moment
    except OSError:
        _load_elsewhere()


def _load_elsewhere() -> None:
    """Load the module that wants the file, while the home folder is another one."""
    found = find_spec("avalanche")
    if found is None or found.origin is None:
        return  # not installed; its import says so
    path = Path(found.origin).parent.joinpath("benchmarks", "datasets", "dataset_utils.py")
    spec = spec_from_file_location(_MODULE, path)
    if spec is None or spec.loader is None or not path.exists():
        return  # a version that has no such file
    module, home = module_from_spec(spec), os.environ.get("HOME")
    try:
        with _writable() as folder:
            os.environ["HOME"] = folder
            sys.modules[_MODULE] = module
            spec.loader.exec_module(module)
    finally:
        if home is None:
            os.environ.pop("HOME", None)
        else:
            os.environ["HOME"] = home
    _set_data(module)


def _set_data(module: ModuleType) -> None:
    module.AVALANCHE_CONFIG["dataset_location"] = os.path.expanduser("~/.avalanche/data")  # noqa: PTH111  # a text is what it wants


def _writable() -> tempfile.TemporaryDirectory[str]:
    for place in (None, _ELSEWHERE):
        try:
            return tempfile.TemporaryDirectory(prefix="holdfast-home-", dir=place)
        except OSError:
            continue
    raise FolderUnwritable(
        "neither the home folder nor one for temporary files can be written; name one that can: "
        "HOME=/path or TMPDIR=/path"
    )
