"""Old stages: checkpoints of which no more is kept than what their policies need to act.

The two newest checkpoints of a run stay whole, so that training can go on from the newest, and from
the one before where that is damaged. Of an older one, its weights, the statistics of its
observations and what methods build and view them by stay; replay buffers, optimizers and what
methods have gathered go. ``dropped.json`` in its folder names what went.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save as save_tensors

from holdfast.continual.run_folder.checkpoint import (
    ACTING,
    DROPPED,
    FOLDERS,
    MANIFEST,
    STATE,
    content,
    read_manifest,
    stages,
    stem_of,
    task_folder,
    tensors,
    write_member,
)
from holdfast.continual.run_folder.files import sync, write_whole
from holdfast.continual.run_folder.readers import Member, plain
from holdfast.errors import CheckpointUnusable
from holdfast.scenarios.source.regular_file import opened, remove

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
        manifest = read_manifest(path)
        if DROPPED not in manifest:
            manifest = _thinned(path, manifest, keeps)
    except CheckpointUnusable:
        return  # its reader says what is wrong with it
    for file in path.iterdir():
        if file.name not in (*manifest, MANIFEST):
            remove(file)


def _thinned(path: Path, manifest: dict[str, Member], keeps: Keeps) -> dict[str, Member]:
    """Write the manifest of what stays, and what it names besides; return it.

    Raises:
        CheckpointUnusable: If a file is damaged.
    """
    kept, dropped = {STATE: manifest[STATE]}, defaultdict[str, Counter[str]](Counter)
    for name in manifest.keys() - {STATE}:
        stem = stem_of(name)
        names = _names(path / name)
        staying = {one for one in names if keeps(stem, one)}
        if staying == names:
            kept[name] = manifest[name]
            continue
        size = manifest[name].bytes
        if staying:
            part = f"{name.removesuffix(_SUFFIX)}{ACTING}{_SUFFIX}"
            data = _part(path / name, manifest[name], staying)
            kept[part], size = _member(path / part, data), size - len(data)
        dropped[stem].update(bytes=size, tensors=len(names) - len(staying))
    kept[DROPPED] = _member(path / DROPPED, json.dumps(dropped, indent=2).encode())
    sync(path)
    stated = {name: member.model_dump() for name, member in kept.items()}
    write_whole(path / MANIFEST, json.dumps(stated, indent=2).encode())
    return kept


def _names(path: Path) -> set[str]:
    """Return the names of the tensors of a file, without reading the tensors."""
    try:
        with os.fdopen(opened(path, folders=FOLDERS), "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = plain(file.read(min(length, os.fstat(file.fileno()).st_size)), path)
    except OSError as error:
        raise CheckpointUnusable(f"{path}: cannot be read: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointUnusable(f"{path}: holds no tensors")
    return header.keys() - {"__metadata__"}


def _part(path: Path, member: Member, names: set[str]) -> bytes:
    found = tensors(content(path, member), path)
    return save_tensors({name: found[name] for name in sorted(names)})


def _member(path: Path, data: bytes) -> Member:
    """Write a file; return what the manifest says of it."""
    remove(path)  # of a process that died here before
    return write_member(path, data)
