"""Old stages: checkpoints of which no more is kept than what their policies need to act.

The two newest checkpoints of a run stay whole, so that training can go on from the newest, and from
the one before where that is damaged. Of an older one, its weights, the statistics of its
observations and what methods build and view them by stay; replay buffers, optimizers and what
methods have gathered go. ``dropped.json`` in its folder names what went.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from holdfast.continual.results.checkpoint import (
    ACTING,
    DROPPED,
    MANIFEST,
    STATE,
    stages,
    task_folder,
)
from holdfast.continual.results.record import sync, write_synced, write_whole

WHOLE = 2
"""Newest checkpoints that stay whole."""

Keeps = Callable[[str, str], bool]
"""Whether an old policy needs a tensor to act, by the stem of its file and its name."""

_SUFFIX = ".safetensors"


def thin_out(folder: Path, keeps: Keeps) -> None:
    """Thin out every stage but the newest ones, and finish what a killed process began.

    Args:
        folder: The run folder's ``checkpoints``.
        keeps: What stays.
    """
    for stage in stages(folder)[:-WHOLE]:
        thin(task_folder(folder, stage), keeps)


def thin(path: Path, keeps: Keeps) -> None:
    """Drop from a checkpoint what its policy does not need.

    A new manifest replaces the old one once all that it names is on disk, and only then files go:
    whenever the process dies, the folder is a whole checkpoint or a thinned one. One that is
    damaged, or not there, is left as it is.

    Args:
        path: The checkpoint's folder.
        keeps: What stays.
    """
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_bytes())
        if DROPPED not in manifest:
            manifest = _thinned(path, manifest, keeps)
    except (OSError, ValueError, TypeError, KeyError):
        return  # its reader says what is wrong with it
    for file in path.iterdir():
        if file.name not in (*manifest, MANIFEST):
            file.unlink()


def _thinned(path: Path, manifest: dict[str, Any], keeps: Keeps) -> dict[str, Any]:
    """Write the manifest of what stays, and what it names besides; return it.

    Raises:
        ValueError: If a file that stays in part is damaged.
    """
    kept, dropped = {STATE: manifest[STATE]}, dict[str, Any]()
    for name in manifest.keys() - {STATE}:
        stem = name.removesuffix(_SUFFIX)
        names = _names(path / name)
        staying = {one for one in names if keeps(stem, one)}
        if staying == names:
            kept[name] = manifest[name]
            continue
        size = manifest[name]["bytes"]
        if staying:
            part, data = f"{stem}{ACTING}{_SUFFIX}", _part(path / name, manifest[name], staying)
            kept[part], size = _entry(path / part, data), size - len(data)
        dropped[stem] = {"bytes": size, "tensors": len(names) - len(staying)}
    kept[DROPPED] = _entry(path / DROPPED, json.dumps(dropped, indent=2).encode())
    sync(path)
    write_whole(path / MANIFEST, json.dumps(kept, indent=2).encode())
    return kept


def _names(path: Path) -> set[str]:
    """Return the names of the tensors of a file, without reading the tensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(min(length, path.stat().st_size)))
    return header.keys() - {"__metadata__"}


def _part(path: Path, entry: dict[str, Any], names: set[str]) -> bytes:
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise ValueError(f"{path}: its hash differs from the manifest's")
    tensors = load_tensors(data)
    return save_tensors({name: tensors[name] for name in sorted(names)})


def _entry(path: Path, data: bytes) -> dict[str, Any]:
    """Write a file; return what the manifest says of it."""
    write_synced(path, data)
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
