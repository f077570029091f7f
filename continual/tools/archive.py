"""Archives of runs for sharing: packed without a trace of the machine, opened as data.

An archive is a zip, whose member ``PACK.json`` has the size and the SHA-256 of every other. The
same cells give the same bytes. Whoever opens one takes nothing that it does not name, nothing that
is no part of a run, and nothing that the readers of run folders do not vouch for.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Literal, NamedTuple

from pydantic import Field, TypeAdapter

from holdfast.continual.run_folder import checkpoint
from holdfast.continual.run_folder.cells import find_cells
from holdfast.continual.run_folder.detections import read_detections
from holdfast.continual.run_folder.old_stages import WHOLE
from holdfast.continual.run_folder.plasticity_record import read_points
from holdfast.continual.run_folder.point_record import COSTS, ONLINE
from holdfast.continual.run_folder.readers import MEMBER, Member, modelled, plain
from holdfast.continual.run_folder.record import RUN, SCENARIO, SCORES, RunFolder
from holdfast.errors import CheckpointUnusable, FolderUnwritable, UsageError
from holdfast.scenarios.checks.own_code import OwnCode, own_code
from holdfast.scenarios.source.regular_file import check_folder, is_there, opened, read, remove

PACK = "PACK.json"
SCHEMA = 1
Checkpoints = Literal["newest", "all", "none"]

MOST_MEMBERS, MOST_PACK_BYTES = 200_000, 64 << 20
MOST_GB = 20
"""Of all that an archive holds, unpacked, unless the user says otherwise."""

_RECORDS = (
    *(SCORES, "plasticity.json", "plasticity.safetensors", "detections.json"),
    *(ONLINE.file, COSTS.file, "README.md"),
)
_PART = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*/(?!\.)[A-Za-z0-9._=+-]+/seed-\d{1,10}/"
    rf"({'|'.join(map(re.escape, (SCENARIO, RUN, *_RECORDS)))}|drift/stage-\d+\.csv"
    rf"|checkpoints/task-\d+/(MANIFEST\.json|{MEMBER[1:-1]}))"
)
_OF_MACHINE = ("source", "folder", "host")
"""Entries of ``run.json`` that name the machine and its folders, and are left out."""
_PATH = re.compile(r"(?<![\w.:/])(?:~|[A-Za-z]:\\|/)[\w.@+~-]*(?:[/\\][\w.@+ -]+)+")
_TEXTS = (".json", ".jsonl", ".yaml", ".md", ".csv")
_NEVER = (1980, 1, 1, 0, 0, 0)  # of a member's time: the first that a zip can say
_CHUNK, _MOST_TEXT = 1 << 20, 1 << 30


class Opened(NamedTuple):
    """A cell that was unpacked.

    Attributes:
        path: Its folder.
        code: What its scenario names, which commands import with ``--trust-code`` alone.
    """

    path: Path
    code: tuple[OwnCode, ...]


# -- packing ---------------------------------------------------------------------------------------


def pack(
    path: Path,
    target: Path,
    *,
    checkpoints: Checkpoints = "newest",
    with_paths: bool = False,
) -> list[str]:
    """Write an archive of the cells in a folder, and return the names of its members.

    Scenario, scores, records, model card and checkpoints go in. Logs, TensorBoard's files, failures
    of environments, films, exports and reports do not, nor what ``run.json`` says of the machine.

    Args:
        path: Of a scenario, a method or a cell.
        target: The file; it must not be there.
        checkpoints: Which of each cell go in.
        with_paths: Whether texts may name absolute paths or the user.

    Raises:
        UsageError: There are no cells, the file is there, or a text tells of the machine.
        InUse: Another process writes a cell.
        CheckpointUnusable: Something in a cell is damaged, or no part of a run.
        FolderUnwritable: The disk is full, or may only be read.
    """
    if is_there(target):
        raise UsageError(f"{target} is there; name a file that is not")
    cells = find_cells(path)
    beside = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    remove(beside)
    try:
        members: dict[str, Member] = {}
        with zipfile.ZipFile(beside, "x", zipfile.ZIP_DEFLATED) as zipped:
            for cell in cells:
                with cell.lock():
                    for name, place in _parts(cell, checkpoints):
                        members[name] = _packed(zipped, name, place, with_paths=with_paths)
            told = {"schema": SCHEMA, "members": {n: m.model_dump() for n, m in members.items()}}
            zipped.writestr(_header(PACK), json.dumps(told, indent=1))
        beside.replace(target)
    except OSError as error:
        raise FolderUnwritable.of(error, target) or error from error
    finally:
        beside.unlink(missing_ok=True)
    return list(members)


def _parts(cell: RunFolder, which: Checkpoints) -> Iterator[tuple[str, Path]]:
    """Yield name and place of what goes into an archive; checkpoints are checked on the way."""
    scenario, label, seed = cell.scenario.name, cell.label, cell.path.absolute().name
    top = f"{scenario}/{label}/{seed}"
    yield from (
        (f"{top}/{name}", cell.path / name)
        for name in (SCENARIO, RUN, *_RECORDS)
        if is_there(cell.path / name)
    )
    check_folder(cell.path / "drift", folders=2)
    yield from (
        (f"{top}/drift/{p.name}", p) for p in sorted((cell.path / "drift").glob("stage-*.csv"))
    )
    place = cell.path / checkpoint.FOLDER
    stages = checkpoint.stages(place)
    # An agent is put together from the checkpoint before its task and the one after it.
    kept = {"newest": stages[-WHOLE:], "all": stages, "none": []}[which]
    for folder in (checkpoint.task_folder(place, stage) for stage in kept):
        for name, member in checkpoint.read_manifest(folder).items():
            checkpoint.content(folder / name, member)
            yield f"{top}/{checkpoint.FOLDER}/{folder.name}/{name}", folder / name
        manifest = folder / checkpoint.MANIFEST
        yield f"{top}/{checkpoint.FOLDER}/{folder.name}/{checkpoint.MANIFEST}", manifest


def _packed(zipped: zipfile.ZipFile, name: str, place: Path, *, with_paths: bool) -> Member:
    """Write one member, and return its size and hash."""
    if not _PART.fullmatch(name):
        raise CheckpointUnusable(f"{place}: no run writes a file or folder of this name")
    if place.suffix in _TEXTS:
        content = read(place, _MOST_TEXT, folders=_depth(name))
        if place.name == RUN:
            content = _without_machine(content)
        if not with_paths:
            _check_private(content.decode("utf-8", "replace"), place)
        zipped.writestr(_header(name), content)
        return Member(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    digest, size = hashlib.sha256(), 0
    with (
        os.fdopen(opened(place, folders=_depth(name)), "rb") as file,
        zipped.open(_header(name), "w", force_zip64=True) as member,
    ):
        while chunk := file.read(_CHUNK):
            member.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    return Member(sha256=digest.hexdigest(), bytes=size)


def _depth(name: str) -> int:
    """Return how many folders above a member belong to its cell."""
    return len(PurePosixPath(name).parts) - 3


def _header(name: str) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name, _NEVER)
    made.compress_type, made.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    return made


def _without_machine(content: bytes) -> bytes:
    """Return ``run.json`` without what tells of the machine; of paths in reasons the last name."""
    info = json.loads(content)
    for key in _OF_MACHINE:
        if key in info:
            info[key] = None
    info["reason"] = _shortened(info.get("reason"))
    for failure in info.get("failures", ()):
        failure["reason"] = _shortened(failure.get("reason"))
    for fallback in info.get("fallbacks", ()):
        fallback.update({k: _shortened(v) for k, v in fallback.items() if isinstance(v, str)})
    return f"{json.dumps(info, indent=2, ensure_ascii=False)}\n".encode()


def _shortened(text: str | None) -> str | None:
    """Return a text whose absolute paths are cut to their last name.

    >>> _shortened("cannot read /home/ada/lab/runs/x/run.json (see ~/lab)")
    'cannot read run.json (see lab)'
    """
    return text and _PATH.sub(lambda found: re.split(r"[/\\]", found[0])[-1], text)


def _check_private(text: str, place: Path) -> None:
    """Raise if a text names an absolute path, or the user or the machine.

    Raises:
        UsageError: With what was found.
    """
    found = _PATH.search(text)
    if found is None and (names := _own_names()):
        found = re.search("|".join(map(re.escape, names)), text)
    if found is not None:
        line = text.count("\n", 0, found.start()) + 1
        raise UsageError(
            f"{place}, line {line}: names {found[0][:100]!r}, which whoever opens it would see; "
            "the scenario that ran said so. --with-paths packs it as it is"
        )


def _own_names() -> list[str]:
    """Return how the user and the machine are called, where that stands out in a text."""
    home, host = Path.home(), platform.node()
    user = [f"{home.name}@", f"{home}/"] if home.name else []
    return [*user, *([host] if len(host) > 5 else [])]
    return [f"{user}@", str(Path.home()) + "/", *([host] if len(host) > 5 else [])]


# -- opening ---------------------------------------------------------------------------------------


def unpack(path: Path, runs: Path, *, most_gb: float = MOST_GB) -> list[Opened]:
    """Open an archive into the folder of all results, and return its cells.

    Everything is written beside its place, checked by the readers of run folders, and moved only
    then: a bad archive leaves nothing.

    Args:
        path: The archive.
        runs: The folder of all results.
        most_gb: Gigabytes that it may hold.

    Raises:
        UsageError: There is no such file, or a cell is there already.
        CheckpointUnusable: It is no archive of ``pack``, or damaged, or made to harm.
        FolderUnwritable: The disk is full, or may only be read.
    """
    beside, was_there = runs / f".unpack.tmp-{os.getpid()}", runs.exists()
    try:
        with _zip(path) as zipped:
            members = _members(zipped, path, int(most_gb * 1e9))
            cells = cells_of(members)
            for cell in cells:
                if is_there(runs / cell):
                    raise UsageError(f"{runs / cell} is there; unpack elsewhere with --runs")
            _check_room(runs, sum(member.bytes for member in members.values()))
            for name, member in members.items():
                _write(zipped, name, member, beside / name, path)
        code = [_checked(beside / cell, path, cell) for cell in cells]
        for cell in cells:
            (runs / cell).parent.mkdir(parents=True, exist_ok=True)
            (beside / cell).rename(runs / cell)
    except OSError as error:
        raise FolderUnwritable.of(error, runs) or error from error
    finally:
        remove(beside)
        if not was_there and runs.is_dir() and not any(runs.iterdir()):
            runs.rmdir()
    return [Opened(runs / cell, named) for cell, named in zip(cells, code, strict=True)]


def _zip(path: Path) -> zipfile.ZipFile:
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise CheckpointUnusable(f"{path}: is no archive: {error}") from error


def _members(zipped: zipfile.ZipFile, path: Path, most: int) -> dict[str, Member]:
    """Return what the archive says that it holds, which is what it holds.

    Raises:
        CheckpointUnusable: It is not, or a member is no part of a run, or it is too much.
    """
    entries = zipped.infolist()
    names = [entry.filename for entry in entries]
    if len(entries) > MOST_MEMBERS:
        raise CheckpointUnusable(f"{path}: has {len(entries):,} members, at most {MOST_MEMBERS:,}")
    if PACK not in names:
        raise CheckpointUnusable(f"{path}: has no {PACK}; `holdfast pack` writes what opens here")
    told = plain(_content(zipped, PACK, MOST_PACK_BYTES, path), path / PACK)
    if not isinstance(told, dict) or told.get("schema") != SCHEMA:
        raise CheckpointUnusable(f"{path}: {PACK} is not of format {SCHEMA}, which is read here")
    members: dict[str, Member] = modelled(_HELD, told.get("members"), path / PACK)
    for entry in entries:
        name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
        if name != PACK and not _PART.fullmatch(name):
            raise CheckpointUnusable(f"{path}: {name[:200]!r} is no part of a run")
        if kind not in (0, stat.S_IFREG) or entry.flag_bits & 1:
            raise CheckpointUnusable(f"{path}: {name!r} is a link, a device or encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise CheckpointUnusable(f"{path}: {name!r} is compressed in a way that none is here")
        if name != PACK and name in members and entry.file_size != members[name].bytes:
            raise CheckpointUnusable(f"{path}: {name!r} has another size than {PACK} says")
    if sorted(names) != sorted([PACK, *members]):
        odd = sorted({*names} ^ {PACK, *members}) or sorted(
            {n for n in names if names.count(n) > 1}
        )
        raise CheckpointUnusable(
            f"{path}: {odd[0][:200]!r} is not once in {PACK} and once beside it"
        )
    size = sum(member.bytes for member in members.values())
    if not members or size > most:
        what = "nothing" if not members else f"{size / 1e9:,.1f} GB"
        raise CheckpointUnusable(f"{path}: holds {what}; --most-gb says how much may be unpacked")
    return members


def _content(zipped: zipfile.ZipFile, name: str, most: int, path: Path) -> bytes:
    try:
        with zipped.open(name) as member:
            found = member.read(most + 1)
    except _BROKEN as error:
        raise CheckpointUnusable(f"{path}: {name!r} cannot be read: {error}") from error
    if len(found) > most:
        raise CheckpointUnusable(f"{path}: {name!r} has more than {most:,} bytes")
    return found


_HELD = TypeAdapter(dict[Annotated[str, Field(max_length=500)], Member])
_BROKEN = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError)


def _check_room(runs: Path, size: int) -> None:
    there = next(
        folder for folder in (runs.absolute(), *runs.absolute().parents) if folder.exists()
    )
    free = shutil.disk_usage(there).free
    if size > free:
        raise UsageError(
            f"{size / 1e9:,.1f} GB are unpacked, and {there} has {free / 1e9:,.1f} free"
        )


def _write(zipped: zipfile.ZipFile, name: str, member: Member, target: Path, path: Path) -> None:
    """Write a member of just the size and hash that are stated, and not a byte more."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipped.open(name) as source, target.open("xb") as file:
            digest = _copied(source, file, member.bytes)
    except _BROKEN as error:
        raise CheckpointUnusable(f"{path}: {name!r} cannot be read: {error}") from error
    if digest != member.sha256:
        raise CheckpointUnusable(f"{path}: the hash of {name!r} differs from that in {PACK}")


def _copied(source: IO[bytes], file: IO[bytes], size: int) -> str:
    digest, left = hashlib.sha256(), size
    while left > 0 and (chunk := source.read(min(_CHUNK, left))):
        digest.update(chunk)
        file.write(chunk)
        left -= len(chunk)
    if left or source.read(1):
        raise ValueError("it has another size than is stated")
    return digest.hexdigest()


def _checked(folder: Path, path: Path, cell: str) -> tuple[OwnCode, ...]:
    """Let every reader vouch for an unpacked cell; return the code that its scenario names."""
    run = RunFolder(folder)
    scenario = run.read_scenario()
    name, _, seed = cell.split("/")
    if (scenario.name, f"seed-{scenario.seeds[0]}") != (name, seed):
        own = f"{scenario.name}, seed {scenario.seeds[0]}"
        raise CheckpointUnusable(f"{path}: {cell} holds a run of {own}")
    run.info()
    run.scores()
    read_points(folder)
    read_detections(folder)
    for record in (ONLINE, COSTS):
        record.read(folder)
    for stage in checkpoint.named_stages(folder / checkpoint.FOLDER):
        checkpoint.load(checkpoint.task_folder(folder / checkpoint.FOLDER, stage))
    return own_code(scenario)


def cells_of(members: Iterable[str]) -> list[str]:
    """Return the cells that members of an archive belong to: ``scenario/method/seed-0``."""
    return list(dict.fromkeys("/".join(name.split("/")[:3]) for name in members))
