"""Checkpoints at task boundaries: folders of tensors that exist whole or not at all.

``task-<k>/`` is written beside its place, with the SHA-256 of every file in ``MANIFEST.json``, put
on disk, and renamed. A folder whose manifest is missing or does not match does not exist for a
resume, and is refused by whoever only reads. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from holdfast.continual.results.readers import (
    Manifest,
    Member,
    State,
    modelled,
    plain,
    read_json,
)
from holdfast.continual.results.record import RunFolder, sync, write_synced
from holdfast.errors import CheckpointUnusable, UsageError
from holdfast.scenarios.source.regular_file import check_folder, is_there, read, remove

FOLDER, MANIFEST, STATE = "checkpoints", "MANIFEST.json", "state.json"
SCHEMA = 1
_FOLDERS = 3
"""Folders above a file that are no links: of the stage, of all checkpoints, of the run."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors and values saved at the end of a task.

    Attributes:
        state: Small values: stage, scores_bytes, costs.
        files: Named tensors by file stem; a method's are ``method-<i>``.
    """

    state: dict[str, Any]
    files: dict[str, dict[str, Tensor]]


def task_folder(folder: Path, stage: int) -> Path:
    """Return the place of the checkpoint written at the end of the ``stage``-th task, from 0."""
    return folder / f"task-{stage}"


def save(
    folder: Path, stage: int, files: dict[str, dict[str, Tensor]], state: dict[str, Any]
) -> int:
    """Write a checkpoint and return its size in bytes.

    Args:
        folder: The run folder's ``checkpoints``.
        stage: Position of the finished task, from 0.
        files: Named tensors by file stem; empty ones are left out.
        state: Values for ``state.json``.
    """
    contents = {f"{stem}.safetensors": save_tensors(_on_cpu(t)) for stem, t in files.items() if t}
    contents[STATE] = _json({"schema": SCHEMA, "stage": stage, **state})
    manifest = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in contents.items()
    }
    target = task_folder(folder, stage)
    beside = folder / f"{target.name}.tmp-{os.getpid()}"
    check_folder(folder, folders=_FOLDERS - 1)
    remove(beside)
    beside.mkdir(parents=True)
    for name, data in (contents | {MANIFEST: _json(manifest)}).items():
        write_synced(beside / name, data)
    sync(beside)
    remove(target)  # a damaged one that a resume fell back from
    beside.rename(target)
    sync(folder)
    return sum(len(data) for data in contents.values())


def load(path: Path) -> Checkpoint:
    """Return one checkpoint, after checking every file against its size and hash.

    Raises:
        CheckpointUnusable: If a file is missing, cut or changed, or not what belongs there; the
            text names it.
    """
    try:
        manifest = modelled(Manifest, read_json(path / MANIFEST, folders=_FOLDERS), path / MANIFEST)
        if STATE not in manifest:
            raise CheckpointUnusable(f"{path / MANIFEST}: lacks {STATE}")
        contents = {name: _content(path / name, member) for name, member in manifest.items()}
    except FileNotFoundError as error:
        raise CheckpointUnusable(f"{path}: cannot be read: {error}") from error
    state = _state(contents.pop(STATE), path)
    files = {
        name.removesuffix(".safetensors"): tensors(data, path / name)
        for name, data in contents.items()
    }
    return Checkpoint(state, files)


def tensors(content: bytes, where: Path) -> dict[str, Tensor]:
    """Return the tensors in the content of a safetensors file.

    Raises:
        CheckpointUnusable: If it is none; the text begins with ``where``.
    """
    try:
        return load_tensors(content)
    except Exception as error:  # of the package: a SafetensorError, a KeyError of a type, ...
        raise CheckpointUnusable(
            f"{where}: holds no tensors: {type(error).__name__}: {str(error)[:200]}"
        ) from error


def _content(path: Path, member: Member) -> bytes:
    size = min(member.bytes, _memory())
    content = read(path, size, folders=_FOLDERS)
    if len(content) != member.bytes:
        raise CheckpointUnusable(
            f"{path}: has {len(content):,} bytes, and the manifest says {member.bytes:,}"
        )
    if hashlib.sha256(content).hexdigest() != member.sha256:
        raise CheckpointUnusable(f"{path}: its hash differs from the manifest's")
    return content


def _state(content: bytes, path: Path) -> dict[str, Any]:
    state = plain(content, path / STATE)
    if not isinstance(state, dict):
        raise CheckpointUnusable(f"{path / STATE}: holds {type(state).__name__}, not an object")
    if state.get("schema") != SCHEMA:
        raise CheckpointUnusable(
            f"{path}: written in format {state.get('schema')}, this version reads {SCHEMA}"
        )
    modelled(State, state, path / STATE)
    if _TASK.fullmatch(path.name) and path.name != f"task-{state['stage']}":
        raise CheckpointUnusable(f"{path}: is the checkpoint of stage {state['stage']}, moved here")
    return state


def _memory() -> int:
    """Return the bytes of memory of this machine: a file above it is never read."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a Unix
        return 1 << 40


def stages(folder: Path) -> list[int]:
    """Return the stages that have a checkpoint, the first one first; nothing is changed or read."""
    return [
        stage for stage in named_stages(folder) if is_there(task_folder(folder, stage) / MANIFEST)
    ]


def newest_stage(run: RunFolder, where: str = "") -> int:
    """Return the stage of the newest checkpoint of a run, whether it can be read or not.

    Nobody who only reads is given an older one in its place.

    Args:
        run: The run.
        where: The text of an error begins so.

    Raises:
        UsageError: There is none yet.
        CheckpointUnusable: If a later stage is known to have ended, whose checkpoint is gone; or
            the run has no such stage.
    """
    found, ended = named_stages(run.path / FOLDER), run.stages_ended()
    newest, total = max(found, default=-1), len(run.scenario.stream_tasks)
    if newest >= total:
        raise CheckpointUnusable(
            f"{where}{task_folder(run.path / FOLDER, newest)}: the stream has {total} stages only"
        )
    if ended - 1 > newest:
        raise CheckpointUnusable(
            f"{where}{task_folder(run.path / FOLDER, ended - 1)} is missing, and the run has "
            f"finished stage {ended - 1}; {older(stages(run.path / FOLDER))}"
        )
    if newest < 0:
        raise UsageError(f"{where}{run.path} has no checkpoint: no task was finished yet")
    return newest


def older(whole: Sequence[int]) -> str:
    """Return how to have an older checkpoint, in words; readers take none by themselves."""
    if not whole:
        return "no older checkpoint is there"
    listed = ", ".join(map(str, whole))
    return f"an older one is used only where it is asked for by its stage; there are: {listed}"


def asked_stage(run: RunFolder, stage: int | None, where: str = "") -> int:
    """Return the stage that is asked for, by default the newest.

    Raises:
        UsageError: There is no such checkpoint; the text begins with ``where``.
        CheckpointUnusable: As ``newest_stage``.
    """
    if stage is None:
        return newest_stage(run, where)
    there = named_stages(run.path / FOLDER)
    if stage not in there:
        known = ", ".join(map(str, there)) or "none"
        raise UsageError(
            f"{where}{run.path} has no checkpoint of stage {stage}; there are: {known}"
        )
    return stage


def load_stage(run: RunFolder, stage: int) -> Checkpoint:
    """Return the checkpoint of a run at the end of a stage.

    Raises:
        CheckpointUnusable: If it cannot be read; the text says how to have another.
    """
    place = run.path / FOLDER
    try:
        return load(task_folder(place, stage))
    except CheckpointUnusable as error:
        others = [other for other in stages(place) if other < stage]
        raise CheckpointUnusable(f"{error}; {older(others)}") from error


def remove_leftovers(folder: Path) -> None:
    """Remove what a process left that died while writing; for the one that holds the run's lock.

    Raises:
        CheckpointUnusable: If the folder is a link, or no folder.
    """
    check_folder(folder, folders=_FOLDERS - 1)
    for leftover in folder.glob("*.tmp-*"):
        remove(leftover)


def latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that can be read, and what is wrong with newer ones.

    For a run that goes on, and alone may fall back; it tells so, and writes it down. None where
    nothing was saved yet. Nothing is changed: somebody else may be writing.

    Raises:
        CheckpointUnusable: If there are checkpoints and none can be read.
    """
    damage: list[str] = []
    for stage in reversed(named_stages(folder)):
        try:
            return load(task_folder(folder, stage)), damage
        except CheckpointUnusable as error:
            damage.append(str(error))
    if damage:
        raise CheckpointUnusable(
            "no checkpoint of this run can be read; start the cell again with --overwrite:\n"
            + "\n".join(damage)
        )
    return None, damage


_TASK = re.compile(r"task-(0|[1-9][0-9]{0,8})")


def named_stages(folder: Path) -> list[int]:
    """Return the stages whose names are there, the first one first, whatever they are.

    Raises:
        CheckpointUnusable: If the folder is a link, or no folder.
    """
    check_folder(folder, folders=_FOLDERS - 1)
    try:
        names = [entry.name for entry in folder.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(int(found[1]) for found in map(_TASK.fullmatch, names) if found)


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=2).encode()
