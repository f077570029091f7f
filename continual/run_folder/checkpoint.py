"""Checkpoints at task boundaries: folders of tensors that exist whole or not at all.

``task-<k>/`` is written beside its place, with the SHA-256 of every file in ``MANIFEST.json``, put
on disk, and renamed. A folder whose manifest is missing or does not match does not exist for a
resume, and is refused by whoever only reads. Of old ones only what their policies need may be left;
see ``old_stages.py``. Nothing is pickled.

What never changes once it is there, such as a method's rows of a finished task, goes into files of
its own, which the next checkpoint takes over as they are (hard links): its tensors are called
``settled/<block>/...``, and a block's name never means another one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from holdfast.continual.run_folder.files import has_second_name, sync, write_synced
from holdfast.continual.run_folder.readers import (
    Dropped,
    Manifest,
    Member,
    State,
    modelled,
    plain,
    read_json,
)
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import CheckpointUnusable, UsageError
from holdfast.scenarios.source.regular_file import check_folder, is_there, read, remove

FOLDER = "checkpoints"
MANIFEST, STATE, DROPPED = "MANIFEST.json", "state.json", "dropped.json"
ACTING = ".acting"
"""Ends the stem of a file of which only what a policy needs to act is left."""
SETTLED = ".settled-"
"""Stands in a file's name between the stem and the name of the settled block that it holds."""

SCHEMA = 1
FOLDERS = 3
"""Folders above a file that are no links: of the stage, of all checkpoints, of the run."""


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
    """Write a checkpoint and return its size in bytes, with what it shares with the one before.

    Args:
        folder: The run folder's ``checkpoints``.
        stage: Position of the finished task, from 0.
        files: Named tensors by file stem; empty ones are left out.
        state: Values for ``state.json``.
    """
    return put(task_folder(folder, stage), stage, files, state)


def put(
    target: Path, stage: int, files: dict[str, dict[str, Tensor]], state: dict[str, Any]
) -> int:
    """Write a checkpoint to its place, whole or not at all, and return its size in bytes."""
    folder, before = target.parent, task_folder(target.parent, stage - 1)
    shared = _settled(before)
    beside = folder / f"{target.name}.tmp-{os.getpid()}"
    check_folder(folder, folders=FOLDERS - 1)
    remove(beside)
    beside.mkdir(parents=True)
    manifest: dict[str, Member] = {}
    for name, held in _members(files):
        known = shared.get(name)
        if known is not None and _taken_over(before / name, beside / name, known):
            manifest[name] = known
        else:
            manifest[name] = write_member(beside / name, save_tensors(_on_cpu(held)))
    told = _json({"schema": SCHEMA, "stage": stage, **state})
    manifest[STATE] = write_member(beside / STATE, told)
    stated = {name: member.model_dump() for name, member in manifest.items()}
    write_synced(beside / MANIFEST, _json(stated))
    sync(beside)
    remove(target)  # a damaged one that a resume fell back from
    beside.rename(target)
    sync(folder)
    return sum(member.bytes for member in manifest.values())


def write_member(path: Path, data: bytes) -> Member:
    """Write a file that is not there yet; return what the manifest says of it."""
    write_synced(path, data)
    return Member(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def _members(files: dict[str, dict[str, Tensor]]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Give the files of a checkpoint, by name: of each stem one, and one for each settled block."""
    for stem, held in files.items():
        parts: dict[str, dict[str, Tensor]] = {}
        for path, tensor in held.items():
            head, _, rest = path.partition("/")
            block = rest.partition("/")[0] if head == "settled" else None
            of_block = stem if block is None else f"{stem}{SETTLED}{block}"
            parts.setdefault(of_block, {})[path] = tensor
        yield from ((f"{name}.safetensors", tensors) for name, tensors in parts.items())


def _settled(before: Path) -> dict[str, Member]:
    """Return the settled blocks in the checkpoint before, as its manifest has them."""
    try:
        manifest = read_manifest(before)
    except CheckpointUnusable:  # or there is none: everything is written
        return {}
    return {name: member for name, member in manifest.items() if SETTLED in name}


def _taken_over(there: Path, here: Path, member: Member) -> bool:
    """Return whether a file has a second name now, and is whole."""
    if not has_second_name(there, here):
        return False
    if here.lstat().st_size == member.bytes:
        return True
    remove(here)
    return False


def load(path: Path) -> Checkpoint:
    """Return one checkpoint, after checking every file against its size and hash.

    Raises:
        CheckpointUnusable: If a file is missing, cut or changed, or not what belongs there; the
            text names it.
    """
    contents = {name: content(path / name, m) for name, m in read_manifest(path).items()}
    state = _state(contents.pop(STATE), path)
    dropped = modelled(Dropped, plain(contents.pop(DROPPED, b"{}"), path / DROPPED), path / DROPPED)
    files: dict[str, dict[str, Tensor]] = {}
    for name, data in contents.items():
        files.setdefault(stem_of(name), {}).update(tensors(data, path / name))
    return Checkpoint(state, files, tuple(dropped))


def stem_of(name: str) -> str:
    """Return the stem that a file's tensors belong to.

    >>> stem_of("method-0.settled-12.safetensors"), stem_of("policy.acting.safetensors")
    ('method-0', 'policy')
    """
    return name.removesuffix(".safetensors").removesuffix(ACTING).partition(SETTLED)[0]


def read_manifest(path: Path) -> dict[str, Member]:
    """Return what a checkpoint's manifest says of its files; raises as ``load`` does."""
    place = path / MANIFEST
    try:
        manifest: dict[str, Member] = modelled(Manifest, read_json(place, folders=FOLDERS), place)
    except FileNotFoundError as error:
        raise CheckpointUnusable(f"{path}: cannot be read: {error}") from error
    if STATE not in manifest:
        raise CheckpointUnusable(f"{place}: lacks {STATE}")
    return manifest


def tensors(data: bytes, where: Path) -> dict[str, Tensor]:
    """Return the tensors in the content of a safetensors file.

    Raises:
        CheckpointUnusable: If it is none; the text begins with ``where``.
    """
    try:
        return load_tensors(data)
    except Exception as error:  # of the package: a SafetensorError, a KeyError of a type, ...
        raise CheckpointUnusable(
            f"{where}: holds no tensors: {type(error).__name__}: {str(error)[:200]}"
        ) from error


def content(path: Path, member: Member) -> bytes:
    """Return the content of a checkpoint's file, which is as its manifest says.

    Raises:
        CheckpointUnusable: If it is not, or is not there.
    """
    try:
        found = read(path, min(member.bytes, _memory()), folders=FOLDERS)
    except FileNotFoundError as error:
        raise CheckpointUnusable(f"{path.parent}: cannot be read: {error}") from error
    if len(found) != member.bytes:
        raise CheckpointUnusable(
            f"{path}: has {len(found):,} bytes, and the manifest says {member.bytes:,}"
        )
    if hashlib.sha256(found).hexdigest() != member.sha256:
        raise CheckpointUnusable(f"{path}: its hash differs from the manifest's")
    return found


def _state(data: bytes, path: Path) -> dict[str, Any]:
    state = plain(data, path / STATE)
    if not isinstance(state, dict):
        raise CheckpointUnusable(f"{path / STATE}: holds {type(state).__name__}, not an object")
    if state.get("schema") != SCHEMA:
        raise CheckpointUnusable(
            f"{path}: written in format {state.get('schema')}, this version reads {SCHEMA}"
        )
    modelled(State, state, path / STATE)
    if path.name.startswith("task-") and path.name.split(".")[0] != f"task-{state['stage']}":
        raise CheckpointUnusable(f"{path}: is the checkpoint of stage {state['stage']}, moved here")
    return state


def _memory() -> int:
    """Return the bytes of memory of this machine: a file above it is never read."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a Unix
        return 1 << 40


def read_state(path: Path) -> dict[str, Any]:
    """Return the small values of a checkpoint, without its tensors; raises as ``load`` does."""
    return _state(content(path / STATE, read_manifest(path)[STATE]), path)


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
    check_folder(folder, folders=FOLDERS - 1)
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


_TASK = re.compile(r"task-(0|[1-9][0-9]{0,8})")


def named_stages(folder: Path) -> list[int]:
    """Return the stages whose names are there, the first one first, whatever they are.

    Raises:
        CheckpointUnusable: If the folder is a link, or no folder.
    """
    check_folder(folder, folders=FOLDERS - 1)
    try:
        names = [entry.name for entry in folder.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(int(found[1]) for found in map(_TASK.fullmatch, names) if found)


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=2).encode()
