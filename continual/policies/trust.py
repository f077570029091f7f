"""Trust in the code that a run folder names: refused, asked for, or known to be the user's own.

A run folder is data. Its scenario may name modules and programs, and nothing in the folder can say
that they may run. They may where the user gave the scenario itself (``holdfast run FILE``), where
the user says so (``--trust-code``), or where the user's own state directory remembers that a
``holdfast run`` of the user wrote just this folder, from just this code.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from holdfast.continual.run_folder.files import write_whole
from holdfast.continual.run_folder.readers import MEGABYTE, modelled, plain, read_file
from holdfast.continual.run_folder.record import SCENARIO, RunFolder
from holdfast.errors import CheckpointUnusable, CodeNotTrusted, HoldfastError
from holdfast.scenarios.checks.own_code import own_code
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.source.regular_file import is_there, read

MOST_FILES, MOST_BYTES = 5000, 64 << 20
"""Of Python files in a folder of code: a larger one is not remembered."""

MOST_RECORDS = 20_000
"""Runs that are remembered."""

_LEFT_OUT = {"__pycache__", "node_modules", "site-packages", "runs"}
_DEEPEST = 8


class _Record(BaseModel):
    """What is remembered of a run folder.

    Attributes:
        folder: The run folder.
        scenario: SHA-256 of its ``scenario.yaml``.
        code_folder: Where its modules are imported from; None where only installed ones are.
        code: SHA-256 over the Python files there.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    folder: str
    scenario: str
    code_folder: str | None
    code: str


def vouch(folder: RunFolder) -> None:
    """Let the code of a run be imported from where it comes from, or raise.

    Args:
        folder: The run; afterwards its ``scenario`` has the ``folder`` for imports.

    Raises:
        CodeNotTrusted: If it names code, and nobody trusts it; the text lists all of it.
    """
    scenario = folder.scenario
    if folder.given is not None or not own_code(scenario):
        return
    if folder.trust_code:
        scenario._folder = _stated_folder(folder)
        return
    known = _remembered(folder)
    if known is None:
        named = "\n".join(f"  {line}" for line in dict.fromkeys(_named(folder, 0)))
        raise CodeNotTrusted(
            f"{folder.path}: its scenario names code, which reading the run would import or "
            f"start:\n{named}\n"
            "It is not known to come from a run of yours on this machine. If you trust whoever "
            "made it, say so: --trust-code (trust_code=True in Python)"
        )
    scenario._folder = None if known.code_folder is None else Path(known.code_folder)


def remember(folders: Sequence[RunFolder]) -> str:
    """Remember the runs that the user's own scenario made, where they name code of the user's own.

    Args:
        folders: Those with a scenario that was ``given``; others are left alone.

    Returns:
        Why that failed, in a line; empty where it did not. Nothing depends on it but that commands
        which read these runs will ask for ``--trust-code``.
    """
    own = [folder for folder in folders if folder.given is not None and own_code(folder.given)]
    if not own:
        return ""
    try:
        state = _state_folder()
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_own(state, is_folder=True)
        stated = own[0].given.folder if own[0].given is not None else None
        code_folder = None if stated is None else stated.resolve()
        code = _code_hash(code_folder)  # all are cells of one scenario
        for folder in own:
            _write(state, folder, code_folder, code)
        _forget_oldest(state)
    except (OSError, CheckpointUnusable, ValueError, RuntimeError) as error:
        return (
            f"these runs cannot be remembered as yours ({error}); commands that read them will "
            "ask for --trust-code"
        )
    return ""


def _forget_oldest(state: Path) -> None:
    """Forget the runs that were made longest ago, where there are very many."""
    records = list(state.glob("*.json"))
    if len(records) > MOST_RECORDS:
        records.sort(key=lambda path: path.lstat().st_mtime)
        for path in records[: -MOST_RECORDS // 2]:
            path.unlink(missing_ok=True)


def _write(state: Path, folder: RunFolder, code_folder: Path | None, code: str) -> None:
    record = _Record(
        folder=str(folder.path.resolve()),
        scenario=hashlib.sha256(read_file(folder.path / SCENARIO)).hexdigest(),
        code_folder=None if code_folder is None else str(code_folder),
        code=code,
    )
    path = _place(state, folder)
    write_whole(path, record.model_dump_json(indent=2).encode())
    path.chmod(0o600)


def _remembered(folder: RunFolder) -> _Record | None:
    """Return what is remembered of a run, if all of it still holds."""
    try:
        state = _state_folder()
        path = _place(state, folder)
        if not is_there(path):
            return None
        _check_own(state, is_folder=True)
        _check_own(path, is_folder=False)
        record: _Record = modelled(_Record, plain(read(path, MEGABYTE), path), path)
        code_folder = None if record.code_folder is None else Path(record.code_folder)
        holds = (
            record.folder == str(folder.path.resolve())
            and record.scenario == hashlib.sha256(read_file(folder.path / SCENARIO)).hexdigest()
            and record.code == _code_hash(code_folder)
        )
    except (OSError, HoldfastError, ValueError, RuntimeError):  # RuntimeError: there is no home
        return None
    return record if holds else None


def _place(state: Path, folder: RunFolder) -> Path:
    name = hashlib.sha256(os.fsencode(folder.path.resolve())).hexdigest()
    return state / f"{name}.json"


def _state_folder() -> Path:
    """Return the folder of the user's own state: ``~/.local/state/holdfast/runs`` on Linux."""
    given = Path(os.environ.get("XDG_STATE_HOME", ""))
    if given.is_absolute():
        return given / "holdfast" / "runs"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", "")
        return Path(local or Path.home() / "AppData" / "Local") / "holdfast" / "runs"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "holdfast" / "runs"
    return Path.home() / ".local" / "state" / "holdfast" / "runs"


def _check_own(path: Path, *, is_folder: bool) -> None:
    """Raise unless a file or folder is the user's, and nobody else may write it.

    Raises:
        ValueError: See above.
    """
    there = path.lstat()
    kind = stat.S_ISDIR if is_folder else stat.S_ISREG
    if not kind(there.st_mode):
        raise ValueError(f"{path} is no {'folder' if is_folder else 'regular file'}")
    if hasattr(os, "getuid") and (there.st_uid != os.getuid() or there.st_mode & 0o022):
        raise ValueError(f"{path} is not yours alone to write")


def _code_hash(folder: Path | None) -> str:
    """Return a hash over the names and contents of the Python files in a folder.

    Raises:
        ValueError: If there are too many of them.
    """
    if folder is None:
        return ""
    whole = hashlib.sha256()
    for path in _python_files(folder):
        content = path.read_bytes()
        whole.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode(errors="replace"))
        whole.update(content)
    return whole.hexdigest()


def _python_files(folder: Path) -> Iterator[Path]:
    count = size = 0
    for place, inside, names in os.walk(folder):
        hidden = {name for name in inside if name.startswith(".")}
        inside[:] = sorted({*inside} - hidden - _LEFT_OUT)
        for name in sorted(names):
            if not name.endswith((".py", ".pyc", ".so", ".pyd")):
                continue
            path = Path(place) / name
            if not path.is_file():
                continue
            count, size = count + 1, size + path.stat().st_size
            if count > MOST_FILES or size > MOST_BYTES:
                raise ValueError(f"{folder} holds more than {MOST_FILES} files of code")
            yield path


def _stated_folder(folder: RunFolder) -> Path:
    """Return where the code of a trusted run lies: as it says itself, else beside its files."""
    stated = folder.scenario.place
    return stated if stated.is_dir() else folder.path


def _named(folder: RunFolder, depth: int) -> Iterator[str]:
    """Yield what a run would import or start, and what the runs would that it names."""
    scenario = folder.scenario
    where = f" (from {_stated_folder(folder)}, or installed)"
    prefix = f"{folder.path}: " if depth else ""
    for code in own_code(scenario):
        yield f"{prefix}{code}{where}"
    for path in _runs_named(scenario) if depth < _DEEPEST else ():
        try:
            yield from _named(RunFolder(path), depth + 1)
        except HoldfastError as error:  # told where it is used
            yield f"{path}: whatever it names ({str(error).splitlines()[0][:200]})"


def _runs_named(scenario: Scenario) -> Iterator[Path]:
    """Yield the folders of runs whose agents act in a scenario's tasks."""
    for task in scenario.tasks:
        entries = [*task.partners.values()]
        against = () if task.opponents is None else task.opponents.against
        measured = () if task.opponents is None else task.opponents.measured or ()
        named = [one.run for one in (*against, *measured) if not isinstance(one, str)]
        for run in [*(entry.run for entry in entries), *named]:
            if run is not None:
                yield (scenario.place / run).absolute()
