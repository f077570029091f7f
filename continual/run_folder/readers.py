"""Readers of a run folder's files: one for each, which vouches for what it returns.

A run folder may come from elsewhere, damaged or made to harm. So the size of a file is looked at
before it is read, JSON has bounds of depth, numbers and texts, and a model says what belongs where.
What a reader cannot vouch for, it refuses and names.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from holdfast.errors import CheckpointUnusable
from holdfast.scenarios.source.regular_file import read

MEGABYTE = 1 << 20
MOST_BYTES = {
    "scenario.yaml": MEGABYTE,
    "run.json": 8 * MEGABYTE,
    "scores.jsonl": 1 << 30,
    "plasticity.json": 64 * MEGABYTE,
    "detections.json": 4 * MEGABYTE,
    "online.json": 64 * MEGABYTE,
    "costs.json": 64 * MEGABYTE,
    "plasticity.safetensors": 1 << 30,
    "cross-play.json": 64 * MEGABYTE,
    "stress.jsonl": 64 * MEGABYTE,
    "adapt.jsonl": 64 * MEGABYTE,
    "counterfactual.jsonl": 64 * MEGABYTE,
    "explain.jsonl": 64 * MEGABYTE,
    "study.yaml": MEGABYTE,
    "journal.log": 256 * MEGABYTE,
    "tune.md": 16 * MEGABYTE,
    "MANIFEST.json": 4 * MEGABYTE,
    "state.json": 64 * MEGABYTE,
}
"""Size of a file above which it is not read."""

MOST_DEPTH, MOST_TEXT, LARGEST = 32, MEGABYTE, 2**63
"""Of JSON: levels, letters of a text, and what a whole number stays below."""

MEMBER = r"^(state\.json|dropped\.json|\w[\w.,+=@ ()#:-]{0,199}\.safetensors)$"
"""Names that a checkpoint's manifest may hold: single files, of tensors but for two."""

_STRICT = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

Count = Annotated[int, Field(ge=0, lt=LARGEST)]
Short = Annotated[str, Field(max_length=1000)]
Long = Annotated[str, Field(max_length=MOST_TEXT)]
Amount = Annotated[float, Field(ge=0)]


class _Failed(BaseModel):
    model_config = _STRICT

    ended: Short | None = None
    reason: Long | None = None


class _Engine(BaseModel):
    """Which engine learned from a stage on."""

    model_config = _STRICT

    engine: Literal["sb3", "compiled"]
    stage: Count


class _Extension(BaseModel):
    """From which stage on a stream was made longer, and by which tasks."""

    model_config = _STRICT

    stage: Count
    tasks: list[Short]


class RunInfo(BaseModel):
    """What ``run.json`` holds; ``runs/README.md`` says what it means."""

    model_config = _STRICT

    status: Literal["pending", "running", "finished", "failed", "stopped"] = "pending"
    reason: Long | None = None
    failures: list[_Failed] = []
    fallbacks: list[dict[str, Any]] = []
    engines: list[_Engine] = []
    extended: list[_Extension] = []
    lockstep: bool = False
    track: dict[Short, Short] = {}
    stages: Count = 0
    learning_rules: Count = 1
    scenario: Short = ""
    method: Short = ""
    seed: Count = 0
    position: Count = 0
    trial: Count = 0
    point: Long = ""
    sweep: dict[Short, Any] = {}
    source: Short | None = None
    folder: Short | None = None
    information: dict[Short, Short] = {}
    conventions: dict[Short, Long] = {}
    versions: dict[Short, Short] | None = {}
    commit: Short | None = None
    host: Short | None = None
    cores: Count | None = None
    started: Short | None = None
    ended: Short | None = None
    wall_s: Amount | None = None
    steps_per_s: Amount | None = None
    parameters: Count | None = None
    stored_bytes: Count | None = None
    extra_steps: Count | None = None
    updates: Count | None = None
    extra_updates: Count | None = None
    peak_memory_bytes: Count | None = None
    energy_kwh: Amount | None = None
    adaptation: dict[Short, Annotated[float, Field(allow_inf_nan=False)]] = {}


class Member(BaseModel):
    """One file of a checkpoint, as its manifest has it."""

    model_config = ConfigDict(extra="ignore", strict=True)

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Count


Manifest = TypeAdapter(
    Annotated[
        dict[Annotated[str, Field(pattern=MEMBER)], Member], Field(min_length=1, max_length=100_000)
    ]
)


class _Gone(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    bytes: Count
    tensors: Count


Dropped = TypeAdapter(dict[Short, _Gone])
"""What was dropped of an old checkpoint, by the stem of its file."""


class _Spent(BaseModel):
    model_config = _STRICT

    updates: Count = 0
    extra_updates: Count = 0
    peak_memory_bytes: Count = 0
    energy_kwh: Amount | None = None
    adaptation: dict[Short, Annotated[float, Field(allow_inf_nan=False)]] = {}


class State(BaseModel):
    """What the ``state.json`` of a checkpoint holds; other entries are plain data within bounds."""

    model_config = _STRICT

    stage: Count
    scores_bytes: Count = 0
    kept_bytes: list[Count] = []
    spent: _Spent = _Spent()
    wall_s: Amount = 0.0
    training_s: Amount = 0.0
    training_steps: Count = 0
    costs: dict[Short, Amount | None] = {}


class _Run(BaseModel):
    """What a run was inside a task."""

    model_config = _STRICT

    scores_bytes: Count
    kept_bytes: list[Count]
    spent: _Spent
    wall_s: Amount
    training_s: Amount
    training_steps: Count
    environment_failures: Count
    diagnostics: dict[Short, Any]


class Inside(BaseModel):
    """What ``state.json`` says of the inside of a task."""

    model_config = _STRICT

    step: Count
    parts: dict[Annotated[str, Field(pattern=r"^\w[\w.-]{0,199}$")], Member]
    agent: dict[Short, Any]
    run: _Run


Points = TypeAdapter(
    list[dict[Short, Annotated[float, Field(allow_inf_nan=False)]]],
    config=ConfigDict(strict=True),
)


def read_file(path: Path, *, folders: int = 1) -> bytes:
    """Return the content of one of the files that ``MOST_BYTES`` names.

    Args:
        path: The file.
        folders: How many folders above it must be no links.

    Raises:
        FileNotFoundError: If it is not there.
        CheckpointUnusable: If it is no regular file, too large, or cannot be read.
    """
    return read(path, MOST_BYTES[path.name], folders=folders)


def read_json(path: Path, *, folders: int = 1) -> Any:
    """Return the plain data in a JSON file, within bounds; raises as ``read_file`` does."""
    return plain(read_file(path, folders=folders), path)


def plain(content: bytes, where: Path | str) -> Any:
    """Return the plain data in JSON: no NaN, nothing deeper, larger or longer than the bounds.

    Raises:
        CheckpointUnusable: If it is not such; the text begins with ``where``.
    """
    try:
        found = json.loads(content, parse_constant=_refuse)
    except RecursionError as error:
        raise CheckpointUnusable(f"{where}: nested too deeply") from error
    except ValueError as error:
        raise CheckpointUnusable(f"{where}: not JSON ({str(error)[:200]})") from error
    if fault := beyond_bounds(found):
        raise CheckpointUnusable(f"{where}: {fault}")
    return found


def modelled(model: Any, found: Any, where: Path | str) -> Any:
    """Return data as a model has them.

    Args:
        model: A model of pydantic's, or a ``TypeAdapter``.
        found: Plain data.
        where: The text of an error begins so.

    Raises:
        CheckpointUnusable: If they are of another form; the first entry that is gets named.
    """
    validate = model.validate_python if isinstance(model, TypeAdapter) else model.model_validate
    try:
        return validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part)[:80] for part in first["loc"])
        raise CheckpointUnusable(
            f"{where}: {place + ': ' if place else ''}{first['msg'][:200]}"
        ) from error


def json_object(path: Path, *, folders: int = 1) -> dict[str, Any]:
    """Return the object in a JSON file; raises as ``read_json`` does, and if it is no object."""
    found = read_json(path, folders=folders)
    if not isinstance(found, dict):
        raise CheckpointUnusable(f"{path}: holds {type(found).__name__}, not a JSON object")
    return found


def beyond_bounds(found: Any) -> str:
    """Return which bound plain data break; empty where they keep all."""
    waiting = [(found, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MOST_DEPTH:
            return f"nested more than {MOST_DEPTH} levels deep"
        if isinstance(value, dict):
            if any(len(key) > MOST_TEXT for key in value):
                return "a key is too long"
            waiting += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list):
            waiting += [(inner, depth + 1) for inner in value]
        elif fault := _beyond(value):
            return fault
    return ""


def _beyond(value: Any) -> str:
    if isinstance(value, str):
        return "a text is too long" if len(value) > MOST_TEXT else ""
    if isinstance(value, float):
        return "" if math.isfinite(value) else "a number is too large"
    if isinstance(value, int) and not -LARGEST <= value < LARGEST:
        return "a whole number is too large"
    return ""


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")
