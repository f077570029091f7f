"""Checkpoints at task boundaries: folders of tensors that exist whole or not at all.

``task-<k>/`` is written beside its place, with the SHA-256 of every file in ``MANIFEST.json``, put
on disk, and renamed. A folder whose manifest is missing or does not match does not exist for a
resume. Nothing is pickled. Of old ones only what their policies need may be left; see
``old_stages.py``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from holdfast.continual.results.record import sync, write_synced
from holdfast.errors import CheckpointUnusable, UsageError

MANIFEST, STATE, DROPPED = "MANIFEST.json", "state.json", "dropped.json"
ACTING = ".acting"
"""Ends the stem of a file of which only what a policy needs to act is left."""

SCHEMA = 1


@dataclass(frozen=True)
class Checkpoint:
    """Tensors and values saved at the end of a task.

    Attributes:
        state: Small values: stage, scores_bytes, costs.
        files: Named tensors by file stem; a method's are ``method-<i>``.
        dropped: Stems of the files that are not there any more, or in part; see ``old_stages.py``.
    """

    state: dict[str, Any]
    files: dict[str, dict[str, Tensor]]
    dropped: tuple[str, ...] = ()


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
    beside.mkdir(parents=True)
    for name, data in (contents | {MANIFEST: _json(manifest)}).items():
        write_synced(beside / name, data)
    sync(beside)
    if target.exists():  # a damaged one that a resume fell back from
        shutil.rmtree(target)
    beside.rename(target)
    sync(folder)
    return sum(len(data) for data in contents.values())


def load(path: Path) -> Checkpoint:
    """Return one checkpoint, after checking every file against its hash.

    Raises:
        CheckpointUnusable: If a file is missing, cut or changed; the text names it.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        contents = {name: (path / name).read_bytes() for name in manifest}
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointUnusable(f"{path}: cannot be read: {error}") from error
    for name, data in contents.items():
        if hashlib.sha256(data).hexdigest() != manifest[name]["sha256"]:
            raise CheckpointUnusable(f"{path / name}: its hash differs from the manifest's")
    state = json.loads(contents.pop(STATE))
    if state["schema"] != SCHEMA:
        raise CheckpointUnusable(
            f"{path}: written in format {state['schema']}, this version reads {SCHEMA}"
        )
    dropped = tuple(json.loads(contents.pop(DROPPED, b"{}")))
    files = {_stem(name): load_tensors(data) for name, data in contents.items()}
    return Checkpoint(state, files, dropped)


def _stem(name: str) -> str:
    return name.removesuffix(".safetensors").removesuffix(ACTING)


def stages(folder: Path) -> list[int]:
    """Return the stages that have a checkpoint, the first one first; nothing is changed or read."""
    return _stages(file.parent for file in folder.glob(f"task-*[0-9]/{MANIFEST}"))


def newest_stage(run: Path, where: str = "") -> int:
    """Return the stage of the newest checkpoint of a run that can be read.

    Raises:
        UsageError: There is none yet; the text begins with ``where``.
        CheckpointUnusable: If there are checkpoints and none can be read.
    """
    saved, _ = latest(run / "checkpoints")
    if saved is None:
        raise UsageError(f"{where}{run} has no checkpoint: no task was finished yet")
    return int(saved.state["stage"])


def remove_leftovers(folder: Path) -> None:
    """Remove what a process left that died while writing; for the one that holds the run's lock."""
    for leftover in folder.glob("*.tmp-*"):
        shutil.rmtree(leftover)


def latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that can be read, and what is wrong with newer ones.

    None where nothing was saved yet. Nothing is changed: somebody else may be writing.

    Raises:
        CheckpointUnusable: If there are checkpoints and none can be read.
    """
    damage: list[str] = []
    for stage in reversed(_stages(folder.glob("task-*"))):
        try:
            found = load(task_folder(folder, stage))
            if found.dropped:
                raise CheckpointUnusable(
                    f"{task_folder(folder, stage)}: an old stage, which holds what its policy "
                    f"needs to act: {', '.join(found.dropped)} were dropped (checkpoint.keep: "
                    "policies), so that no training goes on from it"
                )
            return found, damage
        except CheckpointUnusable as error:
            damage.append(str(error))
    if damage:
        raise CheckpointUnusable(
            "no checkpoint of this run can be read; start the cell again with --overwrite:\n"
            + "\n".join(damage)
        )
    return None, damage


def _stages(folders: Iterable[Path]) -> list[int]:
    numbers = [folder.name.removeprefix("task-") for folder in folders]
    return sorted(int(number) for number in numbers if number.isdecimal())


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=2).encode()
