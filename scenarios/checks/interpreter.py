"""Whether another Python interpreter can run environments."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from holdfast.scenarios.checks.references import NotUsable

OLDEST = (3, 8)
NEEDED = ("gymnasium", "numpy")

# Runs under any Python, even one that is too old.
_PROBE = f"""
import sys
missing = []
if sys.version_info >= {OLDEST}:
    import importlib.util
    missing = [name for name in {NEEDED} if importlib.util.find_spec(name) is None]
sys.stdout.write("%d %d %s" % (sys.version_info[0], sys.version_info[1], " ".join(missing)))
"""
_TIMEOUT_S = 20


def interpreter(python: str, folder: Path | None) -> Path:
    """Return the path of an interpreter that a scenario names, relative to the scenario's folder.

    A name without a slash that is no file there is looked for as the shell does. Links are not
    followed: the place of a virtual environment's own link says which packages it has.
    """
    path = Path(os.path.abspath((folder or Path()) / Path(python).expanduser()))  # noqa: PTH100
    if os.sep not in python and not path.exists():
        found = shutil.which(python)
        return Path(found) if found else path
    return path


@cache
def check_interpreter(path: Path) -> None:
    """Raise if the interpreter cannot run environments; starts it once.

    Raises:
        NotUsable: What is wrong, and the command that mends it.
    """
    if path.is_dir():
        raise NotUsable(f"{path} is a folder; name the interpreter in it: {path / 'bin/python'}")
    if not path.exists():
        raise NotUsable(
            f"there is no {path}; make one with: python -m venv {path.parent.parent}"
            if path.parent.name == "bin"
            else f"there is no {path}"
        )
    if not os.access(path, os.X_OK):
        raise NotUsable(f"{path} is no program that can be started")
    try:
        done = subprocess.run(  # noqa: S603  # the interpreter is the user's choice
            [path, "-c", _PROBE], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
        major, minor, *missing = done.stdout.split()
        version = int(major), int(minor)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise NotUsable(f"{path} is no Python interpreter: {error}") from error
    if version < OLDEST:
        raise NotUsable(f"{path} is Python {major}.{minor}; environments need 3.8 or newer")
    if missing:
        raise NotUsable(
            f"{path} lacks {' and '.join(missing)}; install with: "
            f"{path} -m pip install {' '.join(missing)}"
        )
